"""Budgets: how many rows, how many bytes and how much time one statement may take on each peer that runs it.

    //budget: 1000 rows, 4MiB, 5s          above a statement; each part once, in any order
    "budget": "1000 rows, 4MiB, 5s"        of a request, for each of its statements
    statement_rows_max …                   of the peer that runs it

Owns the words of a budget and the account of what was spent. Reads no clock. Rules: of several budgets the smaller of
every part holds; bytes are those of the rows' encoded values; the row that would pass a bound is not given; a statement
over its budget gave what came before and ends with ``error(over_budget_rows)``, ``…_bytes`` or ``…_time``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from query import limits
from query.durations import BadDuration, parse_duration
from query.errors import LimitExceeded, UserProblem
from query.quantities import BadQuantity, parse_bytes

ROWS_MAX: Final = 1_000_000_000
BYTES_MAX: Final = 1 << 46
BUFFER_BYTES_KEPT: Final = 1 << 20  # of the longest row, from one to the next
EXPECTED: Final = 'expected rows, bytes and time, such as "1000 rows, 4MiB, 5s"'
_ROWS = re.compile(r"([0-9]{1,12})\s*rows?", re.IGNORECASE)
_BYTES = re.compile(r"([0-9.]{1,24}\s*(?:[kMGT]|[KMGT]i)?)\s*(?:B|bytes?)", re.IGNORECASE)
_UNITS = {"k": "k", "m": "M", "g": "G", "t": "T", "ki": "Ki", "mi": "Mi", "gi": "Gi", "ti": "Ti", "": ""}
_SIZES: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


class BadBudget(UserProblem):
    """A text that is no budget."""

    code = "bad_budget"


class OverBudgetRows(LimitExceeded):
    """A statement has more rows than it may give."""

    code = "over_budget_rows"


class OverBudgetBytes(LimitExceeded):
    """The rows of a statement take more bytes than it may give."""

    code = "over_budget_bytes"


class OverBudgetTime(LimitExceeded):
    """A statement takes more time on a peer than it may."""

    code = "over_budget_time"


class Budget(Struct, frozen=True, omit_defaults=True):
    """What a statement may spend on one peer; None is no bound."""

    rows: Annotated[int, Meta(ge=1)] | None = None
    bytes: Annotated[int, Meta(ge=1)] | None = None
    time_s: Annotated[float, Meta(gt=0)] | None = None

    def __str__(self) -> str:
        return format_budget(self)


UNBOUNDED: Final = Budget()


def parse_budget(text: str) -> Budget:
    """Raises :class:`BadBudget`."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, amount = _part(part.strip())
        if name in found:
            raise BadBudget(f'"{text[:80]}" bounds {_WORDS[name]} twice: {EXPECTED}')
        found[name] = amount
    return Budget(**found)


_WORDS: Final = {"rows": "rows", "bytes": "bytes", "time_s": "time"}


def _part(text: str) -> tuple[str, float]:
    rows = _ROWS.fullmatch(text)
    if rows is not None:
        count = int(rows[1])
        if not 1 <= count <= ROWS_MAX:
            raise BadBudget(f'"{text}" is no usable budget of rows: expected 1 to {ROWS_MAX}')
        return "rows", count
    amount = _BYTES.fullmatch(text)
    try:
        if amount is not None:
            number = amount[1].rstrip("kKmMgGtTi \t")
            unit = _UNITS[amount[1][len(number) :].strip().casefold()]
            return "bytes", parse_bytes(number + unit, most=BYTES_MAX)
        if text[-1:].isalpha() and not text.endswith("M"):  # 5m are minutes, and 5M are nobody knows what
            return "time_s", parse_duration(text, longest_s=limits.DURATION_S_MAX)
    except (BadQuantity, BadDuration):
        pass
    raise BadBudget(f'"{text[:40]}" is no part of a budget: {EXPECTED}')


def format_budget(budget: Budget) -> str:
    """The words that :func:`parse_budget` reads as the same budget."""
    parts = []
    if budget.rows is not None:
        parts.append(f"{budget.rows} row{'' if budget.rows == 1 else 's'}")
    if budget.bytes is not None:
        parts.append(_size(budget.bytes))
    if budget.time_s is not None:
        parts.append(f"{budget.time_s:.12f}".rstrip("0").rstrip(".") + "s")
    return ", ".join(parts)


def _size(count: int) -> str:
    for unit, size in _SIZES:
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count} byte{'' if count == 1 else 's'}"


def used_of(budget: Budget, *, rows: int, size: int, elapsed_s: float) -> str:
    """What was used of each bounded part: ``12 of 1000 rows, 512 bytes of 4MiB, 0.3s of 5s``."""
    parts = []
    if budget.rows is not None:
        parts.append(f"{rows} of {format_budget(Budget(rows=budget.rows))}")
    if budget.bytes is not None:
        parts.append(f"{_size(size)} of {_size(budget.bytes)}")
    if budget.time_s is not None:
        used_s = f"{elapsed_s:.3f}".rstrip("0").rstrip(".") if elapsed_s < 10 else f"{elapsed_s:.0f}"
        parts.append(f"{used_s}s of {format_budget(Budget(time_s=budget.time_s))}")
    return ", ".join(parts)


def tightest(*budgets: Budget | None) -> Budget:
    """Of every part the smallest that any of them says."""
    known = [budget for budget in budgets if budget is not None]
    return Budget(
        rows=min((budget.rows for budget in known if budget.rows is not None), default=None),
        bytes=min((budget.bytes for budget in known if budget.bytes is not None), default=None),
        time_s=min((budget.time_s for budget in known if budget.time_s is not None), default=None),
    )


class Spending:
    """What one statement has given on one peer, held to its budget.

    ``own``: what the peer allows every statement; nobody who asks can have more than that.
    """

    def __init__(self, budget: Budget, *, own: Budget = UNBOUNDED) -> None:
        self.budget = tightest(budget, own)
        self._own = own
        self.rows = 0
        self.bytes = 0
        self._buffer = bytearray()
        self._encode_into = msgspec.json.Encoder().encode_into

    def row(self, values: tuple[Any, ...]) -> None:
        """Count a row of encoded values that is about to be given. Raises when it may not be."""
        rows_max, bytes_max = self.budget.rows, self.budget.bytes
        if rows_max is not None and self.rows >= rows_max:
            raise OverBudgetRows(
                f"the statement has more rows than its budget of {format_budget(Budget(rows=rows_max))}",
                hint=_hint("ask for less, as with limit", "1000 rows", at_most=rows_max == self._own.rows),
            )
        self._encode_into(values, self._buffer)
        size = len(self._buffer)
        if size > BUFFER_BYTES_KEPT:
            self._buffer = bytearray()
        if bytes_max is not None and self.bytes + size > bytes_max:
            raise OverBudgetBytes(
                f"row {self.rows + 1} takes the answer over its budget of {_size(bytes_max)}",
                hint=_hint("ask for less, as with limit", "4MiB", at_most=bytes_max == self._own.bytes),
            )
        self.rows += 1
        self.bytes += size

    def out_of_time(self) -> OverBudgetTime:
        """The problem of a statement whose time is spent."""
        allowed = format_budget(Budget(time_s=self.budget.time_s))
        return OverBudgetTime(
            f"the statement took longer than its budget of {allowed}",
            hint=_hint("ask for less", "1min", at_most=self.budget.time_s == self._own.time_s),
        )


def _hint(less: str, more: str, *, at_most: bool) -> str:
    return f"{less}: this peer allows no statement more" if at_most else f"{less}, or allow more: //budget: {more}"
