"""What a nameserver must still know of statements that wait, after any restart: one SQLite file, ``waiting.db``.

Owns two tables:

    statements(id, caller, name, nonce, text, document, begun, until, ended, how)   document: :class:`Kept`, JSON
    targets(statement, place, peer, name, outcome, answer, seq, late)           outcome: NULL while it is open

Rules: durable before the return (write-ahead log, synchronous FULL); ``seq`` numbers the answers of all statements as
they came, so that who reads on after one finds what came later and nothing twice. The file is bounded by ``PAGES_MAX``.
No backup copies it: a nameserver that was restored asks nothing that may have been answered since.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec
from msgspec import Struct

from federation.documents import SignedDocument
from federation.names import PeerId
from query.errors import PeerProblem, WorldProblem
from query.ledger import Outcome

FORM: Final = 1
PAGES_MAX: Final = 131_072  # of 4 KiB: 512 MiB

How = Literal["answered", "over", "cancelled", "refused"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS statements (id TEXT PRIMARY KEY, caller TEXT NOT NULL, name TEXT NOT NULL, nonce TEXT,
    text TEXT NOT NULL, document BLOB NOT NULL, begun REAL NOT NULL, until REAL NOT NULL, ended REAL, how TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS statements_once ON statements (caller, nonce) WHERE nonce IS NOT NULL;
CREATE TABLE IF NOT EXISTS targets (statement TEXT NOT NULL, place INTEGER NOT NULL, peer TEXT NOT NULL,
    name TEXT NOT NULL, outcome BLOB, answer BLOB, seq INTEGER, late INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (statement, place)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS targets_by_peer ON targets (statement, peer);
"""


class WaitingStoreFailed(WorldProblem):
    """The file of statements that wait is full, or the disk did not do what it should; nothing was changed."""

    code = "waiting_store_failed"


class WaitingStoreDamaged(PeerProblem):
    """The file of statements that wait is of another version, or damaged."""

    code = "waiting_store_damaged"


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A statement that waits: what its caller asked and signed. ``key`` is the caller's public key when it began.

    ``run_s``: how long each peer may take once it has it. ``unmatched``: as in the ledger. ``partial``: targets give
    partial results, which are merged. ``place``: where the statement stands in its request's text, for errors.
    """

    id: str
    caller: PeerId
    name: str
    nonce: str | None
    key: bytes | None
    text: str
    body: bytes
    index: int
    variables: dict[str, Any]
    envelope: SignedDocument | None
    run_s: float
    begun: float
    until: float
    partial: bool = False
    unmatched: int = 0


class Target(NamedTuple):
    """One peer that a statement is for. ``outcome`` None: it has no state yet."""

    place: int
    peer: PeerId
    name: str
    outcome: Outcome | None
    answer: bytes | None
    seq: int | None
    late: bool


class Standing(NamedTuple):
    """How a statement stands, without what was asked. ``ended`` None: it waits."""

    id: str
    caller: PeerId
    name: str
    text: str
    begun: float
    until: float
    ended: float | None
    how: How | None
    targets: int
    settled: int
    bytes: int


class WaitingStore:
    """The open file. Use :meth:`open`; in memory where no path is given. ``failures``: what its disk makes it raise."""

    failures: Final = (WaitingStoreFailed, WaitingStoreDamaged)

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._seq = 0
        weakref.finalize(self, connection.close)

    @classmethod
    def open(cls, path: Path | None = None, *, pages_max: int = PAGES_MAX) -> Self:
        """Raises :class:`WaitingStoreDamaged` or :class:`WaitingStoreFailed`."""
        name = str(path) if path else ":memory:"
        try:
            if path is not None:
                path.touch(mode=0o600)
            connection = sqlite3.connect(name, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise WaitingStoreFailed(f"cannot open {name}: {error}") from error
        store = cls(connection, name)
        try:
            with store._translated():
                (form,) = connection.execute("PRAGMA user_version").fetchone()
                if form not in (0, FORM):
                    raise WaitingStoreDamaged(f"{name} has form {form}, expected {FORM}", hint=store._advice)
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA max_page_count = {int(pages_max)}")
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {FORM}")
                (store._seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM targets").fetchone()
        except BaseException:
            connection.close()
            raise
        return store

    def close(self) -> None:
        self._connection.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def add(self, kept: Kept, targets: Iterable[tuple[PeerId, str]]) -> None:
        """Keep a statement and whom it is for, in order."""
        with self._transaction() as execute:
            execute(
                "INSERT INTO statements VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (
                    kept.id,
                    kept.caller,
                    kept.name,
                    kept.nonce,
                    kept.text,
                    msgspec.json.encode(kept),
                    kept.begun,
                    kept.until,
                ),
            )
            self._connection.executemany(
                "INSERT INTO targets (statement, place, peer, name) VALUES (?, ?, ?, ?)",
                ((kept.id, place, peer, name) for place, (peer, name) in enumerate(targets)),
            )

    def settle(
        self, statement: str, outcomes: Iterable[tuple[PeerId, Outcome, bytes | None]], *, late: bool = False
    ) -> None:
        """Give targets their states, and what they answered, all or none."""
        with self._transaction() as execute:
            for number, (peer, outcome, answer) in enumerate(outcomes, self._seq + 1):
                execute(
                    "UPDATE targets SET outcome = ?, answer = ?, seq = ?, late = ? WHERE statement = ? AND peer = ?",
                    (msgspec.json.encode(outcome), answer, number, late, statement, peer),
                )
                self._seq = number

    def end(self, statement: str, *, ended: float, how: How) -> None:
        with self._transaction() as execute:
            execute("UPDATE statements SET ended = ?, how = ? WHERE id = ?", (ended, how, statement))

    def forget(self, *, ended_before: float, keep: int) -> list[str]:
        """Drop what ended before a time, and of the rest all but the newest ``keep``; their ids."""
        with self._transaction() as execute:
            rows = execute(
                "SELECT id FROM statements WHERE ended IS NOT NULL AND (ended < ? OR id NOT IN"
                " (SELECT id FROM statements WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT ?))",
                (ended_before, keep),
            ).fetchall()
            for row in rows:
                execute("DELETE FROM statements WHERE id = ?", row)
                execute("DELETE FROM targets WHERE statement = ?", row)
        return [row[0] for row in rows]

    # --- reading ------------------------------------------------------------------------------------------------

    def find(self, statement: str) -> Standing | None:
        return next(self._standings("WHERE id = ? GROUP BY id", (statement,)), None)

    def by_nonce(self, caller: PeerId, nonce: str) -> Standing | None:
        return next(self._standings("WHERE caller = ? AND nonce = ? GROUP BY id", (caller, nonce)), None)

    def all(self, *, caller: PeerId | None = None) -> list[Standing]:
        """Every statement that is kept, or a caller's, the oldest first."""
        if caller is None:
            return list(self._standings("GROUP BY id ORDER BY begun, id", ()))
        return list(self._standings("WHERE caller = ? GROUP BY id ORDER BY begun, id", (caller,)))

    def targets(self, statement: str) -> list[Target]:
        """In the order of the ledger."""
        return self._targets("WHERE statement = ? ORDER BY place", (statement,))

    def target(self, statement: str, peer: PeerId) -> Target | None:
        """How one peer stands, without looking at the others."""
        return next(iter(self._targets("WHERE statement = ? AND peer = ?", (statement, peer))), None)

    def settled(self, statement: str, *, after: int) -> list[Target]:
        """Who was settled after an answer's number, in that order."""
        return self._targets("WHERE statement = ? AND seq > ? ORDER BY seq LIMIT 64", (statement, after))

    def open_targets(self, statement: str) -> dict[PeerId, str]:
        """The peers without a state, and their names."""
        with self._translated():
            return dict(
                self._connection.execute(
                    "SELECT peer, name FROM targets WHERE statement = ? AND outcome IS NULL ORDER BY place",
                    (statement,),
                ).fetchall()
            )

    def kept(self, statement: str) -> Kept:
        """What was asked, of a statement that is kept."""
        with self._translated():
            (document,) = self._connection.execute(
                "SELECT document FROM statements WHERE id = ?", (statement,)
            ).fetchone()
        kept: Kept = self._decoded(document, Kept)
        return kept

    def answers_bytes(self) -> int:
        """What all answers take."""
        with self._translated():
            (found,) = self._connection.execute("SELECT coalesce(sum(length(answer)), 0) FROM targets").fetchone()
        return int(found)

    def targets_count(self) -> int:
        """The targets of all statements."""
        with self._translated():
            (found,) = self._connection.execute("SELECT count(*) FROM targets").fetchone()
        return int(found)

    def _standings(self, where: str, values: tuple[Any, ...]) -> Iterator[Standing]:
        with self._translated():
            rows = self._connection.execute(
                "SELECT id, caller, s.name, text, begun, until, ended, how, count(*), count(outcome),"
                " coalesce(sum(length(answer)), 0) FROM statements s JOIN targets ON statement = id"
                f" {where}",
                values,
            ).fetchall()
        return (Standing(*row) for row in rows)

    def _targets(self, where: str, values: tuple[Any, ...]) -> list[Target]:
        with self._translated():
            rows = self._connection.execute(
                f"SELECT place, peer, name, outcome, answer, seq, late FROM targets {where}", values
            ).fetchall()
        return [
            Target(place, peer, name, self._decoded(outcome, Outcome) if outcome else None, answer, seq, bool(late))
            for place, peer, name, outcome, answer, seq, late in rows
        ]

    # --- the file -----------------------------------------------------------------------------------------------

    def _decoded(self, raw: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise WaitingStoreDamaged(f"{self._name} is damaged: {error}", hint=self._advice) from error

    @property
    def _advice(self) -> str:
        return "move the file away: statements that wait are then forgotten, and nothing else"

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written in the block is durable when it ends, or nothing of it was written."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._translated():
            together = self._connection.in_transaction
            if together:
                yield self._connection.execute
                return
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
        except sqlite3.OperationalError as error:
            raise WaitingStoreFailed(f"cannot use {self._name}: {error}; nothing was changed") from error
        except sqlite3.DatabaseError as error:
            raise WaitingStoreDamaged(f"{self._name} is damaged: {error}", hint=self._advice) from error
