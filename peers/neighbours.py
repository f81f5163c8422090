"""Edges that announce on the local network that they can be asked directly: names and addresses, a hint and no more.

    role edge · name · federation · port       as :mod:`peers.discovery` announces it

Rules: bounded, by :data:`NEIGHBOURS_MAX` names; the announcement that came last counts; who is reached there is proven
by TLS and the introduction, whoever announced it. No network and nobody there are the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from federation.names import fold

NEIGHBOURS_MAX: Final = 64
WAITING_MAX: Final = 64  # announcements that are still to be looked at

log = logging.getLogger("peerage.discovery")


class Neighbours:
    """Those of one federation."""

    def __init__(self, federation: str, *, interface: str | None) -> None:
        self._federation = federation
        self._interface = interface
        self._known: dict[str, tuple[str, ...]] = {}
        self._services: dict[str, str] = {}  # the announcement's name → folded peer name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._known)

    def addresses(self, name: str) -> Sequence[str]:
        return self._known.get(fold(name), ())

    def add(self, service: str, name: str, addresses: tuple[str, ...]) -> None:
        """An announcement was heard."""
        self.remove(service)
        folded = fold(name)
        if addresses and (folded in self._known or len(self._known) < NEIGHBOURS_MAX):
            self._known[folded] = addresses
            self._services[service] = folded

    def remove(self, service: str) -> None:
        """An announcement was taken back."""
        folded = self._services.pop(service, None)
        if folded is not None and folded not in self._services.values():
            self._known.pop(folded, None)

    async def look(self) -> None:
        """Listen for announcements until cancelled."""
        from peers.discovery import NoDiscovery, edge_announced, opened_browser

        heard: asyncio.Queue[tuple[str, bool]] = asyncio.Queue(WAITING_MAX)

        def changed(*, name: str, state_change: Any, **_: Any) -> None:
            if not heard.full():
                heard.put_nowait((name, state_change.name != "Removed"))

        try:
            async with opened_browser(self._interface, changed) as zeroconf:
                while True:
                    service, there = await heard.get()
                    found = await edge_announced(zeroconf, service, self._federation) if there else None
                    if found is None:
                        self.remove(service)
                    else:
                        self.add(service, *found)
        except NoDiscovery as problem:
            log.info("discovery_failed", extra={"reason": str(problem)})
