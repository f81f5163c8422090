"""Sums and variances in parts: exact however the values lie on peers.

Owns what a peer tells of the numbers of a group. A sum of reals carries what rounding left over, so that sums of sums
are the correctly rounded sum of all values. Variances are merged as Chan, Golub and LeVeque do it (1979), with exact
means. Pure. Refuses what is no part (:class:`~query.partials.BadPartial`).

    avg         [count, sum of integers, number of reals, [parts of their sum], sum of infinities and NaNs]
    sum         the same, and the sum of vectors
    variance    the same as avg, and the sum of the squares of the distances from the mean
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from query import operators
from query.errors import WrongArguments
from query.partials import counted, listed, numbers, present, wrong
from query.values import described, is_tensor

PARTS_MAX: Final = 64  # a sum of doubles needs at most 40


def expansion(values: Iterable[float]) -> tuple[float, ...]:
    """Few floats whose sum is exactly that of ``values``, the largest first; one infinity when it takes too many."""
    rest = list(values)
    parts: list[float] = []
    try:
        while len(parts) < PARTS_MAX and (part := math.fsum(rest)):
            parts.append(part)
            rest.append(-part)
    except OverflowError:  # on the way, which says nothing of the end
        exact = sum(map(Fraction, rest), Fraction(sum(map(Fraction, parts))))
        parts = []
        while exact and len(parts) < PARTS_MAX:
            parts.append(_nearest(exact))
            exact -= Fraction(parts[-1])
        if exact:
            return (math.inf if exact > 0 else -math.inf,)
    return tuple(parts)


def _nearest(exact: Fraction) -> float:
    """The finite float next to an exact number."""
    try:
        return float(exact)
    except OverflowError:
        return sys.float_info.max if exact > 0 else -sys.float_info.max


@dataclass(frozen=True, slots=True)
class Sum:
    """``count`` numbers, ``reals`` of them Reals. ``special``: what infinities and NaN among them add up to."""

    count: int = 0
    integer: int = 0
    reals: int = 0
    parts: tuple[float, ...] = ()
    special: float | None = None

    @property
    def exact(self) -> Fraction:
        return sum(map(Fraction, self.parts), Fraction(self.integer))

    @property
    def total(self) -> int | float:
        if self.special is not None:
            return self.special
        if not self.reals:
            return operators.bounded(self.integer)
        try:
            return math.fsum(self.parts) if not self.integer else float(self.exact)
        except OverflowError:
            exact = self.exact
            try:
                return float(exact)
            except OverflowError:
                return math.inf if exact > 0 else -math.inf

    def wire(self) -> list[Any]:
        return [self.count, self.integer, self.reals, list(self.parts), self.special]


def sum_of(found: list[int | float]) -> Sum:
    """The sum of numbers."""
    reals = [element for element in found if type(element) is float]
    if len(reals) == len(found):
        integer = 0
    else:
        integer = operators.bounded(sum(element for element in found if type(element) is int))
    finite = [element for element in reals if math.isfinite(element)]
    special = None if len(finite) == len(reals) else sum(element for element in reals if not math.isfinite(element))
    return _settled(len(found), integer, len(reals), expansion(finite), special)


def _settled(count: int, integer: int, reals: int, parts: tuple[float, ...], special: float | None) -> Sum:
    if parts and math.isinf(parts[0]):
        return Sum(count, integer, reals, (), parts[0] if special is None else special + parts[0])
    return Sum(count, integer, reals, parts, special)


def added(one: Sum, other: Sum) -> Sum:
    specials = present((one.special, other.special))
    return _settled(
        one.count + other.count,
        operators.bounded(one.integer + other.integer),
        one.reals + other.reals,
        expansion((*one.parts, *other.parts)) if one.parts and other.parts else one.parts or other.parts,
        sum(specials) if specials else None,
    )


def _real(value: int | float, what: str) -> float:
    """A number of a part, which may have come as an Integer."""
    try:
        return float(value)
    except OverflowError:
        raise wrong(what, value) from None


def read_sum(wire: Any) -> Sum:
    count, integer, reals, parts, special = listed(wire, "a sum", length=5)
    if type(integer) is not int or not (special is None or type(special) is float):
        raise wrong("a sum", wire)
    if len(listed(parts, "a sum")) > PARTS_MAX:
        raise wrong("a sum", wire)
    floats = [_real(part, "a sum") if type(part) is int else part for part in parts]
    if not all(type(part) is float and math.isfinite(part) for part in floats):
        raise wrong("a sum", wire)
    found = _settled(counted(count, "a sum"), integer, counted(reals, "a sum"), expansion(floats), special)
    return Sum(found.count, operators.bounded(found.integer), found.reals, found.parts, found.special)


def _other_total(values: list[Any], total: Any = None) -> Any:
    """The sum of vectors and tensors, element by element; None of nothing."""
    for element in values:
        if type(element) is not list and not is_tensor(element):
            raise WrongArguments(f"sum: expected numbers, vectors or tensors, found {described(element)}")
        total = element if total is None else operators.arithmetic("+", total, element)
    return total


def _totals(values: list[Any], other: Any = None) -> tuple[Sum, Any]:
    """``other``: the sum of the vectors before these, to which they are added one by one."""
    found = present(values)
    plain = [element for element in found if type(element) in (int, float)]
    if len(plain) < len(found):
        other = _other_total([element for element in found if type(element) not in (int, float)], other)
    return sum_of(plain), other


def sum_state(values: list[Any]) -> list[Any]:
    return write_total(_totals(values))


def write_total(part: tuple[Sum, Any]) -> list[Any]:
    return [*part[0].wire(), part[1]]


def more_total(part: tuple[Sum, Any] | None, values: list[Any]) -> tuple[Sum, Any]:
    """The very sum of all values: vectors are added in their order."""
    if part is None:
        return _totals(values)
    plain, other = _totals(values, part[1])
    return added(part[0], plain), other


def read_total(wire: Any) -> tuple[Sum, Any]:
    *plain, other = listed(wire, "a sum", length=6)
    if other is not None and type(other) is not list and not is_tensor(other):
        raise wrong("a sum", other)
    return read_sum(plain), other


def merge_total(one: tuple[Sum, Any], other: tuple[Sum, Any]) -> tuple[Sum, Any]:
    return added(one[0], other[0]), _other_total(present((one[1], other[1])))


def total(part: tuple[Sum, Any]) -> Any:
    plain, other = part
    if other is None:
        return plain.total
    return other if not plain.count else operators.arithmetic("+", other, plain.total)


def average_state(values: list[Any]) -> list[Any]:
    """The part that ``avg`` tells."""
    return sum_of(numbers("avg", values)).wire()


def average(part: Sum) -> float | None:
    return float(operators.arithmetic("/", part.total, part.count)) if part.count else None


# --- variances ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """A sum of numbers and the sum of the squares of their distances from its mean."""

    sum: Sum
    squares: float


def spread_state(name: str) -> Callable[[list[Any]], list[Any]]:
    def state(values: list[Any]) -> list[Any]:
        found = numbers(name, values)
        total = sum_of(found)
        spread = sample_variance(found)
        return [*total.wire(), 0.0 if spread is None else spread * (len(found) - 1)]

    return state


def sample_variance(found: list[int | float]) -> float | None:
    """The variance of numbers as their sample; None of fewer than two, NaN where an infinity or a NaN is among them."""
    if len(found) < 2:
        return None
    if not all(type(element) is int or math.isfinite(element) for element in found):
        return math.nan
    try:
        return float(statistics.variance(found))  # exact up to its rounding, integers of any size included
    except OverflowError:
        return math.inf


def read_spread(wire: Any) -> Spread:
    *plain, squares = listed(wire, "a variance", length=6)
    if type(squares) not in (int, float) or squares < 0:
        raise wrong("a variance", squares)
    return Spread(read_sum(plain), _real(squares, "a variance"))


def write_spread(part: Spread) -> list[Any]:
    return [*part.sum.wire(), part.squares]


def merge_spread(one: Spread, other: Spread) -> Spread:
    total = added(one.sum, other.sum)
    squares = one.squares + other.squares
    if one.sum.count and other.sum.count and total.special is None:
        apart = one.sum.exact / one.sum.count - other.sum.exact / other.sum.count
        try:
            squares += float(apart * apart * one.sum.count * other.sum.count / total.count)
        except OverflowError:
            squares = math.inf
    return Spread(total, squares if total.special is None else math.nan)


def variance(part: Spread) -> float | None:
    return part.squares / (part.sum.count - 1) if part.sum.count > 1 else None


def deviation(part: Spread) -> float | None:
    found = variance(part)
    return None if found is None else math.sqrt(found)
