"""Turns of the event loop: of those who have much to do, one goes on in each, in the order in which they asked.

Rules: between two of them the loop does everything else that is ready, so that what is small waits for one piece of
what is large, however much of it there is. Who is cancelled while waiting takes no turn.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Use on one event loop."""

    def __init__(self) -> None:
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
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        self._giving = bool(self._waiting)
        if self._giving:
            loop.call_soon(self._give, loop)
