"""Standard input and output of the editor server: read and written without a thread, with back-pressure.

What the editor does not read waits here, up to ``WAITING_BYTES_MAX``; then whoever streams waits
(:meth:`Output.drained`) while answers still go. A message longer than ``MESSAGE_BYTES_MAX`` ends the session: no editor
sends one.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO, Final, cast

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
WAITING_BYTES_MAX: Final = 1024 * 1024


class Input:
    """Bytes of the editor's messages."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport | None = None) -> None:
        self._reader = reader
        self._transport = transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def readline(self) -> bytes:
        try:
            return await self._reader.readline()
        except ValueError:  # a header longer than any
            return b""

    async def readexactly(self, n: int) -> bytes:
        if n > MESSAGE_BYTES_MAX:
            return b""
        try:
            return await self._reader.readexactly(n)
        except asyncio.IncompleteReadError:
            return b""


class Output(asyncio.Protocol):
    """Bytes to the editor. ``write`` never waits; who writes much asks :meth:`drained`."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._free = asyncio.Event()
        self._free.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(high=WAITING_BYTES_MAX)

    def pause_writing(self) -> None:
        self._free.clear()

    def resume_writing(self) -> None:
        self._free.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._free.set()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def drained(self) -> None:
        """Return once the editor has read enough of what was written; other tasks run meanwhile in any case."""
        await asyncio.sleep(0)
        await self._free.wait()


async def opened(stdin: BinaryIO, stdout: BinaryIO) -> tuple[Input, Output]:
    """Both ends, on pipes, sockets or terminals. Raises OSError or ValueError for anything else, such as a file."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stdin)
    try:
        _, output = await loop.connect_write_pipe(Output, stdout)
    except BaseException:
        transport.close()
        raise
    return Input(reader, transport), output
