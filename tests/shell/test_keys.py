"""The life of keys with real processes and the real command line: asked, killed in between, lost and replaced."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from federation.documents import RootRecord, decode
from federation.keys import read_key
from peers.failpoints import VARIABLE
from peers.homes import Home
from tests.shell.running import PEERAGE, Ended, environment
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One federation for all: ``m`` runs on the edge, which lives through everything."""
    made = Federation(tmp_path_factory.mktemp("keys"))
    try:
        made.found()
        made.run_model("m", "1.0")
        yield made
    finally:
        made.close()


def run(federation: Federation, *words: str, fail_at: str | None = None) -> Ended:
    done = subprocess.run(
        [*PEERAGE, *words],
        cwd=federation.folder,
        env=environment() | ({VARIABLE: fail_at} if fail_at else {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def at_a_terminal(federation: Federation, *words: str, answer: str) -> tuple[int, str]:
    """A command whose standard input is a terminal, at which a person types ``answer``."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*PEERAGE, *words],
            cwd=federation.folder,
            env=environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.write(ours, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
        return process.returncode, out
    finally:
        os.close(ours)
        os.close(theirs)


def root(federation: Federation) -> RootRecord:
    return decode(Home(federation.folder / "ns").roots()[-1].payload, RootRecord)


def version(federation: Federation) -> int:
    return len(federation.ask("ns-admin", "keys:root_documents()"))


ADMIN = ("--root-home", "ns-root", "--home", "ns-admin")


def test_the_effect_is_told_and_asked_about(federation: Federation) -> None:
    before = version(federation)
    words = ("keys", "rotate", "director", *ADMIN)
    alone = run(federation, *words)
    assert alone.status == 2
    assert "a new director key" in alone.err
    assert "--yes answers, --dry-run only tells" in alone.err
    assert run(federation, *words, "--dry-run").status == 0
    assert not (federation.folder / "ns" / "director.next.key").exists()
    for answer in ("n", "", "perhaps"):
        status, out = at_a_terminal(federation, *words, answer=answer)
        assert (status, "nothing was changed" in out) == (1, True)
        assert "do this? [y/N]" in out
    assert version(federation) == before
    status, out = at_a_terminal(federation, *words, answer="y")
    assert (status, version(federation)) == (0, before + 1)
    assert "names the nameserver's new director key" in out
    facts = run(federation, *words, "--yes", "--json").facts
    assert facts["root_version"] == before + 2
    assert any("no statement fails" in line for line in facts["changes"])


@pytest.mark.parametrize("point", ["key.made", "change.decided", "change.durable", "key.named", "key.settled"])
def test_a_nameserver_that_dies_while_its_director_rotates(federation: Federation, point: str) -> None:
    """It signs with the key that the root record names, and the command given again ends what was begun."""
    federation.stop("ns")
    federation.start("ns", fail_at=point)
    assert run(federation, "keys", "rotate", "director", *ADMIN, "--yes").status == 1
    federation.killed("ns")
    federation.start("ns")
    named = set(root(federation).directors)
    federation.converged(lambda state: state["models:loaded"] == ["m@1.0"])
    assert run(federation, "keys", "rotate", "director", *ADMIN, "--yes").status == 0
    assert set(root(federation).directors) != named
    assert read_key(federation.folder / "ns" / "director.key").keyid in root(federation).directors
    federation.converged(lambda state: state["models:loaded"] == ["m@1.0"])
    federation.listens()
    assert federation.ask("ns-admin", "//peer: E1\nthis_peer()") == ["E1"]


def test_a_lost_director_key_is_replaced_from_the_root_folder(federation: Federation) -> None:
    federation.stop("ns")
    (federation.folder / "ns" / "director.key").unlink()
    lost = run(federation, "nameserver", "--home", "ns", "--application-port", "0", "--federation-port", "0")
    assert lost.status == 1
    assert "the director key is missing: root record" in lost.err
    assert "peerage keys rotate director --home" in lost.err
    again = run(federation, "keys", "rotate", "director", "--root-home", "ns-root", "--home", "ns", "--yes")
    assert again.status == 0, again.err
    federation.start("ns")
    federation.converged(lambda state: state["models:loaded"] == ["m@1.0"])
    assert run(federation, "keys", "rotate", "director", *ADMIN, "--yes").status == 0


def test_a_publishers_rotation_survives_kills(federation: Federation) -> None:
    """Killed after each step: the key that was made is the key that is offered, endorsed and used in the end."""
    home = Home(federation.folder / "ada")
    old = read_key(home.publisher_key)
    words = ("keys", "rotate", "publisher", "--home", "ada", "--yes")
    assert run(federation, *words, fail_at="key.made").status == -9
    made = read_key(home.publisher_next_key)
    federation.stop("ns")
    federation.start("ns", fail_at="change.durable")
    assert run(federation, *words).status == 1
    federation.killed("ns")
    federation.start("ns")
    assert run(federation, *words).status == 0
    federation.publish("m", "1.1")  # with the old one
    assert read_key(home.publisher_key) == old
    asked = run(federation, "keys", "endorse", "ada", *ADMIN)
    assert (asked.status, "is retired: what it signed stays good" in asked.err) == (2, True)
    assert run(federation, "keys", "endorse", "ada", *ADMIN, "--yes", "--key", made.keyid[:8]).status == 0
    release = ("query", "--home", "ada", 'models:create_release("m", "1.2")')
    assert run(federation, *release, fail_at="key.named").status == -9
    assert read_key(home.publisher_key) == old
    assert run(federation, *release, fail_at="key.settled").status == -9
    assert read_key(home.publisher_key) == made
    federation.publish("m", "1.2")
    federation.assign("m", "1.2")
    federation.converged(lambda state: state["models:loaded"] == ["m@1.2"])
    shown = run(federation, "keys", "show", "--home", "ns-admin", "--json").facts
    assert [(key["id"], key["standing"]) for key in shown["publishers"]] == [
        (old.keyid, "retired"),
        (made.keyid, "endorsed"),
    ]


def test_root_folders_come_and_go_and_two_sign_together(federation: Federation) -> None:
    first = run(federation, "keys", "rotate", "root", "--new-root-home", "root-a", *ADMIN, "--yes")
    assert first.status == 0, first.err
    late = run(federation, "keys", "rotate", "director", *ADMIN, "--yes")
    assert (late.status, "is not a root key of" in late.err) == (1, True)
    a, both = ("--root-home", "root-a", "--home", "ns-admin"), ("--root-home", "root-a", "--root-home", "root-b")
    assert run(federation, "keys", "roots", "--add", "root-b", *a, "--yes").status == 0
    assert run(federation, "keys", "roots", "--threshold", "2", *both, "--home", "ns-admin", "--yes").status == 0
    alone = run(federation, "keys", "rotate", "director", *a, "--yes")
    assert (alone.status, "needs 2 signatures of the root keys" in alone.err) == (1, True)
    together = run(federation, "keys", "rotate", "director", *both, "--home", "ns-admin", "--yes")
    assert together.status == 0, together.err
    assert run(federation, "keys", "roots", "--threshold", "1", *both, "--home", "ns-admin", "--yes").status == 0
    shown = run(federation, "keys", "show", "--home", "root-a", "--json").facts
    assert (shown["threshold"], [key["name"] for key in shown["roots"]]) == (1, ["root-1", "root-2"])
    federation.converged(lambda state: state["models:loaded"] == ["m@1.2"])


def test_a_revocation_tells_where_its_releases_run(federation: Federation) -> None:
    words = ("keys", "revoke", "ada", "--root-home", "root-a", "--home", "ns-admin")
    told = run(federation, *words, "--running", "keep", "--dry-run")
    assert told.status == 0
    assert "m@1.2 in all: goes on on 1 edge: E1" in told.err
    assert "m@1.1 in no group: runs on no edge that has reported" in told.err
    status, out = at_a_terminal(federation, *words, "--running", "stop", answer="no")
    assert (status, "m@1.2 in all: STOPS on 1 edge: E1" in out) == (1, True)
    assert run(federation, *words, "--running", "keep", "--yes").status == 0
    federation.converged(lambda state: [error["error"] for error in state["last_load_errors"]] == ["revoked_key"])
    assert federation.actual()["models:loaded"] == ["m@1.2"]
    # The edge dies once it has the record that stops them, and starts alone: it obeys what is on its disk.
    federation.stop("E1")
    federation.start("E1", fail_at="root.committed")
    assert federation.actual()["models:loaded"] == ["m@1.2"]
    assert run(federation, *words, "--running", "stop", "--yes").status == 0
    federation.killed("E1")
    federation.stop("ns")
    federation.start("E1")
    alone = federation.actual()
    assert alone["models:loaded"] == []
    assert [error["error"] for error in alone["last_load_errors"]] == ["revoked_key"]
    federation.start("ns")
    federation.converged(lambda state: state["models:loaded"] == [])
    again = run(federation, *words, "--running", "stop", "--yes")
    assert (again.status, "were revoked before" in again.err) == (1, True)
    unknown = run(federation, "keys", "revoke", "eve", "--running", "stop", *words[3:], "--yes")
    assert (unknown.status, 'no publisher or key "eve"' in unknown.err) == (1, True)


def test_no_key_is_in_any_log(federation: Federation) -> None:
    keys = list(federation.folder.rglob("*.key"))
    assert len(keys) > 6
    logs = "".join(path.read_text() for path in federation.folder.glob("*.log"))
    for path in keys:
        seed = read_key(path)
        assert seed.pem.splitlines()[1] not in logs
        assert seed.seed.hex() not in logs
