"""The first runs of a model: its own test vectors answered, and its pace measured.

The first call after building is ten times slower and the fourth is steady, so ``WARM_UP_RUNS`` come before the
measurement. Time is taken on the largest test vector; without vectors on zeros, where a failure is no refusal, as
nobody promised that zeros make sense to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from engine.errors import InputProblem, ModelFailed, RefusedByRuntime
from engine.sessions import Session
from engine.signature import ELEMENTS_MAX, Array
from engine.vectors import Vector, elements_of, require_answers, resting_feed

WARM_UP_RUNS: Final = 5
MEASURED_RUNS_MAX: Final = 40
MEASURED_S_MAX: Final = 0.05
SLOW: Final = float("inf")

Run = Callable[[dict[str, Array]], list[Array]]


@dataclass(frozen=True, slots=True)
class Pace:
    """99th percentile of a run on an input of ``elements`` elements; ``SLOW`` when it could not be measured."""

    p99_us: float
    elements: int

    def expected_us(self, elements: int) -> float:
        """For an input of this size, if cost grows with the input; never less than measured."""
        return self.p99_us * max(1.0, elements / max(self.elements, 1))

    def elements_within(self, limit_us: float) -> int:
        """The largest input that :meth:`expected_us` gives no more than ``limit_us``; -1 when even the smallest."""
        if not self.p99_us <= limit_us:
            return -1
        return int(min(max(self.elements, 1) * limit_us / max(self.p99_us, 1e-3), ELEMENTS_MAX))


def require_vectors(session: Session, run: Run, vectors: Sequence[Vector], *, label: str) -> None:
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


def measured_pace(session: Session, run: Run, vectors: Sequence[Vector]) -> Pace:
    """Warms up and measures within about ``MEASURED_S_MAX``, or one run when that takes longer.

    Raises what a run raises on a test vector; on zeros only what names a limit.
    """
    largest = max(vectors, key=lambda vector: vector.elements, default=None)
    if largest is not None:
        return Pace(_p99_us(run, largest.feed), largest.elements)
    elements = elements_of(session.inputs)
    if elements > ELEMENTS_MAX:
        return Pace(SLOW, 1)
    try:
        return Pace(_p99_us(run, resting_feed(session.inputs)), elements)
    except (InputProblem, ModelFailed):
        return Pace(SLOW, elements)


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
