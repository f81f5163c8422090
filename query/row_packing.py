"""The values that an expression gave for rows, packed into one column. Loads numpy.

Rules: the column is of the type that was known before (:mod:`query.row_types`); a value of another kind or shape is
refused with the number of its row. A whole number may stand where a real does.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from query.errors import Problem, WrongArguments
from query.limits import over
from query.row_numbers import Array
from query.row_types import Cells, kind_of
from query.values import described, measured

COLUMN_ELEMENTS_MAX: Final = 16 * 1024 * 1024
CHARACTERS_PER_ELEMENT: Final = 8


class ColumnRoom:
    """The room that one column may take while its values are gathered, in elements; a long text takes several."""

    def __init__(self, cells: Cells, count: int) -> None:
        """Raises LimitExceeded for a column that is known to be too large."""
        self._single = cells.shape == () and not cells.tensor and cells.dtype not in ("str", "record")
        self._left = COLUMN_ELEMENTS_MAX
        if cells.shape is not None:
            self._take(count * math.prod(max(size, 1) for size in cells.shape))
            self._left = COLUMN_ELEMENTS_MAX

    def taken(self, value: Any) -> Any:
        """``value``, for which there is room. Raises LimitExceeded otherwise."""
        if not self._single:
            kind = type(value)
            if kind is str:
                self._take(1 + len(value) // CHARACTERS_PER_ELEMENT)
            elif kind is np.ndarray:
                self._take(value.size)
            elif kind is list or kind is dict:
                self._take(measured(value))
        return value

    def _take(self, elements: int) -> None:
        self._left -= elements
        if self._left < 0:
            raise over("a column", COLUMN_ELEMENTS_MAX, "more", "elements", hint="send fewer rows in one request")


_EXPECTED: Final = {"bool": "true or false", "int64": "an integer", "float64": "a number", "str": "a text"}
_KINDS: Final[dict[str, set[type]]] = {
    "bool": {bool},
    "int64": {int},
    "float64": {int, float},
    "str": {str},
    "record": {dict},
}


def packed(values: list[Any], cells: Cells) -> Array:
    """Values of rows as one column. Raises WrongArguments, naming the row whose value does not fit ``cells``."""
    dtype = cells.dtype or "float64"
    if cells.shape is not None and len(cells.shape) == 1 and not cells.tensor:
        quick = _quickly_packed(values, dtype, cells.shape[0])
        if quick is not None:
            return quick
    if cells.shape == () and not cells.tensor:
        return _packed_singles(values, dtype)
    arrays = []
    for at, value in enumerate(values):
        arrays.append(_row_array(value, dtype, cells, at))
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        at = next(at for at, array in enumerate(arrays) if array.shape != arrays[0].shape)
        raise WrongArguments(
            f"row {at + 1}: expected the shape {list(arrays[0].shape)} as in the first row, "
            f"found {list(arrays[at].shape)}"
        )
    return np.stack(arrays)


def _quickly_packed(values: list[Any], dtype: str, length: int) -> Array | None:
    """Vectors of plain numbers in one go; None where something is to be looked at more closely."""
    accepted = _KINDS.get(dtype)
    if dtype not in ("int64", "float64") or accepted is None or set(map(type, values)) != {list}:
        return None
    first = len(values[0]) if length < 0 else length
    for row in values:
        if len(row) != first or not accepted.issuperset(map(type, row)):
            return None
    try:
        return np.array(values, np.dtype(dtype)).reshape(len(values), first)
    except OverflowError:
        return None


def _packed_singles(values: list[Any], dtype: str) -> Array:
    accepted = _KINDS.get(dtype) or _KINDS.get(kind_of(dtype) or "", {int, float})
    if not set(map(type, values)) <= accepted:
        at = next(at for at, value in enumerate(values) if type(value) not in accepted)
        expected = _EXPECTED.get(kind_of(dtype) or "", f"a value of {dtype}")
        hint = "coalesce(value, otherwise) gives another value for null" if values[at] is None else None
        raise WrongArguments(f"row {at + 1}: expected {expected}, found {described(values[at])}", hint=hint)
    if dtype in ("str", "record"):
        column = np.empty(len(values), np.object_)
        column[:] = values
        return column
    try:
        return np.array(values, np.dtype(dtype))
    except OverflowError:
        bounds = np.iinfo(np.int64)
        for at, value in enumerate(values):
            if not bounds.min <= value <= bounds.max:
                raise WrongArguments(f"row {at + 1}: expected a number that fits {dtype}, found a larger one") from None
        raise


def _row_array(value: Any, dtype: str, cells: Cells, at: int) -> Array:
    if dtype == "str":
        array = np.empty(_lengths(value, at), np.object_)
        array[...] = value
        if any(type(text) is not str for text in array.ravel()):
            raise WrongArguments(f"row {at + 1}: expected texts, found {described(value)}")
        return array
    if isinstance(value, list) and any(isinstance(part, np.ndarray) for part in value):
        try:
            value = np.stack([np.asarray(part) for part in value])
        except ValueError:
            raise WrongArguments(f"row {at + 1}: expected parts of one shape, found others") from None
    from query.tensors import as_array

    try:
        array = as_array(value)
    except Problem as problem:
        raise in_row(problem, at) from None
    wanted = np.dtype(dtype)
    fits = array.dtype == wanted or (not cells.tensor and (array.dtype.kind in "iub" or wanted.kind == "f"))
    if not fits or (wanted.kind == "b") != (array.dtype.kind == "b"):
        raise WrongArguments(f"row {at + 1}: expected {cells}, found a tensor of {array.dtype}")
    if cells.shape is not None and not _fits(array.shape, cells.shape):
        raise WrongArguments(f"row {at + 1}: expected {cells}, found the shape {list(array.shape)}")
    return array.astype(wanted, copy=False)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(size in (-1, found) for found, size in zip(shape, wanted, strict=True))


def _lengths(value: Any, at: int) -> tuple[int, ...]:
    """The shape of nested vectors of texts."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        lengths = {len(part) if isinstance(part, list) else -1 for part in value}
        if len(lengths) > 1:
            raise WrongArguments(f"row {at + 1}: expected vectors of one length, found others")
        value = value[0] if value else None
    return tuple(shape)


def in_row(problem: Problem, at: int) -> Problem:
    """A problem with the number of the row where it arose."""
    problem.message = f"row {at + 1}: {problem.message}"
    return problem
