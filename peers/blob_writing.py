"""Bytes that arrive on the event loop, hashed and written beside it.

Owns the queue between a connection and a staged blob: two buffers of :data:`BUFFER_BYTES`, one being filled while the
other is written and hashed on a thread, which leaves the interpreter to others meanwhile. So a large blob costs the
loop what its TLS costs, however small the pieces that it comes in. Every :data:`SYNC_BYTES` the disk is told to take
what it has, so that the end of a large blob does not wait for all of it.

Rules: with both buffers full whoever receives waits, and TCP makes the sender wait. The first failure is raised at the
next :meth:`BlobWriter.write` or :meth:`BlobWriter.flush`, and nothing is written after it. Whoever leaves early waits
until what was taken is written: nobody writes to a blob that was given up, and a fetch goes on from there.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from federation.blobs import StagedBlob
from federation.errors import WrongSize
from peers.endings import ended

BUFFER_BYTES: Final = 1024 * 1024
SYNC_BYTES: Final = 64 * 1024 * 1024


class BlobWriter:
    """Appends to a staged blob, as an async context manager inside which nobody else does.

    ``offset`` is what was taken so far. Everything is written once :meth:`flush` has returned.
    """

    def __init__(self, staged: StagedBlob, *, buffer_bytes: int = BUFFER_BYTES, sync_bytes: int = SYNC_BYTES) -> None:
        self._staged = staged
        self._sync_bytes = sync_bytes
        self._buffer = bytearray(max(1, min(buffer_bytes, staged.bytes_max - staged.offset)))
        self._filled = 0
        self._spare: bytearray | None = None
        self._writing: asyncio.Future[None] | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._synced = staged.offset
        self.offset = staged.offset

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await ended(*(future for future in (self._writing, self._syncing) if future is not None))
        failed = self._writing is not None and self._writing.exception() is not None
        if self._filled and not failed:
            await ended(self._begin_writing())

    async def write(self, chunk: bytes) -> None:
        """Take a chunk, in order. Raises ``WrongSize`` for more than the blob may have, and what writing raised."""
        if self.offset + len(chunk) > self._staged.bytes_max:
            raise WrongSize(f"expected at most {self._staged.bytes_max} bytes, found more")
        left = memoryview(chunk)
        while left:
            if self._filled == len(self._buffer):
                await self._written()
                self._begin_writing()
            taken = min(len(left), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + taken] = left[:taken]
            self._filled += taken
            self.offset += taken
            left = left[taken:]

    async def flush(self) -> None:
        """Until everything that was taken is written."""
        await self._written()
        if self._filled:
            self._begin_writing()
            await self._written()

    async def _written(self) -> None:
        """Until the buffer under way is written. Being cancelled meanwhile leaves that to the end of the block."""
        if self._syncing is not None and self._syncing.done():
            self._syncing.result()
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.result()
            self._writing = None

    def _begin_writing(self) -> asyncio.Future[None]:
        """Give the buffer to a thread and go on with the other one, which nobody uses now."""
        loop = asyncio.get_running_loop()
        if self._staged.offset - self._synced >= self._sync_bytes and (self._syncing is None or self._syncing.done()):
            self._synced = self._staged.offset
            self._syncing = loop.run_in_executor(None, self._staged.sync)
        full, filled = self._buffer, self._filled
        self._buffer, self._spare, self._filled = self._spare or bytearray(len(full)), full, 0
        self._writing = loop.run_in_executor(None, self._staged.write, memoryview(full)[:filled])
        return self._writing
