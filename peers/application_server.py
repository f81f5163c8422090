"""Connections to the application face: how many there may be, and what one is told that is too many.

Owns the way of a connection from its acceptance to aiohttp's protocol, for the Unix socket, loopback and TLS alike; and
the answer to what is no HTTP, which no handler sees.

Rules: at most ``connections_max`` at once. One more is answered 503 and closed, at most ``REFUSED_MAX`` and as many as
are allowed at a time; what comes beyond is dropped. A refused connection has ``REFUSAL_S`` to say something, so that
its answer is not lost with what it was about to send. A new connection has ``FIRST_S`` to send the head of a request,
so that nobody holds a place by saying nothing, and a head has at most ``HEAD_BYTES_MAX``. Every error is JSON.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from peers.throttle import Throttle

KEEPALIVE_S: Final = 330.0  # longer than a client keeps an idle connection, so that the client closes first
WIDE_KEEPALIVE_S: Final = 75.0  # where a stranger may hold connections
FIRST_S: Final = 30.0
HEAD_BYTES_MAX: Final = 32 * 1024  # of a request that has not begun; aiohttp bounds each line alone
LINGERING_S: Final = 2.0  # for the rest of a body that was refused
READ_BYTES: Final = 256 * 1024  # of a body that waits to be taken, before the connection is read no further
BACKLOG: Final = 1024
SOCKET_CONNECTIONS_MAX: Final = 128
REFUSED_MAX: Final = 1024
REFUSAL_S: Final = 2.0
TOLD_EVERY_S: Final = 60.0  # the log, while connections are refused
DESCRIPTORS_KEPT: Final = 256  # for everything else that this process opens

log = logging.getLogger("peerage.http")

_TOO_MANY: Final = msgspec.json.encode(
    {
        "error": "expected fewer connections to this peer at once, found as many as it takes",
        "code": "too_many_connections",
        "hint": "ask again in a second; keep connections, and close those that are idle",
    }
)
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b"
) % (len(_TOO_MANY), _TOO_MANY)


_HEAD_TOO_LONG: Final = msgspec.json.encode(
    {"error": f"expected a head of at most {HEAD_BYTES_MAX} bytes, found more", "code": "bad_http"}
)
_TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b"
) % (len(_HEAD_TOO_LONG), _HEAD_TOO_LONG)
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d{1,15})", re.IGNORECASE)


class Connections:
    """Those of one listener. Makes a protocol for each connection that is accepted.

    ``server`` is aiohttp's, ``kept_s`` how long an idle connection is kept.
    """

    def __init__(self, server: web.Server, *, connections_max: int, kept_s: float, first_s: float = FIRST_S) -> None:
        self._server = server
        self._first_s = min(first_s, kept_s)
        self._connections_max = connections_max
        self._refused_max = min(REFUSED_MAX, connections_max)
        self._settings: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": kept_s,
            "lingering_time": LINGERING_S,
            "read_bufsize": READ_BYTES,
        }
        self.open = 0
        self.refused = 0  # since the start
        self._refusing = 0
        self._telling = Throttle(1 / TOLD_EVERY_S, 1)

    def __call__(self) -> asyncio.Protocol:
        """A protocol that decides when the connection is there, over TLS after its handshake."""
        return _Door(self._enter)

    def _enter(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        if self.open < self._connections_max:
            self.open += 1
            loop = asyncio.get_running_loop()
            return _Connection(self._left, self._server, first_s=self._first_s, loop=loop, **self._settings)
        self.refused += 1
        if self._telling.take(asyncio.get_running_loop().time()):
            log.warning("too_many_connections", extra={"open": self.open, "refused": self.refused})
        if self._refusing >= self._refused_max:
            transport.abort()
            return None
        self._refusing += 1
        return _Refusal(self._refusal_ended)

    def _left(self) -> None:
        self.open -= 1

    def _refusal_ended(self) -> None:
        self._refusing -= 1


class _Door(asyncio.Protocol):
    """The protocol of a connection until it is there."""

    def __init__(self, enter: Callable[[asyncio.Transport], asyncio.Protocol | None]) -> None:
        self._enter = enter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        entering = cast(asyncio.Transport, transport)
        protocol = self._enter(entering)
        if protocol is not None:
            entering.set_protocol(protocol)
            protocol.connection_made(entering)


class _Connection(web.RequestHandler):
    """aiohttp's protocol, which tells when it ends, waits ``first_s`` for a first request, and answers what is no HTTP
    with JSON.
    """

    __slots__ = ("_first_s", "_head_bytes", "_left")

    def __init__(self, left: Callable[[], None], server: web.Server, *, first_s: float, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._left = left
        self._first_s = first_s
        self._head_bytes = 0  # of a head that has not come to its end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._keepalive_handle is not None:  # which would wait as long as between two requests
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + self._first_s
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():  # a request has begun
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX and self.transport is not None and not self._close:
            self._close = True  # what else comes is dropped
            self.transport.write(_TOO_LONG)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._loop.call_later(LINGERING_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:  # told once
            self._left()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Told as JSON. What is no HTTP is its sender's business; a failure that no handler told is ours."""
        if request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)  # ends the connection
        if status >= 500:
            log.error("request_failed", extra={"status": status}, exc_info=exc)
            body = {"error": "this peer failed to answer; its log has the cause", "code": "internal"}
        else:
            body = {"error": f"expected HTTP, found: {' '.join((message or '').split())[:200]}", "code": "bad_http"}
        answer = web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
        answer.force_close()
        return answer


class _Refusal(asyncio.Protocol):
    """One connection too many: answered when it has said something, and closed."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._limit = asyncio.get_running_loop().call_later(REFUSAL_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._told or self._transport is None:
            return
        self._told = True
        self._transport.write(_REFUSAL)
        if _is_whole(data) or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()  # the rest of what comes is read, or a reset would take the answer along

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._ended()


def _is_whole(data: bytes) -> bool:
    """Whether a request has come to its end, as far as its head says how long it is."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end or b"chunked" in head.lower():
        return False
    found = _LENGTH.search(head)
    return len(body) >= (int(found[1]) if found else 0)


class PlainSite(web.BaseSite):
    """A TCP port without TLS."""

    __slots__ = ("_connections", "_host", "_port")

    def __init__(self, runner: web.BaseRunner, connections: Connections, *, host: str, port: int) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._connections = connections
        self._host = host
        self._port = port

    @property
    def name(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """As bound, once started."""
        return self._port

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        await super().start()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connections, self._host, self._port, backlog=self._backlog)
        self._server = server
        self._port = server.sockets[0].getsockname()[1]


class SocketSite(web.BaseSite):
    """A Unix socket."""

    __slots__ = ("_connections", "_path")

    def __init__(self, runner: web.BaseRunner, connections: Connections, *, path: str) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._connections = connections
        self._path = path

    @property
    def name(self) -> str:
        return f"unix:{self._path}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connections, self._path, backlog=self._backlog)


def connections_within_reach(wanted: int) -> int:
    """How many connections this process can have of those that are wanted, having raised its limit of descriptors as
    far as it may.
    """
    beside = SOCKET_CONNECTIONS_MAX + DESCRIPTORS_KEPT
    needed = wanted + min(wanted, REFUSED_MAX) + beside
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        reach = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (reach, hard))
        soft = reach
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    found = max((soft - beside) // 2, 16)  # and as many that are being refused
    log.warning("fewer_connections", extra={"wanted": wanted, "found": found, "descriptors": soft})
    return found
