"""What an edge must still know of statements that wait: which it has begun, and the answers nobody has fetched yet.

Owns two tables in the edge's ``state.db``:

    errands(caller, nonce, errand, expires, answer)   answer: NULL begun, empty handed over, else its frames
    errand_facts(name, value)                         ``since``, ``forgotten``: see the rules

Rules: a nonce is on disk before its statement begins, and is used up for good. Bounded, in all and for each caller;
what has expired is forgotten only when room is needed, and then nothing that would have expired before the newest of it
is taken any more, so that a clock that is set forth and back brings nothing back. A book that was begun after this edge
joined (its file was lost) refuses what was signed before: it cannot tell whether that has run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from federation.errors import EnvelopeExpired, NonceReused, NoncesFull
from peers.edge_store import EdgeStore
from query.errors import LimitExceeded

ERRANDS_MAX: Final = 4096
ERRANDS_PER_CALLER_MAX: Final = 1024
ANSWERS_BYTES_MAX: Final = 16 * 1024 * 1024  # of answers that wait to be fetched, together

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS errands (caller TEXT NOT NULL, nonce TEXT NOT NULL, errand TEXT NOT NULL,"
    " expires REAL NOT NULL, answer BLOB, PRIMARY KEY (caller, nonce))",
    "CREATE INDEX IF NOT EXISTS errands_by_id ON errands (errand)",
    "CREATE TABLE IF NOT EXISTS errand_facts (name TEXT PRIMARY KEY, value REAL NOT NULL)",
)


class ErrandKey(NamedTuple):
    """One statement of one envelope; of a statement without one, the nameserver's own word for it."""

    caller: str
    nonce: str


class ErrandBook:
    """The open tables; satisfies :class:`federation.envelopes.Nonces`."""

    def __init__(
        self,
        store: EdgeStore,
        *,
        began: Callable[[], float],
        errands_max: int = ERRANDS_MAX,
        errands_per_caller_max: int = ERRANDS_PER_CALLER_MAX,
        answers_bytes_max: int = ANSWERS_BYTES_MAX,
    ) -> None:
        """``began``: when this process began, by federation time as far as it is known by now."""
        self._store = store
        self._began = began
        self._errands_max = errands_max
        self._per_caller_max = errands_per_caller_max
        self._answers_bytes_max = answers_bytes_max
        with store.transaction() as execute:
            for statement in _SCHEMA:
                execute(statement)
            rows = execute("SELECT caller, nonce, expires FROM errands").fetchall()
            facts = dict(execute("SELECT name, value FROM errand_facts").fetchall())
        self._expires = {ErrandKey(caller, nonce): expires for caller, nonce, expires in rows}
        self._counts = Counter(key.caller for key in self._expires)
        self._since: float | None = facts.get("since")
        self._forgotten: float = facts.get("forgotten", float("-inf"))

    def __len__(self) -> int:
        return len(self._expires)

    def begin_whole(self) -> None:
        """This edge is new and has run nothing: nothing is too old to be told apart."""
        if self._since is None and not self._expires:
            self._keep_fact("since", 0.0)
            self._since = 0.0

    def use(self, nonce: str, *, caller: str, expires: float, now: float, issued: float, errand: str = "") -> None:
        """Note that a statement begins, durable on return. ``errand``: the id under which the nameserver asks for it.

        Raises :class:`NonceReused`, :class:`EnvelopeExpired` for what this book cannot tell apart from what it forgot,
        :class:`NoncesFull`, and the store's problems.
        """
        key = ErrandKey(caller, nonce)
        if key in self._expires:
            raise NonceReused("this statement was run here before, under the same envelope")
        if self._since is None:
            self._since = self._began()
            self._keep_fact("since", self._since)
        if issued < self._since or expires <= self._forgotten:
            raise EnvelopeExpired(
                "the statement was signed before what this peer remembers", hint="send it again, with a new envelope"
            )
        if self._full(caller):
            self._forget_expired(now)
            if self._full(caller):
                raise NoncesFull(
                    f"{len(self)} statements that waited are remembered here, no more fit: try again later"
                )
        with self._store.transaction() as execute:
            execute("INSERT INTO errands VALUES (?, ?, ?, ?, NULL)", (caller, nonce, errand, expires))
        self._expires[key] = expires
        self._counts[caller] += 1

    def keep(self, key: ErrandKey, answer: bytes, *, now: float) -> None:
        """Keep an answer, durable on return. Raises :class:`LimitExceeded` when the answers here take too much room."""
        with self._store.transaction() as execute:
            execute("UPDATE errands SET answer = x'' WHERE expires <= ? AND answer IS NOT NULL", (now,))
            (held,) = execute("SELECT coalesce(sum(length(answer)), 0) FROM errands").fetchone()
            if held + len(answer) > self._answers_bytes_max:
                raise LimitExceeded(
                    f"the answers that wait here to be fetched take {held} bytes: expected at most "
                    f"{self._answers_bytes_max} with one of {len(answer)}"
                )
            execute("UPDATE errands SET answer = ? WHERE caller = ? AND nonce = ?", (answer, *key))

    def answer(self, key: ErrandKey) -> bytes | None:
        """The answer that is kept; None where there is none (any more)."""
        with self._store.transaction() as execute:
            row = execute("SELECT answer FROM errands WHERE caller = ? AND nonce = ?", key).fetchone()
        return row[0] or None if row else None

    def unfetched(self) -> frozenset[str]:
        """The ids of the errands whose answers are kept."""
        with self._store.transaction() as execute:
            return frozenset(
                row[0] for row in execute("SELECT errand FROM errands WHERE length(answer) > 0").fetchall()
            )

    def done(self, errands: Iterable[str]) -> None:
        """The nameserver wants no answer of these any more."""
        with self._store.transaction() as execute:
            for errand in errands:
                execute("UPDATE errands SET answer = x'' WHERE errand = ? AND length(answer) > 0", (errand,))

    def _full(self, caller: str) -> bool:
        return len(self) >= self._errands_max or self._counts[caller] >= self._per_caller_max

    def _forget_expired(self, now: float) -> None:
        gone = {key: expires for key, expires in self._expires.items() if expires <= now}
        if not gone:
            return
        forgotten = max(self._forgotten, *gone.values())
        with self._store.transaction() as execute:
            execute("INSERT OR REPLACE INTO errand_facts VALUES ('forgotten', ?)", (forgotten,))
            execute("DELETE FROM errands WHERE expires <= ?", (now,))
        self._forgotten = forgotten
        for key in gone:
            del self._expires[key]
            self._counts[key.caller] -= 1

    def _keep_fact(self, name: str, value: float) -> None:
        with self._store.transaction() as execute:
            execute("INSERT OR REPLACE INTO errand_facts VALUES (?, ?)", (name, value))


def begin_book(path: Path) -> None:
    """The book of an edge that is just joining, in a file that nobody has used."""
    store = EdgeStore.open(path)
    try:
        ErrandBook(store, began=lambda: 0.0).begin_whole()
    finally:
        store.close()
