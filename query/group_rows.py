"""The rows of a select's groups: held as they are, and when they are many, told by parts of the aggregates over them.

    rows ── held up to the bound ──> values of an aggregate's argument ── added ──> part ── result or write ──> value

Owns the groups of one running select. Rules: up to ``bag_rows`` rows nothing is done before it is asked for. Beyond
that, rows are folded into the parts of :mod:`query.partials`, and a group keeps its first row for its keys. That needs
aggregates of the language alone, whose parts have a bounded size and whose arguments mean the same wherever they are
evaluated, in a statement that changes nothing; all other rows are bounded. What goes wrong while rows are folded is
raised where the aggregate's value is asked for, as it is without folding; a bound that is passed, at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from query.calling import called, chosen, returned
from query.declarations import Effect
from query.errors import LimitExceeded, Problem
from query.limits import over
from query.part_functions import folding_of
from query.partials import Kind
from query.plan import Aggregate, Bind, Constant, Each, Generate, Invoke, Local, Query, Step
from query.values import is_tensor

if TYPE_CHECKING:
    from query.evaluation import Evaluation, Slots

PARTS_BYTES_MAX: Final = 256 * 1024 * 1024  # of all parts of one select, roughly
_PART_BYTES: Final = 200  # of any part, beside what it tells


@dataclass(slots=True)
class Group:
    """``rows``: the values of the row variables, as far as they are held. ``parts``: of what was folded, by the
    identity of the aggregate's step; None while all rows are held.
    """

    row_slots: tuple[int, ...]
    first: list[Any] | None = None
    rows: list[list[Any]] = field(default_factory=list)
    parts: dict[int, _Part | Problem] | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """``others``: the aggregate's other arguments; None where one is null, and the value is, too."""

    part: Any
    others: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class _Fold:
    """How the rows become a part of one aggregate. ``others``: or why they cannot be passed."""

    step: Aggregate
    kind: Kind
    others: tuple[Any, ...] | Problem | None


async def grouped(
    evaluation: Evaluation, query: Query, slots: Slots, combinations: AsyncGenerator[None, None]
) -> list[Group]:
    """The groups by key, in the order in which keys came; one group when there are no keys."""
    groups: dict[Any, Group] = {} if query.keys else {(): Group(query.row_slots)}
    bound = evaluation.bounds.bag_rows
    folding: _Folding | None = None
    held = 0
    async with aclosing(combinations):
        async for _ in combinations:
            if held >= bound:
                folding = folding or await _folding(evaluation, query, slots)
                await folding.fold(groups.values())
                held = 0
            held += 1
            key = frozen(tuple([await evaluation.value(step, slots) for step in query.keys]))
            group = groups.get(key)
            if group is None:
                if len(groups) >= bound:
                    raise over("group by", bound, "more", "groups", hint="group by fewer values")
                group = groups[key] = Group(query.row_slots)
            row = [slots[slot] for slot in query.row_slots]
            if group.first is None:
                group.first = row
            group.rows.append(row)
    if folding is not None:
        await folding.fold(groups.values())
    return list(groups.values())


async def of_group(evaluation: Evaluation, step: Aggregate, slots: Slots) -> Any:
    """The one value of an aggregate over its group."""
    group: Group = slots[step.slot]
    if group.parts is None:
        return await called(evaluation, step.overloads, await over_group(evaluation, step, slots))
    found = group.parts[id(step)]
    if isinstance(found, Problem):
        raise found
    if found.others is None:
        return None
    (declared,) = step.overloads
    folding = folding_of(declared)
    assert folding is not None
    kind, is_part = folding
    return returned(
        declared, kind.write(found.part, *found.others) if is_part else kind.result(found.part, *found.others)
    )


async def over_group(evaluation: Evaluation, step: Aggregate, slots: Slots) -> list[Any]:
    """An aggregate's arguments: for what is taken whole, the values in every row of the group."""
    group: Group = slots[step.slot]
    declared = step.overloads[0]
    found: list[Any] = []
    for parameter, argument in zip(declared.parameters, step.arguments, strict=False):
        if parameter.type.name not in ("Bag", "Stream") or argument.many:
            whole = evaluation.gathered if argument.many else evaluation.value
            found.append(await whole(argument, slots))
        else:
            found.append(await _column(evaluation, argument, group, slots))
    return found


async def _column(evaluation: Evaluation, argument: Step, group: Group, slots: Slots) -> list[Any]:
    """The values of an argument in every row that is held."""
    if type(argument) is Local and argument.slot in group.row_slots:
        column = group.row_slots.index(argument.slot)
        await evaluation.tick(len(group.rows))
        return [row[column] for row in group.rows]
    kept = [slots[slot] for slot in group.row_slots]
    values = []
    try:
        for row in group.rows:
            for slot, value in zip(group.row_slots, row, strict=True):
                slots[slot] = value
            await evaluation.tick()
            values.append(await evaluation.value(argument, slots))
    finally:
        for slot, value in zip(group.row_slots, kept, strict=True):
            slots[slot] = value
    return values


# --- folding --------------------------------------------------------------------------------------------------------


async def _folding(evaluation: Evaluation, query: Query, slots: Slots) -> _Folding:
    """How the rows of a select are folded. Raises where they all have to be held."""
    steps = _foldable(query) if evaluation.plan.effect is Effect.READS else None
    if steps is None:
        raise _too_many(evaluation)
    folds = []
    for step, kind in steps:
        others: tuple[Any, ...] | Problem | None
        try:
            values = [await evaluation.value(argument, slots) for argument in step.arguments[1:]]
            _, passed = chosen(evaluation, step.overloads, [[], *values])
            others = None if passed is None else tuple(passed[1:])
        except Problem as problem:
            others = problem
        folds.append(_Fold(step, kind, others))
    return _Folding(evaluation, slots, folds)


def _too_many(evaluation: Evaluation) -> Problem:
    return over("rows to be grouped", evaluation.bounds.bag_rows, "more", "rows")


class _Folding:
    """The parts of one running select."""

    def __init__(self, evaluation: Evaluation, slots: Slots, folds: list[_Fold]) -> None:
        self._evaluation = evaluation
        self._slots = slots
        self._folds = folds
        self._bytes = 0

    async def fold(self, groups: Iterable[Group]) -> None:
        """Make parts of all rows that are held, and drop them."""
        for group in groups:
            if not group.rows:
                continue
            if group.parts is None:
                group.parts = {}
            for fold in self._folds:
                known = group.parts.get(id(fold.step))
                if not isinstance(known, Problem):
                    group.parts[id(fold.step)] = await self._folded(fold, group, known)
            group.rows = []

    async def _folded(self, fold: _Fold, group: Group, known: _Part | None) -> _Part | Problem:
        try:
            values = await _column(self._evaluation, fold.step.arguments[0], group, self._slots)
            if isinstance(fold.others, Problem):
                return fold.others
            if fold.others is None:
                return _Part(None, None)
            before = None if known is None else known.part
            self._bytes -= 0 if known is None else _PART_BYTES + fold.kind.weigh(before)
            made = _Part(fold.kind.with_values(before, values, *fold.others), fold.others)
        except LimitExceeded as problem:
            raise self._evaluation.at(problem, fold.step) from None
        except Problem as problem:
            return problem
        self._bytes += _PART_BYTES + fold.kind.weigh(made.part)
        if self._bytes > PARTS_BYTES_MAX:
            raise _too_many(self._evaluation)
        return made


def _foldable(query: Query) -> list[tuple[Aggregate, Kind]] | None:
    """The aggregates over a select's rows; None when one of them needs the rows."""
    inside = [*_walk((query.items, query.having, query.order))]
    bound = _bound(inside)
    found = {id(step): step for step in inside if isinstance(step, Aggregate) and step.slot == query.group_slot}
    made = []
    for step in found.values():
        folding = folding_of(step.overloads[0]) if len(step.overloads) == 1 else None
        if folding is None or any(argument.many for argument in step.arguments):
            return None
        taken, *others = ([*_walk(argument)] for argument in step.arguments)
        if _read(taken) & ((bound - _bound(taken)) | {query.group_slot}):
            return None
        if any(_read(other) & (bound | {*query.row_slots}) or _calls(other) for other in others):
            return None
        made.append((step, folding[0]))
    return made


def _walk(step: Any) -> Iterator[Any]:
    """All steps and stages of a plan, from the top."""
    waiting = [step]
    while waiting:
        found = waiting.pop()
        if isinstance(found, tuple):
            waiting.extend(found)
        elif isinstance(found, msgspec.Struct) and not isinstance(found, Constant):
            yield found
            waiting.extend(getattr(found, name) for name in found.__struct_fields__ if name != "overloads")


def _read(steps: Iterable[Any]) -> set[int | None]:
    """The slots that steps read."""
    return {step.slot for step in steps if isinstance(step, Local | Aggregate)}


def _bound(steps: Iterable[Any]) -> set[int | None]:
    """The slots that steps fill on their own."""
    steps = [*steps]
    filled: set[int | None] = {step.slot for step in steps if isinstance(step, Generate | Bind | Each)}
    return filled | {step.group_slot for step in steps if isinstance(step, Query)}


def _calls(steps: Iterable[Any]) -> bool:
    return any(isinstance(step, Invoke | Query | Each) for step in steps)


# --- keys -----------------------------------------------------------------------------------------------------------

_BOOLEAN, _RECORD, _TENSOR, _NAN = object(), object(), object(), object()  # what no vector can begin with


def frozen(value: Any) -> Any:
    """A value as something that can be looked up: equal values of one kind are equal, 1 and true are not."""
    kind = type(value)
    if kind is bool:
        return (_BOOLEAN, value)
    if kind in (list, tuple):
        return tuple(map(frozen, value))
    if kind is dict:
        return (_RECORD, frozenset((key, frozen(part)) for key, part in value.items()))
    if is_tensor(value):
        return (_TENSOR, value.dtype.str, value.shape, value.tobytes())
    if kind is float and value != value:  # noqa: PLR0124 — NaN is one value here
        return (_NAN,)
    return value
