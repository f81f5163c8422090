"""The processes between which ``blobs`` moves a file: one that transfers when it is told to, and bare aiohttp.

``python -m benchmarks.blob_transfers transfer HOME`` reads orders from its standard input, one JSON object a line, and
answers each with the seconds it took: ``push`` and ``pull`` are the production code, ``send`` and ``receive`` what is
left of it without a registry: one request of aiohttp's own client, its body one file.

``python -m benchmarks.blob_transfers serve HOME FOLDER`` is the other end of ``send`` and ``receive``: an aiohttp
application of two routes over the nameserver's own TLS context. It hashes nothing and checks nothing. A file that
arrives is on disk when it is answered for, on both sides, unless the order says ``"synced": false``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
import msgspec
from aiohttp import web

from benchmarks.bare_server import serve_bare
from federation.layout import ImageLayout
from federation.tls import NAMESERVER_HOSTNAME, client_context
from peers.federation_client import FederationClient
from peers.fetching import fetch
from peers.homes import Home
from peers.oci_push import PushIdentity, push

UNSYNCED: Final = "Bench-Unsynced"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """``layout`` is where a release is, ``into`` the layout or file that it is brought to, ``path`` a file."""

    act: str
    address: str
    layout: str = ""
    name: str = ""
    version: str = ""
    path: str = ""
    into: str = ""
    synced: bool = True


class Taken(msgspec.Struct, frozen=True):
    seconds: float
    cpu_s: float


async def _transfer(home: Home) -> None:
    """Orders come one at a time, so reading them may block."""
    context = client_context(home.ca_crt, home.identity_crt, home.identity_key)
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        began, used = time.perf_counter(), time.process_time()
        match order.act:
            case "push":
                layout = ImageLayout(Path(order.layout))
                release = layout.installed(order.name, order.version)
                identity = PushIdentity(home.ca_crt, home.identity_crt, home.identity_key)
                await push(layout, release, addresses=[order.address], identity=identity)
            case "pull":
                known = ImageLayout(Path(order.layout))
                signed = known.signed(known.installed(order.name, order.version))
                async with FederationClient([order.address], context) as client:
                    await fetch(signed, client=client, layout=ImageLayout(Path(order.into)))
            case "send":
                await _send(order, context)
            case _:
                await _receive(order, context)
        print(msgspec.json.encode(Taken(time.perf_counter() - began, time.process_time() - used)).decode(), flush=True)


async def _send(order: Order, context: object) -> None:
    headers = {} if order.synced else {UNSYNCED: "1"}
    connector = aiohttp.TCPConnector(ssl=context)  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=connector) as session:
        with Path(order.path).open("rb") as file:  # noqa: ASYNC230 — nothing else runs here
            url = f"https://{order.address}/{Path(order.path).name}"
            async with session.put(url, data=file, headers=headers, server_hostname=NAMESERVER_HOSTNAME) as response:
                assert response.status == 201, response.status


async def _receive(order: Order, context: object) -> None:
    connector = aiohttp.TCPConnector(ssl=context)  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"https://{order.address}/{Path(order.path).name}"
        async with session.get(url, server_hostname=NAMESERVER_HOSTNAME) as response:
            assert response.status == 200, response.status
            with Path(order.into).open("wb") as file:  # noqa: ASYNC230 — nothing else runs here
                async for chunk in response.content.iter_any():
                    file.write(chunk)
                await _settle(file, synced=order.synced)


async def _settle(file: BinaryIO, *, synced: bool) -> None:
    file.flush()
    if synced:
        await asyncio.to_thread(os.fsync, file.fileno())


async def _serve(home: Home, folder: Path) -> None:
    async def take(request: web.Request) -> web.Response:
        with (folder / request.match_info["name"]).open("wb") as file:
            async for chunk in request.content.iter_any():
                file.write(chunk)
            await _settle(file, synced=UNSYNCED not in request.headers)
        return web.Response(status=201)

    async def give(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["name"])

    await serve_bare(home, [web.put("/{name}", take), web.get("/{name}", give)], told="address")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        if sys.argv[1] == "serve":
            asyncio.run(_serve(Home(Path(sys.argv[2])), Path(sys.argv[3])))
        else:
            asyncio.run(_transfer(Home(Path(sys.argv[2]))))
