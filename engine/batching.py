"""Running requests that wait for the pool together, as one: what waits is taken, nothing is waited for.

Owns the queue of one loaded model, the making of one feed out of several and the parting of the outputs. Requests of
two loaded versions never meet, as each has a queue of its own. Knows nothing of threads or of the event loop: whoever
has a thread to spare calls :meth:`BatchQueue.run_next`, once for each request that was added; a call that finds
nothing left returns.

Rules: whoever waited longest goes first, and with it whoever fits beside it, in order, up to ``rows_max`` rows. A batch
that fails, or answers with other than a row for each row, is run again request by request, so that nobody fails for
another's input or gets another's answer; only time that ran out is told to all. A request that waited for too long is
refused instead of run. A batch for which nobody waits any more is ended.

:func:`gain_of` says what batching gives, and that it changes no answer: a graph may well mix its rows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic_ns, perf_counter
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from engine.errors import OverTime
from engine.scheduling import too_late
from engine.signature import Array
from engine.vectors import Vector, same_elements
from query.errors import Problem

if TYPE_CHECKING:
    from engine.deadlines import Started
    from engine.loaded import LoadedModel

CHECKED_ROWS: Final = 8  # of the test vectors, run apart and together
GAIN_MIN: Final = 1.3  # rows a second together, over those apart, from which a batch is worth the waiting for its end
MEASURED_RUNS: Final = 3

Outputs: TypeAlias = "dict[str, Array]"
Run = Callable[[dict[str, Array]], Sequence[Array]]


@dataclass(slots=True, eq=False)
class Waiting:
    """One request. ``future`` is cancelled when nobody waits any more."""

    feed: dict[str, Array]
    rows: int
    limit_s: float | None = None
    future: Future[Outputs] = field(default_factory=Future)
    since_ns: int = field(default_factory=monotonic_ns)
    batch: _Batch | None = None

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        batch = self.batch
        if not self.future.cancel() and batch is not None:
            batch.leave()

    def leave_if_cancelled(self, turn: Future[None]) -> None:
        """The turn that this request brought along will not come: the threads have ended."""
        if turn.cancelled():
            self.leave()


class _Batch:
    """Requests that run together, and those of them that somebody waits for."""

    def __init__(self, model: LoadedModel, waiting: Sequence[Waiting]) -> None:
        self.model = model
        self.waiting = waiting
        self._lock = threading.Lock()
        self._left = 0
        self._started: Started | None = None

    def begun(self, started: Started) -> None:
        with self._lock:
            self._started = started
            ended = self._left == len(self.waiting)
        if ended:
            self.model.deadlines.abort(started)

    def leave(self) -> None:
        with self._lock:
            self._left += 1
            ended = self._left == len(self.waiting)
            started = self._started
        if ended and started is not None:
            self.model.deadlines.abort(started)


class BatchQueue:
    """The requests that wait for one loaded model. Thread-safe."""

    def __init__(self, rows_max: int, *, wait_ns_max: int) -> None:
        self._rows_max = rows_max
        self._wait_ns_max = wait_ns_max
        self._lock = threading.Lock()
        self._waiting: deque[Waiting] = deque()

    def add(self, waiting: Waiting) -> None:
        with self._lock:
            self._waiting.append(waiting)

    def run_next(self, model: LoadedModel) -> None:
        """Runs what waits longest and what fits beside it; answers by their futures and raises nothing of a run."""
        now_ns = monotonic_ns()
        taken = []
        for one in self._taken():
            if now_ns - one.since_ns <= self._wait_ns_max:
                taken.append(one)
            else:
                model.counters.refuse()
                one.future.set_exception(too_late(self._wait_ns_max))
        if not taken:
            return
        for one in taken:
            model.counters.waited(now_ns - one.since_ns)
        batch = _Batch(model, taken)
        for one in taken:
            one.batch = batch
        try:
            self._run(batch)
        finally:
            for one in taken:
                one.batch = None  # else they hold each other, and the model

    def _run(self, batch: _Batch) -> None:
        model, taken = batch.model, batch.waiting
        started_ns = monotonic_ns()
        if len(taken) == 1:
            _answer(taken[0], lambda: model.run(taken[0].feed, begun=batch.begun, limit_s=taken[0].limit_s))
            return
        try:
            rows = [one.rows for one in taken]
            outputs = model.run(merged([one.feed for one in taken]), begun=batch.begun)
            answers = list(parted(outputs, rows)) if has_rows(outputs, sum(rows)) else None
        except OverTime as problem:
            for one in taken:
                one.future.set_exception(_bare(problem))
        except Problem:
            self._run_apart(batch)
        except BaseException as error:
            for one in taken:
                one.future.set_exception(_bare(error))
            raise
        else:
            if answers is None:  # a graph may leave out rows, and whose they were nobody could say
                self._run_apart(batch)
                return
            model.counters.batched(len(taken), monotonic_ns() - started_ns)
            for one, answer in zip(taken, answers, strict=True):
                one.future.set_result(answer)

    def _run_apart(self, batch: _Batch) -> None:
        for one in batch.waiting:
            _answer(one, lambda feed=one.feed: batch.model.run(feed))  # type: ignore[misc]

    def _taken(self) -> list[Waiting]:
        taken: list[Waiting] = []
        kept: list[Waiting] = []
        rows = 0
        with self._lock:
            while self._waiting and rows < self._rows_max:
                one = self._waiting.popleft()
                fits = not taken or (rows + one.rows <= self._rows_max and fit(taken[0].feed, one.feed))
                if not fits:
                    kept.append(one)
                elif one.future.set_running_or_notify_cancel():
                    taken.append(one)
                    rows += one.rows
            self._waiting.extendleft(reversed(kept))
        return taken


def _answer(one: Waiting, run: Callable[[], Outputs]) -> None:
    try:
        one.future.set_result(run())
    except Problem as problem:
        one.future.set_exception(_bare(problem))
    except BaseException as error:
        one.future.set_exception(_bare(error))
        raise


def _bare(error: BaseException) -> BaseException:
    """Without tracebacks, the frames of which hold who gets the error: they would hold each other."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    return error


def fit(feed: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two checked feeds differ in the number of their rows alone."""
    return all(array.shape[1:] == other[name].shape[1:] for name, array in feed.items())


def even(feed: Mapping[str, Array]) -> bool:
    """Whether all inputs have the same number of rows."""
    return len({len(array) for array in feed.values()}) == 1


def merged(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One feed with the rows of all, in order."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def has_rows(outputs: Mapping[str, Array], count: int) -> bool:
    """Whether every output has a row for each row that went in."""
    return all(array.ndim and array.shape[0] == count for array in outputs.values())


def parted(outputs: Mapping[str, Array], rows: Sequence[int]) -> Iterator[dict[str, Array]]:
    """Each one's rows of the outputs, copied, so that one answer does not keep the others in memory."""
    start = 0
    for count in rows:
        yield {name: array[start : start + count].copy() for name, array in outputs.items()}
        start += count


def gain_of(run: Run, vectors: Sequence[Vector], *, run_s_max: float) -> float:
    """How many times more rows a second a batch of the test vectors' rows gives than the rows apart.

    0 when that cannot be known or batching would change answers: with fewer than two different rows, with an output
    that has not a row for each row, with rows whose answers depend on those beside them. Raises what a run raises.
    """
    rows = _different_rows(vectors)
    if len(rows) < 2:
        return 0.0
    started = perf_counter()
    apart = [run(feed) for feed, _ in rows]
    if perf_counter() - started > run_s_max:
        return 0.0
    together = run(merged([feed for feed, _ in rows]))
    if any(len(output) != len(rows) for output in together):
        return 0.0
    for at, (_, tolerance) in enumerate(rows):
        for one, all_rows in zip(apart[at], together, strict=True):
            if not same_elements(one, all_rows[at : at + 1], tolerance).all():
                return 0.0
    feeds = [rows[at % len(rows)][0] for at in range(CHECKED_ROWS)]
    batch = merged(feeds)
    apart_s = min(_taken_s(lambda: [run(feed) for feed in feeds]) for _ in range(MEASURED_RUNS))
    together_s = min(_taken_s(lambda: run(batch)) for _ in range(MEASURED_RUNS))
    return apart_s / max(together_s, 1e-9)


def _different_rows(vectors: Sequence[Vector]) -> list[tuple[dict[str, Array], float]]:
    """Up to ``CHECKED_ROWS`` feeds of one row that fit each other, no two alike."""
    found: list[tuple[dict[str, Array], float]] = []
    for vector in vectors:
        if not even(vector.feed):
            continue
        for at in range(len(next(iter(vector.feed.values())))):
            row = {name: array[at : at + 1] for name, array in vector.feed.items()}
            if found and not fit(found[0][0], row):
                break
            if not any(all(np.array_equal(row[name], other[name]) for name in row) for other, _ in found):
                found.append((row, vector.tolerance))
            if len(found) == CHECKED_ROWS:
                return found
    return found


def _taken_s(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started
