"""What an edge keeps open to the outside while its mode asks for it.

INTERACTIVE    an uplink, the face for other members where the settings open one, and looking for a nameserver that does
               not answer where it was
ONLINE         the looking, and what it takes to ask others directly
AUTONOMOUS     nothing: all end at once when the mode begins
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from federation.bundles import ADDRESSES_MAX
from federation.documents import Mode
from peers.agent import Agent
from peers.discovery import find_nameservers
from peers.faces import cancelled
from peers.federation_client import FederationClient
from peers.homes import Membership
from peers.settings import EdgeSettings

DISCOVER_S_MIN: Final = 1.0  # between looks for a nameserver that does not answer where it was; doubles
DISCOVER_S_MAX: Final = 30.0

Holding: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger("peerage.edge")


class EdgeLinks:
    """Begins and ends what a mode asks for; told of modes by :meth:`change`."""

    def __init__(self) -> None:
        self._mode: Mode = "ONLINE"
        self._changed = asyncio.Event()

    def change(self, mode: Mode) -> None:
        self._mode = mode
        self._changed.set()

    async def hold(self, uplink: Holding, *, discover: Holding, listen: Holding, neighbours: Holding) -> None:
        """Runs until cancelled."""
        held: dict[Holding, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                interactive, connects = self._mode == "INTERACTIVE", self._mode != "AUTONOMOUS"
                wanted = {uplink: interactive, listen: interactive, discover: connects, neighbours: connects}
                for holding, holds in wanted.items():
                    if holds and holding not in held:
                        held[holding] = asyncio.create_task(holding())
                    elif not holds and holding in held:
                        await cancelled([held.pop(holding)])
                await self._changed.wait()
        finally:
            await cancelled(held.values())


async def keep_discovering(
    client: FederationClient, membership: Membership, settings: EdgeSettings, agent: Agent
) -> None:
    """Look for the nameserver on the local network while it does not answer where it was; a hint only."""
    if settings.nameserver or not settings.zeroconf:
        return
    pause_s = DISCOVER_S_MIN
    while True:
        if agent.contact.state not in ("never", "unreachable"):
            pause_s = DISCOVER_S_MIN
        else:
            found = await find_nameservers(membership.federation, interface=settings.zeroconf_interface)
            fresh = [address for address in found if address not in client.addresses]
            if fresh:
                log.info("nameserver_found", extra={"addresses": fresh})
                client.use_addresses(fresh[:ADDRESSES_MAX])
                agent.nudge()
            pause_s = min(DISCOVER_S_MAX, 2 * pause_s)
        await asyncio.sleep(pause_s)
