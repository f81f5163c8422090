"""One figure of a benchmark: what was measured, against what, and under which conditions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter


@dataclass(frozen=True, slots=True)
class Measurement:
    """``limit`` is what ``ours`` is compared with, measured in the same run, or a goal; ``ratio`` is ours/limit.

    ``ratio`` is None for a figure without a goal. ``case`` names what is compared: ``statements vs bare Lark``.
    """

    benchmark: str
    case: str
    ours: float
    limit: float | None
    ratio: float | None
    unit: str
    conditions: str = ""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        against = "" if self.limit is None else f" against {_figure(self.limit)}"
        ratio = "" if self.ratio is None else f" = {self.ratio:.2f}x"
        tail = f"  ({self.conditions})" if self.conditions else ""
        return f"{self.benchmark:<10} {self.case}: {_figure(self.ours)}{against} {self.unit}{ratio}{tail}"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def interleaved(ours: Callable[[], object], limit: Callable[[], object], *, pairs: int) -> tuple[float, float, float]:
    """The seconds of both in the median pair, and their ratio."""
    one, other = [], []
    for number in range(pairs):
        first, second = (ours, limit) if number % 2 else (limit, ours)
        start = perf_counter()
        first()
        middle = perf_counter()
        second()
        end = perf_counter()
        times = middle - start, end - middle
        one.append(times[0] if number % 2 else times[1])
        other.append(times[1] if number % 2 else times[0])
    return median_pair(one, other)


def median_pair(ours: Sequence[float], limits: Sequence[float]) -> tuple[float, float, float]:
    """Of pairs measured one right after the other, the one whose ratio is the median: its two sides and its ratio.

    A machine that is slow for a while slows both sides of a pair, so this is steadier than a ratio of medians.
    """
    pairs = sorted(zip(ours, limits, strict=True), key=lambda pair: pair[0] / pair[1])
    mine, limit = pairs[(len(pairs) - 1) // 2]
    return mine, limit, mine / limit
