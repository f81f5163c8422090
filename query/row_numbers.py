"""What the language's functions and numbers are to whole columns. Loads numpy.

Owns the forms of functions of one argument, and when integers and reals may be mixed as numpy does it. A form raises
:class:`ByRow` for data of which it does not know that the language would answer the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

EXACT_MAX: Final = 2**53  # integers up to here are real numbers too


class ByRow(Exception):
    """This data has to be taken row by row."""


def within(array: Any, bound: int) -> bool:
    """Whether all integers are at most ``bound`` from zero."""
    if not isinstance(array, np.ndarray):
        return type(array) is not int or abs(array) <= bound
    return array.size == 0 or bool(array.max() <= bound and array.min() >= -bound)


def flat(column: Array) -> Array:
    return column if column.ndim == 1 else column.reshape(len(column))


def integers(column: Array) -> Array:
    found = flat(column)
    if found.dtype == np.uint64 and found.size and found.max() > np.iinfo(np.int64).max:
        raise ByRow
    return found.astype(np.int64, copy=False)


def widened(part: Array) -> Array:
    """Elements of a tensor as the language's numbers."""
    if part.dtype.kind == "f":
        return part.astype(np.float64, copy=False)
    return integers(part) if part.dtype.kind in "iu" else part


def comparable(value: Any, bound: int = EXACT_MAX) -> bool:
    """Whether numpy's mixing of integers and reals loses nothing."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "iu" or within(value, bound)
    return within(value, bound)


def both(one: Any, other: Any) -> Any:
    return np.logical_and(one, other)


def negative(value: Any) -> Any:
    if not comparable(value):
        raise ByRow
    return np.negative(value) if isinstance(value, np.ndarray) else -value


def real(value: Any) -> Any:
    if not comparable(value):
        raise ByRow
    return value.astype(np.float64, copy=False) if isinstance(value, np.ndarray) else float(value)


def _finite(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """For arguments of which each has a finite result: what has none is an error of its row."""

    def of_column(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or not comparable(value) or not np.isfinite(value).all():
            raise ByRow
        found = function(value)
        if not np.isfinite(found).all():
            raise ByRow
        return found

    return of_column


def _whole(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def of_column(value: Any) -> Any:
        found = function(value)
        if not np.isfinite(found).all() or np.abs(found).max(initial=0) > EXACT_MAX:
            raise ByRow
        return found.astype(np.int64)

    return _finite(of_column)


def _reducing(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Over all elements of each row's tensor."""

    def of_column(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.ndim < 2 or value.size == 0:
            raise ByRow
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise ByRow
        return widened(function(value.reshape(len(value), -1)))

    return of_column


REDUCING: Final = frozenset({"argmax", "argmin", "tensor_max", "max", "min"})
FUNCTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "abs": _finite(np.abs),
    "sqrt": _finite(np.sqrt),
    "exp": _finite(np.exp),
    "ln": _finite(np.log),
    "log10": _finite(np.log10),
    "sin": _finite(np.sin),
    "cos": _finite(np.cos),
    "tan": _finite(np.tan),
    "floor": _whole(np.floor),
    "ceil": _whole(np.ceil),
    "round": _whole(np.round),
    "argmax": _reducing(lambda value: value.argmax(axis=1) + 1),
    "argmin": _reducing(lambda value: value.argmin(axis=1) + 1),
    "tensor_max": _reducing(lambda value: value.max(axis=1)),
    "max": _reducing(lambda value: value.max(axis=1)),
    "min": _reducing(lambda value: value.min(axis=1)),
}
