"""From a verified release to something that answers: what all that is loaded in one process shares, and its building.

Owns the deadlines, sessions, streams and counters that loaded models have in common. Everything heavy is imported with
the first model. Building takes as long as a model does, so it happens in a thread, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from engine.contents import Contents, contents_of
from engine.engine_settings import EngineSettings
from engine.scheduling import Lane, Scheduler
from engine.servables import Origin, Recorder, Servable
from engine.statistics import Statistics
from engine.trials import Verdict
from federation.pipelines import DEFINITION_FILE, BatchSettings, PipelineDefinition
from federation.verification import VerifiedRelease

if TYPE_CHECKING:
    from engine.deadlines import RunDeadlines
    from engine.loaded import LoadedModel
    from engine.session_sharing import Sessions
    from engine.streams import Streams

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

    def built(self, release: VerifiedRelease, contents: Contents, verdict: Verdict, *, origin: Origin) -> Servable:
        """Raises a ``ContentProblem`` or ``PassingProblem``."""
        if release.record.kind == "pipeline":
            return self._pipeline(release, verdict, origin=origin)
        return self._model(release, contents, memory_bytes=verdict.peak_bytes, origin=origin)

    def streams(self) -> Streams:
        """The streams of stateful models."""
        from engine.streams import Streams

        if self._streams is None:
            self._streams = Streams()
        return self._streams

    def forget(self, name: str) -> None:
        """A name is not in memory any more."""
        if self._streams is not None:
            self._streams.forget(name)

    def close(self) -> None:
        if self._deadlines is not None:
            self._deadlines.close()

    def _model(
        self,
        release: VerifiedRelease,
        contents: Contents,
        *,
        memory_bytes: int,
        origin: Origin,
        step: str = "",
        batch: BatchSettings = BATCH_WHERE_IT_PAYS,
        lane: Lane | None = None,
    ) -> LoadedModel:
        from engine.deadlines import RunDeadlines
        from engine.loaded import build
        from engine.session_sharing import Sessions

        if self._deadlines is None:
            self._deadlines = RunDeadlines(self._settings.run_s)
        if self._sessions is None:
            self._sessions = Sessions()
        record = release.record
        return build(
            record,
            release.record_digest,
            contents,
            signer=release.signer,
            origin=origin,
            since=int(self._clock()),
            memory_bytes=memory_bytes,
            deadlines=self._deadlines,
            counters=self.statistics.counters(record.name, record.version, step=step),
            streams=self.streams(),
            sessions=self._sessions,
            inline_us=self._settings.inline_us,
            elements_max=self._settings.elements_max,
            batch=batch,
            lane=lane,
        )

    def _pipeline(self, release: VerifiedRelease, verdict: Verdict, *, origin: Origin) -> Servable:
        """Its models, each built as on its own but for what its deployment says, and what runs them in order."""
        from engine.pipelines import build

        record = release.record
        deployment = msgspec.json.decode(release.files[DEFINITION_FILE], type=PipelineDefinition).deployment
        lane = None if deployment.cpus is None else self._scheduler.lane(math.ceil(deployment.cpus))
        members = {
            member.record_digest: self._model(
                member,
                contents_of(member),
                memory_bytes=found.peak_bytes,
                origin=origin,
                step=record.label,
                batch=deployment.batch,
                lane=lane,
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
