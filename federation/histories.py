"""What edges did while nobody could watch, as the nameserver keeps it; and which carried reports it has taken.

    histories(id, edge, time, event, detail, carried)    entries as the edge noted them, in the order they were told
    carried(edge, sequence, digest, time, log)           the last carried report of an edge, and its lines of log

Owns these two tables, beside the log of reports and like it no projection: they cannot be made again from the log of
changes. Rules: an entry that is told twice is kept once, so that a carried report and the first report after it may
say the same; at most :data:`ENTRIES_PER_EDGE_MAX` an edge, the oldest go.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from federation.carried_state import Carried
from federation.documents import HistoryEntry
from federation.names import Digest, PeerId

if TYPE_CHECKING:
    from sqlite_utils import Database

ENTRIES_PER_EDGE_MAX: Final = 5_000

TABLES: Final = {"histories": "id, edge, time, event, detail, carried", "carried": "edge, sequence, digest, time, log"}
_MAKING: Final = (
    "CREATE TABLE IF NOT EXISTS histories (id INTEGER PRIMARY KEY, edge TEXT NOT NULL, time INTEGER NOT NULL,"
    " event TEXT NOT NULL, detail TEXT NOT NULL, carried INTEGER NOT NULL,"
    " UNIQUE (edge, time, event, detail))",
    "CREATE TABLE IF NOT EXISTS carried (edge TEXT PRIMARY KEY, sequence INTEGER NOT NULL, digest TEXT NOT NULL,"
    " time REAL NOT NULL, log TEXT NOT NULL)",
)

Translated = Callable[[str], AbstractContextManager[None]]


class Told(Struct, frozen=True):
    """One entry. ``carried``: it came by file."""

    time: int
    event: str
    detail: str
    carried: bool


def make_tables(db: Database) -> None:
    """Nothing happens to a store that has them."""
    for table in _MAKING:
        db.execute(table)


class HistoryLog:
    """Part of a :class:`~federation.store.FederationStore`. ``translated`` turns SQLite's errors into the store's."""

    def __init__(self, db: Database, *, translated: Translated) -> None:
        self._db = db
        self._translated = translated
        with translated("make the tables of histories"):
            make_tables(db)

    def put(self, edge: PeerId, entries: tuple[HistoryEntry, ...], *, carried: bool = False) -> None:
        """Keep what is new of it, durable before the return."""
        if not entries:
            return
        with self._translated("keep a history"), self._db.atomic():
            for entry in entries:
                self._db.execute(
                    "INSERT OR IGNORE INTO histories (edge, time, event, detail, carried) VALUES (?, ?, ?, ?, ?)",
                    [edge, entry.time, entry.event, entry.detail, int(carried)],
                )
            self._db.execute(
                "DELETE FROM histories WHERE edge = ? AND id <= (SELECT id FROM histories WHERE edge = ?"
                " ORDER BY id DESC LIMIT 1 OFFSET ?)",
                [edge, edge, ENTRIES_PER_EDGE_MAX],
            )

    def read(self, edge: PeerId) -> tuple[Told, ...]:
        """The oldest first."""
        with self._translated("read a history"):
            rows = self._db.execute(
                "SELECT time, event, detail, carried FROM histories WHERE edge = ? ORDER BY id", [edge]
            ).fetchall()
        return tuple(Told(time, event, detail, bool(carried)) for time, event, detail, carried in rows)

    def last_carried(self, edge: PeerId) -> Carried | None:
        with self._translated("read a carried report"):
            row = self._db.execute("SELECT sequence, digest, time FROM carried WHERE edge = ?", [edge]).fetchone()
        return None if row is None else Carried(row[0], Digest(row[1]), row[2])

    def put_carried(self, edge: PeerId, carried: Carried, *, log: tuple[str, ...], now: float) -> None:
        """Note the last carried report, so that no older one is taken."""
        with self._translated("keep a carried report"), self._db.atomic():
            self._db.execute(
                "INSERT OR REPLACE INTO carried VALUES (?, ?, ?, ?, ?)",
                [edge, carried.sequence, carried.digest, now, msgspec.json.encode(log).decode("utf-8")],
            )

    def carried_log(self, edge: PeerId) -> tuple[str, ...]:
        """The lines of log that came with the last carried report."""
        with self._translated("read a carried report"):
            row = self._db.execute("SELECT log FROM carried WHERE edge = ?", [edge]).fetchone()
        return () if row is None else msgspec.json.decode(row[0], type=tuple[str, ...])

    def forget(self, edge: PeerId) -> None:
        """Drop all of an edge that was removed."""
        with self._translated("drop a history"), self._db.atomic():
            self._db.execute("DELETE FROM histories WHERE edge = ?", [edge])
            self._db.execute("DELETE FROM carried WHERE edge = ?", [edge])
