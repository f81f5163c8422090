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
from engine.signature import NUMPY, Array, Signature, array_of, shown
from federation.documents import TensorSpec
from query.errors import LimitExceeded, Problem, nearest

_PLAIN: Final[dict[str, frozenset[type]]] = {
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str}),
    "FP64": frozenset({int, float}),
}
_WHOLE: Final = frozenset({"INT64", "INT32"})
_INT32_MAX: Final = 2**31 - 1


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
    if len(shape) == 1:
        quick = _quick(spec.datatype, values)
        if quick is not None:
            return quick
    elif all(size == 1 for size in shape[1:]) and not any(isinstance(value, list | tuple) for value in values):
        flat = _column(TensorSpec(spec.name, spec.datatype, shape[:1]), values, elements_max)
        return flat.reshape((len(values), *shape[1:]))
    elif len(shape) == 2:
        quick = _quick_lists(spec, values, elements_max)
        if quick is not None:
            return quick
    try:
        column = array_of(spec, values, elements_max=elements_max)
        if column.shape[:1] == (len(values),) and column.ndim == len(shape) and _fits(column.shape, shape):
            return column
    except LimitExceeded:
        raise
    except InputProblem:
        pass
    raise _first_wrong(spec, values, elements_max)


def _quick_lists(spec: TensorSpec, values: list[Any], elements_max: int) -> Array | None:
    """The same for lists of one length, of plain values that fit."""
    if set(map(type, values)) != {list}:
        return None
    size = len(values[0])
    if not size or size * len(values) > elements_max or spec.shape[1] not in (-1, size):
        return None
    if set(map(len, values)) != {size}:
        return None
    flat = _quick(spec.datatype, list(chain.from_iterable(values)))
    return None if flat is None else flat.reshape(len(values), size)


def _quick(datatype: str, values: list[Any]) -> Array | None:
    """The same for plain values that fit, in one go."""
    plain = _PLAIN.get(datatype)
    kinds = set(map(type, values))
    if plain is not None and kinds <= plain:
        column = np.empty(len(values), NUMPY[datatype])
        try:
            column[:] = values
        except OverflowError:
            return None
        return column
    if datatype in _WHOLE and kinds == {int}:
        if datatype == "INT32" and (max(values) > _INT32_MAX or min(values) < -_INT32_MAX):
            return None
        try:
            return np.array(values, NUMPY[datatype])
        except OverflowError:
            return None
    if datatype == "FP32" and kinds <= {int, float}:
        with np.errstate(over="ignore"):
            try:
                column = np.array(values, np.float32)
            except OverflowError:
                return None
        return column if np.isfinite(column).all() else None
    return None


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
            raise InputProblem(f"row {at + 1}: expected a record with {expected}, found {type(row).__name__}")
        for name in names:
            if name not in row:
                found = ", ".join(f'"{str(one)[:80]}"' for one in list(row)[:20]) or "none"
                raise InputProblem(f'row {at + 1}: missing field "{name}": expected {expected}, found {found}')
        for name in row:
            if name not in names:
                close = nearest(str(name), names)
                hint = f'did you mean "{close}"?' if close else None
                raise InputProblem(f'row {at + 1}: unknown field "{str(name)[:80]}": expected {expected}', hint=hint)
