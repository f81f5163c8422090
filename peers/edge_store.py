"""What an edge must still know after a kill at any moment, in one SQLite file of the standard library.

Owns ``state.db`` in an edge's home:

    desired(id=1, document, epoch, generation, window, digest)   the last accepted desired state and the poll's cursor
    records(digest, document)                                    signed release records that are still of interest
    saved(id=1, document)                                        federation.actual.Saved, JSON
    facts(name, value)                                           the clock's offset; the form's version; the number of
                                                                 the last report that was carried away
    history(id, document)                                        what the edge did and has not told yet, oldest first

and what :mod:`peers.errand_book` keeps. Refuses to be opened by two processes, and to guess: a file that is damaged or
of another form is an error that says so.

Rules: one writer, write-ahead log, synchronous FULL: what :meth:`EdgeStore.commit` returned from survives. State and
cursor change in one transaction, with the goals that follow from them. The file is bounded by ``PAGES_MAX``; a full
disk is a passing :class:`StoreFull` and leaves what was there.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from federation.actual import Saved
from federation.documents import DesiredState, HistoryEntry, SignedDocument, decode, encode
from federation.names import Digest, digest_of
from federation.verification import Cursor, cursor_of
from query.errors import PeerProblem, WorldProblem

FORM: Final = "1"
LOCK_TIMEOUT_S: Final = 2.0
PAGES_MAX: Final = 65536  # of 4 KiB: 256 MiB

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS desired (id INTEGER PRIMARY KEY CHECK (id = 1), document BLOB NOT NULL,
    epoch INTEGER NOT NULL, generation INTEGER NOT NULL, window INTEGER NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (digest TEXT PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS saved (id INTEGER PRIMARY KEY CHECK (id = 1), document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS history (id INTEGER PRIMARY KEY AUTOINCREMENT, document BLOB NOT NULL);
"""


class StoreFull(WorldProblem):
    """The disk, or the store's own bound, leaves no room."""

    code = "disk_full"


class StoreFailed(WorldProblem):
    """The disk did not do what it should."""

    code = "disk_failed"


class StoreDamaged(PeerProblem):
    code = "store_damaged"


class StateInUse(PeerProblem):
    code = "state_in_use"


@dataclass(frozen=True, slots=True)
class Stored:
    """What the file holds at opening. ``clock_offset_s`` is None until a nameserver has told the time."""

    desired: DesiredState | None
    cursor: Cursor | None
    saved: Saved
    clock_offset_s: float | None


class EdgeStore:
    """The open file. Use :meth:`open`; ``:memory:`` where no path is given."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        weakref.finalize(self, connection.close)  # a store that nobody closed leaves no open file

    @classmethod
    def open(cls, path: Path | None = None, *, pages_max: int = PAGES_MAX) -> Self:
        """Raises :class:`StateInUse`, :class:`StoreDamaged`, :class:`StoreFull` or :class:`StoreFailed`."""
        name = str(path) if path else ":memory:"
        try:
            if path is not None:
                path.touch(mode=0o600)  # SQLite would make it, and what lies beside it, as the umask says
            connection = sqlite3.connect(name, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"cannot open the edge's state {name}: {error}") from error
        store = cls(connection, name)
        try:
            with store._translated():
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA max_page_count = {int(pages_max)}")
                connection.executescript(_SCHEMA)
                connection.execute("INSERT OR IGNORE INTO facts VALUES ('form', ?)", (FORM,))
                (form,) = connection.execute("SELECT value FROM facts WHERE name = 'form'").fetchone()
            if form != FORM:
                raise StoreDamaged(f"the edge's state {name} has form {form}, expected {FORM}")
        except BaseException:
            connection.close()
            raise
        return store

    def close(self) -> None:
        self._connection.close()

    def read(self) -> Stored:
        """Everything but the release records."""
        with self._translated():
            row = self._connection.execute("SELECT document, epoch, generation, window, digest FROM desired").fetchone()
            saved = self._connection.execute("SELECT document FROM saved").fetchone()
            offset = self._connection.execute("SELECT value FROM facts WHERE name = 'clock_offset_s'").fetchone()
        try:
            return Stored(
                desired=decode(decode(row[0], SignedDocument).payload, DesiredState) if row else None,
                cursor=Cursor(row[1], row[2], row[3], Digest(row[4])) if row else None,
                saved=msgspec.json.decode(saved[0], type=Saved) if saved else Saved(),
                clock_offset_s=float(offset[0]) if offset else None,
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._damaged(error) from error

    def record(self, digest: Digest) -> SignedDocument | None:
        """The signed release record whose payload has this digest."""
        with self._translated():
            row = self._connection.execute("SELECT document FROM records WHERE digest = ?", (digest,)).fetchone()
        try:
            return decode(row[0], SignedDocument) if row else None
        except msgspec.MsgspecError as error:
            raise self._damaged(error) from error

    def commit(
        self,
        saved: Saved,
        *,
        desired: tuple[SignedDocument, DesiredState] | None = None,
        records: Iterable[SignedDocument] = (),
        keep: frozenset[Digest] | None = None,
    ) -> None:
        """Make it durable, all or nothing. ``keep``: forget the records of all releases but these and ``records``."""
        documents = {digest_of(document.payload): encode(document) for document in records}
        with self._translated(), self._transaction() as execute:
            execute("INSERT OR REPLACE INTO saved VALUES (1, ?)", (msgspec.json.encode(saved),))
            if desired is not None:
                document, state = desired
                execute(
                    "INSERT OR REPLACE INTO desired VALUES (1, ?, ?, ?, ?, ?)",
                    (encode(document), *cursor_of(document, state)),
                )
            for digest, raw in documents.items():
                execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (digest, raw))
            if keep is not None:
                known = [row[0] for row in execute("SELECT digest FROM records").fetchall()]
                for digest in set(known) - keep - documents.keys():
                    execute("DELETE FROM records WHERE digest = ?", (digest,))

    def keep_clock_offset(self, offset_s: float) -> None:
        """Remember what the nameserver told about the time."""
        with self._translated(), self._transaction() as execute:
            execute("INSERT OR REPLACE INTO facts VALUES ('clock_offset_s', ?)", (repr(offset_s),))

    def history(self) -> list[tuple[int, HistoryEntry]]:
        """What was noted and not forgotten, numbered, the oldest first."""
        with self._translated():
            rows = self._connection.execute("SELECT id, document FROM history ORDER BY id").fetchall()
        try:
            return [(number, decode(raw, HistoryEntry)) for number, raw in rows]
        except msgspec.MsgspecError as error:
            raise self._damaged(error) from error

    def add_history(self, entry: HistoryEntry, *, entries_max: int) -> int:
        """Note it durably and forget the oldest beyond a bound; its number."""
        with self._translated(), self._transaction() as execute:
            number = execute("INSERT INTO history (document) VALUES (?)", (encode(entry),)).lastrowid
            assert number is not None
            execute("DELETE FROM history WHERE id <= ?", (number - entries_max,))
        return number

    def forget_history(self, upto: int) -> None:
        """Forget what was noted up to a number."""
        with self._translated(), self._transaction() as execute:
            execute("DELETE FROM history WHERE id <= ?", (upto,))

    def next_sequence(self, now: float) -> int:
        """The number of a report that is carried away, above all before it, also when this file was lost meanwhile and
        the clock was right: it begins at the time. Durable on return.
        """
        with self._translated(), self._transaction() as execute:
            row = execute("SELECT value FROM facts WHERE name = 'carried_sequence'").fetchone()
            number = max(int(row[0]) + 1 if row else 1, int(now))
            execute("INSERT OR REPLACE INTO facts VALUES ('carried_sequence', ?)", (str(number),))
        return number

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """For the owner of a further table in this file: what is executed is durable when the block ends, or undone."""
        with self._translated(), self._transaction() as execute:
            yield execute

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection.execute
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            match error.sqlite_errorname.partition("_")[2].split("_")[0]:
                case "FULL":
                    raise StoreFull(f"no room to keep the edge's state in {self._name}: {error}") from error
                case "BUSY" | "LOCKED":
                    raise StateInUse(
                        f"another process uses {self._name}",
                        hint="stop the other edge, or give this one its own --home",
                    ) from error
                case "CORRUPT" | "NOTADB":
                    raise self._damaged(error) from error
                case _:
                    raise StoreFailed(f"cannot use the edge's state {self._name}: {error}") from error

    def _damaged(self, error: Exception) -> StoreDamaged:
        return StoreDamaged(
            f"the edge's state {self._name} is damaged: {error}",
            hint="move the file away: the edge then asks for everything again, and manual loads are forgotten",
        )
