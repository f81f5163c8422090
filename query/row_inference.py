"""What each step of a planned expression makes of known columns, and what every row would fail on.

Owns :func:`inferred`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from query.errors import WrongArguments
from query.operators import outside
from query.plan import Choose, Constant, Convert, Invoke, Local, Logic, MakeRecord, MakeVector, Member, Operate, Step
from query.row_functions import RULES, is_null
from query.row_types import (
    TEXT,
    TRUTH,
    UNKNOWN,
    VARIES,
    Cells,
    broadcast,
    joined,
    kind_of,
    of_type,
)
from query.types import Type


def inferred(step: Step, known: Mapping[int, Cells]) -> Cells:
    """The cells of a step's value, given those of variables by slot. Raises WrongArguments for shapes that cannot be
    combined and positions outside of what they count in.
    """
    match step:
        case Constant(value):
            return _of_value(value)
        case Local(slot):
            return known.get(slot, UNKNOWN)
        case Operate(operator, operands):
            return _operated(operator, operands, [inferred(one, known) for one in operands])
        case Logic(operator, left, right):
            _check_truths(operator, [inferred(left, known), inferred(right, known)])
            return TRUTH
        case Member():
            return TRUTH
        case Convert(value, wanted):
            return _converted(inferred(value, known), wanted)
        case Choose(branches, otherwise):
            results = [value for _, value in branches] + ([otherwise] if otherwise is not None else [])
            return joined([inferred(one, known) for one in results if not is_null(one)])
        case MakeVector(items):
            return _stacked([inferred(one, known) for one in items])
        case MakeRecord():
            return Cells("record")
        case Invoke(overloads, arguments):
            found = [inferred(one, known) for one in arguments]
            rule = RULES.get(overloads[0].name.casefold())
            return rule(arguments, found) if rule is not None else of_type(step.type)
        case _:
            return of_type(step.type)


def _of_value(value: Any) -> Cells:
    kind = type(value)
    if kind is list:
        return _stacked([_of_value(part) for part in value])
    if kind is dict:
        return Cells("record")
    name = {bool: "bool", int: "int64", float: "float64", str: "str"}.get(kind)
    return Cells(name, ()) if name else UNKNOWN


def _stacked(found: list[Cells]) -> Cells:
    """A vector of these."""
    if not found:
        return Cells("float64", (0,))
    one = joined([replace(cells, tensor=False, dtype=kind_of(cells.dtype)) for cells in found])
    if one.shape is None:
        return UNKNOWN
    exact = {cells.dtype for cells in found} if all(cells.tensor for cells in found) else set()
    dtype = exact.pop() if len(exact) == 1 else one.dtype
    return Cells(dtype, (len(found), *one.shape), tensor=False)


_ORDERING: Final = frozenset({"<", "<=", ">", ">=", "between"})
_COMPARING: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "like", "not", "between", "is null"})


def _operated(operator: str, operands: tuple[Step, ...], found: list[Cells]) -> Cells:
    if operator in _COMPARING:
        _check_comparison(operator, found)
        return TRUTH
    if operator == "||":
        return TEXT
    if operator == "[]":
        return _indexed(found[0], operands[1])
    if operator == ".":
        return UNKNOWN
    if operator.startswith("unary"):
        return found[0]
    left, right = found
    if operator == "+" and "str" in (left.dtype, right.dtype):
        return TEXT
    if left.shape is None or right.shape is None or left.dtype is None or right.dtype is None:
        return UNKNOWN
    return Cells(
        _arithmetic_type(operator, left, right, operands[1]),
        broadcast(left.shape, right.shape, operator),
        left.tensor or right.tensor,
    )


def _check_comparison(operator: str, found: list[Cells]) -> None:
    """Raises WrongArguments for what every row would fail on."""
    if operator == "not":
        _check_truths(operator, found)
    if operator not in _ORDERING:
        return
    kinds = {kind_of(cells.dtype) for cells in found} - {None}
    comparable = kinds <= {"int64", "float64"} or len(kinds) == 1
    ordered = not any(cells.tensor for cells in found) and not kinds & {"bool", "record"}
    if not (comparable and ordered):
        hint = "an element of a field is field[1]" if any(cells.tensor for cells in found) else None
        raise WrongArguments(f'"{operator}": no meaning for {" and ".join(map(str, found))}', hint=hint)


def _check_truths(operator: str, found: list[Cells]) -> None:
    for cells in found:
        if cells.dtype not in ("bool", None):
            raise WrongArguments(f"{operator}: expected true or false, found {cells}")


def _indexed(value: Cells, key: Step) -> Cells:
    if not value.shape:
        return UNKNOWN
    if type(key) is Constant and type(key.value) is int and value.shape[0] != VARIES:
        at = key.value
        if not 1 <= at <= value.shape[0]:
            raise outside(at, value.shape[0])
    rest = value.shape[1:]
    return Cells(
        value.dtype if rest and value.tensor else kind_of(value.dtype), rest, tensor=bool(rest) and value.tensor
    )


def _arithmetic_type(operator: str, left: Cells, right: Cells, exponent: Step) -> str | None:
    one, other = left.dtype, right.dtype
    if not left.tensor and not right.tensor:
        if {one, other} == {"int64"} and operator != "/":
            whole = operator != "^" or (
                type(exponent) is Constant and type(exponent.value) is int and exponent.value >= 0
            )
            return "int64" if whole else "float64"
        return "float64" if {one, other} <= {"int64", "float64"} else None
    found = _promoted(left, right)
    if operator == "/" and found is not None and not found.startswith("float"):
        return "float64" if found in ("int32", "int64", "uint32", "uint64") else None
    return found


def _promoted(left: Cells, right: Cells) -> str | None:
    """numpy's type of an operation in which a tensor takes part, where it is plain to see."""
    one, other = left.dtype, right.dtype
    if one == other:
        return one if one != "bool" else None
    for tensor, beside in ((left, right), (right, left)):
        if tensor.tensor and not beside.tensor and beside.shape == ():  # a number takes on the tensor's type
            if beside.dtype == "int64" or kind_of(tensor.dtype) == "float64":
                return tensor.dtype if tensor.dtype != "bool" else None
            return "float64" if kind_of(tensor.dtype) == "int64" else None
    if one is None or other is None:
        return None
    for family in ("float", "int", "uint"):
        if one.startswith(family) and other.startswith(family):
            return max(one, other, key=lambda name: int(name.removeprefix(family)))
    return "float64" if {one, other} <= {"int32", "int64", "float32", "float64"} else None


def _converted(value: Cells, wanted: Type) -> Cells:
    if wanted.name == "Tensor":
        return Cells(value.dtype, value.shape, tensor=True) if value.dtype and value.shape else UNKNOWN
    if wanted.name == "Vector":
        element = UNKNOWN if wanted.element is None else of_type(wanted.element)
        if element.dtype is None:
            return replace(value, tensor=False, dtype=kind_of(value.dtype))
        return Cells(element.dtype, value.shape if value.shape else (VARIES,))
    return of_type(wanted)
