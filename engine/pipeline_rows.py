"""Records of plain values, as clients write them, read into the columns of a pipeline.

Owns the reading and the names of what is wrong: row and field. Pure.

A field holds what one row of its column does: a number, text or truth value; for more dimensions nested lists. The one
element of a field of one element may stand alone. Refused: a field that is missing or unknown, null, another kind of
value, another length, a fraction for an integer, a number outside of the datatype's range. What an array is checked
for besides, the signature's own check says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from engine.errors import InputProblem
from engine.signature import NUMPY, Array, Signature, array_of, kind_of, shown
from federation.documents import TensorSpec
from query.errors import LimitExceeded, Problem, nearest

FEW: Final = 16

_REALS: Final = frozenset({int, float})
_ACCEPTED: Final[dict[str, frozenset[type]]] = {
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str}),
    "FP32": _REALS,
    "FP64": _REALS,
    "INT32": frozenset({int}),
    "INT64": frozenset({int}),
}
_LARGEST: Final[dict[str, float]] = {
    "FP32": float(np.finfo(np.float32).max),
    "FP64": float(np.finfo(np.float64).max),
    "INT32": 2**31 - 1,
    "INT64": 2**63 - 1,
}


def columns_of_rows(signature: Signature, rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Columns by input name. Raises ``InputProblem``, or ``LimitExceeded`` for too many elements."""
    if not rows:
        raise InputProblem("expected at least one row, found none")
    specs = signature.inputs
    size = len(specs)
    found: dict[str, Array] = {}
    for spec in specs:
        name = spec.name
        try:
            values = [row[name] for row in rows]
        except (KeyError, TypeError, IndexError):
            _check_names(signature, rows)
            raise
        found[name] = _column(spec, values, signature.elements_max)
    for row in rows:
        if len(row) != size:
            _check_names(signature, rows)
    return found


def _column(spec: TensorSpec, values: list[Any], elements_max: int) -> Array:
    """One field of all rows."""
    shape = spec.shape
    flat = _flat(values, shape)
    if flat is not None:
        quick = _quick(spec.datatype, flat)
        if quick is not None and quick.size <= elements_max:
            return quick if len(shape) == 1 else quick.reshape((len(values), *shape[1:]))
    if len(shape) > 1 and all(size == 1 for size in shape[1:]):
        values = [_alone(value, len(shape) - 1) for value in values]
    try:
        column = array_of(spec, values, elements_max=elements_max)
        if column.shape[:1] == (len(values),) and column.ndim == len(shape) and _fits(column.shape, shape):
            return column
    except LimitExceeded:
        raise
    except InputProblem:
        pass
    raise _first_wrong(spec, values, elements_max)


def _alone(value: Any, depth: int) -> Any:
    """The element of a field of one element, where it stands alone, in as many lists as it belongs in."""
    if not isinstance(value, list | tuple | np.ndarray):
        for _ in range(depth):
            value = [value]
    return value


def _flat(values: list[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """The elements of all rows, where each row is a value alone or a list of the length that it has to have."""
    if len(shape) == 1:
        return values
    kinds = set(map(type, values))
    if kinds == {list} and len(shape) == 2:
        size = shape[1]
        return list(chain.from_iterable(values)) if all(len(row) == size for row in values) else None
    return values if list not in kinds and all(size == 1 for size in shape[1:]) else None


def _quick(datatype: str, elements: list[Any]) -> Array | None:
    """Plain elements that fit, in one go; None where something is to be looked at more closely."""
    accepted = _ACCEPTED.get(datatype)
    if accepted is None or not elements or not set(map(type, elements)) <= accepted:
        return None
    if datatype == "BYTES":
        column = np.empty(len(elements), np.object_)
        column[:] = elements
        return column
    largest = _LARGEST.get(datatype)
    if largest is None:
        return np.array(elements, NUMPY[datatype])
    if len(elements) <= FEW:  # quicker than numpy
        fits = max(elements) <= largest and min(elements) >= -largest
        return np.array(elements, NUMPY[datatype]) if fits else None  # nor where not-a-number comes first
    try:
        wide = np.array(elements, np.float64 if accepted is _REALS else np.int64)
    except OverflowError:
        return None
    if not (wide.max() <= largest and wide.min() >= -largest):
        return None
    return wide.astype(NUMPY[datatype], copy=False)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(size in (-1, one) for one, size in zip(found, wanted, strict=True))


def _first_wrong(spec: TensorSpec, values: list[Any], elements_max: int) -> InputProblem:
    """What is wrong with the first row that does not fit by itself, or beside the first."""
    one = TensorSpec(spec.name, spec.datatype, (1, *spec.shape[1:]))
    expected = shown(spec.datatype, spec.shape[1:]) if spec.shape[1:] else spec.datatype
    first: tuple[int, ...] | None = None
    for at, value in enumerate(values):
        where = f'row {at + 1}, field "{spec.name}"'
        try:
            array = array_of(one, [value], elements_max=elements_max)
        except Problem as problem:
            return InputProblem(f"{where}{_said(problem.message, spec.name)}", hint=problem.hint)
        if array.ndim != len(spec.shape) or not _fits(array.shape[1:], spec.shape[1:]):
            found = shown(spec.datatype, array.shape[1:]) if isinstance(value, list | tuple) else "a single value"
            return InputProblem(f"{where}: expected {expected}, found {found}")
        if first is None:
            first = array.shape
        elif array.shape != first:
            return InputProblem(
                f"{where}: expected the shape {list(first[1:])} as in row 1, found {list(array.shape[1:])}"
            )
    return InputProblem(f'field "{spec.name}": expected {expected} in every row')


def _said(message: str, name: str) -> str:
    """What an error says of an input, without the input's name and without counting the row as a dimension."""
    said = message.removeprefix(f'input "{name}"')
    return said.removeprefix(", element 1") if said.startswith(", element 1:") else said


def _check_names(signature: Signature, rows: Sequence[Any]) -> None:
    """Raises ``InputProblem`` for the first row that lacks a field or has another."""
    names = [spec.name for spec in signature.inputs]
    expected = ", ".join(f'"{name}"' for name in names) or "no fields"
    for at, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputProblem(f"row {at + 1}: expected a record with {expected}, found {kind_of(row)}")
        for name in names:
            if name not in row:
                found = ", ".join(f'"{str(one)[:80]}"' for one in list(row)[:20]) or "none"
                raise InputProblem(f'row {at + 1}: missing field "{name}": expected {expected}, found {found}')
        for name in row:
            if name not in names:
                close = nearest(str(name), names)
                hint = f'did you mean "{close}"?' if close else None
                raise InputProblem(f'row {at + 1}: unknown field "{str(name)[:80]}": expected {expected}', hint=hint)
