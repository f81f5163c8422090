"""Bytes that arrive on the event loop, hashed and written beside it.

Owns the queue between a connection and a staged blob. Hashing and writing take turns on one thread of the loop's pool
while the next bytes arrive; both leave the interpreter to others. So a large blob costs the loop what its TLS costs.

Rules: at most :data:`BATCH_BYTES` wait while a batch of about as many is written; then whoever receives waits, and TCP
makes the sender wait. The first failure of a write is raised at the next :meth:`BlobWriter.write` or
:meth:`BlobWriter.flush`, and nothing is written after it. Whoever leaves early waits until what was taken is written:
nobody writes to a blob that was given up, and a fetch goes on from there.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from federation.blobs import StagedBlob
from federation.errors import WrongSize

BATCH_BYTES: Final = 1024 * 1024


class BlobWriter:
    """Appends to a staged blob, as an async context manager inside which nobody else does.

    ``offset`` is what was taken so far. Everything is written once :meth:`flush` has returned.
    """

    def __init__(self, staged: StagedBlob, *, batch_bytes: int = BATCH_BYTES) -> None:
        self._staged = staged
        self._batch_bytes = batch_bytes
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._under_way: asyncio.Future[None] | None = None
        self.offset = staged.offset

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was taken is written, also when the block is left early: a fetch goes on from there."""
        if self._under_way is not None:
            await ended(self._under_way)
            if self._under_way.exception() is not None:
                return
        if self._waiting:
            await ended(self._hand_over())

    async def write(self, chunk: bytes) -> None:
        """Take a chunk, in order. Raises ``WrongSize`` for more than the blob may have, and what writing raised."""
        if self.offset + len(chunk) > self._staged.bytes_max:
            raise WrongSize(f"expected at most {self._staged.bytes_max} bytes, found more")
        self.offset += len(chunk)
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= self._batch_bytes:
            await self._begin()

    async def flush(self) -> None:
        """Until everything that was taken is written."""
        if self._waiting:
            await self._begin()
        await self._written()

    async def _begin(self) -> None:
        await self._written()
        self._hand_over()

    def _hand_over(self) -> asyncio.Future[None]:
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._under_way = asyncio.get_running_loop().run_in_executor(None, self._staged.write_all, batch)
        return self._under_way

    async def _written(self) -> None:
        """Until the batch under way is written; being cancelled meanwhile leaves it to :meth:`__aexit__`."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
            self._under_way.result()
            self._under_way = None


async def ended(under_way: asyncio.Future[Any]) -> None:
    """Until a thread's work has ended, whoever is cancelled meanwhile; its failure no longer matters."""
    cancelled: asyncio.CancelledError | None = None
    while not under_way.done():
        try:
            await asyncio.wait([under_way])
        except asyncio.CancelledError as error:
            cancelled = error
    under_way.exception()
    if cancelled is not None:
        raise cancelled
