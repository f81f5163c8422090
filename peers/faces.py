"""Opening and closing a peer's listeners: the application face on socket and port, the federation face over TLS."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from federation.tls import reason_of, server_context
from peers.application_listener import ApplicationListener
from peers.application_server import (
    KEEPALIVE_S,
    SOCKET_CONNECTIONS_MAX,
    WIDE_KEEPALIVE_S,
    Connections,
    PlainSite,
    SocketSite,
    connections_within_reach,
)
from peers.application_tls import WideTls
from peers.device_mode import is_local
from peers.gates import Gate, LoopbackGate, SocketGate, WideGate
from peers.homes import Home
from peers.settings import EdgeSettings, ListenerSettings, NameserverSettings, port_taken
from peers.throttle import Throttle
from peers.tls_site import TlsSite

SHUTDOWN_S: Final = 1.0  # for the answers under way on one listener when the peer stops
REFUSALS_PER_S: Final = 1.0  # handshakes that ended which the log tells of
REFUSALS_BURST: Final = 10

log = logging.getLogger("peerage.http")


@dataclass(frozen=True, slots=True)
class ApplicationFace:
    """The Unix socket's path, and ``host:port`` as bound with its ``connections``; ``stop_accepting`` closes both to
    new connections, once.
    """

    socket: str
    near: str
    connections: Connections
    stop_accepting: Callable[[], Awaitable[None]]


@asynccontextmanager
async def application_face(
    listener: ApplicationListener, home: Home, settings: ListenerSettings
) -> AsyncIterator[ApplicationFace]:
    """Serve the Unix socket and the port while the block runs: beyond this device over TLS."""
    wide = None if is_local(settings.application_host) else WideTls(home, settings)
    async with AsyncExitStack() as ended, AsyncExitStack() as stack:
        path = str(home.prepare_socket())
        local, entering = await _gated(
            stack, listener, SocketGate(), connections_max=SOCKET_CONNECTIONS_MAX, kept_s=KEEPALIVE_S
        )
        unix = SocketSite(local, entering, path=path)
        await unix.start()
        home.socket.chmod(0o600)
        near, arriving = await _gated(
            stack,
            listener,
            LoopbackGate(home.token()) if wide is None else WideGate(home.token()),
            connections_max=connections_within_reach(settings.connections_max),
            kept_s=KEEPALIVE_S if wide is None else WIDE_KEEPALIVE_S,
        )
        site: PlainSite | TlsSite
        if wide is None:
            site = PlainSite(near, arriving, host=settings.application_host, port=settings.application_port)
        else:
            site = TlsSite(
                near,
                wide.context,
                host=settings.application_host,
                port=settings.application_port,
                on_refused=_refused_handshake(Throttle(REFUSALS_PER_S, REFUSALS_BURST)),
                strangers_max=None,
                protocol=arriving,
                renew=wide.renew,
            )
            ended.push_async_callback(site.hang_up)
        try:
            await site.start()
        except OSError as error:
            raise _taken(error, "application_port", settings.application_host, settings.application_port) from error

        async def stop_accepting() -> None:
            await unix.stop()
            await site.stop()

        yield ApplicationFace(path, _joined(settings.application_host, site.port), arriving, stop_accepting)


async def _gated(
    stack: AsyncExitStack, listener: ApplicationListener, gate: Gate, *, connections_max: int, kept_s: float
) -> tuple[web.AppRunner, Connections]:
    """A runner of the listener's application behind a gate, and what makes its connections."""
    runner = await _runner(stack, listener.application(gate))
    server = runner.server
    assert server is not None
    server.request_handler = listener.dispatching(gate, server.request_handler)
    return runner, Connections(server, connections_max=connections_max, kept_s=kept_s)


def _refused_handshake(throttle: Throttle, *, face: str = "application") -> Callable[[Exception, str], None]:
    def tell(error: Exception, address: str) -> None:
        if throttle.take(time.monotonic()):
            log.warning("tls_refused", extra={"address": address, "reason": reason_of(error), "face": face})

    return tell


@dataclass(frozen=True, slots=True)
class FederationFace:
    """The port as bound; ``reload_certificate`` shows the home's certificate as it is now to whoever connects next.

    ``stop_accepting`` closes it to new connections, once.
    """

    port: int
    reload_certificate: Callable[[], None]
    stop_accepting: Callable[[], Awaitable[None]]


@asynccontextmanager
async def federation_face(
    application: web.Application,
    home: Home,
    settings: NameserverSettings,
    *,
    on_refused: Callable[[Exception, str], None],
) -> AsyncIterator[FederationFace]:
    """Serve the federation face while the block runs."""
    where = settings.federation_host, settings.federation_port
    async with _certified_face(application, home, where, "federation_port", on_refused=on_refused) as face:
        yield face


@asynccontextmanager
async def direct_face(
    application: web.Application, home: Home, settings: EdgeSettings, *, host: str
) -> AsyncIterator[FederationFace]:
    """Serve an edge's face for other members while the block runs, under the certificate that is in the home then."""
    on_refused = _refused_handshake(Throttle(REFUSALS_PER_S, REFUSALS_BURST), face="direct")
    where = host, settings.direct_port
    async with _certified_face(application, home, where, "direct_port", on_refused=on_refused, renews=True) as face:
        yield face


@asynccontextmanager
async def _certified_face(
    application: web.Application,
    home: Home,
    where: tuple[str, int],
    setting: str,
    *,
    on_refused: Callable[[Exception, str], None],
    renews: bool = False,
) -> AsyncIterator[FederationFace]:
    """``where``: host and port; ``setting``: of the port. ``renews``: each handshake looks for a newer certificate."""
    host, port = where
    async with AsyncExitStack() as ended, AsyncExitStack() as stack:
        runner = await _runner(stack, application)
        context = server_context(home.identity_crt, home.identity_key, home.ca_crt)
        shown_ns = home.identity_crt.stat().st_mtime_ns

        def reload() -> None:
            context.load_cert_chain(home.identity_crt, home.identity_key)

        def renew() -> None:
            nonlocal shown_ns
            with suppress(OSError):  # between two certificates the older one serves
                newest_ns = home.identity_crt.stat().st_mtime_ns
                if newest_ns != shown_ns:
                    reload()
                    shown_ns = newest_ns

        site = TlsSite(runner, context, host=host, port=port, on_refused=on_refused, renew=renew if renews else None)
        ended.push_async_callback(site.hang_up)
        try:
            await site.start()
        except OSError as error:
            raise _taken(error, setting, host, port) from error
        yield FederationFace(port=site.port, reload_certificate=reload, stop_accepting=site.stop)


async def _runner(stack: AsyncExitStack, application: web.Application) -> web.AppRunner:
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


def _taken(error: OSError, setting: str, host: str, port: int) -> Exception:
    return port_taken(setting, host, port) if error.errno == errno.EADDRINUSE else error


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    waiting = tuple(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
