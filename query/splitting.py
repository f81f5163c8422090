"""What several peers answer together: a statement split into what each of them gives and what is made of it.

    Statement ──> Split   aggregates and groups: each peer gives a row a group, its keys and a part of each aggregate
              ──> TopRows order by with limit: each gives its first rows, with what they are sorted by beside them
              ──> None    everything else runs whole at each

Owns the two statements that a split one becomes: ``partial``, run by each target, and ``final``, run over the merged
rows by who fans out. Pure. Decided from the text and the program's own functions alone, so that two peers split a text
alike; :attr:`columns` names what a partial answer must have, so that a peer which splits otherwise is found out.

Rules: a select is split when it has a group or uses an aggregate of the language (:func:`~query.partials.kinds`) in
its items, ``having`` or ``order by``; without ``from``, the outermost such calls. Beside aggregates and keys, only
functions of the language may stand there: the value of another could differ from peer to peer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from query.catalogue import Catalogue
from query.declarations import Declaration, Effect, Home, Parameter, Role
from query.errors import BadStatement, Problem
from query.formatting import format_expression
from query.part_functions import PART, WHOLE
from query.partials import Kind, kinds
from query.plan import Aggregate, Plan, Query, Yield
from query.resolution import resolve
from query.selecting import MERGED, column_names
from query.syntax import (
    Call,
    Evaluate,
    Expression,
    From,
    Index,
    Item,
    Literal,
    Name,
    Node,
    Order,
    Select,
    Statement,
    Variable,
    calls,
    children,
    walk,
)
from query.types import OBJECT

MERGED_ROWS: Final = "merged rows"
"""The session variable that the final statement reads: a row a group, its keys and the merged parts."""


@dataclass(frozen=True, slots=True)
class Split:
    """``keys``: how many columns of a partial row are the group's keys; the others are parts of ``aggregates``."""

    partial: Statement
    final: Statement
    columns: tuple[str, ...]
    keys: int
    aggregates: tuple[Kind, ...]
    group: tuple[str, ...]  # the keys as written
    texts: tuple[str, ...]  # the aggregates as written

    @property
    def one_group(self) -> bool:
        """Whether all rows of all peers are one group."""
        return not self.keys

    @property
    def group_bytes_about(self) -> int | None:
        """A rough guide to what a peer sends for each group; None when values themselves travel."""
        sizes = [kind.bytes_about for kind in self.aggregates]
        if None in sizes:
            return None
        return 40 + 20 * self.keys + sum(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class TopRows:
    """``items``: how many columns are the answer's. ``order``: for each sort key its column and whether it descends."""

    partial: Statement
    limit: Statement
    columns: tuple[str, ...]
    items: int
    order: tuple[tuple[int, bool], ...]
    distinct: bool


Splitting: TypeAlias = Split | TopRows


def split(statement: Statement, catalogue: Catalogue, variables: Mapping[str, Any]) -> Splitting | None:
    """How a statement is split over several peers; None for one that runs whole at each.

    Raises what resolution raises, and :class:`BadStatement` for what cannot be told of all peers together.
    """
    body = statement.body
    if type(body) is not Evaluate or type(body.value) is not Select:
        return None
    select = body.value
    top = bool(select.order) and select.limit is not None and select.into is None
    if not (select.group or top or any(call.name.casefold() in kinds() for call in calls(select))):
        return None
    known = _known(select, catalogue)
    try:
        aggregates = _aggregates(select, resolve(statement, known, variables))
    except Problem as problem:
        raise problem.at(statement.source.span(statement.place)) from None
    if aggregates or select.group:
        return _Splitting(statement, select, aggregates).made()
    return _top_rows(statement, select) if top else None


def check_partial(split_: Splitting, plan: Plan) -> None:
    """That the partial statement means on this peer what it means by its text: its models and users may have functions
    that give bags or take them. Raises :class:`BadStatement`.
    """
    if isinstance(split_, TopRows):
        return
    assert isinstance(plan.action, Yield)
    query = plan.action.value
    assert isinstance(query, Query)
    for step, column in zip(query.items[split_.keys :], split_.columns[split_.keys :], strict=True):
        if step.many or (query.row_slots and type(step) is not Aggregate):
            raise BadStatement(
                f'"{column}" is no aggregate over the rows on this peer: a function in it takes or gives a bag here',
                span=plan.statement.source.span(step.place),
                hint="send the statement to one peer",
            )


# --- what is an aggregate -------------------------------------------------------------------------------------------


@functools.cache
def _language() -> frozenset[str]:
    from query.functions import generic_declarations

    return frozenset(
        name.casefold() for declared in generic_declarations() for name in (declared.name, *declared.aliases)
    )


def _known(select: Select, catalogue: Catalogue) -> Catalogue:
    """The program's own functions, and for each other that is called one that takes and gives any one value."""
    base = catalogue.built_in()
    foreign = {
        (call.name, len(call.arguments)): _any(call.name, len(call.arguments))
        for call in calls(select)
        if call.name not in base
    }
    return base.with_functions("unknown", foreign.values()) if foreign else base


def _any(name: str, count: int) -> Declaration:
    parameters = tuple(Parameter(f"argument_{number}", OBJECT) for number in range(1, count + 1))
    return Declaration(name, parameters, OBJECT, Home.EVERYWHERE, Role.VIEWER, Effect.READS, "", ())


def _aggregates(select: Select, plan: Plan) -> tuple[Call, ...]:
    """The calls that take the rows of a group; without ``from`` the outermost that take a bag."""
    parts = [*(item.value for item in select.items), *(order.value for order in select.order)]
    if select.having is not None:
        parts.append(select.having)
    found = [call for part in parts for call in _own_calls(part)]
    if not select.sources:
        return tuple(call for call in found if call.name.casefold() in kinds())
    assert isinstance(plan.action, Yield)
    query = plan.action.value
    assert isinstance(query, Query)
    places = {tuple(step.place) for step in _steps(query) if step.slot == query.group_slot}
    return tuple(
        call for part in parts for call in calls(part) if tuple(call.place) in places and isinstance(call, Call)
    )


def _own_calls(node: Node) -> Iterator[Call]:
    """The outermost calls of aggregates; a nested select has its own."""
    if isinstance(node, Select):
        return
    if isinstance(node, Call) and node.name.casefold() in kinds():
        yield node
        return
    for child in children(node):
        yield from _own_calls(child)


def _steps(step: Any) -> Iterator[Aggregate]:
    """Every aggregate in a plan."""
    waiting = [step]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Aggregate):
            yield found
        if isinstance(found, tuple):
            waiting.extend(found)
        elif isinstance(found, msgspec.Struct) and not isinstance(found, Node):
            waiting.extend(getattr(found, name) for name in found.__struct_fields__ if name != "overloads")


# --- aggregates and groups ------------------------------------------------------------------------------------------


class _Splitting:
    """One select with groups, being split."""

    def __init__(self, statement: Statement, select: Select, aggregates: tuple[Call, ...]) -> None:
        self._statement = statement
        self._select = select
        self._variables = {source.name.casefold() for source in select.sources}
        self._keys: dict[Node, int] = {key: number for number, key in reversed([*enumerate(select.group)])}
        self._aggregates: dict[Call, int] = {}  # by what makes two the same: how many were before it
        for call in aggregates:
            if call.name.casefold() not in kinds():
                raise _wrong(
                    statement,
                    call,
                    f"{call.name} takes the rows of one peer: over several, only aggregates of the language do",
                    "send the statement to one peer, or wrap the call in a subselect",
                )
            self._aggregates.setdefault(call, len(self._aggregates))
        for inner in (found for call in self._aggregates for rest in call.arguments[1:] for found in calls(rest)):
            if inner in self._aggregates:
                message = f"{format_expression(inner)} is not known to a peer alone"
                raise _wrong(statement, inner, message, "ask for it before: set :n = …")

    def made(self) -> Split:
        select, keys = self._select, self._select.group
        items = [Item(key, name=f"key {format_expression(key)}", place=key.place) for key in keys]
        for call in self._aggregates:
            part = Call(f"{PART} {call.name.casefold()}", call.arguments, place=call.place)
            items.append(Item(part, name=f"{PART} {format_expression(call)}", place=call.place))
        partial = Select(items=tuple(items), sources=select.sources, where=select.where, group=keys, place=select.place)
        final = Select(
            items=tuple(
                msgspec.structs.replace(item, value=self._final(item.value), name=name)
                for item, name in zip(select.items, column_names(select.items), strict=True)
            ),
            sources=(From(MERGED, type=None, source=Variable(MERGED_ROWS), place=select.place),),
            where=None if select.having is None else self._final(select.having),
            order=tuple(self._final_order(order) for order in select.order),
            limit=None if select.limit is None else self._final(select.limit),
            distinct=select.distinct,
            into=select.into,
            place=select.place,
        )
        return Split(
            partial=_statement(self._statement, partial),
            final=_statement(self._statement, final),
            columns=tuple(str(item.name) for item in items),
            keys=len(keys),
            aggregates=tuple(kinds()[call.name.casefold()] for call in self._aggregates),
            group=tuple(map(format_expression, keys)),
            texts=tuple(map(format_expression, self._aggregates)),
        )

    def _final_order(self, order: Order) -> Order:
        if _alias(self._select, order.value) is not None:
            return order
        return msgspec.structs.replace(order, value=self._final(order.value))

    def _final(self, node: Expression) -> Expression:
        """An expression of the select over a merged row."""
        made: Expression = self._replaced(node)
        for found in _not_hidden(made):
            if isinstance(found, Name) and found.name.casefold() in self._variables:
                raise _wrong(
                    self._statement,
                    found,
                    f'"{found.name}" is neither grouped nor aggregated',
                    f"add group by {found.name}, or wrap it: min({found.name})",
                )
            if (
                isinstance(found, Call)
                and not found.name.startswith(WHOLE)
                and found.name.casefold() not in _language()
            ):
                text = format_expression(found)
                raise _differs(self._statement, found, hint=f"add group by {text}, or aggregate it: min({text})")
        return made

    def _replaced(self, node: Any, hidden: frozenset[str] | None = None) -> Any:
        """``hidden``: the variables of a nested select, whose aggregates are its own; None outside of one."""
        if type(node) is tuple:
            return tuple(self._replaced(part, hidden) for part in node)
        if not isinstance(node, Node):
            return node
        if node in self._keys and not _names(node) & (hidden or frozenset()):
            return self._column(self._keys[node], node)
        if hidden is None and isinstance(node, Call) and node in self._aggregates:
            part = self._column(len(self._select.group) + self._aggregates[node], node)
            rest = tuple(self._replaced(argument) for argument in node.arguments[1:])
            return Call(f"{WHOLE} {node.name.casefold()}", (part, *rest), place=node.place)
        if isinstance(node, Select):
            hidden = (hidden or frozenset()) | {source.name.casefold() for source in node.sources}
        made = {name: self._replaced(getattr(node, name), hidden) for name in node.__struct_fields__ if name != "place"}
        return msgspec.structs.replace(node, **made)

    def _column(self, position: int, node: Node) -> Index:
        return Index(Name(MERGED, place=node.place), Literal(position + 1), place=node.place)


def _names(node: Node) -> set[str]:
    return {found.name.casefold() for found in walk(node) if isinstance(found, Name)}


def _not_hidden(node: Node, hidden: frozenset[str] = frozenset()) -> Iterator[Node]:
    """A node and all below it, but for the names that mean a nested select's own variables."""
    if isinstance(node, Select):
        hidden |= {source.name.casefold() for source in node.sources}
    if not (isinstance(node, Name) and node.name.casefold() in hidden):
        yield node
    for child in children(node):
        yield from _not_hidden(child, hidden)


def _differs(statement: Statement, node: Call, *, hint: str) -> BadStatement:
    text = format_expression(node)
    return _wrong(statement, node, f"{text} is neither grouped nor aggregated, and may differ from peer to peer", hint)


def _wrong(statement: Statement, node: Node, message: str, hint: str) -> BadStatement:
    return BadStatement(message, span=statement.source.span(node.place), hint=hint)


def _statement(statement: Statement, value: Expression) -> Statement:
    return msgspec.structs.replace(statement, body=Evaluate(value, place=value.place))


# --- the first rows -------------------------------------------------------------------------------------------------


def _alias(select: Select, node: Expression) -> int | None:
    """The item whose name an ``order by`` means."""
    if not isinstance(node, Name) or any(node.name.casefold() == one.name.casefold() for one in select.sources):
        return None
    for position, item in enumerate(select.items):
        if item.name is not None and item.name.casefold() == node.name.casefold():
            return position
    return None


def _top_rows(statement: Statement, select: Select) -> TopRows:
    items = [
        msgspec.structs.replace(item, name=name)
        for item, name in zip(select.items, column_names(select.items), strict=True)
    ]
    values = {item.value: number for number, item in reversed([*enumerate(select.items)])}
    order = []
    for number, entry in enumerate(select.order, 1):
        position = _alias(select, entry.value)
        if position is None:
            position = values.get(entry.value)
        if position is None:
            if select.distinct:
                raise _wrong(
                    statement,
                    entry.value,
                    "the first different rows of several peers are ordered by what the select gives, "
                    f"and {format_expression(entry.value)} is no item of it",
                    f"add {format_expression(entry.value)} to the items",
                )
            position = len(items)
            items.append(Item(entry.value, name=f"order {number}", place=entry.value.place))
        order.append((position, entry.descending))
    assert select.limit is not None
    for call in calls(select.limit):
        if call.name.casefold() not in _language():
            raise _differs(statement, call, hint="compute it before: set :n = …")
    return TopRows(
        partial=_statement(statement, msgspec.structs.replace(select, items=tuple(items))),
        limit=_statement(statement, select.limit),
        columns=tuple(str(item.name) for item in items),
        items=len(select.items),
        order=tuple(order),
        distinct=select.distinct,
    )
