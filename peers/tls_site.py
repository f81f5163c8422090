"""Accepting TLS connections for aiohttp so that a refused handshake is seen, with the address that it came from.

asyncio swallows a handshake that fails inside ``create_server(ssl=…)``. Here a connection is accepted bare, so its
address is known, and then upgraded with the loop's public ``start_tls``, which raises what went wrong. Afterwards
aiohttp's protocol is on the same transport as it would have been otherwise: nothing is added to a request.

Rules: handshakes are bounded in number and in time; a connection over the bound is dropped at once. What a client
sends right behind its handshake is kept for aiohttp, which is not there yet when it arrives.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from aiohttp import web

HANDSHAKE_TIMEOUT_S: Final = 10.0  # also for a client that connects and says nothing
HANDSHAKES_MAX: Final = 1024  # at once; each costs a socket and some 300 KiB until it is done
BACKLOG: Final = 1024

OnRefused = Callable[[Exception, str], None]
"""Told of a handshake that ended: what it ended with (:func:`federation.tls.reason_of` it is for the log),
``host:port`` of the peer.
"""


class TlsSite(web.BaseSite):
    """In place of :class:`aiohttp.web.TCPSite`, for a runner that is set up. Port 0 takes a free one: see
    :attr:`port`.
    """

    __slots__ = ("_handshakes_max", "_host", "_on_refused", "_port", "_tasks")

    def __init__(
        self,
        runner: web.BaseRunner,
        context: ssl.SSLContext,
        *,
        host: str,
        port: int,
        on_refused: OnRefused,
        handshakes_max: int = HANDSHAKES_MAX,
    ) -> None:
        super().__init__(runner, ssl_context=context, backlog=BACKLOG)
        self._host = host
        self._port = port
        self._on_refused = on_refused
        self._handshakes_max = handshakes_max
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return f"https://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        return self._port

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        await super().start()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Upgrading(self), self._host, self._port, backlog=self._backlog)
        self._server = server
        self._port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """No new connections; handshakes under way are dropped."""
        await super().stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def upgrade(self, accepted: _Upgrading, transport: asyncio.Transport) -> None:
        """Begin the handshake of a connection."""
        if len(self._tasks) >= self._handshakes_max:
            self._on_refused(ConnectionRefusedError("TOO_MANY_HANDSHAKES"), _address(transport))
            transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._handshake(accepted, transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handshake(self, accepted: _Upgrading, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        address = _address(transport)
        context, server = self._ssl_context, self._runner.server
        assert context is not None
        assert server is not None
        try:
            secured = await loop.start_tls(
                transport, accepted, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except (ssl.SSLError, ConnectionError, TimeoutError) as error:
            self._on_refused(error, address)
            transport.abort()
            return
        except BaseException:
            transport.abort()
            raise
        if secured is None or accepted.lost:
            return
        protocol = server()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        accepted.hand_over(protocol)


class _Upgrading(asyncio.Protocol):
    """Stands in for aiohttp's protocol until the handshake is done."""

    def __init__(self, site: TlsSite) -> None:
        self._site = site
        self._early: list[bytes] = []
        self._ended = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        accepted = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        accepted.pause_reading()  # start_tls resumes, with its own protocol in place
        self._site.upgrade(self, accepted)

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def eof_received(self) -> None:
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        for data in self._early:
            protocol.data_received(data)
        self._early.clear()
        if self._ended:
            protocol.eof_received()


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if peer else "unknown"
