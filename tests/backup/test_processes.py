"""Backup and restore of real processes, killed wherever that hurts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from federation.store import FederationStore
from peers.backup_folders import Backups
from peers.failpoints import POINTS, VARIABLE
from peers.homes import Home
from tests.backup.ground import check_whole, ground
from tests.turn.processes import COMMAND, CONVERGE_POLLS_MAX, Federation, free_port

pytestmark = pytest.mark.timeout(300)

ROUNDS = int(os.environ.get("KILL_ROUNDS", "8"))
UPLINK_S_MAX = 90.0
ROOT = Path(__file__).parents[2]
OF_BACKUPS = [label for label in POINTS if label.startswith("backup.")]
OF_RESTORES = [label for label in POINTS if label.startswith("restore.")]


def environment(fail_at: str | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
    return kept | {"PYTHONPATH": str(ROOT)} | ({VARIABLE: fail_at} if fail_at else {})


def peerage(folder: Path, *words: str, fail_at: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peers.cli", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(fail_at), capture_output=True, text=True, timeout=60, check=False
    )


def whole(folder: Path) -> list[str]:
    """The names of the snapshots, each read whole."""
    backups = Backups(folder)
    names = list(backups.names())
    assert [list(backups.damage(name, backups.read(name), seen=set())) for name in names] == [[]] * len(names)
    return names


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", OF_BACKUPS)
def test_a_backup_killed_anywhere_goes_on(tmp_path: Path, label: str) -> None:
    with ground(tmp_path) as place:
        place.take()
        place.publish("m", "2.0")
        died = peerage(tmp_path, "backup", "--home", "ns", "backup", "--keep", "1", fail_at=label)
        assert died.returncode == -signal.SIGKILL, died.stderr
        finished = label in ("backup.named", "backup.forgotten")
        assert len(whole(place.backup)) == {"backup.named": 2}.get(label, 1)
        assert Backups(place.backup).read(whole(place.backup)[-1]).releases == (2 if finished else 1)
        went_on = peerage(tmp_path, "backup", "--home", "ns", "backup", "--keep", "1", "--json")
        assert went_on.returncode == 0, went_on.stderr
        facts = json.loads(went_on.stdout)
        assert (facts["releases"], facts["lacking"]) == (2, [])
        expected = {"backup.log_copied": 5, "backup.blob_copied": 4}.get(label, 0)
        assert facts["blobs_copied"] == expected  # what was there was not copied again
        assert len(whole(place.backup)) == 1
        assert sorted(path.name for path in (place.backup / "snapshots").iterdir()) == whole(place.backup)
        place.restore()
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0", "m@2.0"]


@pytest.mark.parametrize("label", OF_RESTORES)
def test_a_restore_killed_anywhere_is_whole_or_not_at_all(tmp_path: Path, label: str) -> None:
    with ground(tmp_path) as place:
        place.take()
    died = peerage(tmp_path, "restore", "backup", "--home", "ns2", fail_at=label)
    assert died.returncode == -signal.SIGKILL, died.stderr
    if label != "restore.placed":
        assert not (tmp_path / "ns2").exists()
        again = peerage(tmp_path, "restore", "backup", "--home", "ns2", "--json")
        assert again.returncode == 0, again.stderr
    else:
        again = peerage(tmp_path, "restore", "backup", "--home", "ns2")
        assert (again.returncode, "restored already? then start it" in again.stderr) == (1, True)
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0"]
    store = FederationStore.open(tmp_path / "ns2" / "state.db")
    assert [change.event.reason for change in store.read_from(1) if hasattr(change.event, "reason")][1:] != []
    store.close()


def test_a_backup_killed_or_interrupted_at_any_moment_goes_on(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", "1"))
    print(f"replay: KILL_SEED={seed} KILL_ROUNDS={ROUNDS} python -m pytest {__file__}")
    random = Random(seed)
    with ground(tmp_path) as place:
        for number in range(4):
            text = random.randbytes(3_000_000).hex()
            place.publish("big", str(number), content=f"-- {text}\ncreate function big() -> Real as 1;\n")
        finished = 0
        for _ in range(ROUNDS):
            process = subprocess.Popen(
                [*COMMAND, "backup", "--home", "ns", "backup"],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=random.uniform(0.1, 0.7))
            process.send_signal(random.choice([signal.SIGKILL, signal.SIGINT]))
            _, told = process.communicate()
            assert "Traceback" not in told or process.returncode == -signal.SIGINT, told
            if (place.backup / "peerage-backup.json").exists():
                assert len(whole(place.backup)) >= finished
                finished = len(whole(place.backup))
        last = peerage(tmp_path, "backup", "--home", "ns", "backup", "--json")
        assert last.returncode == 0, last.stderr
        assert len(whole(place.backup)) == finished + 1
        place.restore()
        assert len(check_whole(Home(tmp_path / "ns2"))) == 5


def test_what_the_commands_say(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.register("unused", joined=False)
        made = peerage(tmp_path, "backup", "--home", "ns", "backup", "--without-keys")
        assert made.returncode == 0, made.stderr
        (name,) = whole(place.backup)
        assert made.stdout.splitlines()[0] == f"backup: snapshot {name} of federation mine"
        assert made.stderr == "keep these keys elsewhere: ca.key, director.key, identity.key\n"
        listed = peerage(tmp_path, "backup", "--list", "backup")
        assert listed.stdout.startswith(f"{name}  change ")
        assert listed.stdout.endswith(" bytes, without keys\n")
        assert peerage(tmp_path, "backup", "--verify", "backup").stdout == f"{name}  whole\n"
        done = peerage(tmp_path, "restore", "backup", "--home", "ns2", "--root-home", "ns-root")
        assert done.returncode == 3
        assert "- ca.key is not in the backup: put the file of key " in done.stderr
        assert "start it: peerage nameserver --home " in done.stderr
        for wrong, status, said in (
            (("backup", "--home", "ns", "backup", "--keep", "0"), 2, "--keep is 0"),
            (("backup", "--list", "--verify", "backup"), 2, "expected one of them"),
            (("backup", "--list", "nowhere"), 1, "nowhere is no backup folder"),
            (("restore", "nowhere", "--home", "x"), 1, "nowhere is no backup folder"),
            (("restore", "backup", "--home", "x", "--root-home", "models"), 2, "keeps no root records"),
            (("restore", "backup", "--home", "x", "--snapshot", "1999"), 1, 'no snapshot "1999"'),
        ):
            refused = peerage(tmp_path, *wrong)
            assert (refused.returncode, said in refused.stderr) == (status, True), refused.stderr
        blob = next((place.backup / "blobs" / "sha256").iterdir())
        blob.write_bytes(b"x")
        verified = peerage(tmp_path, "backup", "--verify", "backup")
        assert (verified.returncode, f"sha256:{blob.name} is damaged" in verified.stderr) == (1, True)


# --- a federation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        made.found()
        for name in ("m", "later"):
            made.write_model(name)
        made.publish("m", "1.0")
        made.assign("m", "1.0")
        yield made
    finally:
        made.close()


def lost(federation: Federation) -> None:
    """Kill the nameserver with -9 and delete its home."""
    process = federation.process("ns")
    process.kill()
    federation.killed("ns")
    shutil.rmtree(federation.folder / "ns")


def running_m(state: dict[str, Any]) -> bool:
    return state["models:loaded"] == ["m@1.0"] and not state["last_load_errors"]


def followed(federation: Federation) -> dict[str, Any]:
    """Have the edge poll until the nameserver has a report of its present epoch and generation; its status."""
    for _ in range(CONVERGE_POLLS_MAX):
        federation.attempt("E1", "edge:poll()")
        (status,) = federation.ask("ns", 'edge:status("E1")')
        if status["converged"]:
            return dict(status)
    raise AssertionError(f"{status}\n{federation.log('E1')}")


@pytest.mark.parametrize("moved", [False, True], ids=["same address", "another port"])
def test_edges_follow_a_restored_nameserver_and_download_nothing(federation: Federation, *, moved: bool) -> None:
    """``fetch.begun`` kills an edge that decides to fetch anything."""
    federation.start("E1")
    federation.converged(running_m)
    federation.stop("E1")
    federation.start("E1", fail_at="fetch.begun")
    federation.converged(running_m)
    federation.command("backup", "--home", "ns", "backup")
    # what is lost: groups, a release, an edge; the edge comes to hold a higher generation of the old epoch
    for number in range(20):
        federation.ask("ns", f'edge:add_group("E1", "later-{number}")')
    federation.publish("later", "1.0")
    federation.command("register", "E2", "--home", "ns-admin", "--out", "E2.bundle")
    federation.command("join", "--home", "E2", "E2.bundle")
    before = followed(federation)
    lost(federation)
    words = ("--root-home", "ns-root", "--admin-home", "ns-admin", "--json")
    told = json.loads(federation.command("restore", "backup", "--home", "ns", *words))
    if moved:
        federation.stop("E1")
        federation.port = free_port()
    federation.start("ns")
    if moved:
        federation.start("E1", fail_at="fetch.begun")
    after = followed(federation)
    assert after["reported_generation"] < before["reported_generation"]
    (config,) = federation.ask("ns", 'edge:get_config("E1")')
    assert config["epoch"] == told["epoch"]
    assert (after["models:loaded"], after["errors"], after["alarms"]) == (["m@1.0"], 0, [])
    assert federation.process("E1").poll() is None
    # nothing that came after the backup
    assert federation.ask("ns", 'edge:groups("E1")') == [[]]
    assert federation.ask("ns", "models:installed()") == [["m@1.0"]]
    assert federation.ask("ns", "edge:list()") == [["E1"]]
    # life goes on: what came later can be done again, statements reach the edge, changes too
    if not moved:  # the publisher's home knows the old address
        federation.ask("ada", 'models:publish("later", "1.0")')
    federation.ask("ns", 'edge:add_group("E1", "again")')
    assert followed(federation)["reported_generation"] > after["reported_generation"]
    reconnected(federation)
    assert federation.ask("ns", "//peer: E1\nm_answer()") == [42]
    # who joined later is refused by its class, and joins again
    federation.start("E2")
    refused = federation.attempt("E2", "edge:poll()")
    assert refused is not None
    assert refused.code == "unknown_peer"
    federation.stop("E2")
    shutil.rmtree(federation.folder / "E2")
    (federation.folder / "E2.bundle").unlink()
    federation.command("register", "E2", "--home", "ns-admin", "--out", "E2.bundle")
    federation.command("join", "--home", "E2", "E2.bundle")
    assert federation.ask("ns", "edge:list()") == [["E1", "E2"]]


def reconnected(federation: Federation) -> None:
    """Wait until the edge has its uplink again; it backs off after what it found."""
    asked = time.monotonic()
    while federation.ask("ns", 'edge:listening("E1")') != [True]:
        assert time.monotonic() - asked < UPLINK_S_MAX, federation.log("E1")
        federation.attempt("E1", "edge:poll()")
