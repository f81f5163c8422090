"""Where a run happens: on the event loop when that is quick, else in a bounded pool.

Owns the pool's threads, the places in its queue, and what becomes of a run that nobody waits for any more. Refuses a
run when every place is taken (:class:`~engine.errors.EngineBusy`), so that no queue grows.

Rules: the threads wait without spinning and start with the first run that needs one; a place is held until the thread
is done with it, also when whoever asked has gone; a run whose deadline passes while it waits never begins. What has
processors of its own by its deployment has threads of its own, a :class:`Lane`; places are the same for all.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from engine.engine_settings import EngineSettings
from engine.errors import EngineBusy, OverTime

if TYPE_CHECKING:
    from engine.batching import BatchQueue
    from engine.deadlines import Started
    from engine.loaded import LoadedModel
    from engine.signature import Array
    from engine.statistics import Counters
    from engine.streams import StreamCall

T = TypeVar("T")
P = ParamSpec("P")


class Lane:
    """So many threads, started with the first run that needs one, and ended when nobody holds the lane any more."""

    def __init__(self, threads: int, *, name: str = "inference") -> None:
        self.threads = threads
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    @property
    def started(self) -> bool:
        return self._pool is not None

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix=self._name)
        return self._pool.submit(work, *args, **kwargs)

    def close(self, *, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)


class Scheduler:
    """Used from one event loop. A :class:`~engine.servables.Runner`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._shared = Lane(settings.threads or len(os.sched_getaffinity(0)))
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet([self._shared])
        self._lock = threading.Lock()
        self._held = 0
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
        return await _within(self._submitted(work, lane), deadline_s)

    def _submitted(self, work: Callable[[], T], lane: Lane | None) -> Future[T]:
        future = (lane or self._shared).submit(work)
        future.add_done_callback(self._give_back)
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
            queue = self._queues[model] = BatchQueue(model.batch_rows_max)
        waiting = Waiting(feed, len(next(iter(feed.values()))), deadline_s)
        waiting.future.add_done_callback(self._give_back)
        queue.add(waiting)
        turn = (model.lane or self._shared).submit(queue.run_next, model)
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
            if self._held < self._settings.queue_max:
                self._held += 1
                return
        counters.refuse()
        raise EngineBusy(
            f"expected at most {self._settings.queue_max} calls at once that take long, found more",
            hint="ask again in a second, or with several rows in one request",
        )

    def _give_back(self, _: Future[Any]) -> None:
        with self._lock:
            self._held -= 1


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
            raise OverTime(f"expected an answer within {deadline_s:g} s, found none") from None
    finally:
        del future, waiting  # else an error and this frame hold each other, and what was asked with them
