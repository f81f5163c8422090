"""A process that holds many subscribers of NATS, each on a connection of its own, which answer ``1 + 1``.

``python -m benchmarks.nats_load FILE`` reads :class:`Subscribing` and says ``ready`` when all have subscribed. The
answer is worked out as an edge's would be written: a line of JSON with a row. Where there are identities, every
subscriber connects with its own certificate under TLS 1.3, and answers only what the caller signed, as an edge does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import nats
from nats.aio.msg import Msg

from benchmarks.federations import Joining
from federation.documents import SignedDocument
from federation.keys import keyid_of
from federation.signing import verified
from federation.tls import NAMESERVER_HOSTNAME, client_context

SUBJECT = "peers.all"
KIND = "application/vnd.peerage.bench.v1+json"


class Subscribing(msgspec.Struct, frozen=True):
    """``edges``: who the subscribers are; ``ca`` and ``caller`` (its public key) where they prove it and check."""

    port: int
    edges: tuple[Joining, ...]
    ca: str | None = None
    caller: bytes = b""


class Asked(msgspec.Struct, frozen=True):
    text: str


async def hold(subscribing: Subscribing) -> None:
    keys = {keyid_of(subscribing.caller): subscribing.caller} if subscribing.ca else {}

    async def answer(message: Msg) -> None:
        asked = message.data
        if keys:
            asked = verified(msgspec.json.decode(asked, type=SignedDocument), KIND, keys)
        left, right = msgspec.json.decode(asked, type=Asked).text.split("+")
        await message.respond(msgspec.json.encode({"frame": "row", "statement": 0, "values": [int(left) + int(right)]}))

    clients = []
    for edge in subscribing.edges:
        client = await connected(subscribing, edge)
        await client.subscribe(SUBJECT, cb=answer)
        await client.flush()
        clients.append(client)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def connected(subscribing: Subscribing, edge: Joining) -> nats.NATS:
    """A connection to the server, as one of the edges."""
    url = f"nats://127.0.0.1:{subscribing.port}"
    if subscribing.ca is None:
        return await nats.connect(url)
    context = client_context(subscribing.ca, edge.certificate, edge.key)
    return await nats.connect(url, tls=context, tls_hostname=NAMESERVER_HOSTNAME)


if __name__ == "__main__":
    asyncio.run(hold(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Subscribing)))
