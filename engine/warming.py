"""The first runs of a model: its own test vectors answered, and its pace measured.

The first call after building is ten times slower and the fourth is steady, so ``WARM_UP_RUNS`` come before the
measurement. Time is taken on the largest test vector; without vectors on zeros, where a failure is no refusal, as
nobody promised that zeros make sense to the model. Where the first dimension counts rows, it is taken once more on
``MANY_ROWS`` times that input: what a call costs apart from its rows is then known, and larger calls of a quick model
need no thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from engine.errors import InputProblem, ModelFailed, RefusedByRuntime
from engine.sessions import GraphSession
from engine.signature import ELEMENTS_MAX, Array
from engine.vectors import Vector, elements_of, require_answers, resting_feed

WARM_UP_RUNS: Final = 5
MEASURED_RUNS_MAX: Final = 40
MEASURED_S_MAX: Final = 0.05
MANY_ROWS: Final = 16
SLOW: Final = float("inf")

Run = Callable[[dict[str, Array]], list[Array]]


@dataclass(frozen=True, slots=True)
class Pace:
    """99th percentile of a run on an input of ``elements`` elements; ``SLOW`` when it could not be measured.

    ``many_us``, ``many_elements``: the same of a larger input; 0 when there was none.
    """

    p99_us: float
    elements: int
    many_us: float = 0.0
    many_elements: int = 0

    def expected_us(self, elements: int) -> float:
        """For an input of this size: never less than measured, in between on a straight line, and above the largest
        that was measured as if cost grew with the input.
        """
        least = max(self.elements, 1)
        if elements <= least:
            return self.p99_us
        if self.many_elements <= least:
            return self.p99_us * elements / least
        many_us = max(self.many_us, self.p99_us)
        if elements >= self.many_elements:
            return many_us * elements / self.many_elements
        return self.p99_us + (many_us - self.p99_us) * (elements - least) / (self.many_elements - least)

    def elements_within(self, limit_us: float) -> int:
        """The largest input that :meth:`expected_us` gives no more than ``limit_us``; -1 when even the smallest takes
        longer.
        """
        if not self.p99_us <= limit_us:
            return -1
        low, high = 0, ELEMENTS_MAX
        while low < high:  # expected_us never falls
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.expected_us(middle) <= limit_us else (low, middle - 1)
        return low


def require_vectors(session: GraphSession, run: Run, vectors: Sequence[Vector], *, label: str) -> None:
    """Runs every vector. Raises :class:`FailedVectors`, :class:`RefusedByRuntime` for a vector on which the model
    fails, ``OverTime`` and ``OverMemory``.
    """
    for position, vector in enumerate(vectors, 1):
        try:
            outputs = run(vector.feed)
        except (InputProblem, ModelFailed) as error:
            raise RefusedByRuntime(f"{label}: test vector {position}: {error.message}") from error
        answers = dict(zip(session.output_names, outputs, strict=True))
        require_answers(vector, answers, position=position, label=label)


def measured_pace(session: GraphSession, run: Run, vectors: Sequence[Vector], *, rows: bool = False) -> Pace:
    """Warms up and measures within about ``MEASURED_S_MAX``, or one run when that takes longer; ``rows``: twice that,
    as the first dimension of every input counts rows.

    Raises what a run raises on a test vector; on zeros only what names a limit.
    """
    largest = max(vectors, key=lambda vector: vector.elements, default=None)
    if largest is not None:
        feed, elements = largest.feed, largest.elements
        p99_us = _p99_us(run, feed)
    else:
        elements = elements_of(session.inputs)
        if elements > ELEMENTS_MAX:
            return Pace(SLOW, 1)
        feed = resting_feed(session.inputs)
        try:
            p99_us = _p99_us(run, feed)
        except (InputProblem, ModelFailed):
            return Pace(SLOW, elements)
    if not rows or p99_us * MANY_ROWS > MEASURED_S_MAX * 1e6 or elements * MANY_ROWS > ELEMENTS_MAX:
        return Pace(p99_us, elements)
    many = {name: array.repeat(MANY_ROWS, axis=0) for name, array in feed.items()}
    try:
        return Pace(p99_us, elements, _p99_us(run, many), elements * MANY_ROWS)
    except (InputProblem, ModelFailed):
        return Pace(p99_us, elements)  # it does not take any number of rows after all


def _p99_us(run: Run, feed: dict[str, Array]) -> float:
    started = perf_counter()
    for _ in range(WARM_UP_RUNS):
        before = perf_counter()
        run(feed)
        last_s = perf_counter() - before
        if perf_counter() - started > MEASURED_S_MAX:
            return last_s * 1e6
    taken: list[float] = []
    while len(taken) < MEASURED_RUNS_MAX and perf_counter() - started < MEASURED_S_MAX:
        before = perf_counter()
        run(feed)
        taken.append(perf_counter() - before)
    if not taken:
        return last_s * 1e6
    taken.sort()
    # Of forty runs the slowest is left out: one preemption would otherwise send a fast model to the pool for good.
    return taken[max(0, len(taken) - 2)] * 1e6
