"""Numbers of 16 and 32 bits as the shortest decimals that stand for them: ``0.1`` and not ``0.10000000149011612``.

Pure. Widening such a number to Python's 64 bits is exact, and shows digits that the number never had. What is made here
is the number of 64 bits that is written with the fewest digits and still reads back as the same short number, which is
what every JSON writer then writes. Infinities and not-a-number stay what they are.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.signature import Array

ONE_BY_ONE: Final = 128  # elements up to which numpy's own text form is quicker than whole columns
_DIGITS: Final = {"f": (6, 9), "e": (3, 5)}  # of float32 and float16: always held; enough for every value
_EXPONENT_MAX: Final = 20  # powers of ten up to the 22nd are exact
_POWERS: Final = 10.0 ** np.arange(_EXPONENT_MAX + 1)


def plain(column: Array) -> list[Any]:
    """``column.tolist()`` with the shortest decimals for short floats."""
    if column.dtype.char not in _DIGITS:
        return column.tolist()  # type: ignore[no-any-return]
    if column.size > ONE_BY_ONE:
        return shortest(column).tolist()  # type: ignore[no-any-return]
    short = [float(str(element)) for element in column.ravel()]
    return short if column.ndim == 1 else np.array(short).reshape(column.shape).tolist()


def shortest(column: Array) -> Array:
    """The same shape in FP64. By rounding to more and more digits until the short number comes back; what lies outside
    the exact powers of ten goes through text.
    """
    wide = column.astype(np.float64)
    done = ~np.isfinite(wide) | (wide == 0)
    result = wide.copy()
    least, most = _DIGITS[column.dtype.char]
    with np.errstate(all="ignore"):
        size = np.floor(np.log10(np.abs(np.where(done, 1.0, wide)))).astype(np.int64)
        exact = np.abs(size) <= _EXPONENT_MAX - most
        for digits in range(least, most + 1):
            shift = digits - 1 - size
            up, down = _power(shift), _power(-shift)
            rounded = np.rint(wide * up / down) * down / up
            hit = exact & ~done & (rounded.astype(column.dtype) == column)
            result[hit] = rounded[hit]
            done |= hit
            if done.all():
                return result
    for at in np.flatnonzero(~done.ravel()):
        result.flat[at] = float(str(column.flat[at]))
    return result


def _power(exponent: Array) -> Array:
    power: Array = _POWERS[np.clip(exponent, 0, _EXPONENT_MAX)]
    return power
