"""A model in memory: immutable, callable from any thread, kept alive by whoever is calling it.

Owns building one from a verified release and the strict path of a call. numpy is imported with this module, and
onnxruntime when the first session is built, so only the engine imports it, at the first load.

``call`` is the path that every inference takes: check, run under a deadline, name the outputs. Against a bare
``session.run`` it may cost 5 µs (benchmarks/inference.py), so it makes nothing but two dictionaries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any, Final, TypeAlias

from engine.batching import GAIN_MIN, gain_of
from engine.contents import Contents
from engine.deadlines import RunDeadlines, Started
from engine.deployments import graph_of
from engine.errors import InputProblem, OverMemory, OverTime
from engine.lanes import Lane
from engine.providers import Provider
from engine.servables import Origin
from engine.sessions import GraphSession, require_signature
from engine.signature import VARIABLE, Array, Signature
from engine.stateful import StatefulSession
from engine.statistics import Counters
from engine.streams import StreamCall, Streams
from engine.vectors import Vector, read_vectors
from engine.warming import SLOW, Pace, measured_pace, require_vectors
from federation.documents import ReleaseRecord
from federation.names import Digest
from federation.pipelines import BatchSettings

UNMEASURED: Final = Pace(0.0, 1)
BATCH_MEASURED_S_MAX: Final = 2.0  # of a few runs apart; a model that takes longer is not batched
CONVERTED_INLINE_MAX: Final = 4096  # elements of a nested value that are read into an array on the event loop

OpenSession: TypeAlias = Callable[[Digest, bytes], GraphSession]
"""Gives the session of a graph by its digest and content. Raises what building one raises."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """``memory_bytes``: what the trial measured at its highest, and ``memory`` the same by what holds it (see
    :mod:`engine.deployments`).
    ``contents`` no longer holds the graph's bytes.

    ``rows_input``: an input whose first dimension counts rows, as all inputs' and outputs' do; None when they do not.
    ``inline_elements``: up to so many elements a run is expected to be quick enough for the event loop; -1: never.
    ``batch_rows_max``: up to so many rows of requests that wait may run together; 0: they do not. ``lane``: threads of
    its own, None where it uses everybody's.
    """

    record: ReleaseRecord
    record_digest: Digest
    signer: str
    origin: Origin
    since: int
    memory_bytes: int
    memory: Mapping[Digest, int]
    contents: Contents
    signature: Signature
    session: GraphSession | None
    deadlines: RunDeadlines
    counters: Counters
    streams: Streams
    rows_input: str | None = None
    only_input: str | None = None
    pace: Pace = UNMEASURED
    inline_elements: int = -1
    batch_rows_max: int = 0
    lane: Lane | None = None

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def version(self) -> str:
        return self.record.version

    @property
    def label(self) -> str:
        return self.record.label

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The execution providers that it runs on, the first preferred."""
        return () if self.session is None else self.session.providers

    def call(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by input name in, arrays by output name out.

        Raises ``InputProblem``, ``LimitExceeded``, ``OverTime``, ``OverMemory``, ``ModelFailed``.
        """
        return self.run(self.signature.checked(feed))

    def run(
        self,
        feed: dict[str, Array],
        *,
        begun: Callable[[Started], None] | None = None,
        limit_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> dict[str, Array]:
        """:meth:`call` for a feed that the signature has checked, counted in ``counters``.

        ``begun`` is told what ``deadlines.abort`` ends the run by from elsewhere; ``limit_s`` shortens the time that it
        may take. ``stream``: where a stateful model goes on; without, such a call is a stream of its own.
        """
        session = self.session
        if session is None:
            raise self._without_graph()
        started_ns = monotonic_ns()
        options = self.deadlines.start(started_ns, limit_s)
        if begun is not None:
            begun(self.deadlines.begun(options))
        try:
            outputs = session.run(feed, options) if stream is None else self._advanced(feed, options, stream)
        except BaseException as error:
            taken_ns = monotonic_ns() - started_ns
            self.counters.failed(taken_ns)
            if isinstance(error, OverMemory):
                self.counters.exceed("memory", error.message)
            elif isinstance(error, OverTime) and taken_ns >= self.deadlines.limit_s * 1e9:  # else a caller's own limit
                self.counters.exceed("time", error.message)
            raise
        finally:
            self.deadlines.end(options)
        rows_input = self.rows_input
        self.counters.ran(1 if rows_input is None else feed[rows_input].shape[0], started_ns, monotonic_ns())
        return dict(zip(session.output_names, outputs, strict=True))

    def _advanced(self, feed: dict[str, Array], options: Any, stream: StreamCall) -> list[Array]:
        session = self.session
        if not isinstance(session, StatefulSession):
            raise InputProblem(f"{self.label} carries nothing from call to call: it takes no stream")
        stream.scope = stream.scope or self.name
        return self.streams.run(session, feed, stream, record=self.record_digest, options=options)

    def feed_of(self, value: Any) -> dict[str, Array]:
        """The checked feed that a value of the language stands for. Raises ``InputProblem``, ``LimitExceeded``."""
        if self.session is None:
            raise self._without_graph()
        return self.signature.checked(self.signature.arrays(value))

    def expected_us(self, feed: Mapping[str, Array]) -> float:
        """How long a run on this feed should take, by what was measured when the model was loaded.

        Nothing was learnt by measuring a model that goes round as often, or whose tensors are as large, as values say.
        """
        if self.session is None or not self.session.reading.predictable:
            return SLOW
        return self.pace.expected_us(sum(array.size for array in feed.values()))

    def runs_inline(self, feed: Mapping[str, Array]) -> bool:
        """Whether a run on this checked feed is expected to be quick enough for the event loop."""
        only = self.only_input
        if only is not None:
            return feed[only].size <= self.inline_elements
        return sum(array.size for array in feed.values()) <= self.inline_elements

    def require_vectors(self) -> int:
        """Answers its own test vectors again; their number. Raises :class:`FailedVectors`, and what a run raises."""
        if self.session is None:
            return 0
        vectors = _vectors(self.contents, self.session)
        require_vectors(self.session, self._outputs, vectors, label=self.label)
        return len(vectors)

    def _outputs(self, feed: dict[str, Array]) -> list[Array]:
        """A run that is not counted: nobody asked for it."""
        if self.session is None:
            raise self._without_graph()
        options = self.deadlines.start(monotonic_ns())
        try:
            return self.session.run(feed, options)
        finally:
            self.deadlines.end(options)

    def _without_graph(self) -> InputProblem:
        return InputProblem(f"{self.label} has functions alone and no graph to run: call one of its functions")


def build(
    record: ReleaseRecord,
    record_digest: Digest,
    contents: Contents,
    *,
    signer: str,
    origin: Origin,
    since: int,
    memory: Mapping[Digest, int],
    deadlines: RunDeadlines,
    counters: Counters,
    streams: Streams,
    open_session: OpenSession,
    inline_us: float,
    elements_max: int,
    batch: BatchSettings,
    lane: Lane | None,
) -> LoadedModel:
    """Builds the session, answers the test vectors, measures the pace. Raises a ``ContentProblem`` or
    ``PassingProblem``. Takes as long as the model does, so it is called in a thread.
    """
    session: GraphSession | None = None
    graph = graph_of(record)
    if contents.graph is not None and graph is not None:
        session = open_session(graph, contents.graph)
        if record.states:
            session = StatefulSession(session, record.states)
        require_signature(record, session)
    model = LoadedModel(
        record=record,
        record_digest=record_digest,
        signer=signer,
        origin=origin,
        since=since,
        memory_bytes=sum(memory.values()),
        memory=memory,
        contents=dataclasses.replace(contents, graph=None),
        signature=Signature(record.inputs, elements_max=elements_max),
        session=session,
        deadlines=deadlines,
        counters=counters,
        streams=streams,
        rows_input=_rows_input(record),
        only_input=record.inputs[0].name if len(record.inputs) == 1 else None,
        lane=lane,
    )
    if session is None:
        return model
    vectors = _vectors(contents, session)
    require_vectors(session, model._outputs, vectors, label=model.label)
    run = model._outputs
    pace = measured_pace(session, run, vectors, rows=model.rows_input is not None)
    known = session.reading.predictable and not session.waits  # what a run takes is decided by its input's size
    model = dataclasses.replace(model, pace=pace, inline_elements=pace.elements_within(inline_us) if known else -1)
    if known and model.inline_elements < 0 and model.rows_input is not None and batch.enabled is not False:
        gain = gain_of(run, vectors, run_s_max=BATCH_MEASURED_S_MAX)
        if gain >= GAIN_MIN or (gain and batch.enabled):
            model = dataclasses.replace(model, batch_rows_max=batch.rows_max)
    return model


def _rows_input(record: ReleaseRecord) -> str | None:
    specs = (*record.inputs, *record.outputs)
    if record.inputs and not record.states and all(spec.shape and spec.shape[0] == VARIABLE for spec in specs):
        return record.inputs[0].name
    return None


def is_small(value: Any) -> bool:
    """Whether reading ``value`` into arrays is quick enough for the event loop; looks at a bounded part of it."""
    pending = [value]
    count = 0
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            item = list(item.values())
        if isinstance(item, list | tuple):
            count += len(item)
            if count > CONVERTED_INLINE_MAX:
                return False
            if item and isinstance(item[0], list | tuple | Mapping):
                pending.extend(item)
    return True


def _vectors(contents: Contents, session: GraphSession) -> Sequence[Vector]:
    return [
        vector
        for raw in contents.vector_files
        for vector in read_vectors(raw, inputs=session.inputs, outputs=session.outputs)
    ]
