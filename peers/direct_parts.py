"""What a home needs to ask other peers directly, and an edge to be asked: put together from its settings.

Owns what an edge listens for and looks for; its mode says when (:mod:`peers.edge_links`). Refuses nothing.
Rules: without the settings nothing of it is there. A face that cannot open, because its port is taken, is told in the
log and tried again: the edge works without.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from federation.documents import RootRecord
from federation.names import fold
from federation.tls import neighbour_context
from peers.direct_asking import DirectFirst
from peers.direct_connections import DirectConnections
from peers.direct_face import DirectFace, Executor
from peers.elsewhere import Identity
from peers.federation_client import FederationClient
from peers.introductions import Introductions
from peers.local_parts import PeerSelf
from peers.neighbours import Neighbours
from peers.settings import ClientSettings, EdgeSettings, direct_addresses
from peers.statements import Elsewhere
from query.errors import Problem

REOPEN_S: Final = 5.0

log = logging.getLogger("peerage.direct")


class DirectParts:
    """Of an edge or a client. ``open_at`` is ``host:port`` of the face, as bound, while it is open."""

    def __init__(
        self,
        me: PeerSelf,
        *,
        client: FederationClient,
        root: Callable[[], RootRecord],
        follow_root: Callable[[], Awaitable[object]],
    ) -> None:
        settings = me.settings
        assert isinstance(settings, EdgeSettings | ClientSettings)
        self._home = me.home
        self._membership = membership = me.membership
        self._settings = settings
        self._client = client
        self._known = direct_addresses(settings.direct_peers)
        self._neighbours = Neighbours(membership.federation, interface=settings.zeroconf_interface)
        self._introductions = Introductions(
            me.home.path,
            federation=membership.federation,
            uuid=membership.uuid,
            client=client,
            root=root,
            follow_root=follow_root,
        )
        self._connections = DirectConnections(self._context, certificate=me.home.identity_crt)
        self.open_at: str | None = None

    async def close(self) -> None:
        """End the connections to other peers."""
        await self._connections.close()

    def front(self, upward: Elsewhere, identity: Identity) -> Elsewhere:
        """What asks directly where that is possible, and else as ``upward`` does."""
        return DirectFirst(
            upward,
            identity=identity,
            addresses=self._addresses,
            introductions=self._introductions,
            connections=self._connections,
            may_dial=self._client.check_open,
        )

    def _addresses(self, name: str) -> Sequence[str]:
        return (*self._known.get(fold(name), ()), *self._neighbours.addresses(name))

    def _context(self, check: Callable[[bytes], None]) -> ssl.SSLContext:
        home = self._home
        return neighbour_context(home.ca_crt, home.identity_crt, home.identity_key, check=check)

    async def listen(self, executor: Executor) -> None:
        """Be there for others, where the settings say so, until cancelled."""
        settings = self._settings
        if isinstance(settings, EdgeSettings) and settings.direct_host is not None:
            await self._listen(executor, settings, settings.direct_host)

    async def keep(self) -> None:
        """Know others and be introduced to them ahead, until cancelled; then connections to them end."""
        settings = self._settings
        discovers = isinstance(settings, EdgeSettings) and settings.direct_discover and settings.zeroconf
        try:
            async with asyncio.TaskGroup() as tasks:
                if discovers:
                    tasks.create_task(self._neighbours.look())
                if self._known or discovers:
                    tasks.create_task(self._introductions.keep(self._names))
                    await asyncio.Event().wait()
        finally:
            await self.close()

    def _names(self) -> Sequence[str]:
        own = fold(self._membership.name)
        return tuple(name for name in dict.fromkeys((*self._known, *self._neighbours.names)) if name != own)

    async def _listen(self, executor: Executor, settings: EdgeSettings, host: str) -> None:
        from peers.discovery import announced
        from peers.faces import direct_face

        membership = self._membership
        face = DirectFace(
            federation=membership.federation, executor=executor, federation_time=self._client.federation_time
        )
        while True:
            try:
                async with AsyncExitStack() as stack:
                    opened = await stack.enter_async_context(
                        direct_face(face.application(), self._home, settings, host=host)
                    )
                    self.open_at = f"[{host}]:{opened.port}" if ":" in host else f"{host}:{opened.port}"
                    log.info("direct_open", extra={"address": self.open_at})
                    if settings.zeroconf:
                        announcing = announced(
                            federation=membership.federation,
                            name=membership.name,
                            uuid=membership.uuid,
                            port=opened.port,
                            addresses=[host],
                            interface=settings.zeroconf_interface,
                            role="edge",
                        )
                        await stack.enter_async_context(announcing)
                    await asyncio.Event().wait()
            except (Problem, OSError) as problem:
                log.warning("direct_not_open", extra={"reason": str(problem), "again_s": REOPEN_S})
            finally:
                self.open_at = None
            await asyncio.sleep(REOPEN_S)
