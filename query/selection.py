"""The running of selects: nested variables, groups, order, limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from query.errors import WrongArguments
from query.limits import over
from query.operators import truth
from query.plan import Aggregate, Bind, Generate, Keep, Local, Query, Stage
from query.types import Type
from query.values import described, is_tensor, matches

if TYPE_CHECKING:
    from query.evaluation import Evaluation, Row, Slots


async def selected(evaluation: Evaluation, query: Query, slots: Slots) -> AsyncGenerator[Any, None]:
    """The elements that a select inside an expression gives: a vector a row when it has several items."""
    single = len(query.items) == 1
    async with aclosing(selected_rows(evaluation, query, slots)) as rows:
        async for row in rows:
            yield row[0] if single else list(row)


async def selected_rows(evaluation: Evaluation, query: Query, slots: Slots) -> AsyncGenerator[Row, None]:
    """The rows of a select."""
    limit = None if query.limit is None else checked_limit(await evaluation.value(query.limit, slots))
    if limit == 0:
        return
    count = 0
    seen: set[Any] = set()
    async with aclosing(_ordered(evaluation, query, slots)) as rows:
        async for row in rows:
            if query.distinct:
                key = frozen(row)
                if key in seen:
                    continue
                if len(seen) >= evaluation.bounds.bag_rows:
                    raise over("distinct", evaluation.bounds.bag_rows, "more", "different rows")
                seen.add(key)
            yield row
            count += 1
            if count == limit:
                return


def checked_limit(value: Any) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    raise WrongArguments(f"limit: expected an Integer from 0, found {described(value)}")


async def _ordered(evaluation: Evaluation, query: Query, slots: Slots) -> AsyncGenerator[Row, None]:
    if not query.order:
        async with aclosing(_rows(evaluation, query, slots)) as found:
            async for row, _ in found:
                yield row
        return
    held: list[tuple[Row, tuple[Any, ...]]] = []
    async with aclosing(_rows(evaluation, query, slots)) as found:
        async for row, keys in found:
            if len(held) >= evaluation.bounds.bag_rows:
                raise over("order by", evaluation.bounds.bag_rows, "more", "rows")
            held.append((row, keys))
    await evaluation.tick(len(held) * len(query.order))
    for row, _ in in_order(held, [descending for _, descending in query.order]):
        yield row


def in_order(held: list[tuple[Row, tuple[Any, ...]]], directions: Sequence[bool]) -> list[tuple[Row, tuple[Any, ...]]]:
    """Rows with their sort keys, sorted; ``directions``: for each key whether it descends."""
    for position, descending in reversed(tuple(enumerate(directions))):
        held = _sorted(held, position, descending=descending)
    return held


def _sorted(
    held: list[tuple[Row, tuple[Any, ...]]], position: int, *, descending: bool
) -> list[tuple[Row, tuple[Any, ...]]]:
    """Stable; null and NaN come last either way."""
    last = [entry for entry in held if comes_last(entry[1][position])]
    rest = [entry for entry in held if not comes_last(entry[1][position])]
    kinds = {_order_kind(entry[1][position]) for entry in rest}
    if len(kinds) > 1:
        raise WrongArguments(f"order by: expected values of one type, found {' and '.join(sorted(kinds))}")
    rest.sort(key=lambda entry: entry[1][position], reverse=descending)
    return rest + last


def comes_last(value: Any) -> bool:
    """Whether a sort key is null or NaN."""
    return value is None or value != value  # noqa: PLR0124 — only NaN differs from itself


def _order_kind(value: Any) -> str:
    if type(value) in (int, float):
        return "Number"
    if type(value) in (str, bool, datetime):
        return type(value).__name__
    raise WrongArguments(f"order by: no order among values like {described(value)}")


async def _rows(
    evaluation: Evaluation, query: Query, slots: Slots
) -> AsyncGenerator[tuple[Row, tuple[Any, ...]], None]:
    """Rows with the values that they are sorted by."""
    if query.group_slot is None:
        async with aclosing(_stages(evaluation, query.stages, 0, slots)) as combinations:
            async for _ in combinations:
                async with aclosing(_items(evaluation, query, 0, (), slots)) as rows:
                    async for row in rows:
                        yield row, await _keys(evaluation, query, slots)
        return
    for group in await _groups(evaluation, query, slots):
        first = group[0] if group else [None] * len(query.row_slots)
        for slot, value in zip(query.row_slots, first, strict=True):
            slots[slot] = value
        slots[query.group_slot] = (query.row_slots, group)
        if query.having is not None and truth(await evaluation.value(query.having, slots), "having") is not True:
            continue
        async with aclosing(_items(evaluation, query, 0, (), slots)) as rows:
            async for row in rows:
                yield row, await _keys(evaluation, query, slots)


async def _keys(evaluation: Evaluation, query: Query, slots: Slots) -> tuple[Any, ...]:
    return tuple([await evaluation.value(step, slots) for step, _ in query.order])


async def _groups(evaluation: Evaluation, query: Query, slots: Slots) -> list[list[list[Any]]]:
    """The values of the row variables, by key, in the order in which keys came; one group when there are no keys."""
    groups: dict[Any, list[list[Any]]] = {} if query.keys else {(): []}
    count = 0
    async with aclosing(_stages(evaluation, query.stages, 0, slots)) as combinations:
        async for _ in combinations:
            count += 1
            if count > evaluation.bounds.bag_rows:
                raise over("rows to be grouped", evaluation.bounds.bag_rows, "more", "rows")
            key = frozen(tuple([await evaluation.value(step, slots) for step in query.keys]))
            groups.setdefault(key, []).append([slots[slot] for slot in query.row_slots])
    return list(groups.values())


async def over_group(evaluation: Evaluation, step: Aggregate, slots: Slots) -> list[Any]:
    """An aggregate's arguments: for what is taken whole, the values in every row of the group."""
    row_slots, group = slots[step.slot]
    kept = [slots[slot] for slot in row_slots]
    declared = step.overloads[0]
    found: list[Any] = []
    try:
        for parameter, argument in zip(declared.parameters, step.arguments, strict=False):
            if parameter.type.name not in ("Bag", "Stream") or argument.many:
                whole = evaluation.gathered if argument.many else evaluation.value
                found.append(await whole(argument, slots))
                continue
            if type(argument) is Local and argument.slot in row_slots:
                column = row_slots.index(argument.slot)
                await evaluation.tick(len(group))
                found.append([row[column] for row in group])
                continue
            values = []
            for row in group:
                for slot, value in zip(row_slots, row, strict=True):
                    slots[slot] = value
                await evaluation.tick()
                values.append(await evaluation.value(argument, slots))
            found.append(values)
    finally:
        for slot, value in zip(row_slots, kept, strict=True):
            slots[slot] = value
    return found


async def _items(
    evaluation: Evaluation, query: Query, position: int, row: Row, slots: Slots
) -> AsyncGenerator[Row, None]:
    """All combinations of the items' values: an item that is a bag gives a row for each of its elements."""
    values = list(row)
    while position < len(query.items) and not query.items[position].many:
        values.append(await evaluation.value(query.items[position], slots))
        position += 1
    if position == len(query.items):
        await evaluation.tick()
        yield tuple(values)
        return
    async with aclosing(evaluation.elements(query.items[position], slots)) as elements:
        async for element in elements:
            async with aclosing(_items(evaluation, query, position + 1, (*values, element), slots)) as rows:
                async for found in rows:
                    yield found


async def _stages(
    evaluation: Evaluation, stages: tuple[Stage, ...], position: int, slots: Slots
) -> AsyncGenerator[None, None]:
    """Once for every combination of the variables that the conditions keep; their values are in ``slots``."""
    while position < len(stages):
        stage = stages[position]
        position += 1
        if isinstance(stage, Keep):
            if truth(await evaluation.value(stage.condition, slots), stage.what) is not True:
                return
        elif isinstance(stage, Bind):
            value = await evaluation.value(stage.value, slots)
            _check(stage.name, value, stage.type)
            slots[stage.slot] = value
        else:
            async with aclosing(_generated(evaluation, stage, stages, position, slots)) as combinations:
                async for combination in combinations:
                    yield combination
            return
    yield None


async def _generated(
    evaluation: Evaluation, stage: Generate, stages: tuple[Stage, ...], position: int, slots: Slots
) -> AsyncGenerator[None, None]:
    async with aclosing(evaluation.iterated(stage.source, slots)) as elements:
        async for element in elements:
            _check(stage.name, element, stage.type)
            slots[stage.slot] = element
            if position == len(stages):
                yield None
                continue
            async with aclosing(_stages(evaluation, stages, position, slots)) as combinations:
                async for combination in combinations:
                    yield combination


def _check(name: str, value: Any, wanted: Type | None) -> None:
    if wanted is not None and not matches(value, wanted):
        raise WrongArguments(f"{name}: expected {wanted}, found {described(value)}")


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
