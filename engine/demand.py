"""Models that nobody loaded, brought into memory by the request that asks for one, where the device's owner lets them.

Owns what a request waits for: one load for all who ask for the same; and what is not tried again at once. What is
loaded so has the origin ``demand``: no group or person asked for it, so it is not reported, does not come back after a
restart, and makes room for others, the least recently used first (:mod:`engine.engine`).

Bounds: ``LOADS_MAX`` loads at a time, more are refused (:class:`~engine.errors.EngineBusy`); a request waits at most
``WAIT_S``, then it is told to come again (:class:`~engine.errors.ModelLoading`) while the load goes on; a failure is
answered from memory for ``CONTENT_FAILURE_S`` or ``PASSING_FAILURE_S``, of the latest ``FAILURES_KEPT_MAX``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from engine.errors import ContentProblem, EngineBusy, ModelLoading
from query.errors import ErrorRecord, Problem

if TYPE_CHECKING:
    from engine.servables import Servable
    from federation.verification import VerifiedRelease

LOADS_MAX: Final = 16
WAIT_S: Final = 10.0
CONTENT_FAILURE_S: Final = 300.0
PASSING_FAILURE_S: Final = 10.0
FAILURES_KEPT_MAX: Final = 256

Find: TypeAlias = "Callable[[str, str | None], Awaitable[VerifiedRelease | None]]"
"""An installed release that may be loaded; of no version in particular, the one to take; None when there is none."""

Wanted = tuple[str, str | None]


class Demand:
    """Used from one event loop. ``load`` puts a release into memory unless something of its name is there by then."""

    def __init__(
        self,
        find: Find,
        load: Callable[[VerifiedRelease], Awaitable[Servable]],
        *,
        clock: Callable[[], float] = monotonic,
        wait_s: float = WAIT_S,
    ) -> None:
        self._find = find
        self._load = load
        self._clock = clock
        self._wait_s = wait_s
        self._loads: dict[Wanted, asyncio.Task[Servable | None]] = {}
        self._failed: OrderedDict[Wanted, tuple[float, ErrorRecord]] = OrderedDict()

    async def loaded(self, name: str, version: str | None) -> Servable | None:
        """What was asked for, once it is in memory; None when nothing of that name and version is installed.

        Raises why it cannot be loaded, and the refusals that this module lists.
        """
        wanted = name, version
        self._raise_known_failure(wanted)
        task = self._loads.get(wanted)
        if task is None:
            if len(self._loads) >= LOADS_MAX:
                raise EngineBusy(
                    f"expected at most {LOADS_MAX} models to be loaded on demand at once, found more",
                    hint="ask again in a second",
                )
            task = self._loads[wanted] = asyncio.create_task(self._found(wanted), name=f"load {name} on demand")
            task.add_done_callback(_seen)
        done, _ = await asyncio.wait((task,), timeout=self._wait_s)  # the load goes on whoever leaves
        if not done:
            raise ModelLoading(f"{name} is being loaded for the first time", hint="ask again in a few seconds")
        return task.result()

    def close(self) -> None:
        """Gives up the loads that go on."""
        for task in tuple(self._loads.values()):
            task.cancel()

    async def _found(self, wanted: Wanted) -> Servable | None:
        try:
            release = await self._find(*wanted)
            return None if release is None else await self._load(release)
        except Problem as problem:
            lasts_s = CONTENT_FAILURE_S if isinstance(problem, ContentProblem) else PASSING_FAILURE_S
            self._failed[wanted] = self._clock() + lasts_s, problem.record()
            while len(self._failed) > FAILURES_KEPT_MAX:
                self._failed.popitem(last=False)
            raise
        finally:
            del self._loads[wanted]

    def _raise_known_failure(self, wanted: Wanted) -> None:
        until, record = self._failed.get(wanted, (0.0, None))
        if record is None:
            return
        if self._clock() < until:
            raise Problem.from_record(record)
        del self._failed[wanted]


def _seen(task: asyncio.Task[Servable | None]) -> None:
    """A failure that everybody stopped waiting for is remembered, and no surprise."""
    if not task.cancelled():
        task.exception()
