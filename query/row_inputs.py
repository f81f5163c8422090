"""What record an expression needs, where nothing says what its fields are: found out by how it uses them.

Owns :func:`inputs_of`. Pure. A field that is handed on under a name for which something is wanted is that; a field that
is compared, put together or called with what has a type is of that type; a field whose elements are asked for is a
vector of numbers; every other is a number. What is found so is checked by reading the expression with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from query.constants import NAMED
from query.errors import Problem
from query.expressions import Misplaced, Resolver, Scope
from query.plan import Choose, Constant, Convert, Invoke, Local, Logic, MakeVector, Member, Operate, Step
from query.row_expressions import Fields, pure_catalogue, read_record
from query.row_inference import inferred
from query.row_types import NUMBER, TEXT, TRUTH, VARIES, WHOLE, Cells
from query.syntax import Field, From, Index, Literal, Name, Node, walk
from query.types import OBJECT, Type

_VECTOR: Final = Cells("float64", (VARIES,), tensor=True)


def inputs_of(text: str, wanted: Fields) -> dict[str, Cells]:
    """The fields that a record's expression reads, in the order of the text, with what each must be.

    ``wanted``: what is needed of the fields that it makes, by name, where that is known. Raises a :class:`Problem` with
    a place in ``text``.
    """
    statement, node = read_record(text)
    names = _free_names(node)
    resolver = Resolver(pure_catalogue(), None)
    scope = Scope()
    slots: dict[int, str] = {}
    for name in names:
        slot = resolver.new_slot()
        slots[slot] = name
        scope.names[name.casefold()] = Local(slot, type=OBJECT)
    demands = _Demands(slots)
    try:
        for key, item in zip(node.keys, node.items, strict=True):
            step = resolver.step(_unqualified(item), scope)
            if type(step) is Local and step.slot in slots and key in wanted:
                demands.found.setdefault(slots[step.slot], wanted[key])
            demands.walk(step, None)
    except Misplaced as misplaced:
        raise misplaced.problem.at(statement.source.span(misplaced.place)) from None
    except Problem as problem:
        raise problem.at(statement.source.span(node.place)) from None
    return {name: demands.found.get(name, NUMBER) for name in names}


def _free_names(node: Node) -> list[str]:
    """The fields that an expression names, as they are first spelt."""
    bound = {found.name.casefold() for found in walk(node) if isinstance(found, From)}
    found: dict[str, str] = {}
    for part in walk(node):
        name = _qualified(part)
        if name is None and isinstance(part, Name) and part.name.casefold() not in (*bound, *NAMED, "in"):
            name = part.name
        if name is not None:
            found.setdefault(name.casefold(), name)
    return list(found.values())


def _qualified(node: Any) -> str | None:
    """The field in ``in.field`` and ``in["field"]``."""
    if not isinstance(node, Field | Index) or not isinstance(node.value, Name) or node.value.name.casefold() != "in":
        return None
    if isinstance(node, Field):
        return node.name
    return node.key.value if isinstance(node.key, Literal) and type(node.key.value) is str else None


def _unqualified(node: Any) -> Any:
    """``in.field`` as the variable ``field``."""
    import msgspec

    name = _qualified(node)
    if name is not None:
        return Name(name, place=node.place)
    if isinstance(node, Node):
        changed = {one: _unqualified(getattr(node, one)) for one in node.__struct_fields__ if one != "place"}
        return msgspec.structs.replace(node, **changed)
    if type(node) is tuple:
        return tuple(_unqualified(part) for part in node)
    return node


_OF_TYPE: Final = {"String": TEXT, "Boolean": TRUTH, "Integer": WHOLE, "Number": NUMBER, "Real": NUMBER}
_COMPARING: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "between"})


class _Demands:
    """``found``: field → what its uses ask for, the first of them."""

    def __init__(self, slots: Mapping[int, str]) -> None:
        self._slots = slots
        self.found: dict[str, Cells] = {}

    def walk(self, step: Step, wanted: Cells | None) -> None:
        if type(step) is Local:
            name = self._slots.get(step.slot)
            if name is not None and wanted is not None:
                self.found.setdefault(name, wanted)
            return
        for part, needed in _needs(step, wanted):
            self.walk(part, needed)


def _needs(step: Step, wanted: Cells | None) -> Iterator[tuple[Step, Cells | None]]:
    """The parts of a step, each with what it should be."""
    match step:
        case Operate(operator, operands):
            yield from _of_operator(operator, operands)
        case Logic(_, left, right):
            yield left, TRUTH
            yield right, TRUTH
        case Member(value, source):
            yield value, _element(source)
            yield source, None
        case Choose(branches, otherwise):
            for condition, result in branches:
                yield condition, TRUTH
                yield result, wanted
            if otherwise is not None:
                yield otherwise, wanted
        case Convert(value):
            yield value, None
        case MakeVector(items):
            for item in items:
                yield item, NUMBER
        case Invoke(overloads, arguments):
            for position, argument in enumerate(arguments):
                yield argument, _of_parameters({declared.parameters[position].type for declared in overloads})
        case _:
            yield from ((part, None) for part in _parts(step))


def _of_operator(operator: str, operands: tuple[Step, ...]) -> Iterator[tuple[Step, Cells | None]]:
    if operator == "[]":
        key = operands[1]
        whole = not (type(key) is Constant and type(key.value) is str)
        yield operands[0], _VECTOR if whole else None
        yield key, WHOLE
        return
    if operator in ("like", "not"):
        kind: Cells | None = TEXT if operator == "like" else TRUTH
    elif operator in ("||", ".", "is null"):
        kind = None
    else:
        kind = next((cells for cells in map(_plain, operands) if cells is not None), None)
        if operator not in _COMPARING and not (operator == "+" and kind is TEXT):
            kind = NUMBER
    for operand in operands:
        yield operand, kind


def _plain(step: Step) -> Cells | None:
    """A single value's cells, where the step tells them without its fields."""
    if type(step) is Local:
        return None
    cells = inferred(step, {})
    return {"str": TEXT, "bool": TRUTH, "int64": NUMBER, "float64": NUMBER}.get(cells.dtype or "")


def _element(source: Step) -> Cells | None:
    if type(source) is Constant and isinstance(source.value, list) and source.value:
        return _plain(Constant(source.value[0]))
    return None


def _of_parameters(types: set[Type]) -> Cells | None:
    names = {declared.name for declared in types}
    for name, cells in _OF_TYPE.items():
        if name in names:
            return cells
    return _VECTOR if names & {"Vector", "Tensor", "Bag"} else None


def _parts(step: Any) -> Iterator[Any]:
    for name in step.__struct_fields__:
        value = getattr(step, name)
        for part in value if type(value) is tuple else (value,):
            if isinstance(part, Local | Operate | Logic | Member | Choose | Convert | MakeVector | Invoke):
                yield part
            elif hasattr(part, "__struct_fields__") and name in ("stages", "source", "body", "items"):
                yield from _parts(part)
