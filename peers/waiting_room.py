"""Room for the answers that a nameserver keeps of statements that wait: how much one statement, and all, may take.

Rules: an answer for which there is no room is an error in the ledger, never a part of an answer; what ended longest ago
is forgotten first when room is short.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from federation.names import PeerId, shown
from peers.waiting_store import WaitingStore
from peers.whole_frames import whole_problem
from query.errors import LimitExceeded
from query.ledger import Outcome, State

STATEMENT_BYTES_MAX: Final = 64 * 1024 * 1024  # of all answers to one statement
BYTES_MAX: Final = 320 * 1024 * 1024  # of all answers that are kept
DETAIL_MAX: Final = 200
TARGETS_KEPT_MAX: Final = 1_000_000  # of all statements that are kept; each takes about 100 bytes
KEPT_WHEN_SHORT: Final = (100, 10, 0)  # ended statements, one step after another

Entry: TypeAlias = tuple[PeerId, Outcome, bytes | None]


class AnswerRoom:
    """The account of one store."""

    def __init__(
        self,
        store: WaitingStore,
        *,
        statement_bytes_max: int = STATEMENT_BYTES_MAX,
        bytes_max: int = BYTES_MAX,
        targets_max: int = TARGETS_KEPT_MAX,
    ) -> None:
        self._targets_max = targets_max
        self._store = store
        self._statement_bytes_max = statement_bytes_max
        self._bytes_max = bytes_max
        self._bytes = self._targets = 0
        self.recount()

    def took(self, size: int) -> None:
        """So much was kept."""
        self._bytes += size

    def took_targets(self, count: int) -> None:
        """So many targets were kept."""
        self._targets += count

    def make_room_for(self, targets: int) -> None:
        """Before a statement with so many targets is kept. What waits is bounded elsewhere."""
        for keep in KEPT_WHEN_SHORT:
            if self._targets + targets > self._targets_max:
                self.forget(ended_before=float("-inf"), keep=keep)

    def forget(self, *, ended_before: float, keep: int) -> None:
        """Drop ended statements; see the store."""
        if self._store.forget(ended_before=ended_before, keep=keep):
            self.recount()

    def recount(self) -> None:
        """Take the account from the disk."""
        self._bytes = self._store.answers_bytes()
        self._targets = self._store.targets_count()

    def entry(self, uuid: PeerId, name: str, outcome: Outcome, whole: bytes, *, held: int) -> Entry:
        """What is kept of an answer to a statement that holds so many bytes: all of it, or that there was no room."""
        for keep in KEPT_WHEN_SHORT:
            if self._bytes + len(whole) > self._bytes_max:
                self.forget(ended_before=float("-inf"), keep=keep)
        if held + len(whole) > self._statement_bytes_max or self._bytes + len(whole) > self._bytes_max:
            problem = LimitExceeded(f"the answer has {len(whole)} bytes, and there is no room for it here")
            return uuid, Outcome(shown(name), State.ERROR, problem.code), whole_problem(problem, shown(name), index=0)
        detail = outcome.detail[:DETAIL_MAX] if outcome.detail is not None else None
        return uuid, msgspec.structs.replace(outcome, peer=shown(name), detail=detail), whole
