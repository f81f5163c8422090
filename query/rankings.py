"""The greatest and the most frequent values of a bag, whole and in parts.

    top_k          [k, [the k greatest values]]
    approx_top_k   [error, [[value, count], …]]      no value occurs more than ``error`` times beyond its count

Pure. Refuses what is no part (:class:`~query.partials.BadPartial`). Rules: ``top_k`` is exact. Of the most frequent a
peer tells :data:`FREQUENT_CARRIED_MAX`; the counts of those that it leaves out bound the error, and errors add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from query.errors import WrongArguments
from query.partials import counted, listed, present, same_key, wrong
from query.values import described

TOP_MAX: Final = 1_000
FREQUENT_CARRIED_MAX: Final = 256  # values that a peer tells, the most frequent first
FREQUENT_HELD_MAX: Final = 4_096  # values that are counted while merging


def greatest(values: Iterable[Any], k: int) -> list[Any]:
    """The ``k`` greatest of numbers, strings or time stamps, the greatest first; NaN last."""
    found = present(values)
    kinds = {float if type(element) is int else type(element) for element in found}
    if not kinds <= {float, str, datetime}:
        odd = next(element for element in found if type(element) not in (int, float, str, datetime))
        raise WrongArguments(f"top_k: expected numbers, strings or time stamps, found {described(odd)}")
    if len(kinds) > 1:
        raise WrongArguments("top_k: expected values of one type, found several")
    last = [element for element in found if element != element]  # noqa: PLR0124 — only NaN differs from itself
    ordered = sorted((element for element in found if element == element), reverse=True)  # noqa: PLR0124
    return (ordered + last)[:k]


def checked_k(name: str, k: Any) -> int:
    if type(k) is not int or not 1 <= k <= TOP_MAX:
        raise WrongArguments(f"{name}: k: expected an Integer from 1 to {TOP_MAX}, found {described(k)}")
    return k


def top_state(values: list[Any], k: Any) -> list[Any]:
    return [checked_k("top_k", k), greatest(values, k)]


def read_top(wire: Any) -> tuple[int, list[Any]]:
    k, values = listed(wire, "top_k", length=2)
    if type(k) is not int or not 1 <= k <= TOP_MAX or len(listed(values, "top_k")) > k:
        raise wrong("top_k", k)
    return k, greatest(values, k)  # raises for values that could go with nobody else's


def merge_top(one: tuple[int, list[Any]], other: tuple[int, list[Any]]) -> tuple[int, list[Any]]:
    k = max(one[0], other[0])
    return k, greatest((*one[1], *other[1]), k)


# --- the most frequent ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frequencies:
    """By what makes values equal: a value and how often it was counted. None occurs ``error`` times more than that."""

    counts: dict[Any, tuple[Any, int]]
    error: int = 0

    def cut(self, most: int) -> Frequencies:
        """The most frequent: what is left out was counted at most as often as the error then says beside."""
        if len(self.counts) <= most:
            return self
        order = sorted(self.counts.items(), key=lambda entry: -entry[1][1])
        return Frequencies(dict(order[:most]), self.error + order[most][1][1])


def frequencies(values: Iterable[Any]) -> Frequencies:
    counts: dict[Any, tuple[Any, int]] = {}
    for value in present(values):
        key = same_key(value)
        counts[key] = (counts[key][0], counts[key][1] + 1) if key in counts else (value, 1)
    return Frequencies(counts)


def frequent_state(values: list[Any], k: Any) -> list[Any]:
    checked_k("approx_top_k", k)
    return write_frequencies(frequencies(values), k)


def write_frequencies(part: Frequencies, k: int) -> list[Any]:
    found = part.cut(max(k, FREQUENT_CARRIED_MAX))
    return [found.error, [[value, count] for value, count in found.counts.values()]]


def read_frequencies(wire: Any) -> Frequencies:
    error, pairs = listed(wire, "approx_top_k", length=2)
    counts: dict[Any, tuple[Any, int]] = {}
    if len(listed(pairs, "approx_top_k")) > TOP_MAX:
        raise wrong("approx_top_k", pairs)
    for pair in pairs:
        value, count = listed(pair, "approx_top_k", length=2)
        counts[same_key(value)] = (value, counted(count, "approx_top_k"))
    return Frequencies(counts, counted(error, "approx_top_k"))


def merge_frequencies(one: Frequencies, other: Frequencies) -> Frequencies:
    counts = dict(one.counts)
    for key, (value, count) in other.counts.items():
        known = counts.get(key)
        counts[key] = (value, count) if known is None else (known[0], known[1] + count)
    return Frequencies(counts, one.error + other.error).cut(FREQUENT_HELD_MAX)


def more_frequencies(part: Frequencies | None, values: list[Any], k: Any) -> Frequencies:
    """Counts of one peer, which need not be cut to what it tells."""
    checked_k("approx_top_k", k)
    if part is None:
        return frequencies(values).cut(FREQUENT_HELD_MAX)
    return merge_frequencies(part, frequencies(values))


def most_frequent(part: Frequencies, k: Any) -> list[dict[str, Any]]:
    """The ``k`` most frequent values as records of ``value``, ``count`` and ``error``."""
    from query.text_form import to_text

    least = checked_k("approx_top_k", k)
    order = sorted(part.counts.values(), key=lambda entry: (-entry[1], to_text(entry[0])))
    return [{"value": value, "count": count, "error": part.error} for value, count in order[:least]]
