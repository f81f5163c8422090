"""What this peer has in memory, and how a model or pipeline gets in, answers, and gets out.

Owns the table of what is loaded, swaps, and the one memory budget. Takes verified releases only. Refuses to load what
its trial refused and what needs more memory than the budget leaves.

Rules:
- A load is: trial in a child process (or its remembered verdict) → budget → build in a thread → the release's own test
  vectors → replace one reference → drop the old → give freed memory back. Until the reference is replaced the old
  version answers; a load that fails changes nothing. Loads come one at a time.
- A call in flight keeps what it began with.
- What a release's files say is checked at every trial and load; ``check_functions`` knows the functions of this
  program, which a release's own may call, beside those of the releases that it needs. These must be in memory before
  it; a trial asks nothing of memory, so that what is needed may come later.
- Equal graphs share one session and count once in the budget.
- Neither numpy nor onnxruntime is imported before the first load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from engine.budget import making_room
from engine.building import Builder
from engine.contents import Contents, contents_of
from engine.deployments import graph_of, graphs_of
from engine.engine_settings import EngineSettings
from engine.errors import ModelNotLoaded, NotAModel
from engine.exceeded import Exceeded, together
from engine.index import Index
from engine.lanes import Lane
from engine.neighbours import CheckFunctions, any_functions, check_beside, needed_models
from engine.returning import FreedMemory
from engine.scheduling import Scheduler
from engine.servables import IndexEntry, Origin, Recorder, Servable
from engine.statistics import ModelStatistics
from engine.trials import Description, Trials, Verdict, require_verified
from federation.documents import ReleaseRecord
from federation.verification import VerifiedRelease
from query.errors import nearest

if TYPE_CHECKING:
    from engine.demand import Demand, Find
    from engine.loaded import LoadedModel
    from engine.providers import Choice
    from engine.servables import AwaitedServable
    from engine.signature import Array
    from engine.streams import StreamCall, Streams

__all__ = ["Description", "Engine", "EngineSettings", "Listener", "Verdict"]

log = logging.getLogger("peerage.models")

Listener = Callable[[str, "Servable | None"], None]


NOT_LOADED: Final = "models:loaded() lists what is; //peer: EDGE above the statement asks another peer"


class Engine:
    """Used from one event loop; :meth:`call` from any thread.

    ``clock`` gives the seconds that ``since`` shows. ``check_functions`` raises :class:`~engine.errors.BadFunctions`
    for functions that could not be called here; it runs in a thread. ``record`` is told of every inference of a
    pipeline, which names ``partition`` as where it happened.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        check_functions: CheckFunctions = any_functions,
        record: Recorder | None = None,
        partition: str = "",
    ) -> None:
        self.settings = settings or EngineSettings()
        self._check_functions = check_functions
        self._servables: dict[str, Servable] = {}
        self._listeners: list[Listener] = []
        self._load_turn = asyncio.Lock()
        self._trials = Trials(self.settings, check_functions=check_functions, require_budget=self._require_budget)
        self._scheduler = Scheduler(self.settings)
        self._builder = Builder(
            self.settings, clock=clock, scheduler=self._scheduler, record=record, partition=partition
        )
        self._building = Lane(1, name="building")  # one thread, as libc keeps some memory for each that asked for it
        self._index = Index()
        self._freed = FreedMemory()
        self._demand: Demand | None = None

    @property
    def runtime_version(self) -> str:
        """What verdicts hold for: the runtime, which is not imported, and this program, whose rules refuse too."""
        return self._trials.runtime_version

    async def trial(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Verdict:
        """Tries a release in a child process. Raises nothing but on cancellation: the verdict says what was wrong.

        ``beside`` as for :meth:`check`.
        """
        return await self._trials.trial(release, beside=beside)

    async def check(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Contents:
        """What a release's files say, without running it. Raises a ``ContentProblem``.

        ``beside``: the releases that it needs, whose functions its own may call. Without them the functions of a
        release that needs others are not looked at before it is loaded.
        """
        return await self._trials.check(release, beside=beside)

    async def describe(self, graph: bytes) -> Description:
        """The signature and operator sets of an ONNX file, read in a child process.

        Raises what :mod:`engine.errors` lists for content and for what may pass.
        """
        return await self._trials.describe(graph)

    async def load(self, release: VerifiedRelease, *, origin: Origin, verdict: Verdict | None = None) -> Servable:
        """Puts a release into memory in place of the version that is there.

        A ``verdict`` that holds for this record and runtime saves the trial. Raises a ``ContentProblem`` or a
        ``PassingProblem``; then what was loaded before is still there and answers.
        """
        require_verified(release)
        record = release.record
        with self._index.loading(record):
            async with self._load_turn:
                there = self._servables.get(record.name)
                if there is not None and origin == "demand":
                    return there
                servable = await self._loaded(release, origin=origin, verdict=verdict)
                replaced = self._servables.get(servable.name)
                self._servables = {**self._servables, servable.name: servable}
        self._freed.loaded()
        if replaced is not None:
            self._leave(replaced)
        self._tell(servable.name, servable)
        return servable

    def unload(self, name: str) -> Servable:
        """Takes a model or pipeline out; calls in flight end on it. Raises :class:`ModelNotLoaded`."""
        servable = self.find(name)
        self._servables = {known: kept for known, kept in self._servables.items() if known != name}
        self._leave(servable)
        self._index.forget(name)
        self._builder.forget(name)
        self._tell(name, None)
        return servable

    def load_on_demand(self, find: Find) -> None:
        """From now on :meth:`wanted` loads what ``find`` finds for it, and before that what it needs."""
        from engine.demand import Demand

        async def load(release: VerifiedRelease) -> Servable:
            for name in release.record.needs.releases:
                if name not in self._servables:
                    await demand.loaded(name, None)
            return await self.load(release, origin="demand")

        self._demand = demand = Demand(find, load)

    async def wanted(self, name: str, version: str | None = None) -> Servable:
        """What a request asks for: what is loaded, and where the device's owner lets requests load, what is installed.

        Raises :class:`ModelNotLoaded`, also for another version than the one that is loaded; why it cannot be loaded;
        and ``ModelLoading`` or ``EngineBusy`` when it takes long.
        """
        servable = self._servables.get(name)
        if servable is None and self._demand is not None:
            servable = await self._demand.loaded(name, version)
        if servable is None:
            servable = self.find(name)
        if version is not None and version != servable.version:
            raise ModelNotLoaded(f"{name}@{version} is not loaded here, {servable.label} is")
        return servable

    def loaded(self) -> tuple[Servable, ...]:
        """In the order in which their names were first loaded."""
        return tuple(self._servables.values())

    def find(self, name: str) -> Servable:
        """Raises :class:`ModelNotLoaded`, with the nearest name that is loaded."""
        servable = self._servables.get(name)
        if servable is None:
            close = nearest(name, self._servables)
            tail = f' — did you mean "{close}"?' if close else ""
            raise ModelNotLoaded(f'no model "{name}" is loaded here{tail}', hint=NOT_LOADED)
        return servable

    def find_model(self, name: str) -> LoadedModel:
        """Raises :class:`ModelNotLoaded`, and :class:`NotAModel` for a pipeline."""
        servable = self.find(name)
        from engine.loaded import LoadedModel  # no sooner: it brings numpy

        if not isinstance(servable, LoadedModel):
            raise NotAModel(f"{servable.label} is a pipeline, expected a model")
        return servable

    def index(self) -> tuple[IndexEntry, ...]:
        """What is in memory, on its way there or out, and what could not be loaded and why."""
        return self._index.entries(self._servables.values())

    @property
    def failed_loads(self) -> int:
        """How many loads failed since this peer began."""
        return self._index.failures

    def statistics(self, name: str, version: str | None = None) -> ModelStatistics:
        """What a loaded model or pipeline answered. Raises :class:`ModelNotLoaded`, also for another version."""
        servable = self.find(name)
        if version is not None and version != servable.version:
            raise ModelNotLoaded(f"{name}@{version} is not loaded here, {servable.label} is")
        return servable.counters.read()

    def waiting(self) -> int:
        """Runs in the pool and waiting for it, of ``queue_max``."""
        return self._scheduler.held

    def all_statistics(self) -> tuple[ModelStatistics, ...]:
        """Everything that is counted: what is loaded, what was, and the steps of pipelines."""
        return tuple(counters.read() for counters in self._builder.statistics.all())

    def exceeded(self, name: str) -> tuple[Exceeded, ...]:
        """The limits that a loaded model, or a pipeline and its models, ran into since the version is known here."""
        return self.all_exceeded().get(self.find(name), ())

    def all_exceeded(self) -> dict[Servable, tuple[Exceeded, ...]]:
        """:meth:`exceeded` of everything loaded that ran into one."""
        told = [(one.key, one.exceeded()) for one in self._builder.statistics.all() if one.exceeded()]
        found = {
            servable: together(
                limits
                for key, limits in told
                if key.step == servable.label or (key.name, key.version) == (servable.name, servable.version)
            )
            for servable in (self.loaded() if told else ())
        }
        return {servable: limits for servable, limits in found.items() if limits}

    def call(self, name: str, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a model on ready arrays, on this thread. Raises ``ModelNotLoaded`` and what a call raises."""
        servable = self._servables.get(name)
        if servable is None:
            servable = self.find(name)
        return servable.call(feed)

    def runs_inline(self, servable: Servable, feed: Mapping[str, Array]) -> bool:
        """Whether ``servable.run(feed)`` is quick enough for the event loop; who sees to it saves the way of
        :meth:`run`.
        """
        return servable.runs_inline(feed)

    async def run(
        self,
        servable: Servable,
        feed: dict[str, Array],
        *,
        deadline_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> dict[str, Array]:
        """Runs a checked feed: here when that is quick, else in the pool, with others where that pays.

        Raises what a run raises, :class:`EngineBusy` when too many calls wait, and ``OverTime`` after ``deadline_s``.
        ``stream``: where a stateful model goes on (:mod:`engine.streams`).
        """
        if stream is None and servable.runs_inline(feed):
            return servable.run(feed)
        from engine.loaded import LoadedModel

        if isinstance(servable, LoadedModel):
            return await self._scheduler.run(servable, feed, deadline_s=deadline_s, stream=stream)
        awaited: AwaitedServable = servable  # type: ignore[assignment]
        return await awaited.answer(feed, deadline_s=deadline_s, stream=stream)

    async def infer(self, name: str, value: Any, *, stream: StreamCall | None = None) -> dict[str, Array]:
        """Runs a model or pipeline on a value of the language: here when that is quick, else in the pool.

        Raises as :meth:`call`, and :class:`EngineBusy` when too many calls wait.
        """
        servable = await self.wanted(name)
        from engine.loaded import is_small  # no sooner: it brings numpy

        if is_small(value):
            feed = servable.feed_of(value)
        else:
            feed = await self._scheduler.offload(lambda: servable.feed_of(value), counters=servable.counters)
        return await self.run(servable, feed, stream=stream)

    def providers(self) -> Choice:
        """The execution providers that models run on, of those that the settings want."""
        return self._builder.providers()

    def streams(self) -> Streams:
        """The streams that are open on stateful models."""
        return self._builder.streams()

    def open_streams(self) -> tuple[int, int]:
        """How many streams are open, and the bytes of their states."""
        return self._builder.open_streams()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """``listener(name, servable)`` after each swap, ``(name, None)`` after an unload. Returns its removal."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def close(self, *, wait: bool = False) -> None:
        """Ends threads; runs in flight end at their deadline, for which ``wait`` waits."""
        if self._demand is not None:
            self._demand.close()
        self._building.close(wait=wait)
        self._scheduler.close(wait=wait)
        self._builder.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _loaded(self, release: VerifiedRelease, *, origin: Origin, verdict: Verdict | None) -> Servable:
        needed = needed_models(release.record, self._servables)
        contents = await asyncio.to_thread(contents_of, release)
        await asyncio.to_thread(check_beside, release.record, contents.functions, needed, self._check_functions)
        accepted = await self._trials.accepted(release, contents, verdict)
        graphs = graphs_of(release, accepted)
        for name in making_room(release.record, graphs, self._servables.values(), self.settings.memory_budget_bytes):
            log.info("made_room", extra={"model": self.unload(name).label, "for": release.label})
        made: list[Servable] = []  # as a thread's result it would be held a while longer, by the thread and by the loop
        await asyncio.wrap_future(  # named, it and its error would hold each other, and with them what is loaded
            self._building.submit(
                release.record.name,
                lambda: made.append(self._builder.built(release, contents, accepted, origin=origin)),
            )
        )
        return made.pop()

    def _require_budget(self, record: ReleaseRecord, needed: int) -> None:
        """Raises ``OverMemory`` for what could not be loaded, whoever made room."""
        graphs = {graph_of(record) or record.manifest: needed}
        making_room(record, graphs, self._servables.values(), self.settings.memory_budget_bytes)

    def _leave(self, servable: Servable) -> None:
        self._index.leaving(servable)
        self._freed.watch(servable)

    def _tell(self, name: str, servable: Servable | None) -> None:
        for listener in tuple(self._listeners):
            listener(name, servable)
