"""Trials of releases in child processes: what each found, and which verdicts still hold.

Owns the verdict, the turn of trials (one at a time), and the memory of the latest ``VERDICTS_KEPT_MAX`` that accepted a
release, so that what was in memory before comes back without another child. Refuses before a trial what no budget
could hold.

A pipeline is tried model by model, each as the release that it is; its verdict is the first refusal, or the sums.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from engine.contents import Contents, contents_of
from engine.engine_settings import EngineSettings
from engine.errors import ContentProblem, OverMemory
from engine.neighbours import CheckFunctions
from engine.pipeline_reading import read_pipeline
from engine.runtime import program_version, runtime_version
from federation.documents import ReleaseRecord, TensorSpec
from federation.names import Digest
from federation.verification import VerifiedRelease
from query.errors import ErrorRecord, Problem

VERDICTS_KEPT_MAX: Final = 256


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a trial ended. ``record`` and ``runtime`` say what it holds for; ``error`` is None when accepted.

    ``passing``: the refusal is of memory, time or the trial itself; it is not to be remembered but tried again.
    ``members``: of the models of a pipeline, in the release's order; the pipeline's own numbers are their sums.
    """

    record: Digest
    runtime: str
    error: ErrorRecord | None = None
    passing: bool = False
    peak_bytes: int = 0
    load_ms: float = 0.0
    p99_us: float = 0.0
    vectors: int = 0
    members: tuple[Verdict, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.error is None

    def holds_for(self, record: Digest, runtime: str) -> bool:
        """Whether it still says something of this record under this runtime."""
        return not self.passing and (self.record, self.runtime) == (record, runtime)

    def problem(self) -> Problem | None:
        """The refusal, of its own class."""
        return None if self.error is None else Problem.from_record(self.error)


@dataclass(frozen=True, slots=True)
class Description:
    """What a graph says of itself, for who packs a release."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: Mapping[str, int]


class Trials:
    """Used from one event loop. ``require_budget`` raises :class:`OverMemory` for what could not be loaded now."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        check_functions: CheckFunctions,
        require_budget: Callable[[ReleaseRecord, int], None],
    ) -> None:
        self._settings = settings
        self._check_functions = check_functions
        self._require_budget = require_budget
        self._turn = asyncio.Lock()
        self._accepted: OrderedDict[tuple[Digest, str], Verdict] = OrderedDict()

    @property
    def runtime_version(self) -> str:
        """What verdicts hold for: the runtime, which is not imported, and this program, whose rules refuse too."""
        return f"{runtime_version()}, peerage {program_version()}"

    async def trial(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Verdict:
        """See :meth:`engine.engine.Engine.trial`."""
        try:
            contents = await self.check(release, beside=beside)
        except ContentProblem as problem:
            return self._refused(release, problem)
        return await self._tried(release, contents)

    async def check(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Contents:
        """See :meth:`engine.engine.Engine.check`."""
        require_verified(release)
        return await asyncio.to_thread(self._checked, release, beside)

    async def describe(self, graph: bytes) -> Description:
        """See :meth:`engine.engine.Engine.describe`."""
        from engine.confinement import confined
        from engine.trial import Task

        task = Task(record=None, model_size=len(graph), **self._limits())
        async with self._turn:
            answer = await confined(task, graph, (), wall_s=self._settings.trial_wall_s)
        if answer.error is not None:
            raise Problem.from_record(answer.error)
        return Description(answer.inputs, answer.outputs, answer.opset)

    async def accepted(self, release: VerifiedRelease, contents: Contents, verdict: Verdict | None) -> Verdict:
        """A verdict that accepts the release: the one given where it holds, else a remembered one, else a trial's.

        Raises the refusal, of its own class.
        """
        key = release.record_digest, self.runtime_version
        if verdict is None or not verdict.holds_for(*key):
            verdict = self._accepted.get(key)
        if verdict is None:
            verdict = await self._tried(release, contents)
        problem = verdict.problem()
        if problem is not None:
            raise problem
        return verdict

    def _limits(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "memory_bytes": settings.memory_budget_bytes,
            "cpu_s": settings.trial_cpu_s,
            "run_s": settings.run_s,
        }

    def _checked(self, release: VerifiedRelease, beside: Sequence[VerifiedRelease] | None) -> Contents:
        contents = contents_of(release)
        if release.record.kind == "pipeline":
            read_pipeline(release, {member.record_digest: member.record for member in release.members})
        if beside is not None or not release.record.needs.releases:
            others = [function for other in beside or () for function in contents_of(other).functions]
            self._check_functions(contents.functions, others)
        return contents

    async def _tried(self, release: VerifiedRelease, contents: Contents) -> Verdict:
        if release.record.kind == "pipeline":
            verdict = await self._pipeline(release)
        else:
            verdict = await self._model(release, contents)
        if verdict.accepted:
            self._accepted[verdict.record, verdict.runtime] = verdict
            while len(self._accepted) > VERDICTS_KEPT_MAX:
                self._accepted.popitem(last=False)
        return verdict

    async def _pipeline(self, release: VerifiedRelease) -> Verdict:
        found: list[Verdict] = []
        for member in release.members:
            try:
                contents = await asyncio.to_thread(contents_of, member)
            except ContentProblem as problem:
                return self._refused(release, problem)
            key = member.record_digest, self.runtime_version
            verdict = self._accepted.get(key) or await self._tried(member, contents)
            if not verdict.accepted:
                return msgspec.structs.replace(verdict, record=release.record_digest)
            found.append(verdict)
        return Verdict(
            record=release.record_digest,
            runtime=self.runtime_version,
            peak_bytes=sum(one.peak_bytes for one in found),
            load_ms=sum(one.load_ms for one in found),
            p99_us=sum(one.p99_us for one in found),
            vectors=sum(one.vectors for one in found),
            members=tuple(found),
        )

    async def _model(self, release: VerifiedRelease, contents: Contents) -> Verdict:
        from engine.confinement import confined
        from engine.trial import Answer, Task

        record = release.record
        if contents.graph is None:
            return Verdict(record=release.record_digest, runtime=self.runtime_version)
        try:
            self._require_budget(record, max(record.needs.memory_bytes or 0, len(contents.graph)))
        except OverMemory as problem:
            answer = Answer(error=problem.record())
        else:
            task = Task(
                record=record,
                model_size=len(contents.graph),
                vector_sizes=tuple(map(len, contents.vector_files)),
                **self._limits(),
            )
            async with self._turn:
                answer = await confined(task, contents.graph, contents.vector_files, wall_s=self._settings.trial_wall_s)
        return Verdict(
            record=release.record_digest,
            runtime=self.runtime_version,
            error=answer.error,
            passing=answer.error is not None and not isinstance(Problem.from_record(answer.error), ContentProblem),
            peak_bytes=answer.peak_bytes,
            load_ms=answer.load_ms,
            p99_us=answer.p99_us,
            vectors=answer.vectors,
        )

    def _refused(self, release: VerifiedRelease, problem: ContentProblem) -> Verdict:
        return Verdict(record=release.record_digest, runtime=self.runtime_version, error=problem.record())


def require_verified(release: VerifiedRelease) -> None:
    """Raises TypeError for anything that ``verify()`` did not make."""
    if not isinstance(release, VerifiedRelease):
        raise TypeError(f"expected a VerifiedRelease, found {type(release).__name__}")
