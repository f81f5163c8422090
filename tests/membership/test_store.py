"""The store: acknowledged is on the disk, a failed commit has changed nothing, one process writes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from federation import commands
from federation.documents import REPORT_BYTES_MAX
from federation.events import EpochStarted, GroupJoined, ModeSet
from federation.projections import PROJECTIONS
from federation.store import REPORTS_PER_EDGE_MAX, BadStore, FederationStore, StoreFailed, StoreInUse
from query.errors import LimitExceeded
from tests.membership.small import NOW, Small, identity
from tests.membership.test_model import fingerprint

ROOT = Path(__file__).parents[2]


def populated(path: Path) -> Small:
    small = Small(path)
    small.publish("m@1.0", "m@2.0")
    small.edge("E1", "g", "h")
    small.edge("E2", "h", joined=False)
    small.assign("g", "m@1.0")
    small.assign("all", "m@2.0")
    small.write(commands.set_property(small.state, "E1", "site", "lab"))
    small.write(commands.set_property(small.state, "E1", "rank", 3))
    small.write(commands.set_property(small.state, "E1", "site", None))
    small.write(commands.set_poll_interval(small.state, "h", "7s"))
    small.write(commands.set_poll_interval(small.state, "E2", "9s"))
    small.write(commands.renew(small.state, identity("E1"), not_after=NOW + 30 * 86_400))
    small.edge("E3", "h")
    small.write(commands.remove(small.state, "E3"))
    return small


def test_a_store_opened_again_is_the_same(tmp_path: Path) -> None:
    small = populated(tmp_path / "state.db")
    small.report("E1", "m@2.0")
    before, log = fingerprint(small.state), list(small.store.read_from(1))
    small.store.close()
    again = FederationStore.open(tmp_path / "state.db")
    assert fingerprint(again.state) == before
    assert list(again.read_from(1)) == log
    assert [change.seq for change in again.read_from(5)] == list(range(5, len(log) + 1))
    report = again.reports.latest(identity("E1"))
    assert report is not None
    assert report.actual.loaded[0].label == "m@2.0"
    again.close()


def test_tables_are_those_that_the_log_makes(tmp_path: Path) -> None:
    small = populated(tmp_path / "state.db")
    tables, state = {name: small.store.rows(name) for name in PROJECTIONS}, fingerprint(small.state)
    small.store.rebuild()
    assert {name: small.store.rows(name) for name in PROJECTIONS} == tables
    assert fingerprint(small.state) == state


def test_other_tools_read_the_tables_while_the_store_is_open(tmp_path: Path) -> None:
    small = populated(tmp_path / "state.db")
    reader = sqlite3.connect(tmp_path / "state.db")
    rows = reader.execute("SELECT name, joined IS NOT NULL FROM members WHERE kind = 'edge' AND NOT removed").fetchall()
    reader.close()
    small.store.close()
    assert rows == [("E1", 1), ("E2", 0)]


def test_a_second_process_is_told_that_the_store_is_in_use(tmp_path: Path) -> None:
    small = Small(tmp_path / "state.db")
    with pytest.raises(StoreInUse, match=r"state\.db is open in another process"):
        FederationStore.open(tmp_path / "state.db")
    small.store.close()
    small.store.close()
    FederationStore.open(tmp_path / "state.db").close()


def test_what_is_no_store_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is not a database, it is a letter" * 40)
    with pytest.raises(BadStore, match=r"state\.db: file is not a database"):
        FederationStore.open(path)
    assert path.read_bytes().startswith(b"this is not")
    with pytest.raises(StoreFailed, match="nowhere"):
        FederationStore.open(tmp_path / "nowhere" / "state.db")


def test_tables_of_another_version_are_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Small(path).store.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(BadStore, match=r"has tables of version 99: expected 3"):
        FederationStore.open(path)


def test_tables_of_the_first_version_are_made_again_from_the_log(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = populated(path).store
    expected = fingerprint(store.state)
    store.close()
    other = sqlite3.connect(path)
    for table in ("assigned_before", "deleted_releases"):
        other.execute(f"DROP TABLE {table}")
    other.execute("ALTER TABLE releases DROP COLUMN deprecated")
    other.execute("ALTER TABLE assignments DROP COLUMN needs")
    other.execute("PRAGMA user_version = 1")
    other.commit()
    other.close()
    again = FederationStore.open(path)
    assert fingerprint(again.state) == expected
    again.close()


def test_a_store_put_back_from_a_backup_says_so_until_a_new_epoch_starts(tmp_path: Path) -> None:
    path, backup = tmp_path / "state.db", tmp_path / "backup.db"
    populated(path).store.close()
    shutil.copy(path, backup)
    small = Small(path)
    assert marked_as_restored(small) is False
    small.write(commands.set_mode(small.state, "E1", "ONLINE"))
    held = small.director.desired(identity("E1"), now=NOW)
    small.store.close()
    shutil.copy(backup, path)
    small = Small(path)
    assert marked_as_restored(small) is True
    for number in range(3):  # later numbers in the old epoch do not heal it
        small.write(commands.set_property(small.state, "E2", "k", number))
    assert marked_as_restored(small) is True
    clock_gone_back = commands.start_epoch(small.state, now=0.0, draw=0.0, beyond=small.store.newest_epoch)
    small.write(clock_gone_back)
    assert marked_as_restored(small) is False
    assert small.director.desired(identity("E1"), now=NOW).epoch > held.epoch
    small.store.close()
    assert marked_as_restored(Small(path)) is False


def marked_as_restored(small: Small) -> bool:
    return small.store.restored


@pytest.mark.parametrize("mark", [b"", b"nonsense", b"1", b"-1 5", b"\xff\x00" * 40])
def test_a_damaged_mark_tells_nothing(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "state.db"
    populated(path).store.close()
    (tmp_path / "state.db.lock").write_bytes(mark)
    store = FederationStore.open(path)
    assert not store.restored
    store.close()


def test_several_events_are_one_change_of_the_disk(tmp_path: Path) -> None:
    small = Small(tmp_path / "state.db")
    before, uuid = fingerprint(small.state), small.edge("E1")
    before = fingerprint(small.state)
    with pytest.raises(BadStore, match="UNIQUE"):  # the second event cannot be: the first must not stay
        small.write((ModeSet(uuid, "ONLINE"), GroupJoined(uuid, "g"), GroupJoined(uuid, "g")))
    assert fingerprint(small.state) == before
    small.store.close()
    assert fingerprint(FederationStore.open(tmp_path / "state.db").state) == before


def test_listeners_hear_of_changes_after_they_are_durable() -> None:
    small = Small()
    heard: list[tuple[int, int]] = []
    stop = small.store.subscribe(lambda changes: heard.append((changes[-1].seq, small.state.seq)))
    small.write((EpochStarted(1), EpochStarted(2)))
    small.write(())
    stop()
    small.write((EpochStarted(3),))
    assert heard == [(small.state.seq - 1, small.state.seq - 1)]


def test_a_full_store_refuses_the_change_and_keeps_its_state(tmp_path: Path) -> None:
    small = populated(tmp_path / "state.db")
    db = small.store._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    full = re.escape(f"cannot write a change in {tmp_path}/state.db: database or disk is full; nothing was changed")
    before, log = fingerprint(small.state), small.state.seq
    with pytest.raises(StoreFailed, match=full):
        small.write(commands.set_property(small.state, "E1", "note", "x" * 1024) * 1000)
    assert (fingerprint(small.state), small.state.seq) == (before, log)
    with pytest.raises(StoreFailed, match="cannot keep a report"):
        small.store.reports.put(identity("E1"), os.urandom(100_000), now=NOW)
    assert small.store.reports.latest(identity("E1")) is None
    db.execute("PRAGMA max_page_count = 1000000")
    small.write(commands.set_mode(small.state, "E1", "ONLINE"))  # and it goes on when there is room again
    assert small.member("E1").mode == "ONLINE"
    assert small.state.seq == log + 1


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from federation import commands
from federation.store import StoreFailed
from tests.membership.small import Small
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
small = Small(Path(sys.argv[1]))
small.edge("E1")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    for number in range(100_000):
        acknowledged = small.state.seq
        small.write(commands.set_property(small.state, "E1", "note", f"{number:06}" * 100))
except StoreFailed as full:
    assert small.state.seq == acknowledged
    print(acknowledged, small.member("E1").properties["note"][:6], full.message)
"""


def test_a_full_disk_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    run = [sys.executable, "-c", FULL_DISK, str(path), "600000"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    acknowledged, note, message = done.stdout.strip().split(" ", 2)
    assert f"cannot write a change in {path}" in message
    store = FederationStore.open(path)
    member = store.state.find_edge("E1")
    assert (store.state.seq, str(member.properties["note"])[:6]) == (int(acknowledged), note)
    store.close()


WRITER = """
import sys
from pathlib import Path
from federation import commands
from tests.membership.small import Small, identity
small = Small(Path(sys.argv[1]))
small.edge("E1")
number = 0
while True:
    small.write(commands.set_property(small.state, "E1", "number", number))
    small.store.reports.put(identity("E1"), b"report %d" % number, now=small.now)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 40])
def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "state.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledged):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.stdout.read().split(b"\n")[:-1])])
    store = FederationStore.open(path)  # the lock went with the process
    number = store.state.find_edge("E1").properties["number"]
    report = store.reports.latest(identity("E1"))
    assert number in (last, last + 1)
    assert report is not None
    assert report.body in (b"report %d" % last, b"report %d" % (last + 1))
    before = {name: store.rows(name) for name in PROJECTIONS}
    store.rebuild()
    assert {name: store.rows(name) for name in PROJECTIONS} == before
    store.close()


def test_reports_are_kept_once_and_only_so_many() -> None:
    small = Small()
    one, other = small.edge("E1"), small.edge("E2")
    reports = small.store.reports
    assert reports.put(one, b"a", now=1.0)
    assert not reports.put(one, b"a", now=2.0)
    assert reports.put(one, b"b", now=3.0)
    assert reports.put(one, b"a", now=4.0)
    assert reports.put(other, b"x", now=5.0)
    assert [(report.time, report.body) for report in reports.history(one)] == [(4.0, b"a"), (3.0, b"b"), (1.0, b"a")]
    for number in range(REPORTS_PER_EDGE_MAX + 5):
        reports.put(one, b"%d" % number, now=10.0 + number)
    kept = reports.history(one, limit=1000)
    assert [report.body for report in kept] == [b"%d" % n for n in range(REPORTS_PER_EDGE_MAX + 4, 4, -1)]
    latest = reports.latest(other)
    assert latest is not None
    assert latest.body == b"x"
    reports.forget(one)
    assert reports.latest(one) is None
    with pytest.raises(LimitExceeded, match=f"expected at most {REPORT_BYTES_MAX}"):
        reports.put(one, b"x" * (REPORT_BYTES_MAX + 1), now=1.0)


def test_a_store_needs_neither_numpy_nor_pandas() -> None:
    """sqlite-utils would import both, and a nameserver start a second later where people analyse data."""
    program = (
        "import sys; from federation.store import FederationStore; FederationStore.open(None);"
        "print([name for name in ('numpy', 'pandas') if name in sys.modules]); import numpy; print(numpy.arange(2))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[0 1]"]
