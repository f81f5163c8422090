"""What this peer has in memory, and how a model gets in, answers, and gets out.

Owns the table of loaded models, trials, swaps, and the choice between the event loop and a pool for each call. Takes
verified releases only. Refuses to load what its trial refused, what needs more memory than the budget leaves, and
more calls at once than its pool may queue.

Rules:
- A load is: trial in a child process (or its remembered verdict) → budget → build in a thread → the release's own test
  vectors → replace one reference → drop the old → give freed memory back. Until the reference is replaced the old
  version answers; a load that fails changes nothing. Loads come one at a time.
- A call in flight keeps the model that it began with.
- What a release's files say is checked at every trial and load; ``check_functions`` knows the functions of this
  program, which a release's own may call, beside those of the releases that it needs. These must be in memory before
  it; a trial asks nothing of memory, so that what is needed may come later.
- A verdict on content holds for a record digest and the versions of runtime and program; one that may pass holds for
  nothing.
- Neither numpy nor onnxruntime is imported before the first load.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from engine.contents import Contents, contents_of
from engine.errors import ContentProblem, EngineBusy, ModelNotLoaded, OverMemory
from engine.neighbours import CheckFunctions, any_functions, check_beside, needed_models
from engine.runtime import program_version, runtime_version
from federation.documents import ReleaseRecord, TensorSpec
from federation.names import Digest
from federation.verification import VerifiedRelease
from query.errors import ErrorRecord, Problem, nearest

if TYPE_CHECKING:
    from engine.deadlines import RunDeadlines
    from engine.loaded import LoadedModel, Origin
    from engine.signature import Array

Listener = Callable[[str, "LoadedModel | None"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Each is a trade-off of the device's owner.

    ``memory_budget_bytes``: for all models together, by what their trials measured; a trial gets the whole of it.
    ``trial_cpu_s``, ``trial_wall_s``: a slow device needs more; an endless model costs them at every try.
    ``run_s``: the longest answer; an overdue run is ended between two operators.
    ``inline_us``: calls expected to be faster run on the event loop, where they hold up everything else as long;
    slower ones pay about 100 µs for the way through the pool.
    ``queue_max``: calls waiting for the pool; more are refused at once.
    """

    memory_budget_bytes: int = 2 * 1024**3
    trial_cpu_s: int = 60
    trial_wall_s: float = 120.0
    run_s: float = 10.0
    inline_us: float = 150.0
    threads: int = 0  # 0: one per core
    queue_max: int = 64
    elements_max: int = 16 * 1024 * 1024


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a trial ended. ``record`` and ``runtime`` say what it holds for; ``error`` is None when accepted.

    ``passing``: the refusal is of memory, time or the trial itself; it is not to be remembered but tried again.
    """

    record: Digest
    runtime: str
    error: ErrorRecord | None = None
    passing: bool = False
    peak_bytes: int = 0
    load_ms: float = 0.0
    p99_us: float = 0.0
    vectors: int = 0

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


class Engine:
    """Used from one event loop; :meth:`call` from any thread.

    ``clock`` gives the seconds that ``since`` shows. ``check_functions`` raises :class:`~engine.errors.BadFunctions`
    for functions that could not be called here; it runs in a thread.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        check_functions: CheckFunctions = any_functions,
    ) -> None:
        self.settings = settings or EngineSettings()
        self._clock = clock
        self._check_functions = check_functions
        self._models: dict[str, LoadedModel] = {}
        self._listeners: list[Listener] = []
        self._trial_turn = asyncio.Lock()
        self._load_turn = asyncio.Lock()
        self._deadlines: RunDeadlines | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._places = threading.BoundedSemaphore(self.settings.queue_max)

    @property
    def runtime_version(self) -> str:
        """What verdicts hold for: the runtime, which is not imported, and this program, whose rules refuse too."""
        return f"{runtime_version()}, peerage {program_version()}"

    async def trial(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Verdict:
        """Tries a release in a child process. Raises nothing but on cancellation: the verdict says what was wrong.

        ``beside`` as for :meth:`check`.
        """
        try:
            contents = await self.check(release, beside=beside)
        except ContentProblem as problem:
            return Verdict(record=release.record_digest, runtime=self.runtime_version, error=problem.record())
        return await self._trial(release, contents)

    async def check(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Contents:
        """What a release's files say, without running it. Raises a ``ContentProblem``.

        ``beside``: the releases that it needs, whose functions its own may call. Without them the functions of a
        release that needs others are not looked at before it is loaded.
        """
        _require_verified(release)
        return await asyncio.to_thread(self._checked, release, beside)

    async def describe(self, graph: bytes) -> Description:
        """The signature and operator sets of an ONNX file, read in a child process.

        Raises what :mod:`engine.errors` lists for content and for what may pass.
        """
        from engine.confinement import confined
        from engine.trial import Task

        task = Task(record=None, model_size=len(graph), **self._limits())
        async with self._trial_turn:
            answer = await confined(task, graph, (), wall_s=self.settings.trial_wall_s)
        if answer.error is not None:
            raise Problem.from_record(answer.error)
        return Description(answer.inputs, answer.outputs, answer.opset)

    async def load(self, release: VerifiedRelease, *, origin: Origin, verdict: Verdict | None = None) -> LoadedModel:
        """Puts a release into memory in place of the version that is there.

        A ``verdict`` that holds for this record and runtime saves the trial. Raises a ``ContentProblem`` or a
        ``PassingProblem``; then what was loaded before is still there and answers.
        """
        async with self._load_turn:
            _require_verified(release)
            needed = needed_models(release.record, self._models)
            contents = await asyncio.to_thread(contents_of, release)
            await asyncio.to_thread(check_beside, release.record, contents.functions, needed, self._check_functions)
            if verdict is None or not verdict.holds_for(release.record_digest, self.runtime_version):
                verdict = await self._trial(release, contents)
            problem = verdict.problem()
            if problem is not None:
                raise problem
            self._require_budget(release.record, verdict.peak_bytes)
            model = await asyncio.to_thread(
                self._build, release, contents, origin=origin, memory_bytes=verdict.peak_bytes
            )
            replaced = self._models.get(model.name)
            self._models = {**self._models, model.name: model}
        self._tell(model.name, model)
        if replaced is not None:
            del replaced
            _trim()
        return model

    def unload(self, name: str) -> LoadedModel:
        """Takes a model out; calls in flight end on it. Raises :class:`ModelNotLoaded`."""
        model = self.find(name)
        self._models = {known: kept for known, kept in self._models.items() if known != name}
        self._tell(name, None)
        _trim()
        return model

    def loaded(self) -> tuple[LoadedModel, ...]:
        """In the order in which their names were first loaded."""
        return tuple(self._models.values())

    def find(self, name: str) -> LoadedModel:
        """Raises :class:`ModelNotLoaded`, with the nearest name that is loaded."""
        model = self._models.get(name)
        if model is None:
            close = nearest(name, self._models)
            tail = f' — did you mean "{close}"?' if close else ""
            raise ModelNotLoaded(f'no model "{name}" is loaded here{tail}', hint="models:loaded() lists what is")
        return model

    def call(self, name: str, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a model on ready arrays, on this thread. Raises ``ModelNotLoaded`` and what a call raises."""
        model = self._models.get(name)
        if model is None:
            model = self.find(name)
        return model.call(feed)

    async def infer(self, name: str, value: Any) -> dict[str, Array]:
        """Runs a model on a value of the language: here when that is quick, else in the pool.

        Raises as :meth:`call`, and :class:`EngineBusy` when too many calls wait.
        """
        model = self.find(name)
        from engine.loaded import is_small  # no sooner: it brings numpy

        if not is_small(value):
            return await self._offloaded(model, lambda: model.feed_of(value))
        feed = model.feed_of(value)
        if model.expected_us(feed) <= self.settings.inline_us:
            return model.run(feed)
        return await self._offloaded(model, lambda: feed)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """``listener(name, model)`` after each swap, ``(name, None)`` after an unload. Returns its removal."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def close(self) -> None:
        """Ends threads; runs in flight end at their deadline."""
        if self._deadlines is not None:
            self._deadlines.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _limits(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "memory_bytes": settings.memory_budget_bytes,
            "cpu_s": settings.trial_cpu_s,
            "run_s": settings.run_s,
        }

    def _checked(self, release: VerifiedRelease, beside: Sequence[VerifiedRelease] | None) -> Contents:
        contents = contents_of(release)
        if beside is not None or not release.record.needs.releases:
            others = [function for other in beside or () for function in contents_of(other).functions]
            self._check_functions(contents.functions, others)
        return contents

    async def _trial(self, release: VerifiedRelease, contents: Contents) -> Verdict:
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
            async with self._trial_turn:
                answer = await confined(task, contents.graph, contents.vector_files, wall_s=self.settings.trial_wall_s)
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

    def _require_budget(self, record: ReleaseRecord, needed: int) -> None:
        """The version that is to be replaced counts too: both are in memory for a moment."""
        present = sum(model.memory_bytes for model in self._models.values())
        budget = self.settings.memory_budget_bytes
        if present + needed > budget:
            raise OverMemory(
                f"{record.label} needs {needed} bytes of memory and {present} are in use, of a budget of {budget}"
            )

    def _build(self, release: VerifiedRelease, contents: Contents, *, origin: Origin, memory_bytes: int) -> LoadedModel:
        from engine.deadlines import RunDeadlines
        from engine.loaded import build

        if self._deadlines is None:
            self._deadlines = RunDeadlines(self.settings.run_s)
        return build(
            release.record,
            release.record_digest,
            contents,
            signer=release.signer,
            origin=origin,
            since=int(self._clock()),
            memory_bytes=memory_bytes,
            deadlines=self._deadlines,
            elements_max=self.settings.elements_max,
        )

    async def _offloaded(self, model: LoadedModel, feed: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """In a thread. When nobody waits any more, a run that has begun is ended and one that has not never begins."""
        if self._pool is None:
            threads = self.settings.threads or os.cpu_count() or 1
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        if not self._places.acquire(blocking=False):
            raise EngineBusy(f"expected at most {self.settings.queue_max} calls at once that take long, found more")
        begun: list[Any] = []
        future = self._pool.submit(lambda: model.run(feed(), begun.append))
        future.add_done_callback(lambda _: self._places.release())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            for options in begun:
                model.deadlines.abort(options)
            raise

    def _tell(self, name: str, model: LoadedModel | None) -> None:
        for listener in tuple(self._listeners):
            listener(name, model)


def _require_verified(release: VerifiedRelease) -> None:
    if not isinstance(release, VerifiedRelease):
        raise TypeError(f"expected a VerifiedRelease, found {type(release).__name__}")


def _trim() -> None:
    """Gives memory that a dropped model freed back to the system, where libc can: it would keep most of it."""
    import ctypes

    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
