"""The nameserver's store: one SQLite file with the log of changes, its projections and the log of reports.

Owns the connection, the transactions and the lock on the file. Decides nothing about events. Rules:

- Acknowledged means fsynced: WAL, ``synchronous = FULL``; :meth:`FederationStore.append` returns after the commit.
- The log entry, the tables and the memory move together. When a commit fails, none of them has moved.
- One process writes. Another that opens the same file is told so; the lock goes with the process that held it.
- The lock file holds a mark: epoch and number of the last change, written after the commit and never synced, so at most
  behind. A store that is behind its mark was put back from a backup: ``restored`` says so, and a new epoch is due
  (:func:`federation.commands.start_epoch`) before anything is answered from it.
- Reports have a log of their own, bounded to :data:`REPORTS_PER_EDGE_MAX` an edge; equal reports are one.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec
from msgspec import Struct

from federation import projections
from federation.databases import database_on
from federation.documents import REPORT_BYTES_MAX, ActualState, decode
from federation.events import Change, Event
from federation.histories import HistoryLog
from federation.names import Digest, PeerId, digest_of
from federation.state import BrokenLog, FederationState
from query.errors import LimitExceeded, PeerProblem, WorldProblem

if TYPE_CHECKING:
    from sqlite_utils import Database

REPORTS_PER_EDGE_MAX: Final = 20
MARK_BYTES: Final = 64

Listener = Callable[[tuple[Change, ...]], None]


class StoreFailed(WorldProblem):
    """The disk did not take or give what was asked; nothing was changed."""

    code = "store_failed"


class StoreInUse(PeerProblem):
    """Another process has the store open."""

    code = "store_in_use"


class BadStore(PeerProblem):
    """A file that is not a store of this version, or a damaged one."""

    code = "bad_store"


class Report(Struct, frozen=True):
    """A stored report. ``seq`` orders all reports of the store."""

    edge: PeerId
    seq: int
    time: float
    digest: Digest
    body: bytes

    @property
    def actual(self) -> ActualState:
        """Decoded each time, so that a hundred thousand reports stay on disk."""
        return decode(self.body, ActualState)


class ReportLog:
    """The bounded log of what edges reported; part of a :class:`FederationStore`."""

    def __init__(self, db: Database, path: Path | None) -> None:
        self._db = db
        self._path = path
        self._listeners: list[Callable[[PeerId], None]] = []

    def subscribe(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Have a listener told of every edge whose last report changes from now on; the result ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def put(self, edge: PeerId, body: bytes, *, now: float, digest: Digest | None = None) -> bool:
        """Keep a report, durable before the return. False when it is the same as the one before."""
        if len(body) > REPORT_BYTES_MAX:
            raise LimitExceeded(f"a report of {len(body)} bytes: expected at most {REPORT_BYTES_MAX}")
        digest = digest or digest_of(body)
        with _translated(self._path, "keep a report"):
            last = self._db.execute(
                "SELECT digest FROM reports WHERE edge = ? ORDER BY id DESC LIMIT 1", [edge]
            ).fetchone()
            if last is not None and last[0] == digest:
                return False
            with self._db.atomic():
                self._db.execute(
                    "INSERT INTO reports (edge, time, digest, body) VALUES (?, ?, ?, ?)", [edge, now, digest, body]
                )
                self._db.execute(
                    "DELETE FROM reports WHERE edge = ? AND id <= (SELECT id FROM reports WHERE edge = ?"
                    " ORDER BY id DESC LIMIT 1 OFFSET ?)",
                    [edge, edge, REPORTS_PER_EDGE_MAX],
                )
        self._tell(edge)
        return True

    def latest(self, edge: PeerId) -> Report | None:
        return next(iter(self.history(edge, limit=1)), None)

    def history(self, edge: PeerId, *, limit: int = REPORTS_PER_EDGE_MAX) -> tuple[Report, ...]:
        """The newest first."""
        with _translated(self._path, "read reports"):
            rows = self._db.execute(
                "SELECT edge, id, time, digest, body FROM reports WHERE edge = ? ORDER BY id DESC LIMIT ?",
                [edge, limit],
            ).fetchall()
        return tuple(Report(*row) for row in rows)

    def latest_by(self, edge: PeerId, moment: float) -> Report | None:
        """The last report that had come at a moment, if it is kept."""
        with _translated(self._path, "read reports"):
            row = self._db.execute(
                "SELECT edge, id, time, digest, body FROM reports WHERE edge = ? AND time <= ?"
                " ORDER BY id DESC LIMIT 1",
                [edge, moment],
            ).fetchone()
        return None if row is None else Report(*row)

    def oldest_when_full(self, edge: PeerId) -> float | None:
        """When the oldest report came that is kept of an edge, where older ones may have been dropped; else None."""
        with _translated(self._path, "read reports"):
            oldest, count = self._db.execute(
                "SELECT min(time), count(*) FROM reports WHERE edge = ?", [edge]
            ).fetchone()
        return None if count < REPORTS_PER_EDGE_MAX else float(oldest)

    def mentioning(self, *words: str) -> tuple[Report, ...]:
        """The latest report of each edge, where it has one of these words in it."""
        found = " OR ".join(["instr(r.body, ?)"] * len(words))
        with _translated(self._path, "read reports"):
            rows = self._db.execute(
                "SELECT r.edge, r.id, r.time, r.digest, r.body FROM reports r"
                f" WHERE ({found}) AND r.id = (SELECT max(id) FROM reports WHERE edge = r.edge) ORDER BY r.edge",
                [word.encode() for word in words],
            ).fetchall()
        return tuple(Report(*row) for row in rows)

    def page(self, after: str = "", *, limit: int) -> tuple[Report, ...]:
        """The latest report of each edge, for the next ``limit`` edges after one, in the order of their ids."""
        with _translated(self._path, "read reports"):
            rows = self._db.execute(
                "SELECT r.edge, r.id, r.time, r.digest, r.body FROM reports r"
                " JOIN (SELECT max(id) AS latest FROM reports WHERE edge > ? GROUP BY edge ORDER BY edge LIMIT ?)"
                " ON r.id = latest ORDER BY r.edge",
                [after, limit],
            ).fetchall()
        return tuple(Report(*row) for row in rows)

    def forget(self, edge: PeerId) -> None:
        """Drop the reports of an edge that was removed."""
        with _translated(self._path, "drop reports"), self._db.atomic():
            self._db.execute("DELETE FROM reports WHERE edge = ?", [edge])
        self._tell(edge)

    def _tell(self, edge: PeerId) -> None:
        for listener in tuple(self._listeners):
            listener(edge)


class FederationStore:
    """Open with :meth:`open`; used from the thread that opened it."""

    def __init__(self, db: Database, *, path: Path | None, lock: int | None, state: FederationState) -> None:
        self._db = db
        self._path = path
        self._lock = lock
        self._listeners: list[Listener] = []
        self.state = state
        self.reports = ReportLog(db, path)
        self.histories = HistoryLog(db, translated=lambda doing: _translated(path, doing))
        epoch, seq = _read_mark(lock)
        self._overtaken_epoch = epoch if (epoch, seq) > (state.epoch, state.seq) else None
        weakref.finalize(self, db.conn.close)  # a store that nobody closed leaves no open file

    @property
    def restored(self) -> bool:
        """Whether the file, when it was opened, was older than what had been written, and no epoch began since."""
        return self._overtaken_epoch is not None and self._overtaken_epoch >= self.state.epoch

    @property
    def newest_epoch(self) -> int:
        """The highest epoch that the file or its mark knows: a new one must be beyond it."""
        return max(self.state.epoch, self._overtaken_epoch or 0)

    @classmethod
    def open(cls, path: Path | str | None) -> Self:
        """The store in a file, made when missing; in memory for None.

        Raises :class:`StoreInUse`, :class:`BadStore` or :class:`StoreFailed`, naming the file.
        """
        file = Path(path) if path is not None else None
        lock = _locked(file) if file is not None else None
        try:
            with _translated(file, "open the store"):
                connection = sqlite3.connect(str(file) if file is not None else ":memory:")
                try:
                    db = database_on(connection)
                    _configured(db, file)
                    state = projections.load_state(connection)
                    _checked(connection, state, file)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            _unlocked(lock)
            raise
        return cls(db, path=file, lock=lock, state=state)

    def append(self, events: Iterable[Event], *, caller: str, now: float) -> tuple[Change, ...]:
        """Write events and apply them; durable before the return. No events, nothing written.

        Raises :class:`StoreFailed` when the disk refuses; then neither the store nor the state has changed.
        Listeners are told after the commit, and must not raise.
        """
        first = self.state.seq + 1
        changes = tuple(Change(first + index, now, caller, event) for index, event in enumerate(events))
        if not changes:
            return ()
        with _translated(self._path, "write a change"), self._db.atomic():
            for change in changes:
                projections.write_change(self._db.conn, change)
        for change in changes:
            self.state.apply(change)
        if not self.restored:
            _write_mark(self._lock, self.state.epoch, self.state.seq)
        for listener in tuple(self._listeners):
            listener(changes)
        return changes

    def read_from(self, seq: int) -> Iterator[Change]:
        """The log from a sequence number on."""
        return projections.read_changes(self._db.conn, seq - 1)

    def time_of(self, seq: int) -> float | None:
        """When a change was made; None for a number that the log does not have."""
        with _translated(self._path, "read a change"):
            row = self._db.execute("SELECT time FROM changes WHERE seq = ?", [seq]).fetchone()
        return None if row is None else float(row[0])

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have a listener told of every append from now on; the result ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def rebuild(self) -> None:
        """Make the projections and the state again from the log. The state object is replaced."""
        with _translated(self._path, "rebuild the tables"), self._db.atomic():
            projections.rebuild(self._db)
        self.state = projections.load_state(self._db.conn)

    def rows(self, table: str) -> list[tuple[object, ...]]:
        """The rows of a projection as they stand, for inspection and comparison."""
        if table not in projections.PROJECTIONS:
            raise ValueError(f"not a projection: {table!r}")
        return self._db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()

    def close(self) -> None:
        """Close the file and give it to others. Closing twice is no error."""
        self._db.conn.close()
        _unlocked(self._lock)
        self._lock = None


def _configured(db: Database, path: Path | None) -> None:
    if path is not None:
        db.enable_wal()
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, projections.SCHEMA_VERSION, *projections.OLDER_VERSIONS):
        raise BadStore(f"{path} has tables of version {version}: expected {projections.SCHEMA_VERSION}")
    projections.create_tables(db)
    (mode,) = db.execute("PRAGMA journal_mode").fetchone()
    if path is not None and mode != "wal":  # when the switch fails, SQLite goes on in its old mode and says nothing
        raise StoreFailed(f"cannot open the store in {path}: disk I/O error; expected journal mode wal, found {mode}")


def _checked(connection: sqlite3.Connection, state: FederationState, path: Path | None) -> None:
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()
    if last != state.seq:
        raise BrokenLog(f"{path}: the log ends at {last} but its tables at {state.seq}")


def _locked(path: Path) -> int:
    """A descriptor that holds the store's lock; the system frees it with the process, however that ends."""
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFailed(f"cannot open the store {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreInUse(
            f"{path} is open in another process", hint="is a nameserver running in this home already?"
        ) from error
    return descriptor


def _unlocked(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _read_mark(lock: int | None) -> tuple[int, int]:
    """Epoch and number of the last change that the lock file knows; zeros when it knows none."""
    text = os.pread(lock, MARK_BYTES, 0).split() if lock is not None else []
    return (int(text[0]), int(text[1])) if len(text) == 2 and all(map(bytes.isdigit, text)) else (0, 0)


def read_mark(path: Path) -> tuple[int, int]:
    """The mark of a store that is not opened; zeros when there is none. See the module."""
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return (0, 0)
    try:
        return _read_mark(descriptor)
    finally:
        os.close(descriptor)


def _write_mark(lock: int | None, epoch: int, seq: int) -> None:
    if lock is None:
        return
    try:
        os.pwrite(lock, f"{epoch} {seq}".ljust(MARK_BYTES).encode("ascii"), 0)
    except OSError:
        pass  # the change is durable; a mark that stays behind only tells less


@contextmanager
def _translated(path: Path | None, doing: str) -> Iterator[None]:
    """SQLite's errors as ours, with the file and what was being done."""
    where = str(path) if path is not None else "the store in memory"
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreFailed(f"cannot {doing} in {where}: {error}; nothing was changed") from error
    except sqlite3.DatabaseError as error:
        raise BadStore(f"cannot {doing} in {where}: {error}") from error
    except msgspec.MsgspecError as error:
        raise BadStore(f"cannot {doing} in {where}: an entry this version does not know ({error})") from error
