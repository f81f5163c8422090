"""The running of selects: nested variables, groups, order, limit.

Rules: what is sorted is held; of ``order by … limit n`` few more than twice the ``n`` rows that may still be given.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from query.errors import WrongArguments
from query.group_rows import frozen, grouped
from query.limits import over
from query.operators import truth
from query.plan import Bind, Generate, Keep, Query, Stage
from query.types import Type
from query.values import described, matches

if TYPE_CHECKING:
    from query.evaluation import Evaluation, Row, Slots

SORTED_ROWS: Final = 1_000  # that are held at least, before those which no limit lets through are dropped
_Entry: TypeAlias = "tuple[Row, tuple[Any, ...]]"  # a row and what it is sorted by


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
    async with aclosing(_ordered(evaluation, query, slots, limit=limit)) as rows:
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


async def _ordered(
    evaluation: Evaluation, query: Query, slots: Slots, *, limit: int | None
) -> AsyncGenerator[Row, None]:
    """The rows in their order; rows beyond the limit may be left out."""
    if not query.order:
        async with aclosing(_rows(evaluation, query, slots)) as found:
            async for row, _ in found:
                yield row
        return
    bound = evaluation.bounds.bag_rows
    first = None if limit is None or limit > bound else _FirstRows(query, limit)
    cut_at = bound if first is None else max(2 * first.limit, min(SORTED_ROWS, bound))
    held: list[_Entry] = []
    async with aclosing(_rows(evaluation, query, slots)) as found:
        async for row, keys in found:
            if len(held) >= cut_at:
                if first is None:
                    raise over("order by", bound, "more", "rows")
                await evaluation.tick(len(held) * len(query.order))
                held = first.of(held)
            held.append((row, keys))
    await evaluation.tick(len(held) * len(query.order))
    directions = [descending for _, descending in query.order]
    for row, _ in in_order(held, directions) if first is None else first.of(held):
        yield row


class _FirstRows:
    """Of rows that come little by little those that stand first, as if all of them were sorted together."""

    def __init__(self, query: Query, limit: int) -> None:
        self.limit = limit
        self._distinct = query.distinct
        self._directions = [descending for _, descending in query.order]
        self._samples: dict[int, _Entry] = {}  # by sort key: a row that has it, which may have been dropped

    def of(self, held: list[_Entry]) -> list[_Entry]:
        """Raises for rows that cannot be ordered, also among those that were dropped before."""
        for position in range(len(self._directions)):
            keyed = next((entry for entry in held if not comes_last(entry[1][position])), None)
            if keyed is not None:
                known = self._samples.setdefault(position, keyed)
                _one_kind((known, *held), position)
        ordered = in_order(held, self._directions)
        if self._distinct:
            different: dict[Any, _Entry] = {}
            for entry in ordered:
                different.setdefault(frozen(entry[0]), entry)
            ordered = list(different.values())
        return ordered[: self.limit]


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
    _one_kind(rest, position)
    rest.sort(key=lambda entry: entry[1][position], reverse=descending)
    return rest + last


def _one_kind(entries: Iterable[_Entry], position: int) -> None:
    """That all sort keys in a place have an order among them, those aside that come last."""
    kinds = {_order_kind(entry[1][position]) for entry in entries if not comes_last(entry[1][position])}
    if len(kinds) > 1:
        raise WrongArguments(f"order by: expected values of one type, found {' and '.join(sorted(kinds))}")


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
    for group in await grouped(evaluation, query, slots, _stages(evaluation, query.stages, 0, slots)):
        first = group.first or [None] * len(query.row_slots)
        for slot, value in zip(query.row_slots, first, strict=True):
            slots[slot] = value
        slots[query.group_slot] = group
        if query.having is not None and truth(await evaluation.value(query.having, slots), "having") is not True:
            continue
        async with aclosing(_items(evaluation, query, 0, (), slots)) as rows:
            async for row in rows:
                yield row, await _keys(evaluation, query, slots)


async def _keys(evaluation: Evaluation, query: Query, slots: Slots) -> tuple[Any, ...]:
    return tuple([await evaluation.value(step, slots) for step, _ in query.order])


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
