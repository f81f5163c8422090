"""A process that holds many edges' uplinks and runs what comes down them with the production executor.

``python -m benchmarks.uplink_load FILE`` reads a :class:`Holding`, connects every edge, and says ``ready``. Each edge
has a client, an uplink, an executor and a memory of nonces of its own; the catalogue, the same for all, is shared.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.federations import Joining
from federation.documents import RootRecord, SignedDocument
from federation.tls import client_context
from peers.carried import CarriedStatements
from peers.catalogues import PeerCatalogue
from peers.federation_client import FederationClient
from peers.running import RunningQueries
from peers.statements import Statements
from peers.uplink_client import UplinkClient
from query.functions import language_functions


class Holding(msgspec.Struct, frozen=True):
    """Which uplinks one process holds."""

    address: str
    federation: str
    ca: str
    root: RootRecord
    edges: tuple[Joining, ...]


class _Nowhere:
    """The elsewhere of an edge that is only asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name}: an edge of this benchmark asks nobody")


def _sealed(*_: Any, **__: Any) -> SignedDocument:
    raise AssertionError("an edge of this benchmark asks nobody")


async def hold(holding: Holding) -> None:
    catalogue = PeerCatalogue()
    catalogue.compose(*language_functions())
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        uplinks = []
        for edge in holding.edges:
            client = FederationClient([holding.address], client_context(holding.ca, edge.certificate, edge.key))
            await stack.enter_async_context(client)
            carried = CarriedStatements(
                name=edge.name,
                federation=holding.federation,
                root=lambda: holding.root,
                statements=Statements(
                    name=edge.name,
                    is_nameserver=False,
                    catalogue=catalogue,
                    elsewhere=_Nowhere(),
                    running=RunningQueries(),
                    federation_time=client.federation_time,
                ),
                federation_time=client.federation_time,
            )
            uplink = UplinkClient(
                client, carried, on_nudge=lambda: None, pause=lambda attempt: 0.2, sooner=asyncio.Event()
            )
            tasks.create_task(uplink.hold())
            uplinks.append(uplink)
            while not uplink.connected:  # noqa: ASYNC110 — one handshake after another
                await asyncio.sleep(0.002)
        print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(hold(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Holding)))
