"""Labelled points at which a process dies when its environment says so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peers.failpoints import POINTS, VARIABLE

ROOT = Path(__file__).parents[2]


def run(fail_at: str, *labels: str) -> subprocess.CompletedProcess[str]:
    code = "from peers.failpoints import reach\n" + "".join(f"reach({label!r}); print({label!r})\n" for label in labels)
    return subprocess.run(
        [sys.executable, "-uc", code], env=os.environ | {VARIABLE: fail_at}, capture_output=True, text=True, check=False
    )


def test_a_process_dies_where_it_was_told_to() -> None:
    done = run("load.swapped", "poll.verified", "load.swapped", "load.recorded")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "poll.verified\n")


def test_it_can_be_told_to_die_later() -> None:
    done = run("load.swapped:2", "load.swapped", "load.swapped", "load.swapped")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "load.swapped\n")


def test_a_misspelt_point_is_an_error() -> None:
    done = run("load.swaped", "load.swapped")
    assert done.returncode == 1
    assert 'no fail point "load.swaped" — did you mean "load.swapped"?' in done.stderr


@pytest.mark.parametrize("label", POINTS)
def test_every_point_is_reached_by_some_code(label: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "peers").rglob("*.py"))
    assert re.search(rf'reach\("{re.escape(label)}"\)', sources), f"nothing reaches {label}"
