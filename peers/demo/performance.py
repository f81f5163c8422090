"""Doing things on the stage and telling them: statements, commands, waiting for the federation, checks.

Every statement goes through the public client, from a home as a user has it. Nothing is told that was not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from peers.client import Answer, Connection, Row, connect
from peers.demo.stage import Stage
from peers.demo.telling import Telling
from query.errors import Problem, WorldProblem
from query.text_form import to_text

CONVERGE_S_MAX: Final = 20.0
LOOK_AGAIN_S: Final = 0.1
ADMIN: Final = "nameserver-admin"


class NotConverged(WorldProblem):
    """What the story waits for did not happen in time."""

    code = "demo_not_converged"


class Performance:
    """One telling of the story. A context manager; closes its connections."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self.stage = stage
        self.telling = telling
        self._connections: dict[str, tuple[Connection, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in tuple(self._connections):
            self.hang_up(name)

    # --- statements ---------------------------------------------------------------------------------------------

    def ask(
        self, pql: str, *, home: str = ADMIN, peer: str | None = None, params: Mapping[str, Any] | None = None
    ) -> Answer:
        """A complete answer, told. Raises its first error, or ``PartialAnswer``."""
        answer = self._answer(pql, home=home, peer=peer, params=params).checked()
        self._tell(pql, answer, home=home, peer=peer)
        return answer

    def value(self, pql: str, *, home: str = ADMIN, params: Mapping[str, Any] | None = None) -> Any:
        """The only value of a complete answer, told."""
        (row,) = self.ask(pql, home=home, params=params).rows
        return row.value

    def until(
        self,
        pql: str,
        wanted: Callable[[Answer], bool],
        *,
        home: str = ADMIN,
        params: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Ask again and again until the answer is as wanted, and tell that one. Raises :class:`NotConverged`."""
        ends = time.monotonic() + CONVERGE_S_MAX
        while True:
            answer = self._answer(pql, home=home, peer=None, params=params)
            if answer.complete and wanted(answer):
                self._tell(pql, answer, home=home, peer=None)
                return answer
            if time.monotonic() > ends:
                self._tell(pql, answer, home=home, peer=None)
                found = "; ".join([*shown_rows(answer), *(problem.message for problem in answer.errors)])
                raise NotConverged(
                    f"waited {CONVERGE_S_MAX:.0f} s for another answer, found {found[:400] or 'nothing'}"
                )
            time.sleep(LOOK_AGAIN_S)

    def refusal(self, pql: str, *, home: str = ADMIN) -> Problem | None:
        """The error that a statement ends with, told; None when it has none."""
        answer = self._answer(pql, home=home, peer=None, params=None)
        self._tell(pql, answer, home=home, peer=None)
        return answer.errors[0] if answer.errors else None

    def hang_up(self, home: str) -> None:
        """Close the connection of a home, before or after the peer in it goes."""
        found = self._connections.pop(home, None)
        if found is not None:
            found[1].close()

    def _answer(self, pql: str, *, home: str, peer: str | None, params: Mapping[str, Any] | None) -> Answer:
        return self._connection(home).query(pql, peer=peer, params=params)

    def _connection(self, home: str) -> Connection:
        if home not in self._connections:
            stack = ExitStack()
            self._connections[home] = (stack.enter_context(connect(self.stage.home(home))), stack)
        return self._connections[home][0]

    def _tell(self, pql: str, answer: Answer, *, home: str, peer: str | None) -> None:
        shown = [*shown_rows(answer), *(f"error({error.code}): {error.message}" for error in answer.errors)]
        self.telling.statement(pql, peer=peer or home, shown=shown)

    # --- commands and checks ------------------------------------------------------------------------------------

    def command(self, *words: str) -> str:
        """Run ``peerage WORDS``, told; what it printed."""
        self.telling.command([self._short(word) for word in words])
        return self.stage.command(*words)

    def start(self, name: str, *words: str) -> None:
        """Start a peer that stays, told."""
        self.telling.command([*words, "--home", name])
        self.stage.start(name, *words)

    def check(self, what: str, found: Any, wanted: Any) -> None:
        """That ``found`` equals ``wanted``."""
        self.telling.check(what, held=found == wanted, found=found if isinstance(found, str) else repr(found))

    def check_that(self, what: str, *, held: bool, found: object = "") -> None:
        self.telling.check(what, held=held, found=str(found))

    def fact(self, name: str, value: Any) -> None:
        self.telling.fact(name, value)

    def _short(self, word: str) -> str:
        """A path below the demo's folder, as it is told."""
        path = Path(word)
        return str(path.relative_to(self.stage.folder)) if path.is_relative_to(self.stage.folder) else word


def shown_rows(answer: Answer) -> list[str]:
    """The rows as text, each with its peer where several answered."""
    several = len({row.peer for row in answer.rows}) > 1
    return [_shown(row, several=several) for row in _in_order(answer.rows)]


def by_peer(answer: Answer) -> dict[str, Any]:
    """The one value of each peer."""
    return {row.peer or "": row.value for row in _in_order(answer.rows)}


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """By peer, each peer's in the order of their arrival: answers of several peers arrive as they come."""
    return sorted(rows, key=lambda row: row.peer or "")


def _shown(row: Row, *, several: bool) -> str:
    values = "  ".join(to_text(value) for value in row.values)
    return f"{row.peer}  {values}" if several else values
