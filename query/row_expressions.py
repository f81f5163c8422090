"""Expressions over the fields of one record, made once and evaluated for many records at a time.

Owns the reading of a text into :class:`RowExpression`, its evaluation, and what may stand in it: the language's own
pure functions, the fields, and constants; no peer, model, user function, clock or session. Records are columns: for
each field an array with a row for each record, in groups of which each has a name (``in``, ``out``).

    in.price < 0                                  a condition: the fields of a group are named through it
    {"x": [rooms, ln(area)], "town": town}        a record: the fields of the only group are variables themselves, too

Rules: evaluating row by row (:mod:`query.row_evaluation`) says what an expression means; for many rows numpy does the
same for all of them at once (:mod:`query.row_columns`) where nothing can come out differently but the last bit of a
function such as ``exp``. A field of one element is that element, as :mod:`query.row_types` says. A row on which an
expression fails is told with its number; whether it ends the others is for the caller to say. Every bound is named:
the text by :mod:`query.limits`, the work for a row by ``ROW_STEPS_MAX``, all of it by the caller's ``check``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from query.catalogue import Catalogue
from query.constants import NAMED
from query.declarations import Call as Asked
from query.declarations import Caller, Effect, Role
from query.errors import BadStatement, Problem, UnknownName, WrongArguments, nearest
from query.expressions import Misplaced, Resolver, Scope, wrong
from query.limits import EvaluationLimits, over
from query.parsing import parse_statement
from query.plan import Local, Plan, Step, Yield
from query.row_inference import inferred
from query.row_types import UNKNOWN, Cells, as_value, type_of_cells
from query.syntax import (
    Evaluate,
    Expression,
    Field,
    Index,
    Literal,
    Name,
    Node,
    RecordOf,
    Statement,
    Variable,
    walk,
)
from query.types import RECORD

if TYPE_CHECKING:
    from query.row_numbers import Array

ROW_STEPS_MAX: Final = 20_000
ROW_LIMITS: Final = EvaluationLimits(steps=ROW_STEPS_MAX, bag_rows=10_000, steps_between_yields=ROW_STEPS_MAX + 1)
FIELDS_MAX: Final = 1_024  # of one record that an expression makes
IMPURE: Final = frozenset({"now", "doc", "signature", "apropos"})  # the clock, and what a peer knows

Fields = Mapping[str, Cells]
Groups = Mapping[str, Fields]


@functools.cache
def pure_catalogue() -> Catalogue:
    """The generic functions whose result depends on their arguments alone."""
    from query.functions import generic_declarations

    return Catalogue(declared for declared in generic_declarations() if declared.name not in IMPURE)


ASKED: Final = Asked(Caller("pipeline", Role.VIEWER), datetime(1970, 1, 1, tzinfo=UTC), "")
"""What functions are told, of which pure ones make nothing."""


class Reading(NamedTuple):
    """A variable of an expression: a field of a group, or without ``field`` the whole group as a record."""

    group: str
    field: str | None


@dataclass(slots=True)
class RowFailures:
    """Rows on which an expression gave no value: their number, and the first of them with its reason."""

    count: int = 0
    row: int = 0
    problem: Problem | None = None


@dataclass(eq=False)
class RowExpression:
    """An expression, ready to be evaluated. Immutable; may be used from several threads.

    ``cells``: what it makes. ``readings``: what it reads, by slot. ``bare``: the field that it is and nothing more.
    """

    statement: Statement
    step: Step
    slots: int
    readings: Mapping[int, Reading]
    known: Mapping[int, Cells]
    cells: Cells
    bare: Reading | None = None
    derived: dict[str, Any] = field(default_factory=dict)

    def column(
        self, columns: Mapping[str, Mapping[str, Array]], count: int, *, check: Callable[[], None] | None = None
    ) -> Array:
        """Its values for ``count`` rows. Raises what the first failing row raises, its number in the message.

        ``columns``: arrays by group and field. ``check`` is called now and then, and may raise.
        """
        from query.row_evaluation import evaluated

        return evaluated(self, columns, count, check=check)

    def flags(
        self, columns: Mapping[str, Mapping[str, Array]], count: int, *, check: Callable[[], None] | None = None
    ) -> tuple[Array, RowFailures | None]:
        """Of a condition: for which rows it is true, false for rows without an answer, and which those are."""
        from query.row_evaluation import decided

        return decided(self, columns, count, check=check)

    def at(self, problem: Problem) -> Problem:
        return problem.at(self.statement.source.span(self.step.place))


def condition(text: str, groups: Groups) -> RowExpression:
    """A condition over the fields of groups. Raises a :class:`Problem` with a place in ``text``."""
    statement, node = _read(text)
    made = _expression(statement, node, groups, bare=None)
    if made.cells.dtype not in ("bool", None) or made.cells.shape not in ((), None):
        problem = WrongArguments(f"expected a condition, which is true or false, found {made.cells}")
        raise made.at(problem)
    return made


def record(text: str, fields: Fields) -> dict[str, RowExpression]:
    """The fields of the record that an expression makes of the record ``in``, whose fields are variables too.

    Raises a :class:`Problem` with a place in ``text``.
    """
    statement, node = read_record(text)
    return {
        key: _expression(statement, item, {"in": fields}, bare="in")
        for key, item in zip(node.keys, node.items, strict=True)
    }


def read_record(text: str) -> tuple[Statement, RecordOf]:
    """A text as an expression that writes a record out, so that its fields are known."""
    statement, node = _read(text)
    if not isinstance(node, RecordOf) or not node.keys:
        problem = BadStatement(
            'expected a record written out with at least one field, {"field": expression, …}',
            hint='write {"y": expression}',
        )
        raise problem.at(statement.source.span(node.place))
    if len(node.keys) > FIELDS_MAX:
        raise over("a record", FIELDS_MAX, len(node.keys), "fields").at(statement.source.span(node.place))
    return statement, node


def _read(text: str) -> tuple[Statement, Expression]:
    statement = parse_statement(text)
    body = statement.body
    if not isinstance(body, Evaluate):
        raise BadStatement(f"expected an expression, found {type(body).__name__}").at(statement.span)
    for found in walk(body):
        if isinstance(found, Variable):
            problem = BadStatement(f"an expression over a record has no session variables, found :{found.name}")
            raise problem.at(statement.source.span(found.place))
    return statement, body.value


def _expression(statement: Statement, node: Expression, groups: Groups, *, bare: str | None) -> RowExpression:
    resolver = Resolver(pure_catalogue(), None)
    variables = _Variables(resolver, groups, bare)
    try:
        step = resolver.step(variables.rewritten(node), variables.scope)
        if step.many:
            raise wrong(_a_bag(), node)
        for declared in resolver.functions.values():
            if declared.effect is Effect.CHANGES or declared.implementation is None:
                raise wrong(BadStatement(f"{declared.name} is no pure function"), node)
        cells = inferred(step, variables.known)
    except Misplaced as misplaced:
        raise _hinted(misplaced.problem, groups, bare).at(statement.source.span(misplaced.place)) from None
    except Problem as problem:
        raise problem.at(statement.source.span(node.place)) from None
    used = slots_of(step)
    readings = {slot: reading for slot, reading in variables.readings.items() if slot in used}
    return RowExpression(
        statement,
        step,
        resolver.slots,
        readings,
        variables.known,
        cells,
        bare=variables.readings.get(step.slot) if type(step) is Local else None,
    )


def _hinted(problem: Problem, groups: Groups, bare: str | None) -> Problem:
    if not isinstance(problem, UnknownName):
        return problem
    if problem.message.startswith("no function") and "did you mean" not in problem.message:
        problem.hint = "an expression over a record has the functions that depend on nothing but their arguments"
    if bare is None and problem.message.startswith("no variable"):
        problem.hint = f"a field is named through its group: {', '.join(f'{group}.field' for group in groups)}"
    return problem


def _a_bag() -> Problem:
    return WrongArguments(
        "expected one value, found a bag of them", hint="select vector of … makes one vector, sum(…) one number"
    )


class _Variables:
    """The slots of the fields and groups, and the names by which an expression reaches them."""

    def __init__(self, resolver: Resolver, groups: Groups, bare: str | None) -> None:
        self.resolver = resolver
        self.groups = groups
        self.bare = bare
        self.scope = Scope()
        self.readings: dict[int, Reading] = {}
        self.known: dict[int, Cells] = {}
        self._steps: dict[Reading, Local] = {}
        self._folded = {group.casefold(): group for group in groups}
        for group in groups:
            self._name(group.casefold(), self._step(Reading(group, None)))
        if bare is not None:
            spelt: dict[str, list[str]] = {}
            for name in groups[bare]:
                spelt.setdefault(name.casefold(), []).append(name)
            for folded, names in spelt.items():  # names that differ in case alone are told apart through the group
                if len(names) == 1 and folded not in self._folded and folded not in NAMED:
                    self._name(folded, self._step(Reading(bare, names[0])))

    def _name(self, name: str, step: Local) -> None:
        self.scope.names[name] = step

    def _step(self, reading: Reading) -> Local:
        found = self._steps.get(reading)
        if found is None:
            slot = self.resolver.new_slot()
            if reading.field is None:
                cells, declared = Cells("record"), RECORD
            else:
                cells = as_value(self.groups[reading.group][reading.field])
                declared = type_of_cells(cells)
            found = self._steps[reading] = Local(slot, type=declared)
            self.readings[slot], self.known[slot] = reading, cells
        return found

    def rewritten(self, node: Any) -> Any:
        """The tree with each ``group.field`` and ``group["field"]`` as a variable of its own."""
        if isinstance(node, Field | Index) and isinstance(node.value, Name):
            group = self._folded.get(node.value.name.casefold())
            wanted = node.name if isinstance(node, Field) else None
            if isinstance(node, Index) and isinstance(node.key, Literal) and type(node.key.value) is str:
                wanted = node.key.value
            if group is not None and wanted is not None:
                step = self._step(Reading(group, self._field(group, wanted, node)))
                name = f"{group}.{step.slot}"  # no name that a text could have
                self._name(name.casefold(), step)
                return Name(name, place=node.place)
        if isinstance(node, Node):
            changed = {
                name: self.rewritten(value)
                for name in node.__struct_fields__
                if isinstance(value := getattr(node, name), Node) or type(value) is tuple
            }
            return msgspec.structs.replace(node, **changed) if changed else node
        if type(node) is tuple:
            return tuple(self.rewritten(part) for part in node)
        return node

    def _field(self, group: str, wanted: str, node: Node) -> str:
        fields = self.groups[group]
        if wanted in fields:
            return wanted
        close = [name for name in fields if name.casefold() == wanted.casefold()]
        if len(close) == 1:
            return close[0]
        expected = ", ".join(f'"{name}"' for name in list(fields)[:20]) or "no fields"
        suggestion = nearest(wanted, fields)
        hint = f'did you mean "{suggestion}"?' if suggestion else None
        raise wrong(UnknownName(f'no field "{wanted}" in "{group}": expected {expected}', hint=hint), node)


def slots_of(step: Any) -> set[int]:
    """The slots that a step reads."""
    found: set[int] = set()
    waiting = [step]
    while waiting:
        part = waiting.pop()
        if type(part) is Local:
            found.add(part.slot)
        elif isinstance(part, msgspec.Struct):
            waiting.extend(getattr(part, name) for name in part.__struct_fields__)
        elif type(part) is tuple:
            waiting.extend(part)
    return found


def plan_of(expression: RowExpression) -> Plan:
    """The expression as a statement's plan, for what only the language's own evaluation can do."""
    return Plan(expression.statement, Yield(expression.step), (), (), Role.VIEWER, Effect.READS, expression.slots)


def known_cells(expression: RowExpression, slot: int) -> Cells:
    return expression.known.get(slot, UNKNOWN)
