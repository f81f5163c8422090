"""The resolution of ``select``: variables, their order, groups and what is sorted by.

Variables come from ``from``; those declared there without a source take one from the ``where`` conjuncts
``v in source`` or ``v = expression``. A conjunct runs as soon as its variables are known, in the order of the text.
A function that takes a bag, applied to a row's single values, means the whole group: all rows when nothing is grouped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from query import limits
from query.errors import BadStatement, SyntaxProblem, UnknownName, WrongArguments
from query.formatting import format_expression
from query.limits import over
from query.plan import Bind, Generate, Keep, Local, Query, Stage, Step
from query.syntax import Binary, Expression, Field, From, Index, Item, Literal, Name, Node, Select, children, walk
from query.types import OBJECT, VECTOR, Type

if TYPE_CHECKING:
    from query.expressions import Resolver, Scope


MERGED: Final = "merged row"
"""A variable that no text can name: a group of several peers, which is not grouped again (:mod:`query.splitting`)."""


def resolve_select(resolver: Resolver, node: Select, outer: Scope) -> Query:
    """The plan of a select inside ``outer``, whose variables it sees."""
    from query.expressions import Scope

    if len(node.sources) > limits.SOURCES_MAX:
        raise _wrong(over("a select", limits.SOURCES_MAX, len(node.sources), "variables"), node)
    scope = Scope(dict(outer.names))
    stages, slots = _stages(resolver, node, scope)
    group_slot = resolver.new_slot()
    inner = Scope(scope.names, grouped=frozenset(slots), group_slot=group_slot if slots else None)
    items = tuple(resolver.step(item.value, inner) for item in node.items)
    names = column_names(node.items)
    keys = tuple(_key(resolver, key, node, scope) for key in node.group)
    having = None if node.having is None else _one(resolver, node.having, inner, "having")
    order = tuple((_sorted_by(resolver, entry.value, node, items, inner), entry.descending) for entry in node.order)
    limit = None if node.limit is None else _one(resolver, node.limit, outer, "limit")
    grouped = bool(node.group or inner.aggregates)
    if node.having is not None and not grouped:
        raise _wrong(BadStatement("having needs a group by or an aggregate"), node.having)
    if grouped:
        _check_grouped(node, inner, slots, scope)
    several = len(items) > 1
    into = node.into is not None
    return Query(
        stages,
        items,
        names,
        group_slot if grouped else None,
        keys,
        tuple(slots),
        having,
        order,
        limit,
        node.distinct,
        into,
        type=VECTOR if several or into else items[0].type,
        many=not into,
        place=node.place,
    )


def _wrong(problem: Exception, node: Node) -> Exception:
    from query.expressions import wrong

    return wrong(problem, node)  # type: ignore[arg-type]


def column_names(items: tuple[Item, ...]) -> tuple[str, ...]:
    """What the columns of a select are called: as written after ``as``, else as the expression is formatted."""
    from query.resolution import COLUMN_NAME_LENGTH_MAX

    return tuple(item.name or format_expression(item.value)[:COLUMN_NAME_LENGTH_MAX] for item in items)


def _one(resolver: Resolver, node: Expression, scope: Scope, what: str) -> Step:
    step = resolver.step(node, scope)
    if step.many:
        raise _wrong(WrongArguments(f"{what}: expected one value, found a bag"), node)
    return step


def _key(resolver: Resolver, key: Expression, node: Select, scope: Scope) -> Step:
    """What is grouped by; the name of a column is none, because a group is there before its columns are."""
    if isinstance(key, Name) and key.name.casefold() not in scope.names:
        for item in node.items:
            if item.name is not None and item.name.casefold() == key.name.casefold():
                hint = f"write what the column is: group by {format_expression(item.value)}"
                problem = UnknownName(f'no variable "{key.name}": group by knows no names of columns', hint=hint)
                raise _wrong(problem, key)
    return resolver.step(key, scope)


def _stages(resolver: Resolver, node: Select, scope: Scope) -> tuple[tuple[Stage, ...], list[int]]:
    stages: list[Stage] = []
    slots: list[int] = []
    unbound: dict[str, From] = {}
    declared: set[str] = set()
    for source in node.sources:
        folded = source.name.casefold()
        if folded in declared:
            raise _wrong(SyntaxProblem(f'variable "{source.name}" stands twice in from'), source)
        declared.add(folded)
        unbound[folded] = source
        scope.names.pop(folded, None)
    conjuncts = _conjuncts(node.where)

    def introduce(source: From, step_type: Type) -> int:
        slot = resolver.new_slot()
        if source.name != MERGED:
            slots.append(slot)
        scope.names[source.name.casefold()] = Local(slot, type=source.type or step_type, place=source.place)
        del unbound[source.name.casefold()]
        return slot

    def bind(conjunct: Expression) -> bool:
        """Take a conjunct as the source of a variable that has none yet."""
        for name, value, iterates in _bindings(conjunct):
            source = unbound.get(name.casefold())
            if source is None or source.source is not None or _mentions(value, unbound):
                continue
            step = resolver.step(value, scope)
            kind = source.type
            if iterates or step.many:
                stages.append(Generate(introduce(source, _element(step)), source.name, step, kind))
            else:
                stages.append(Bind(introduce(source, step.type), source.name, step, kind))
            return True
        return False

    def settle() -> None:
        """Run every conjunct whose variables are all known."""
        progressing = True
        while progressing:
            progressing = False
            for conjunct in tuple(conjuncts):
                if bind(conjunct):
                    conjuncts.remove(conjunct)
                    progressing = True
                elif not _mentions(conjunct, unbound):
                    stages.append(_kept(resolver, conjunct, scope))
                    conjuncts.remove(conjunct)
                    progressing = True

    if node.where is not None and not node.sources:
        settle()
    for source in node.sources:
        settle()
        if source.source is not None:
            step = resolver.step(source.source, scope)
            stages.append(Generate(introduce(source, _element(step)), source.name, step, source.type))
    settle()
    if unbound:
        lost = next(iter(unbound.values()))
        raise _wrong(
            UnknownName(f'variable "{lost.name}" has no source', hint=f"write {lost.name} in … in from or in where"),
            lost,
        )
    return tuple(stages), slots


def _kept(resolver: Resolver, conjunct: Expression, scope: Scope) -> Keep:
    """A condition; over merged groups it is what ``having`` was."""
    what = "having" if MERGED in scope.names else "where"
    return Keep(_one(resolver, conjunct, scope, what), what)


def _element(step: Step) -> Type:
    if step.many:
        return step.type
    return step.type.element or OBJECT if step.type.name == "Vector" else OBJECT


def _conjuncts(where: Expression | None) -> list[Expression]:
    found: list[Expression] = []
    waiting = [where] if where is not None else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, Binary) and node.operator == "and":
            waiting += [node.right, node.left]
        else:
            found.append(node)
    return found


def _bindings(conjunct: Expression) -> list[tuple[str, Expression, bool]]:
    """The variables that a conjunct could give a source: name, source, whether it goes through the source."""
    if not isinstance(conjunct, Binary):
        return []
    if conjunct.operator == "in" and isinstance(conjunct.left, Name):
        return [(conjunct.left.name, conjunct.right, True)]
    found = []
    if conjunct.operator == "=":
        if isinstance(conjunct.left, Name):
            found.append((conjunct.left.name, conjunct.right, False))
        if isinstance(conjunct.right, Name):
            found.append((conjunct.right.name, conjunct.left, False))
    return found


def _mentions(node: Node, names: dict[str, From]) -> bool:
    return any(isinstance(found, Name) and found.name.casefold() in names for found in walk(node))


def _sorted_by(resolver: Resolver, node: Expression, select: Select, items: tuple[Step, ...], scope: Scope) -> Step:
    """A step to sort by: an item's name, or any expression over the row."""
    if isinstance(node, Name) and node.name.casefold() not in scope.names:
        for item, step in zip(select.items, items, strict=True):
            if item.name is not None and item.name.casefold() == node.name.casefold():
                if step.many:
                    raise _wrong(WrongArguments("order by: expected one value a row, found a bag"), node)
                return step
    return _one(resolver, node, scope, "order by")


def _check_grouped(node: Select, scope: Scope, slots: list[int], names: Scope) -> None:
    """Every item, ``having`` and ``order by`` of a grouped select is made of keys and aggregates."""
    rows = {
        name for name, step in names.names.items() if isinstance(step, Local) and step.slot in slots and not step.many
    }
    aggregates = {id(found) for found in scope.aggregates}
    aliases = {item.name.casefold() for item in node.items if item.name}
    keys: set[Node] = set(node.group)
    kinds = set(map(type, node.group))

    def check(expression: Node) -> None:
        if id(expression) in aggregates or (type(expression) in kinds and expression in keys):
            return
        row = _row_name(expression)
        if row is not None and row.casefold() in rows:
            assert isinstance(expression, Name | Field | Index)
            shown = format_expression(expression)
            told = f'"{shown}"' if isinstance(expression, Name) else shown
            hint = f"add group by {shown}, or wrap it: min({shown})"
            raise _wrong(BadStatement(f"{told} is neither grouped nor aggregated", hint=hint), expression)
        for child in children(expression):
            check(child)

    for item in node.items:
        check(item.value)
    if node.having is not None:
        check(node.having)
    for entry in node.order:
        if not (isinstance(entry.value, Name) and entry.value.name.casefold() in aliases):
            check(entry.value)


def _row_name(expression: Node) -> str | None:
    """The variable that an expression is, or of which it is a member: ``e``, ``e.mode``, ``e["mode"]``."""
    match expression:
        case Name(name=name) | Field(value=Name(name=name)) | Index(value=Name(name=name), key=Literal()):
            return name
        case _:
            return None
