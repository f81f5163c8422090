"""A blob as an answer, whole or a range of it, in pieces that are read beside the event loop.

Under TLS neither aiohttp nor asyncio has a fast way to send a file: what they fall back to reads 16 KiB at a time, each
with a turn of a thread. Here the next piece is read while one is encrypted and sent.

Rules: one range at a time, of bytes, else the whole; a blob never changes under its digest, which is its entity tag. A
piece is sent when the connection has taken those before it, so a reader that is slow holds :data:`PIECE_BYTES` twice
and what the connection buffers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.hdrs import METH_HEAD

from federation.names import Digest
from peers.endings import ended

PIECE_BYTES: Final = 256 * 1024


async def answer_blob(
    request: web.Request, path: Path, digest: Digest, *, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with the file at ``path``, whose content has ``digest``. Raises ``FileNotFoundError`` before any byte."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, tag = os.fstat(handle).st_size, f'"{digest}"'
        response = web.StreamResponse(headers={**headers, "ETag": tag, "Accept-Ranges": "bytes"})
        start, stop = 0, size
        if tag in request.headers.get("If-None-Match", ""):
            response.set_status(304)
            stop = 0
        elif "Range" in request.headers and request.headers.get("If-Range", tag) == tag:
            try:
                start, stop = _span(request, size)
            except ValueError:
                response.set_status(416)
                response.headers["Content-Range"] = f"bytes */{size}"
                stop = 0
            else:
                response.set_status(206)
                response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response.content_length = stop - start
        await response.prepare(request)
        if request.method != METH_HEAD:
            await _send(response, handle, start, stop)
        await response.write_eof()
        return response
    finally:
        os.close(handle)


def _span(request: web.Request, size: int) -> tuple[int, int]:
    """Where the range that is asked for begins and ends. Raises ValueError for none of this file's."""
    asked = request.http_range
    start = asked.start or 0
    if start < 0:
        start = max(0, size + start)
    stop = size if asked.stop is None else min(asked.stop, size)
    if start >= stop:
        raise ValueError(asked)
    return start, stop


async def _send(response: web.StreamResponse, handle: int, start: int, stop: int) -> None:
    loop = asyncio.get_running_loop()

    def reading(offset: int) -> asyncio.Future[bytes]:
        return loop.run_in_executor(None, os.pread, handle, min(PIECE_BYTES, stop - offset), offset)

    ahead = reading(start) if start < stop else None
    try:
        while ahead is not None:
            piece = await asyncio.shield(ahead)
            if not piece:
                raise ConnectionResetError(f"a blob ended at {start} of {stop} bytes")
            start += len(piece)
            ahead = reading(start) if start < stop else None
            await response.write(piece)
    finally:
        if ahead is not None:
            await ended(ahead)  # nobody reads from a file that is closed
