"""Where a run happens: on the event loop when that is quick, else in a bounded pool.

Owns the places in the pool's queue, and what becomes of a run that nobody waits for any more. Refuses a run
(:class:`~engine.errors.EngineBusy`), so that no queue grows: when every place is taken, when three quarters of them are
taken by the same model, and when it has waited for as long as a run may take.

Rules: a place is held until the thread is done with it, also when whoever asked has gone; a run whose deadline passes
while it waits never begins; models take turns (:mod:`engine.lanes`). What has processors of its own by its deployment
has threads of its own; places are the same for all.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, TypeVar

from engine.engine_settings import EngineSettings
from engine.errors import EngineBusy, OverTime
from engine.lanes import Lane

if TYPE_CHECKING:
    from engine.batching import BatchQueue
    from engine.deadlines import Started
    from engine.loaded import LoadedModel
    from engine.signature import Array
    from engine.statistics import Counters
    from engine.streams import StreamCall

SHARED_FROM: Final = 8  # places; of fewer, one model may take all

T = TypeVar("T")


class Scheduler:
    """Used from one event loop. A :class:`~engine.servables.Runner`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._shared = Lane(settings.threads or len(os.sched_getaffinity(0)))
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet([self._shared])
        self._lock = threading.Lock()
        self._held = 0
        self._held_by: dict[Counters, int] = {}
        self._share = settings.queue_max - (settings.queue_max // 4 if settings.queue_max >= SHARED_FROM else 0)
        self._wait_ns_max = int(settings.run_s * 1e9)
        self._queues: weakref.WeakKeyDictionary[LoadedModel, BatchQueue] = weakref.WeakKeyDictionary()

    @property
    def held(self) -> int:
        """Places that are taken: runs in the pool and waiting for it, also those that nobody waits for any more."""
        return self._held

    @property
    def started(self) -> bool:
        """Whether any run has needed the pool."""
        return self._shared.started

    def lane(self, threads: int) -> Lane:
        """Threads for whatever holds the lane."""
        lane = Lane(threads)
        self._lanes.add(lane)
        return lane

    async def run(
        self,
        model: LoadedModel,
        feed: dict[str, Array],
        *,
        deadline_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> dict[str, Array]:
        """A run on a checked feed. Raises what :meth:`~engine.loaded.LoadedModel.run` raises, ``EngineBusy``, and
        ``OverTime`` after ``deadline_s``, waiting included.
        """
        if model.runs_inline(feed):
            return model.run(feed, limit_s=deadline_s, stream=stream)
        if model.batch_rows_max and stream is None:
            return await self._run_batched(model, feed, deadline_s)
        return await self.run_in_pool(model, lambda: feed, deadline_s=deadline_s, stream=stream)

    async def run_in_pool(
        self,
        model: LoadedModel,
        feed: Callable[[], dict[str, Array]],
        *,
        deadline_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> dict[str, Array]:
        """As :meth:`run`, in a thread, where the feed is made too. A run that nobody waits for any more is ended."""
        begun: list[Started] = []
        called_ns = monotonic_ns()

        def work() -> dict[str, Array]:
            model.counters.waited(monotonic_ns() - called_ns)
            return model.run(feed(), begun=begun.append, limit_s=deadline_s, stream=stream)

        try:
            return await self.offload(work, counters=model.counters, lane=model.lane, deadline_s=deadline_s)
        except (asyncio.CancelledError, OverTime):
            for started in begun:
                model.deadlines.abort(started)
            raise

    async def offload(
        self,
        work: Callable[[], T],
        *,
        counters: Counters,
        lane: Lane | None = None,
        deadline_s: float | None = None,
    ) -> T:
        """``work()`` in a thread. When nobody waits any more and it has not begun, it never does.

        Raises ``EngineBusy`` at once when every place is taken, and ``OverTime`` after ``deadline_s``.
        """
        self._take_place(counters)
        return await _within(self._submitted(work, counters, lane or self._shared), deadline_s)

    def _submitted(self, work: Callable[[], T], counters: Counters, lane: Lane) -> Future[T]:
        asked_ns = monotonic_ns()

        def timely() -> T:
            if monotonic_ns() - asked_ns > self._wait_ns_max:
                counters.refuse()
                raise too_late(self._wait_ns_max)
            return work()

        try:
            future = lane.submit(counters, timely)
        except BaseException:  # no thread could be started
            self._give_back(counters)
            raise
        future.add_done_callback(partial(self._give_back, counters))
        return future

    async def _run_batched(
        self, model: LoadedModel, feed: dict[str, Array], deadline_s: float | None
    ) -> dict[str, Array]:
        """A request in its model's queue, and one thread more that looks there."""
        from engine.batching import BatchQueue, Waiting, even

        if not even(feed):
            return await self.run_in_pool(model, lambda: feed, deadline_s=deadline_s)
        self._take_place(model.counters)
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = BatchQueue(model.batch_rows_max, wait_ns_max=self._wait_ns_max)
        waiting = Waiting(feed, len(next(iter(feed.values()))), deadline_s)
        waiting.future.add_done_callback(partial(self._give_back, model.counters))
        queue.add(waiting)
        try:
            turn = (model.lane or self._shared).submit(model.counters, partial(queue.run_next, model))
        except BaseException:  # no thread could be started
            waiting.future.cancel()
            raise
        turn.add_done_callback(waiting.leave_if_cancelled)
        try:
            return await _within(waiting.future, deadline_s)
        except (asyncio.CancelledError, OverTime):
            waiting.leave()
            raise
        finally:
            del waiting, turn

    def close(self, *, wait: bool = False) -> None:
        """Ends the threads; runs in flight end at their deadline, for which ``wait`` waits."""
        for lane in tuple(self._lanes):
            lane.close(wait=wait)

    def _take_place(self, counters: Counters) -> None:
        with self._lock:
            own, most = self._held_by.get(counters, 0), self._settings.queue_max
            full = self._held >= most
            if not full and own < self._share:
                self._held += 1
                self._held_by[counters] = own + 1
                return
        counters.refuse()
        whose, most = ("", most) if full else (" of one model", self._share)
        raise EngineBusy(
            f"expected at most {most} calls{whose} at once that take long, found more",
            hint="ask again in a second, or with several rows in one request",
        )

    def _give_back(self, counters: Counters, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._held -= 1
            self._held_by[counters] -= 1
            if not self._held_by[counters]:
                del self._held_by[counters]


def too_late(wait_ns_max: int) -> EngineBusy:
    """The refusal of a run that waited for too long to be begun."""
    return EngineBusy(
        f"expected a turn within {wait_ns_max / 1e9:g} s, as long as a run may take, found none",
        hint="ask again in a second",
    )


async def _within(future: Future[T], deadline_s: float | None) -> T:
    """What the future brings. Raises ``OverTime`` after ``deadline_s``; the future is cancelled, if it has not begun,
    when nobody waits any more.
    """
    waiting = asyncio.wrap_future(future)
    try:
        if deadline_s is None:
            return await waiting
        try:
            async with asyncio.timeout(deadline_s):
                return await waiting
        except TimeoutError:
            raise OverTime(f"expected an answer within {deadline_s:.3g} s, found none") from None
    finally:
        del future, waiting  # else an error and this frame hold each other, and what was asked with them
