"""Amounts of memory and storage as they are written: ``512Mi``, ``1.5Gi``, ``20M``; a number alone is bytes."""

from __future__ import annotations

import math
import re
from typing import Final

from query.errors import UserProblem

_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_QUANTITY = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,12})?)\s*([kMGT]|[KMGT]i)?\s*")


class BadQuantity(UserProblem):
    """A text or number that is no amount of bytes."""

    code = "bad_quantity"


def parse_bytes(amount: str | float, *, most: int = 1 << 50) -> int:
    """Whole bytes, at least 1 and at most ``most``. Raises :class:`BadQuantity`."""
    match amount:
        case bool():
            found = -1.0
        case int() | float():
            found = float(amount)
        case str():
            read = _QUANTITY.fullmatch(amount)
            if read is None:
                raise BadQuantity(f'"{amount[:40]}" is no amount of bytes: expected a number and Ki, Mi, Gi or Ti')
            found = float(read[1]) * _UNITS[read[2] or ""]
    if not (math.isfinite(found) and 1 <= found <= most):
        raise BadQuantity(f"{amount!r:.40} is not a usable amount of bytes: expected 1 to {most}")
    return int(found)


def size_words(amount: int) -> str:
    """An amount of bytes for people: ``1.5 GiB``; whole below a KiB."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if amount >= _UNITS[unit]:
            return (
                f"{amount / _UNITS[unit]:.3g} {unit}B"
                if amount < 1000 * _UNITS[unit]
                else f"{amount // _UNITS[unit]} {unit}B"
            )
    return f"{amount} bytes"
