"""Opening and closing a peer's listeners: the application face on socket and port, the federation face over TLS."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from federation.tls import server_context
from peers.application_listener import ApplicationListener
from peers.homes import Home
from peers.settings import ListenerSettings, NameserverSettings, port_taken
from peers.tls_site import TlsSite

SHUTDOWN_S: Final = 1.0  # for the answers under way on one listener when the peer stops
KEEPALIVE_S: Final = 330.0  # longer than a client keeps an idle connection, so that the client closes first

log = logging.getLogger("peerage.http")


@dataclass(frozen=True, slots=True)
class ApplicationFace:
    """The Unix socket's path, and ``host:port`` as bound; ``stop_accepting`` closes both to new connections, once."""

    socket: str
    near: str
    stop_accepting: Callable[[], Awaitable[None]]


@asynccontextmanager
async def application_face(
    listener: ApplicationListener, home: Home, settings: ListenerSettings
) -> AsyncIterator[ApplicationFace]:
    """Serve the Unix socket and the port while the block runs."""
    async with AsyncExitStack() as stack:
        path = str(home.prepare_socket())
        local = await _runner(stack, listener.application(token=None))
        unix = web.UnixSite(local, path)
        await unix.start()
        home.socket.chmod(0o600)
        near = await _runner(stack, listener.application(token=home.token()))
        site = web.TCPSite(near, settings.application_host, settings.application_port)
        try:
            await site.start()
        except OSError as error:
            raise _taken(error, "application_port", settings.application_host, settings.application_port) from error
        host, port = near.addresses[0][:2]

        async def stop_accepting() -> None:
            await unix.stop()
            await site.stop()

        yield ApplicationFace(path, _joined(host, port), stop_accepting)


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
    async with AsyncExitStack() as ended, AsyncExitStack() as stack:
        runner = await _runner(stack, application)
        context = server_context(home.identity_crt, home.identity_key, home.ca_crt)
        site = TlsSite(
            runner, context, host=settings.federation_host, port=settings.federation_port, on_refused=on_refused
        )
        ended.push_async_callback(site.hang_up)
        try:
            await site.start()
        except OSError as error:
            raise _taken(error, "federation_port", settings.federation_host, settings.federation_port) from error
        yield FederationFace(
            port=site.port,
            reload_certificate=lambda: context.load_cert_chain(home.identity_crt, home.identity_key),
            stop_accepting=site.stop,
        )


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
