"""The frames of one statement that an edge was asked, as they come up its uplink.

Rules: at most as many wait here as the edge has credit for, and some more; whoever reads gives credit back in steps.
An uplink that ends gives what came before its end, then raises :class:`UplinkLost`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Self

from peers.uplink_messages import CREDIT_FRAMES
from query.errors import WorldProblem
from query.frames import EndFrame, Frame

CREDIT_STEP: Final = CREDIT_FRAMES // 2
FRAMES_MAX: Final = CREDIT_FRAMES + 8


class UplinkLost(WorldProblem):
    """The edge's connection ended while it was being asked."""

    code = "uplink_lost"


class Overrun(Exception):
    """More frames came than the edge had credit for."""


class AskedFrames:
    """Iterate to the end frame. ``give_credit(frames)`` tells the edge how many more it may send."""

    __slots__ = ("_give_credit", "_lost", "_taken", "_waiter", "_waiting", "ended")

    def __init__(self, give_credit: Callable[[int], Awaitable[None]]) -> None:
        self._give_credit = give_credit
        self._waiting: deque[Frame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._taken = 0
        self._lost = False
        self.ended = False

    def put(self, frames: Iterable[Frame]) -> None:
        """Raises :class:`Overrun`."""
        self._waiting.extend(frames)
        if len(self._waiting) > FRAMES_MAX:
            raise Overrun
        self._wake()

    def lose(self) -> None:
        """The uplink ended."""
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        if self.ended:
            raise StopAsyncIteration
        while not self._waiting:
            if self._lost:
                self.ended = True
                raise UplinkLost("the uplink ended before the answer did")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._taken += 1
        if self._taken == CREDIT_STEP:
            self._taken = 0
            await self._give_credit(CREDIT_STEP)
        frame = self._waiting.popleft()
        if isinstance(frame, EndFrame):
            self.ended = True
        return frame
