"""What requests brought into memory: which keys signed it, and that it goes when they are revoked.

Owns nothing that lasts: no record is kept of what requests load, so a restart begins without it. What a root record
says must stop is taken out of memory, also when it was on its way there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from engine.engine import Engine
from federation.documents import KeyId, RootRecord
from federation.revocation import stopping
from federation.verification import VerifiedRelease

if TYPE_CHECKING:
    from engine.servables import Servable

log = logging.getLogger("peerage.models")

Find = Callable[[str, "str | None"], Awaitable["VerifiedRelease | None"]]


class DemandedReleases:
    """Lets requests load what ``find`` finds, verified. ``root`` gives the root record of the moment."""

    def __init__(self, engine: Engine, find: Find, *, root: Callable[[], RootRecord]) -> None:
        self._engine = engine
        self._find = find
        self._root = root
        self._signed: dict[str, frozenset[KeyId]] = {}
        engine.load_on_demand(self.found)
        engine.subscribe(self._changed)

    async def found(self, name: str, version: str | None) -> VerifiedRelease | None:
        """What a request may load."""
        release = await self._find(name, version)
        if release is not None:
            self._signed[release.record.name] = frozenset(
                [release.keyid, *(member.keyid for member in release.members)]
            )
        return release

    def obey(self, root: RootRecord) -> None:
        """Take out of memory what a root record says must stop, of what requests loaded."""
        for name in stopping(self._signed, root):
            for servable in self._engine.loaded():
                if servable.name == name and servable.origin == "demand":
                    self._engine.unload(name)
                    log.warning("revoked_key", extra={"model": name, "reason": "its publisher's key was revoked"})

    def _changed(self, name: str, servable: Servable | None) -> None:
        if servable is None or servable.origin != "demand":
            self._signed.pop(name, None)
        elif stopping({name: self._signed.get(name, frozenset())}, self._root()):
            asyncio.get_running_loop().call_soon(self.obey, self._root())
