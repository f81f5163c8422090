"""The other end of a comparison with bare aiohttp: an application over the nameserver's own TLS context."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable

import msgspec
from aiohttp import web

from federation.tls import server_context
from peers.homes import Home


async def serve_bare(home: Home, routes: Iterable[web.RouteDef], *, told: str) -> None:
    """Until SIGTERM. Its first line of output is a JSON object with its ``host:port`` under the name ``told``."""
    application = web.Application()
    application.add_routes(list(routes))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    context = server_context(home.identity_crt, home.identity_key, home.ca_crt)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    print(msgspec.json.encode({told: f"127.0.0.1:{runner.addresses[0][1]}"}).decode(), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()
