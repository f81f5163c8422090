"""Bodies that stop half way while their connection stays open: ended by this project's own deadline, on both faces and
every route. All wait at once, so that the file takes one deadline; some drip a byte a second, which does not help them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from federation.manifests import MANIFEST_TYPE
from federation.tls import client_context
from peers.answers import BODY_DEADLINE_S
from peers.federation_client import SERVER_HOSTNAME, FederationClient
from peers.homes import RunRecord
from tests.wire.living import living, publisher_in

pytestmark = pytest.mark.timeout(120)

SLACK_S = 5.0


async def half_sent(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, *, drips: bool
) -> tuple[bytes, float]:
    """What is answered to a request whose body never ends, and after how long."""
    writer.write(head.encode() + b'\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{"text": "1')
    began = time.monotonic()

    async def drip() -> None:
        while True:
            await asyncio.sleep(1.0)  # the pace of one who drips; nobody waits for it
            writer.write(b"1")

    dripping = asyncio.create_task(drip()) if drips else None
    try:
        async with asyncio.timeout(BODY_DEADLINE_S + SLACK_S):
            answer = await reader.readuntil(b"\r\n\r\n") + await reader.readuntil(b"}")
        return answer, time.monotonic() - began
    finally:
        if dripping is not None:
            dripping.cancel()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_body_that_never_ends(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await publisher_in(federation)
        ns, edge = federation.peers["ns"].record, federation.peers["e1"].record
        assert ns.federation is not None
        where = ns.federation
        uuid = federation.home("e1").membership().uuid

        async def over_tls(name: str, head: str, *, drips: bool = False) -> tuple[bytes, float]:
            home, (host, _, port) = federation.home(name), where.rpartition(":")
            context = client_context(home.ca_crt, home.identity_crt, home.identity_key)
            opened = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=SERVER_HOSTNAME)
            return await half_sent(*opened, head, drips=drips)

        async def over_port(run: RunRecord, name: str, *, drips: bool = False) -> tuple[bytes, float]:
            assert run.application is not None
            host, _, port = run.application.rpartition(":")
            head = f"POST /v1/query HTTP/1.1\r\nAuthorization: Bearer {federation.home(name).token()}"
            return await half_sent(*await asyncio.open_connection(host, int(port)), head, drips=drips)

        async def over_socket(run: RunRecord, *, drips: bool = False) -> tuple[bytes, float]:
            assert run.socket is not None
            opened = await asyncio.open_unix_connection(run.socket)
            return await half_sent(*opened, "POST /v1/query HTTP/1.1", drips=drips)

        ada = federation.home("ada")
        context = client_context(ada.ca_crt, ada.identity_crt, ada.identity_key)
        async with (
            FederationClient((where,), context) as client,
            client.request("POST", "/v2/models/thermo/blobs/uploads/") as begun,
        ):
            upload = begun.headers["Location"]
        manifest = f"PUT /v2/models/thermo/manifests/1.0 HTTP/1.1\r\nContent-Type: {MANIFEST_TYPE}"
        ways = {
            "query over the socket": over_socket(ns),
            "query over an edge's socket": over_socket(edge, drips=True),
            "query over the port": over_port(ns, "ns", drips=True),
            "query over an edge's port": over_port(edge, "e1"),
            "query over the federation face": over_tls("ns-admin", "POST /v1/query HTTP/1.1"),
            "join": over_tls("ns-admin", "POST /v1/join HTTP/1.1", drips=True),
            "report": over_tls("e1", f"PUT /v1/edges/{uuid}/report HTTP/1.1"),
            "upload": over_tls("ada", f"PATCH {upload} HTTP/1.1"),
            "manifest": over_tls("ada", manifest, drips=True),
        }
        told = dict(zip(ways, await asyncio.gather(*ways.values()), strict=True))
        for way, (answer, took_s) in told.items():
            assert answer.startswith(b"HTTP/1.1 408 "), (way, answer)
            assert b"the body stopped after" in answer or b"the body did not end within 15 s" in answer, (way, answer)
            assert BODY_DEADLINE_S - 1.0 < took_s < BODY_DEADLINE_S + SLACK_S, way
        assert await federation.value("//peer: nameserver\nmodels:installed()") == []
        assert await federation.value("//peer: e1\nthis_peer()") == "E1"
