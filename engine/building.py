"""From a verified release to something that answers: what all that is loaded in one process shares, and its building.

Owns the deadlines, sessions, streams and counters that loaded models have in common. Everything heavy is imported with
the first model. Building takes as long as a model does, so it happens in a thread, one at a time.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from engine.contents import Contents, contents_of
from engine.deployments import deployment_of, graph_of, held, require_memory
from engine.engine_settings import EngineSettings
from engine.lanes import Lane
from engine.providers import CPU, CPU_ALONE, Choice, Provider, SessionSettings
from engine.runtime import runtime_version
from engine.scheduling import Scheduler
from engine.servables import Origin, Recorder, Servable
from engine.statistics import Statistics
from engine.trials import Verdict
from federation.names import Digest
from federation.pipelines import BatchSettings, Deployment
from federation.verification import VerifiedRelease

if TYPE_CHECKING:
    from engine.deadlines import RunDeadlines
    from engine.loaded import LoadedModel, OpenSession
    from engine.replicas import ReplicaSet
    from engine.session_sharing import Sessions
    from engine.sessions import GraphSession
    from engine.streams import Streams

log = logging.getLogger("peerage.engine")

BATCH_WHERE_IT_PAYS: Final = BatchSettings()


class Builder:
    """``record`` and ``partition`` are of pipelines, as :class:`engine.engine.Engine` has them; ``scheduler``
    runs their models.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        clock: Callable[[], float],
        scheduler: Scheduler,
        record: Recorder | None,
        partition: str,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._scheduler = scheduler
        self._record = record
        self._partition = partition
        self.statistics = Statistics()
        self._deadlines: RunDeadlines | None = None
        self._sessions: Sessions | None = None
        self._streams: Streams | None = None
        self._choice: Choice | None = None
        self._fell_back_to: tuple[Provider, ...] = ()
        self._replica_sets: weakref.WeakSet[ReplicaSet] = weakref.WeakSet()

    def built(self, release: VerifiedRelease, contents: Contents, verdict: Verdict, *, origin: Origin) -> Servable:
        """Raises a ``ContentProblem`` or ``PassingProblem``."""
        if release.record.kind == "pipeline":
            return self._pipeline(release, verdict, origin=origin)
        return self._model(release, contents, memory=held(release.record, verdict.peak_bytes), origin=origin)

    def streams(self) -> Streams:
        """The streams of stateful models."""
        from engine.streams import Streams

        if self._streams is None:
            self._streams = Streams()
        return self._streams

    def open_streams(self) -> tuple[int, int]:
        """How many streams are open, and the bytes of their states; imports nothing."""
        return (0, 0) if self._streams is None else (len(self._streams), self._streams.memory_bytes)

    def forget(self, name: str) -> None:
        """A name is not in memory any more."""
        if self._streams is not None:
            self._streams.forget(name)

    def close(self) -> None:
        for replicas in tuple(self._replica_sets):
            replicas.close()
        if self._deadlines is not None:
            self._deadlines.close()

    def providers(self) -> Choice:
        """What of the wanted execution providers this machine has; tells the log of the others once."""
        wanted = self._settings.providers
        if wanted == CPU:
            return CPU_ALONE  # which every runtime has: there is no need to import it
        if self._choice is None:
            from engine.sessions import available_providers

            self._choice = available_providers(wanted)
            word = self._choice.word(runtime_version())
            if word is not None:
                log.warning("execution_provider_absent", extra={"reason": word})
        return self._choice

    def _model(
        self,
        release: VerifiedRelease,
        contents: Contents,
        *,
        memory: Mapping[Digest, int],
        origin: Origin,
        step: str = "",
        batch: BatchSettings = BATCH_WHERE_IT_PAYS,
        lane: Lane | None = None,
        open_session: OpenSession | None = None,
    ) -> LoadedModel:
        from engine.deadlines import RunDeadlines
        from engine.loaded import build

        if self._deadlines is None:
            self._deadlines = RunDeadlines(self._settings.run_s)
        record = release.record
        return build(
            record,
            release.record_digest,
            contents,
            signer=release.signer,
            origin=origin,
            since=int(self._clock()),
            memory=memory,
            deadlines=self._deadlines,
            counters=self.statistics.counters(record.name, record.version, step=step),
            streams=self.streams(),
            open_session=open_session or self._shared_session,
            inline_us=self._settings.inline_us,
            elements_max=self._settings.elements_max,
            batch=batch,
            lane=lane,
        )

    def _shared_session(self, graph: Digest, content: bytes) -> GraphSession:
        from engine.session_sharing import Sessions

        if self._sessions is None:
            self._sessions = Sessions()
        settings = SessionSettings(self.providers().chosen)
        session = self._sessions.session(graph, content, settings)
        if session.providers[:1] != settings.providers[:1] and session.providers[:1] != self._fell_back_to:
            self._fell_back_to = session.providers[:1]
            reason = f"{settings.providers[0]} could not start: models run on {', '.join(session.providers)}"
            log.warning("execution_provider_failed", extra={"reason": reason})
        return session

    def _replicas(self, release: VerifiedRelease, deployment: Deployment, *, threads: int) -> OpenSession:
        """The processes of a pipeline. They end with the last of its models."""
        from engine.replicas import ReplicaSet, ReplicaSettings

        graphs: dict[Digest, bytes] = {}
        for member in release.members:
            graph, content = graph_of(member.record), contents_of(member).graph
            if graph is not None and content is not None:
                graphs[graph] = content
        settings = ReplicaSettings(
            count=deployment.replicas,
            memory_bytes=deployment.memory_bytes or self._settings.memory_budget_bytes,
            threads=max(1, threads // deployment.replicas),
            providers=self.providers().chosen,
            start_s=self._settings.trial_wall_s,
        )
        replicas = ReplicaSet(graphs, settings)
        self._replica_sets.add(replicas)
        return lambda graph, content: replicas.session(graph)

    def _pipeline(self, release: VerifiedRelease, verdict: Verdict, *, origin: Origin) -> Servable:
        """Its models, each built as on its own but for what its deployment says, and what runs them in order."""
        from engine.pipelines import build

        record = release.record
        deployment = deployment_of(release)
        require_memory(release, verdict, deployment)
        threads = None if deployment.cpus is None else math.ceil(deployment.cpus)
        open_session = None
        if deployment.replicas:
            open_session = self._replicas(release, deployment, threads=threads or 1)
            threads = deployment.replicas  # each waits for the process that runs
        lane = None if threads is None else self._scheduler.lane(threads)
        members = {
            member.record_digest: self._model(
                member,
                contents_of(member),
                memory=held(member.record, found.peak_bytes, replicas=deployment.replicas, pipeline=release),
                origin=origin,
                step=record.label,
                batch=deployment.batch,
                lane=lane,
                open_session=open_session,
            )
            for member, found in zip(release.members, verdict.members, strict=True)
        }
        return build(
            release,
            members,
            origin=origin,
            since=int(self._clock()),
            counters=lambda step: self.statistics.counters(record.name, record.version, step=step),
            runner=self._scheduler,
            record=self._record,
            partition=self._partition,
            inline_us=self._settings.inline_us,
            elements_max=self._settings.elements_max,
        )
