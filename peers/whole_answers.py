"""Answers that are whole when they begin, written at once.

Owns :class:`WholeAnswer`: the path of every inference, where head and body leave in one write and no header is made
twice. Refuses nothing. Errors are answered by :mod:`peers.face_errors`.

Rules: an answer has the headers that it was given, ``Content-Length``, ``Date``, and ``Connection`` where HTTP asks for
it. A long body is not copied to its head, and whoever takes longer to read it than ``BASE_S`` seconds and one more for
each ``BYTES_PER_S`` is cut off.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

TOGETHER_BYTES_MAX: Final = 64 * 1024  # a longer body is written behind its head
BASE_S: Final = 15.0
BYTES_PER_S: Final = 1024 * 1024

JSON: Final = b"application/json"
BINARY: Final = b"application/octet-stream"

_HEAD: Final = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nDate: %b\r\n%b\r\n"
_LINES: Final = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}

_encode: Final = msgspec.json.Encoder().encode
_now: tuple[int, bytes] = (0, b"")


class Held(Protocol):
    """What is let go when an answer has left, or never will."""

    def release(self) -> None: ...


class WholeAnswer(web.StreamResponse):
    """``more``: further header lines, each ended by CRLF, which the caller made."""

    def __init__(
        self, body: bytes, *, status: int = 200, kind: bytes = JSON, more: bytes = b"", held: Held | None = None
    ) -> None:
        super().__init__(status=status)
        self._held = held
        self._whole = body
        self._kind = kind
        self._more = more
        self._out: AbstractStreamWriter | None = None
        self._transport: asyncio.Transport | None = None
        self._bare = False

    @property
    def whole(self) -> bytes:
        """The body."""
        return self._whole

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._out = request.writer
        self._transport = request.transport
        self._bare = request.method == "HEAD"
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        if not self._keep_alive:
            self._more += b"Connection: close\r\n"
        elif request.version.minor == 0:
            self._more += b"Connection: keep-alive\r\n"
        return self._out

    async def write_eof(self, data: bytes = b"") -> None:
        out, self._out = self._out, None
        if out is None:
            return
        self._eof_sent = True
        body = self._whole
        head = _HEAD % (_LINES[self._status], self._kind, len(body), _date(), self._more)
        if self._bare:
            await out.write_eof(head)
        elif len(body) <= TOGETHER_BYTES_MAX:
            await out.write_eof(head + body)
        else:
            await self._write_long(out, head, body)

    async def _write_long(self, out: AbstractStreamWriter, head: bytes, body: bytes) -> None:
        try:
            async with asyncio.timeout(BASE_S + len(body) / BYTES_PER_S):
                await out.write(head)
                await out.write_eof(body)
        except TimeoutError as error:
            if self._transport is not None:
                self._transport.abort()
            raise ConnectionError("the answer was not read in time") from error
        finally:
            self._whole = b""
            if self._held is not None:
                self._held.release()


def json_answer(value: Any, *, status: int = 200, more: bytes = b"") -> WholeAnswer:
    """``value`` as JSON."""
    return WholeAnswer(_encode(value), status=status, more=more)


def _date() -> bytes:
    """The time as HTTP writes it, made once a second."""
    global _now
    second = int(time.time())
    if second != _now[0]:
        _now = second, formatdate(second, usegmt=True).encode()
    return _now[1]
