"""Accepting TLS connections for aiohttp so that a refused handshake is seen, with the address that it came from.

asyncio swallows a handshake that fails inside ``create_server(ssl=…)``. Here sockets are accepted first, so the address
is known, and each is given to the loop's public ``connect_accepted_socket``, which raises what went wrong, on asyncio
and uvloop alike. What a request then goes through is the same as behind :class:`aiohttp.web.TCPSite`.

Rules: handshakes are bounded in number and in time, and so are connections without a certificate, which anybody can
open; one over the bound is dropped at once. When the process has no descriptor left, accepting pauses and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

HANDSHAKE_TIMEOUT_S: Final = 10.0  # also for a client that connects and says nothing
HANDSHAKES_MAX: Final = 1024  # at once; each costs a socket and some 300 KiB until it is done
STRANGERS_MAX: Final = 256  # connections without a certificate at once
STRANGER_S_MAX: Final = 60.0
BACKLOG: Final = 1024
SCARCE_PAUSE_S: Final = 1.0
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("peerage.federation")

OnRefused = Callable[[Exception, str], None]
"""Told of a handshake that ended: with what (:func:`federation.tls.reason_of` it is for the log), and ``host:port``
of the peer."""


class TlsSite(web.BaseSite):
    """In place of :class:`aiohttp.web.TCPSite`, for a runner that is set up; port 0 takes a free one."""

    __slots__ = (
        "_accepting",
        "_connected",
        "_handshakes",
        "_handshakes_max",
        "_host",
        "_listening",
        "_on_refused",
        "_port",
        "_protocol",
        "_renew",
        "_strangers",
        "_strangers_max",
    )

    def __init__(
        self,
        runner: web.BaseRunner,
        context: ssl.SSLContext,
        *,
        host: str,
        port: int,
        on_refused: OnRefused,
        handshakes_max: int = HANDSHAKES_MAX,
        strangers_max: int | None = STRANGERS_MAX,
        protocol: Callable[[], asyncio.Protocol] | None = None,
        renew: Callable[[], None] | None = None,
    ) -> None:
        """``strangers_max`` None: nobody is asked for a certificate. ``protocol`` in place of the runner's server.
        ``renew`` is called before each handshake.
        """
        super().__init__(runner, ssl_context=context, backlog=BACKLOG)
        self._protocol = protocol
        self._renew = renew
        self._host = host
        self._port = port
        self._on_refused = on_refused
        self._handshakes_max = handshakes_max
        self._strangers_max = strangers_max
        self._connected: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return f"https://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """As bound, once started."""
        return self._port

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        await super().start()
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, self._port), family=family, backlog=self._backlog)
        listening.setblocking(False)
        self._listening = listening
        self._port = listening.getsockname()[1]
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))

    async def stop(self) -> None:
        """No new connections; handshakes under way are dropped."""
        await super().stop()
        for timer in self._strangers.values():
            timer.cancel()
        tasks = [task for task in (self._accepting, *self._handshakes) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()

    async def hang_up(self) -> None:
        """End what is still connected when the runner is done: a peer that says no goodbye is not waited for."""
        for transport in tuple(self._connected):
            transport.abort()
        self._connected.clear()
        await asyncio.sleep(0)  # an abort takes effect at the loop's next turn

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _SCARCE:
                    log.warning("accept_paused", extra={"reason": error.strerror, "pause_s": SCARCE_PAUSE_S})
                    await asyncio.sleep(SCARCE_PAUSE_S)
                elif error.errno != errno.ECONNABORTED:
                    raise
                continue
            address = shown_address(peer)
            if len(self._handshakes) >= self._handshakes_max:
                accepted.close()
                self._on_refused(ConnectionRefusedError("TOO_MANY_HANDSHAKES"), address)
                continue
            task = loop.create_task(self._handshake(accepted, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, accepted: socket.socket, address: str) -> None:
        server = self._protocol or self._runner.server
        assert server is not None
        if self._renew is not None:
            self._renew()
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                server, accepted, ssl=self._ssl_context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except (ssl.SSLError, ConnectionError, TimeoutError) as error:
            self._on_refused(error, address)
            return
        with contextlib.suppress(TypeError):  # of uvloop, which lets nobody remember a connection weakly
            self._connected.add(transport)
        if self._strangers_max is not None and not transport.get_extra_info("peercert"):
            self._bound_stranger(transport, address, self._strangers_max)

    def _bound_stranger(self, transport: asyncio.Transport, address: str, strangers_max: int) -> None:
        """Who shows no certificate can join or be told that it is refused: for that it has a while, and few at once."""
        for known in [known for known in self._strangers if known.is_closing()]:
            self._strangers.pop(known).cancel()
        if len(self._strangers) >= strangers_max:
            transport.abort()
            self._on_refused(ConnectionRefusedError("TOO_MANY_STRANGERS"), address)
            return
        self._strangers[transport] = asyncio.get_running_loop().call_later(STRANGER_S_MAX, transport.abort)


def shown_address(peer: Any) -> str:
    """``host:port`` of a socket address of either family."""
    host, port = peer[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
