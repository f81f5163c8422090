"""Certificates that expired while nobody was there: real processes, forty days later by Debian's ``faketime``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.certificate_reading import read_pem
from tests.shell.running import PEERAGE, environment
from tests.turn.processes import Federation

LATER = ("faketime", "-f", "+40d")  # a certificate is valid for thirty
DAY_S = 24 * 3600.0

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("faketime") is None and os.environ.get("CI") != "true", reason="faketime is not installed"
    ),
]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        made.found()
        made.run_model("m", "1.0")
        made.stop("E1")
        made.stop("ns")
        yield made
    finally:
        made.close()


def later(federation: Federation, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LATER, *PEERAGE, *words],
        cwd=federation.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def not_after(federation: Federation, home: str) -> float:
    return read_pem((federation.folder / home / "identity.crt").read_text()).not_after


def test_everybodys_certificate_is_renewed_and_removal_still_wins(federation: Federation) -> None:
    before = {home: not_after(federation, home) for home in ("E1", "ada", "ns-admin")}
    federation.start("ns", below=LATER)
    federation.start("E1", below=LATER)
    federation.converged(lambda state: state["models:loaded"] == ["m@1.0"])

    listed = later(federation, "query", "--home", "ns-admin", "edge:list()")  # a person's home, as it asks
    assert (listed.returncode, listed.stdout) == (0, "['E1']\n"), listed.stderr
    created = later(federation, "query", "--home", "ada", 'models:create_release("m", "2.0")')
    assert created.returncode == 0, created.stderr
    published = later(federation, "query", "--home", "ada", 'models:publish("m", "2.0")')
    assert published.returncode == 0, published.stderr
    for home, once in before.items():
        assert not_after(federation, home) - once > 30 * DAY_S, home

    later(federation, "query", "--home", "ns-admin", 'peer:remove("ada")')
    refused = later(federation, "query", "--home", "ada", "edge:list()")
    assert (refused.returncode, "error(removed)" in refused.stderr) == (1, True)


def test_who_was_removed_does_not_renew(federation: Federation) -> None:
    federation.start("ns", below=LATER)
    federation.ask("ns", 'edge:remove("E1")')
    federation.ask("ns", 'peer:remove("ada")')
    refused = later(federation, "query", "--home", "ada", "edge:list()")
    assert (refused.returncode, "error(removed)" in refused.stderr) == (1, True), refused.stderr
    federation.start("E1", below=LATER)
    problem = federation.attempt("E1", "edge:poll()")
    assert problem is not None
    assert problem.code == "removed"
    assert federation.ask("E1", "models:loaded()") == [["m@1.0"]]  # what runs there is not taken from it
