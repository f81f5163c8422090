"""What a peer tells Prometheus: names, labels and values, made from counters that the peer keeps anyway.

Owns the table of metrics below and their text. Rules: nothing is counted here, so that a peer which nobody scrapes pays
nothing; prometheus_client is imported at the first scrape, in a thread. Units are Prometheus's: seconds and bytes. What
is unloaded keeps its counts until it is forgotten (:mod:`engine.statistics`). A histogram, which is long, is told from
its first observation on, a counter from the beginning. Labels are names of releases, versions, steps and codes of
errors, never what a request says.

    peerage_inference_duration_seconds    histogram   requests by the time of their run
    peerage_queue_wait_seconds            histogram   requests that waited for the pool, by how long
    peerage_batch_rows                    histogram   runs of the runtime by their rows
    peerage_inference_rows_total          counter     rows that were answered
    peerage_inference_failures_total      counter     requests that fitted and failed
    peerage_inference_refusals_total      counter     requests refused as too many waited
    peerage_limits_exceeded_total         counter     requests that needed more than they may have; also: resource
                                                      all of these: name, version, pipeline, step. A step that runs
                                                      models is counted by them, with the pipeline that they run in
    peerage_requests_refused_total        counter     answers that were errors: code
    peerage_loads_total                   counter     releases brought into memory: result (loaded, swapped, failed)
    peerage_unloads_total                 counter     releases taken out of memory
    peerage_loaded_info                   gauge       1 for what is loaded: name, version, kind, origin
    peerage_loaded_memory_bytes           gauge       what each takes, as its trial measured: name, version
    peerage_state                         gauge       1 for what the index lists: name, version, state
    peerage_memory_budget_bytes           gauge
    peerage_queue_requests                gauge       in the pool or waiting for it
    peerage_queue_requests_max            gauge
    peerage_requests_under_way            gauge       inferences that have begun and not ended: protocol
    peerage_dropped_rows_total            counter     rows of a pipeline's answers that lack something: name, version,
                                                      dropped (as in the answers)
    peerage_streams_open                  gauge       streams of stateful models
    peerage_stream_state_bytes            gauge       what they carry from call to call
    peerage_build_info                    gauge       version

and the process's own, as ``process_resident_memory_bytes`` and ``process_cpu_seconds_total``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from engine.servables import IndexEntry
from engine.statistics import BOUNDS_NS, ModelStatistics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PLAIN_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
BATCH_BOUNDS: Final = tuple(2**power for power in range(13))  # 1 … 4096 rows
_OF_RUNS: Final = ("name", "version", "pipeline", "step")


@dataclass(frozen=True, slots=True)
class LoadedFacts:
    """One model or pipeline in memory."""

    name: str
    version: str
    kind: str
    origin: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Extra:
    """A counter or gauge of another part: its name, what it says, and a value for each set of labels."""

    name: str
    says: str
    values: Mapping[tuple[str, ...], float]
    labels: tuple[str, ...] = ()
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that is told, of one moment; taken on the event loop, told in a thread."""

    version: str
    runs: tuple[ModelStatistics, ...] = ()
    loaded: tuple[LoadedFacts, ...] = ()
    index: tuple[IndexEntry, ...] = ()
    loads: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    unloads: int = 0
    memory_budget_bytes: int = 0
    queue: int = 0
    queue_max: int = 0
    under_way: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    refused: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    extras: tuple[Extra, ...] = ()


def exposition(snapshot: Snapshot, *, openmetrics: bool) -> bytes:
    """The text of a scrape: OpenMetrics, or Prometheus's own format. Takes long the first time."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collected(snapshot))
    generate: Callable[[Any], bytes] = generate_openmetrics if openmetrics else generate_latest
    return generate(registry)


class _Collected:
    """The snapshot as prometheus_client's port for collectors wants it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _runs(self._snapshot.runs)
        yield from _memory(self._snapshot)
        yield from _others(self._snapshot)


def _runs(runs: tuple[ModelStatistics, ...]) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

    def histogram(
        name: str, says: str, of: Callable[[ModelStatistics], tuple[list[tuple[str, float]], float]]
    ) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, says, labels=_OF_RUNS)
        for one in runs:
            buckets, total = of(one)
            if buckets[-1][1]:
                family.add_metric(_place(one), buckets, total)
        return family

    def counter(name: str, says: str, of: Callable[[ModelStatistics], int]) -> CounterMetricFamily:
        family = CounterMetricFamily(name, says, labels=_OF_RUNS)
        for one in runs:
            family.add_metric(_place(one), of(one))
        return family

    yield histogram("peerage_inference_duration_seconds", "requests by the time of their run", _durations)
    yield histogram("peerage_queue_wait_seconds", "requests that waited for the pool, by how long", _waits)
    yield histogram("peerage_batch_rows", "runs of the runtime by their rows", _batches)
    yield counter("peerage_inference_rows", "rows that were answered", lambda one: one.inference_count)
    yield counter("peerage_inference_failures", "requests that fitted and failed", lambda one: one.fail.count)
    yield counter("peerage_inference_refusals", "requests refused as too many waited", lambda one: one.refused)
    says = "requests that needed more memory, time or threads than they may have"
    exceeded = CounterMetricFamily("peerage_limits_exceeded", says, labels=(*_OF_RUNS, "resource"))
    for one in runs:
        for limit in one.exceeded:
            exceeded.add_metric((*_place(one), limit.resource), limit.count)
    yield exceeded


def _place(one: ModelStatistics) -> tuple[str, str, str, str]:
    """Labels. A model in a pipeline is counted under the pipeline's label; a step under its own, which has spaces."""
    inside = "@" in one.step and " " not in one.step
    return one.name, one.version, one.step if inside else "", "" if inside else one.step


def _durations(one: ModelStatistics) -> tuple[list[tuple[str, float]], float]:
    taken_ns = one.success.ns - one.queue.ns - one.compute_input.ns - one.compute_output.ns
    return _cumulated(one.latency), max(taken_ns, 0) / 1e9


def _waits(one: ModelStatistics) -> tuple[list[tuple[str, float]], float]:
    return _cumulated(one.waits), one.queue.ns / 1e9


def _cumulated(counts: tuple[int, ...]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound_ns, count in zip((*BOUNDS_NS, math.inf), counts, strict=True):
        total += count
        buckets.append((_written(bound_ns / 1e9), total))
    return buckets


def _batches(one: ModelStatistics) -> tuple[list[tuple[str, float]], float]:
    sizes = one.batches.items()
    buckets: list[tuple[str, float]] = [
        (_written(bound), sum(runs.count for rows, runs in sizes if rows <= bound)) for bound in BATCH_BOUNDS
    ]
    return [*buckets, ("+Inf", sum(runs.count for _, runs in sizes))], one.inference_count


def _written(bound: float) -> str:
    """A bucket's bound in the one form in which every scrape must write it."""
    from prometheus_client.utils import floatToGoString

    written: Callable[[float], str] = floatToGoString
    return written(bound)


def _memory(snapshot: Snapshot) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    loads = CounterMetricFamily("peerage_loads", "releases brought into memory, by result", labels=("result",))
    for result, count in sorted(snapshot.loads.items()):
        loads.add_metric((result,), count)
    yield loads
    yield CounterMetricFamily("peerage_unloads", "releases taken out of memory", value=snapshot.unloads)
    info = InfoMetricFamily("peerage_loaded", "what is loaded", labels=("name", "version"))
    memory = GaugeMetricFamily(
        "peerage_loaded_memory_bytes", "what each takes, as its trial measured", labels=("name", "version")
    )
    for one in snapshot.loaded:
        info.add_metric((one.name, one.version), {"kind": one.kind, "origin": one.origin})
        memory.add_metric((one.name, one.version), one.memory_bytes)
    yield info
    yield memory
    state = GaugeMetricFamily("peerage_state", "what the index lists", labels=("name", "version", "state"))
    for entry in snapshot.index:
        state.add_metric((entry.name, entry.version, entry.state), 1)
    yield state
    yield GaugeMetricFamily(
        "peerage_memory_budget_bytes", "for all that is loaded together", value=snapshot.memory_budget_bytes
    )


def _others(snapshot: Snapshot) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    yield GaugeMetricFamily("peerage_queue_requests", "in the pool or waiting for it", value=snapshot.queue)
    yield GaugeMetricFamily("peerage_queue_requests_max", "more are refused", value=snapshot.queue_max)
    under_way = GaugeMetricFamily(
        "peerage_requests_under_way", "inferences that have begun and not ended", labels=("protocol",)
    )
    for protocol, count in sorted(snapshot.under_way.items()):
        under_way.add_metric((protocol,), count)
    yield under_way
    refused = CounterMetricFamily("peerage_requests_refused", "answers that were errors, by code", labels=("code",))
    for code, count in sorted(snapshot.refused.items()):
        refused.add_metric((code,), count)
    yield refused
    yield InfoMetricFamily("peerage_build", "the program that runs", value={"version": snapshot.version})
    for extra in snapshot.extras:
        family: Any = (CounterMetricFamily if extra.counts else GaugeMetricFamily)(
            extra.name.removesuffix("_total"), extra.says, labels=extra.labels
        )
        for labels, value in sorted(extra.values.items()):
            family.add_metric(labels, value if math.isfinite(value) else 0.0)
        yield family
