"""Work that puts its frames somewhere, as an iterator of them: for whoever takes them at a pace of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from peers.answering import Frames
from query.frames import Frame

FRAMES_AHEAD_MAX: Final = 64


async def frames_of(work: Callable[[Frames], Awaitable[None]]) -> AsyncGenerator[Frame, None]:
    """The frames that ``work`` puts, in a task that ends with this iterator. Raises what the work raises."""
    queue: asyncio.Queue[Frame | None] = asyncio.Queue(FRAMES_AHEAD_MAX)

    async def produce() -> None:
        left = False
        try:
            await work(queue)
        except asyncio.CancelledError:
            left = True  # whoever read the frames is gone, and the queue may be full
            raise
        finally:
            if not left:
                await queue.put(None)

    task = asyncio.create_task(produce())
    try:
        while (frame := await queue.get()) is not None:
            yield frame
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
