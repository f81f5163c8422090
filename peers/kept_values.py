"""The value of a ``set`` whose expression runs on another peer: asked there, kept in the session that asked.

Owns the statement that is sent in its place, the collecting of what comes back, and when that is one value. A peer that
only forwards sends the expression alone, whose rows are the elements of a bag or one value; a ``set`` that was carried
to an edge is answered with one row, the value whole. Refuses more elements than a bag or a value may hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from peers.answering import Answering
from query.catalogue import Catalogue, UserFunction
from query.errors import Problem
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame
from query.ledger import Ledger, State
from query.limits import VALUE_ELEMENTS_MAX, EvaluationLimits, over
from query.parsing import tokens
from query.plan import Yield
from query.resolution import resolve
from query.session import Session
from query.syntax import Evaluate, SetVariable, Source, Statement
from query.values import decode_value, measured

ELEMENTS_MAX: Final = EvaluationLimits().bag_rows


def expression_of(statement: Statement, assignment: SetVariable) -> Statement:
    """The expression of a ``set`` as a statement under the same directives; every place in it stays where it was."""
    start, end = statement.place
    text = statement.source.text
    (lexed,) = tokens(text[start:end])
    first, value = (start + lexed.tokens[number].start for number in (0, 3))  # set, :name, =, the expression
    blanks = re.sub(r"[^\n]", " ", text[first:value])
    source = Source(text[:first] + blanks + text[value:])
    body = Evaluate(assignment.value, place=assignment.place)
    return Statement(body, statement.directives, source, place=statement.place)


class KeptValue:
    """Where the frames of the expression's answer go: rows stay here, the rest is told to who asked for the ``set``."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._rows: list[Any] = []
        self._elements = 0
        self.ledger = Ledger(())

    async def put(self, item: Frame, /) -> None:
        match item:
            case RowFrame(values=values):
                self._take(values)
            case ErrorFrame(error=error):
                await self._answering.error(error)
            case EndFrame(ledger=ledger):
                self.ledger = ledger

    def put_nowait(self, item: Frame, /) -> None:
        if isinstance(item, ProgressFrame):
            self._answering.progress(item.label, item.done, item.total, item.unit, peer=item.peer or "")

    def _take(self, values: tuple[Any, ...]) -> None:
        if len(self._rows) >= ELEMENTS_MAX:
            raise over("a bag that has to be held", ELEMENTS_MAX, "more", "elements")
        decoded = [decode_value(value) for value in values]
        self._elements += sum(map(measured, decoded))
        if self._elements > VALUE_ELEMENTS_MAX:
            raise over("a value", VALUE_ELEMENTS_MAX, "more", "elements")
        self._rows.append(decoded[0] if len(decoded) == 1 else decoded)

    def keep(self, name: str, session: Session, *, many: bool) -> Problem | None:
        """Set the variable, of a bag to the vector of its elements, when the peer that was asked answered.

        The ledger is then that of a ``set``, which has no rows. Gives what stands against keeping the value.
        """
        if not self.ledger.complete:
            return None
        try:
            session.set(name, self._rows if many or len(self._rows) != 1 else self._rows[0])
        except Problem as problem:
            self._settled(State.ERROR, problem.code)
            return problem
        self._settled(State.EMPTY)
        return None

    def _settled(self, state: State, detail: str | None = None) -> None:
        settled = (replace(outcome, state=state, detail=detail, rows=0) for outcome in self.ledger.outcomes)
        self.ledger = Ledger(tuple(settled))


def is_bag(expression: Statement, catalogue: Catalogue, variables: Mapping[str, Any]) -> bool:
    """Whether an expression gives a bag, as far as this peer knows its functions: of one value it cannot tell."""
    try:
        plan = resolve(expression, catalogue, variables)
    except Problem:
        return False
    if any(isinstance(declared, UserFunction) for declared in plan.functions):
        return False  # the other peer's function of that name may be another
    return isinstance(plan.action, Yield) and plan.action.value.many
