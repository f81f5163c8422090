"""The ledger that closes every answer: every targeted peer in exactly one state.

Rules: targets are fixed when the statement starts; a state is set once; closing gives every open target the state
that its silence means (``timeout`` where connected, ``unreachable`` where not, ``cancelled`` when stopped);
the states sum to the targets, checked at the end of every statement.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable

import msgspec

from query.budgets import Budget, used_of


class State(enum.Enum):
    ROWS = "rows"
    EMPTY = "empty"
    ERROR = "error"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"


COMPLETE = frozenset({State.ROWS, State.EMPTY})


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one target ended. ``detail``: an error's code, a refusal's reason, ``last_seen`` or ``never``.

    ``rows``, ``bytes`` and ``elapsed_ms`` are what the target used: rows given, bytes of their encoded values, and the
    time from when it began to its end. ``allowed`` is what it might use, where the statement said so or used it up.
    ``way``: ``direct`` where the target was asked without the nameserver between.
    """

    peer: str
    state: State
    detail: str | None = None
    rows: int = 0
    bytes: int = 0
    elapsed_ms: float = 0.0
    allowed: Budget | None = None
    way: str = ""

    def __str__(self) -> str:
        return f"{self.state.value}({self.detail})" if self.detail else self.state.value

    @property
    def used(self) -> str:
        """What of its budget a target used, for people: ``12 of 1000 rows, 0.3s of 5s``; empty without a budget."""
        if self.allowed is None:
            return ""
        return used_of(self.allowed, rows=self.rows, size=self.bytes, elapsed_s=self.elapsed_ms / 1000)


class Ledger(msgspec.Struct, frozen=True, omit_defaults=True):
    """A closed account: one outcome a target, in the order of the targets.

    ``unmatched``: peers that a ``where`` looked at and did not mean; they are no targets.
    """

    outcomes: tuple[Outcome, ...]
    unmatched: int = 0

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(outcome.state.value for outcome in self.outcomes))

    @property
    def complete(self) -> bool:
        """Whether every target answered; anything else is a partial answer."""
        return all(outcome.state in COMPLETE for outcome in self.outcomes)


class OpenLedger:
    """The account while a statement runs."""

    def __init__(self, targets: Iterable[str]) -> None:
        self._targets = dict.fromkeys(targets)  # in their order, and found without looking through them
        self._settled: dict[str, Outcome] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self._targets)

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(target for target in self._targets if target not in self._settled)

    def settle(self, outcome: Outcome) -> bool:
        """Set a target's state. False when it already has one (a late answer changes nothing)."""
        if outcome.peer not in self._targets:
            raise ValueError(f"{outcome.peer!r} is not a target")
        if outcome.peer in self._settled:
            return False
        self._settled[outcome.peer] = outcome
        return True

    def close(self, silence: Iterable[Outcome] = (), *, unmatched: int = 0) -> Ledger:
        """The closed account. ``silence`` says what open targets' silence means; all must be covered."""
        for outcome in silence:
            self.settle(outcome)
        if self.open:
            raise ValueError(f"targets without a state: {', '.join(self.open)}")
        return Ledger(tuple(self._settled[target] for target in self._targets), unmatched)
