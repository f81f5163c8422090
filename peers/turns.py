"""Turns of the event loop: of those who have much to do, one goes on in each, or in every few, in the order in which
they asked.

Rules: between two of them the loop does everything else that is ready, so that what is small waits for one piece of
what is large, however much of it there is. Who is cancelled while waiting takes no turn.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Use on one event loop. ``every``: one goes on in so many turns."""

    def __init__(self, *, every: int = 1) -> None:
        self._every = every
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._giving = False

    async def turn(self) -> None:
        """Return when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiting.append(waiter)
        if not self._giving:
            self._giving = True
            loop.call_soon(self._give, loop)
        await waiter

    def _give(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed += 1
        while self._waiting and self._passed >= self._every:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._passed = 0
        self._giving = bool(self._waiting)
        if self._giving:
            loop.call_soon(self._give, loop)
