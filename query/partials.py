"""Aggregates in parts: what a peer tells of a group's values, how two such parts become one, and what they mean.

    values ── state ──> wire value ── read ──> part ── merge ──> part ── result ──> value        (:class:`Kind`)

Owns the table of all aggregates of the language and the parts of those that need no module of their own. Pure; a part
is never changed, so that whoever merges can drop a result. Refuses what is no part: it comes from another peer
(:class:`BadPartial`).

Rules: count, extremes and flags are exact. ``median``, ``vectorof`` and ``count_distinct`` carry their values, at most
:data:`VALUES_MAX` of a group.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from query import operators
from query.errors import PeerProblem, WrongArguments
from query.limits import over
from query.values import described

VALUES_MAX: Final = 100_000  # of a group, where values themselves travel


class BadPartial(PeerProblem):
    """A peer answered a split statement with something that is no part of the answer."""

    code = "bad_partial"


@dataclass(frozen=True, slots=True)
class Kind:
    """How one aggregate is split. ``state``, ``result``, ``write`` and ``more`` are also given the aggregate's other
    arguments.

    ``bytes_about``: of a part on the wire, as a rough guide; None when the values themselves travel. ``write``: a part
    for the wire. ``more``: a part and further values of the same peer, where that is more exact than to merge.
    ``bytes_held``: of a part here, as a rough guide, where it differs.
    """

    state: Callable[..., Any]
    read: Callable[[Any], Any]
    merge: Callable[[Any, Any], Any]
    result: Callable[..., Any]
    bytes_about: int | None
    write: Callable[..., Any] = lambda part: part
    more: Callable[..., Any] | None = None
    bytes_held: Callable[[Any], int] | None = None

    def with_values(self, part: Any, values: list[Any], *others: Any) -> Any:
        """A part and further values together; ``part`` is None for the first values."""
        if self.more is not None:
            return self.more(part, values, *others)
        made = self.read(self.state(values, *others))
        return made if part is None else self.merge(part, made)

    def weigh(self, part: Any) -> int:
        """About how many bytes a part takes here."""
        return self.bytes_held(part) if self.bytes_held is not None else self.bytes_about or 0


def present(bag: Iterable[Any]) -> list[Any]:
    return [element for element in bag if element is not None]


def numbers(name: str, bag: Iterable[Any]) -> list[int | float]:
    found = present(bag)
    for element in found:
        if type(element) not in (int, float):
            raise WrongArguments(f"{name}: expected numbers, found {described(element)}")
    return found


def wrong(what: str, found: Any) -> BadPartial:
    return BadPartial(f"a part of {what}: found {type(found).__name__}, which is none")


def counted(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise wrong(what, value)
    return value


def listed(value: Any, what: str, *, length: int | None = None) -> list[Any]:
    if type(value) is not list or (length is not None and len(value) != length):
        raise wrong(what, value)
    return value


# --- extremes -------------------------------------------------------------------------------------------------------


def extreme(name: str, bag: Iterable[Any], sign: str) -> Any:
    """The least or the greatest; NaN only when there is nothing else."""
    best = None
    for element in bag:
        if element is None:
            continue
        if type(element) not in (int, float, str, datetime):
            raise WrongArguments(f"{name}: expected numbers, strings or time stamps, found {described(element)}")
        if best is None or best != best or operators.compared(sign, element, best):  # noqa: PLR0124 — NaN
            best = element
    return best


def _extremes(name: str, sign: str) -> Kind:
    def read(wire: Any) -> Any:
        if wire is not None and type(wire) not in (int, float, str, datetime):
            raise wrong(name, wire)
        return wire

    return Kind(
        state=lambda values: extreme(name, values, sign),
        read=read,
        merge=lambda one, other: extreme(name, (one, other), sign),
        result=lambda part: part,
        bytes_about=20,
    )


# --- values themselves ----------------------------------------------------------------------------------------------


def _bounded(name: str, count: int) -> None:
    if count > VALUES_MAX:
        hint = {"median": "approx_quantile(values, 0.5)", "count_distinct": "approx_count_distinct(values)"}.get(name)
        raise over(f"{name} over several peers", VALUES_MAX, "more", "values of a group", hint=hint)


def _carried(
    name: str, state: Callable[[list[Any]], list[Any]], result: Callable[[list[Any]], Any], *, plain: bool
) -> Kind:
    """``plain``: numbers only."""

    def made(values: list[Any]) -> list[Any]:
        found = state(values)
        _bounded(name, len(found))
        return found

    def read(wire: Any) -> list[Any]:
        _bounded(name, len(listed(wire, name)))
        if plain and not set(map(type, wire)) <= {int, float}:
            raise wrong(name, wire)
        return list(wire)

    def merge(one: list[Any], other: list[Any]) -> list[Any]:
        _bounded(name, len(one) + len(other))
        return one + other

    return Kind(state=made, read=read, merge=merge, result=result, bytes_about=None)


def same_key(value: Any) -> Any:
    """What equal values have in common, to look one up by."""
    from query.group_rows import frozen

    return frozen(value)


def distinct(values: Iterable[Any]) -> dict[Any, Any]:
    """The values that differ, by what makes them equal; null is none."""
    return {same_key(value): value for value in present(values)}


def _distinct() -> Kind:
    def state(values: list[Any]) -> list[Any]:
        found = list(distinct(values).values())
        _bounded("count_distinct", len(found))
        return found

    def read(wire: Any) -> dict[Any, Any]:
        _bounded("count_distinct", len(listed(wire, "count_distinct")))
        return distinct(wire)

    def merge(one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
        both = {**one, **other}
        _bounded("count_distinct", len(both))
        return both

    return Kind(state=state, read=read, merge=merge, result=len, bytes_about=None)


def middle(found: list[int | float]) -> int | float | None:
    """The median of numbers, None of nothing."""
    try:
        return statistics.median(found) if found else None
    except OverflowError:
        raise operators.BadArithmetic("median: the result is too large for a Real") from None


def some(values: Iterable[Any]) -> bool:
    """Whether there is any value that is neither null nor false."""
    return any(element is not None and element is not False for element in values)


def _flag(result: Callable[[bool], bool]) -> Kind:
    def read(wire: Any) -> bool:
        if type(wire) is not bool:
            raise wrong("some", wire)
        return wire

    return Kind(state=some, read=read, merge=lambda one, other: one or other, result=result, bytes_about=5)


def _spread(name: str, result: Callable[[Any], Any]) -> Kind:
    from query import sums

    state = sums.spread_state(name)
    return Kind(state, sums.read_spread, sums.merge_spread, result, 60, write=sums.write_spread)


@functools.cache
def kinds() -> Mapping[str, Kind]:
    """Every aggregate of the language by its folded name."""
    from query import rankings, sketches, sums

    average = Kind(sums.average_state, sums.read_sum, sums.added, sums.average, 40, write=sums.Sum.wire)
    return {
        "count": Kind(
            state=lambda values: len(present(values)),
            read=lambda wire: counted(wire, "count"),
            merge=lambda one, other: one + other,
            result=lambda part: part,
            bytes_about=6,
        ),
        "sum": Kind(
            sums.sum_state,
            sums.read_total,
            sums.merge_total,
            sums.total,
            45,
            write=sums.write_total,
            more=sums.more_total,
        ),
        "avg": average,
        "mean": average,
        "min": _extremes("min", "<"),
        "max": _extremes("max", ">"),
        "var": _spread("var", sums.variance),
        "stdev": _spread("stdev", sums.deviation),
        "some": _flag(lambda part: part),
        "notany": _flag(lambda part: not part),
        "median": _carried("median", lambda values: numbers("median", values), middle, plain=True),
        "vectorof": _carried("vectorof", list, lambda part: part, plain=False),
        "count_distinct": _distinct(),
        "top_k": Kind(
            rankings.top_state,
            rankings.read_top,
            rankings.merge_top,
            lambda part, k: part[1][:k],
            200,
            write=lambda part, k: list(part),
            bytes_held=lambda part: 40 * len(part[1]),
        ),
        "approx_top_k": Kind(
            rankings.frequent_state,
            rankings.read_frequencies,
            rankings.merge_frequencies,
            rankings.most_frequent,
            5_000,
            write=rankings.write_frequencies,
            more=rankings.more_frequencies,
            bytes_held=lambda part: 200 * len(part.counts),
        ),
        "approx_count_distinct": Kind(
            sketches.distinct_state,
            sketches.read_distinct,
            sketches.merge_distinct,
            sketches.distinct_count,
            5_600,
            write=sketches.write_distinct,
        ),
        "approx_quantile": Kind(
            sketches.quantile_state,
            sketches.read_quantiles,
            sketches.merge_quantiles,
            sketches.quantile,
            6_500,
            write=lambda part, q: sketches.write_quantiles(part),
        ),
    }
