"""What was answered, and how long it took: counters in the path of every run, and the values read from them.

Owns counting. Rules: a run costs one call here and no allocation; counts never go down while a name and version are
known, also over swaps to and fro; the table forgets the one that was asked for longest ago when it is full.

Distributions are counts below ascending bounds, as Prometheus wants them, without their cumulation. ``batches`` counts
executions by the number of their rows; above ``ROWS_EXACT_MAX`` a size counts under the power of two that it fits in.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic_ns, time_ns
from typing import Final

from engine.exceeded import Exceeded, ExceededLimits, Resource

BOUNDS_NS: Final = tuple(
    round(number * unit) for unit in (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9) for number in (10, 25, 50)
)
"""10 µs, 25 µs, 50 µs, 100 µs … 50 s: upper bounds of the buckets; one more takes what is above."""

ROWS_EXACT_MAX: Final = 64
KEPT_MAX: Final = 1024  # names and versions, and the steps of pipelines, that are counted


@dataclass(frozen=True, slots=True)
class Counted:
    """``count`` times, ``ns`` nanoseconds in all."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """What is counted: a model or pipeline; or, with ``step``, one step of a pipeline, and the model that it ran."""

    name: str
    version: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Counts since this process first knew the name and version.

    ``inference_count``: rows; ``execution_count``: runs of the runtime, of which one may answer many requests.
    ``success`` and ``fail``: requests, with the whole time that they took here. ``queue``: requests that waited for the
    pool. ``compute_input`` and ``compute_output``: reading requests and writing answers, as faces tell.
    ``latency``: requests by their time in ``BOUNDS_NS``; ``waits``: the same of their time in the queue.
    """

    name: str
    version: str
    step: str
    last_inference_ms: int
    inference_count: int
    execution_count: int
    success: Counted
    fail: Counted
    queue: Counted
    compute_input: Counted
    compute_infer: Counted
    compute_output: Counted
    batches: dict[int, Counted]
    latency: tuple[int, ...]
    waits: tuple[int, ...]
    refused: int
    exceeded: tuple[Exceeded, ...] = ()


class Counters:
    """Counts of one name and version. Thread-safe. ``known_ns``: when they were asked for last, by ``monotonic_ns``."""

    __slots__ = (
        "_by_rows",
        "_exceeded",
        "_fail",
        "_input",
        "_last_ns",
        "_latency",
        "_lock",
        "_output",
        "_queue",
        "_refused",
        "_rows",
        "_shared",
        "_waits",
        "key",
        "known_ns",
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.known_ns = monotonic_ns()
        self._lock = threading.Lock()
        self._by_rows: dict[int, list[int]] = {}
        self._latency = [0] * (len(BOUNDS_NS) + 1)
        self._waits = [0] * (len(BOUNDS_NS) + 1)
        self._fail = [0, 0]
        self._queue = [0, 0]
        self._input = [0, 0]
        self._output = [0, 0]
        self._shared = [0, 0]
        self._refused = 0
        self._exceeded = ExceededLimits(f"{key.name}@{key.version}" + (f" in {key.step}" if key.step else ""))
        self._rows = 0
        self._last_ns = 0

    def ran(self, rows: int, started_ns: int, ended_ns: int) -> None:
        """One request was answered by one run. Times by ``monotonic_ns``."""
        taken_ns = ended_ns - started_ns
        with self._lock:
            entry = self._by_rows.get(rows)
            if entry is None:
                entry = self._entry(rows)
            entry[0] += 1
            entry[1] += taken_ns
            self._latency[bisect_left(BOUNDS_NS, taken_ns)] += 1
            self._rows += rows
            self._last_ns = ended_ns

    def failed(self, taken_ns: int) -> None:
        """A request that fits failed, or was ended."""
        with self._lock:
            self._fail[0] += 1
            self._fail[1] += taken_ns

    def waited(self, waited_ns: int) -> None:
        """A request waited for the pool before it ran."""
        with self._lock:
            self._queue[0] += 1
            self._queue[1] += waited_ns
            self._waits[bisect_left(BOUNDS_NS, waited_ns)] += 1

    def refuse(self) -> None:
        """A request was refused as too many waited."""
        with self._lock:
            self._refused += 1
        self._exceeded.note("cpus", "a request was refused, as too many waited for the threads that may run it")

    def exceed(self, resource: Resource, message: str) -> None:
        """A request failed as it needed more than it may have."""
        self._exceeded.note(resource, message)

    def exceeded(self) -> tuple[Exceeded, ...]:
        """The limits that requests ran into."""
        return self._exceeded.read()

    def batched(self, requests: int, taken_ns: int) -> None:
        """A run that :meth:`ran` was told of answered so many requests, more than one."""
        with self._lock:
            self._shared[0] += requests - 1
            self._shared[1] += (requests - 1) * taken_ns
            self._latency[bisect_left(BOUNDS_NS, taken_ns)] += requests - 1

    def translated(self, input_ns: int, output_ns: int) -> None:
        """A face read a request and wrote its answer."""
        with self._lock:
            self._input[0] += 1
            self._input[1] += input_ns
            self._output[0] += 1
            self._output[1] += output_ns

    @property
    def last_ns(self) -> int:
        """When the last run ended, by ``monotonic_ns``; 0 when there was none."""
        return self._last_ns

    def read(self) -> ModelStatistics:
        """The counts, all of one moment."""
        with self._lock:
            batches = {rows: Counted(*entry) for rows, entry in sorted(self._by_rows.items())}
            latency, waits = tuple(self._latency), tuple(self._waits)
            fail, queue, shared = Counted(*self._fail), Counted(*self._queue), Counted(*self._shared)
            read, written = Counted(*self._input), Counted(*self._output)
            last_ns, refused, rows_run = self._last_ns, self._refused, self._rows
        runs = Counted(sum(one.count for one in batches.values()), sum(one.ns for one in batches.values()))
        return ModelStatistics(
            name=self.key.name,
            version=self.key.version,
            step=self.key.step,
            last_inference_ms=(time_ns() - monotonic_ns() + last_ns) // 1_000_000 if last_ns else 0,
            inference_count=rows_run,
            execution_count=runs.count,
            success=Counted(runs.count + shared.count, runs.ns + shared.ns + queue.ns + read.ns + written.ns),
            fail=fail,
            queue=queue,
            compute_input=read,
            compute_infer=runs,
            compute_output=written,
            batches=batches,
            latency=latency,
            waits=waits,
            refused=refused,
            exceeded=self._exceeded.read(),
        )

    def _entry(self, rows: int) -> list[int]:
        if rows > ROWS_EXACT_MAX:
            rows = 1 << (rows - 1).bit_length()
        return self._by_rows.setdefault(rows, [0, 0])


class Statistics:
    """The counters of everything that ran here, at most ``KEPT_MAX``. Thread-safe."""

    def __init__(self, *, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._lock = threading.Lock()
        self._counters: OrderedDict[Key, Counters] = OrderedDict()

    def counters(self, name: str, version: str, *, step: str = "") -> Counters:
        """The counters of this name and version, kept from an earlier time when it was known."""
        key = Key(name, version, step)
        with self._lock:
            found = self._counters.get(key)
            if found is None:
                found = self._counters[key] = Counters(key)
                while len(self._counters) > self._kept_max:
                    self._counters.popitem(last=False)
            self._counters.move_to_end(key)
            found.known_ns = monotonic_ns()
            return found

    def all(self) -> tuple[Counters, ...]:
        """Everything that is counted, the one asked for last at the end."""
        with self._lock:
            return tuple(self._counters.values())
