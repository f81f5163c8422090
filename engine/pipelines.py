"""A pipeline in memory: its models, its steps and its conditions, as one thing that answers.

Owns :class:`LoadedPipeline` and building one from a verified release. Like a model it is immutable, callable from any
thread, and kept alive by whoever is calling it, so a swap fails no request and mixes no versions. numpy is imported
with this module, so only the engine imports it, at the first load.

Rules: what a client sends is checked once, against the release's own inputs. A request takes the steps in order
(:mod:`engine.pipeline_steps`); then the conditions say for each row whether something is anomalous. A condition that
gives no answer for a row is no anomaly, is counted, and is named in ``dropped`` as ``anomaly.<name>``; so is a
challenger that failed, as ``out_<name>``. Every inference is told to the recorder before it is answered.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from engine.contents import Contents
from engine.errors import InputProblem
from engine.inferences import Inference
from engine.passages import Awaiting, OnTheSpot, Passage, Running, at_once
from engine.pipeline_making import Failures, StepMaking, inline_rows
from engine.pipeline_reading import read_pipeline
from engine.pipeline_rows import columns_of_rows
from engine.pipeline_steps import DrawOne, Member, ModelTaken, TakenStep, fields_of_record
from engine.pipeline_validations import Validations
from engine.providers import Provider
from engine.signature import Array, Signature
from federation.documents import ReleaseRecord
from federation.names import Digest
from federation.pipeline_schemas import PipelineSchema
from federation.pipelines import PipelineDefinition
from federation.verification import VerifiedRelease

if TYPE_CHECKING:
    from engine.loaded import LoadedModel
    from engine.servables import Origin, Recorder, Runner
    from engine.statistics import Counters
    from engine.streams import StreamCall

NONE: Final[Mapping[str, Any]] = {}
NOTHING: Final = Contents(None, (), (), (), {})


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedPipeline:
    """``members``: its models by the digest of their record. ``failures``: what was left out of its answers.

    ``only``: the model that is the whole of it, where one is. ``stateful``: whether a model of it goes along streams.
    ``inline_rows``: up to so many rows a request is expected to be quick enough for the event loop.
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
    counters: Counters
    definition: PipelineDefinition
    schema: PipelineSchema
    members: Mapping[Digest, LoadedModel]
    steps: tuple[TakenStep, ...]
    only: Member | None
    stateful: bool
    validations: Validations | None
    failures: Failures
    inline_rows: int
    row_elements: int
    partition: str
    on_the_spot: OnTheSpot
    awaiting: Awaiting
    recorder: Recorder | None
    now_ms: Callable[[], int]

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
        """The execution providers that its models run on."""
        return tuple(dict.fromkeys(provider for member in self.members.values() for provider in member.providers))

    def columns_of(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
        """Records of plain values as columns. Raises ``InputProblem``, naming row and field, and ``LimitExceeded``."""
        return columns_of_rows(self.signature, rows)

    async def infer(
        self,
        columns: Mapping[str, Array],
        *,
        parsed_ns: int = 0,
        deadline_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> Inference:
        """One request, waiting where a step takes long. ``parsed_ns``: what reading the request took.

        Raises ``InputProblem`` for columns that do not fit, what a run of a model raises, ``EngineBusy``, and
        ``OverTime`` after ``deadline_s``.
        """
        feed = self.signature.checked(columns)
        if not self.runs_inline(feed):
            return await self._inferred(feed, self.awaiting, parsed_ns=parsed_ns, deadline_s=deadline_s, stream=stream)
        if self.only is not None and stream is None:
            return self._straight(feed, self.only, parsed_ns=parsed_ns, deadline_s=deadline_s)
        return await self._inferred(feed, self.on_the_spot, parsed_ns=parsed_ns, deadline_s=deadline_s, stream=stream)

    def call(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by input name in, arrays by output name out, on this thread. Raises as :meth:`infer`."""
        return self.run(self.signature.checked(feed))

    def run(self, feed: dict[str, Array]) -> dict[str, Array]:
        """:meth:`call` for a feed that the signature has checked."""
        if self.only is not None:
            return dict(self._straight(feed, self.only).outputs)
        return dict(at_once(self._inferred(feed, self.on_the_spot)).outputs)

    async def answer(
        self, feed: dict[str, Array], *, deadline_s: float | None = None, stream: StreamCall | None = None
    ) -> dict[str, Array]:
        """:meth:`run`, waiting where a step takes long."""
        running: Running = self.on_the_spot if self.runs_inline(feed) else self.awaiting
        return dict((await self._inferred(feed, running, deadline_s=deadline_s, stream=stream)).outputs)

    def feed_of(self, value: Any) -> dict[str, Array]:
        """The checked feed that a value of the language stands for. Raises ``InputProblem``, ``LimitExceeded``."""
        return self.signature.checked(self.signature.arrays(value))

    def runs_inline(self, feed: Mapping[str, Array]) -> bool:
        """Whether :meth:`run` on this checked feed is expected to be quick enough for the event loop."""
        rows = 0
        elements = 0
        for column in feed.values():
            rows = column.shape[0]
            elements += column.size
        return rows <= self.inline_rows and elements <= self.inline_rows * self.row_elements

    def require_vectors(self) -> int:
        """Answers the test vectors of its models again; their number."""
        return sum(model.require_vectors() for model in self.members.values())

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _inferred(
        self,
        feed: dict[str, Array],
        running: Running,
        *,
        parsed_ns: int = 0,
        deadline_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> Inference:
        started_ns = monotonic_ns()
        deadline_ns = None if deadline_s is None else started_ns + int(deadline_s * 1e9)
        if stream is not None and not self.stateful:
            raise InputProblem(f"{self.label} carries nothing from call to call: it takes no stream")
        passage = Passage(self._count(feed), feed, feed, deadline_ns, stream)
        elapsed = passage.elapsed_ns
        elapsed.append(parsed_ns)
        try:
            before_ns = started_ns
            for step in self.steps:
                await step.take(passage, running)
                after_ns = monotonic_ns()
                elapsed.append(after_ns - before_ns)
                before_ns = after_ns
            anomalies: Mapping[str, Array] = {}
            outputs = fields_of_record(passage)
            if self.validations is not None:
                anomalies = await self.validations.flags(passage, outputs, running)
        except BaseException:
            passage.put_back()
            self.counters.failed(monotonic_ns() - started_ns)
            raise
        inference = Inference(
            self.record.name,
            self.record.version,
            self.partition,
            self.now_ms(),
            passage.count,
            feed,
            outputs,
            passage.challengers,
            anomalies,
            passage.models,
            passage.answered,
            tuple(elapsed),
            tuple(passage.dropped),
        )
        self.counters.ran(passage.count, started_ns, monotonic_ns())
        if self.recorder is not None:
            self.recorder(inference, self.definition.deployment.log)
        return inference

    def _straight(
        self, feed: dict[str, Array], only: Member, *, parsed_ns: int = 0, deadline_s: float | None = None
    ) -> Inference:
        """The same, where one model is all there is, without anything between it and the request."""
        started_ns = monotonic_ns()
        count = self._count(feed)
        try:
            outputs = only.model.run(feed, limit_s=deadline_s)
            only.check_rows(outputs, count)
        except BaseException:
            self.counters.failed(monotonic_ns() - started_ns)
            raise
        ended_ns = monotonic_ns()
        inference = Inference(
            self.record.name,
            self.record.version,
            self.partition,
            self.now_ms(),
            count,
            feed,
            outputs,
            NONE,
            NONE,
            (only.answering,),
            None,
            (parsed_ns, ended_ns - started_ns),
        )
        self.counters.ran(count, started_ns, ended_ns)
        if self.recorder is not None:
            self.recorder(inference, self.definition.deployment.log)
        return inference

    def _count(self, feed: dict[str, Array]) -> int:
        count = -1
        for name, column in feed.items():
            if count < 0:
                count, first = len(column), name
            elif len(column) != count:
                raise InputProblem(
                    f'input "{name}": expected {count} rows as in "{first}", found {len(column)}',
                    hint="every input has one entry for each row",
                )
        return count


def device_ms() -> int:
    """Milliseconds since the epoch on this device's clock."""
    return time.time_ns() // 1_000_000


def build(
    release: VerifiedRelease,
    members: Mapping[Digest, LoadedModel],
    *,
    origin: Origin,
    since: int,
    counters: Callable[[str], Counters],
    runner: Runner,
    record: Recorder | None,
    partition: str,
    inline_us: float,
    elements_max: int,
    draw: DrawOne | None = None,
    now_ms: Callable[[], int] = device_ms,
) -> LoadedPipeline:
    """The pipeline of a release, whose models are built. ``counters``: of each step by its label, "" for the whole.

    Raises :class:`~engine.errors.BadPipelineRelease` for one whose steps do not fit, or not what was signed.
    """
    definition, schema = read_pipeline(release, {digest: model.record for digest, model in members.items()})
    limit_s = min((model.deadlines.limit_s for model in members.values()), default=60.0)
    failures = Failures()
    making = StepMaking(definition, members, counters, failures, draw or random.SystemRandom().random)
    steps = tuple(making.step(number, step) for number, step in enumerate(schema.steps))
    validations = None
    if schema.validations:
        row_us = sum(making.pace.row_us(condition) for _, condition in schema.validations)
        validations = Validations(schema, row_us=row_us, counters=counters("validations"), failed=failures.add)
    row_elements = sum(math.prod(max(size, 1) for size in spec.shape[1:]) for spec in schema.signature.inputs)
    expression_us = making.expression_us + (validations.row_us if validations else 0.0)
    memory: dict[Digest, int] = {}
    for model in members.values():
        memory.update(model.memory)
    return LoadedPipeline(
        record=release.record,
        record_digest=release.record_digest,
        signer=release.signer,
        origin=origin,
        since=since,
        memory_bytes=sum(memory.values()),
        memory=memory,
        contents=NOTHING,
        signature=Signature(release.record.inputs, elements_max=elements_max),
        counters=counters(""),
        definition=definition,
        schema=schema,
        members=dict(members),
        steps=steps,
        stateful=any(model.record.states for model in members.values()),
        only=_only(steps) if validations is None else None,
        validations=validations,
        failures=failures,
        inline_rows=inline_rows(making.groups, expression_us, inline_us),
        row_elements=max(row_elements, 1),
        partition=partition,
        on_the_spot=OnTheSpot(limit_s),
        awaiting=Awaiting(runner, limit_s, inline_us),
        recorder=record,
        now_ms=now_ms,
    )


def _only(steps: Sequence[TakenStep]) -> Member | None:
    """The model of a pipeline that is one step, which takes all rows at once and carries nothing on."""
    if len(steps) == 1 and isinstance(steps[0], ModelTaken):
        member = steps[0].member
        return member if member.rows.way == "batch" and not member.rows.scope else None
    return None
