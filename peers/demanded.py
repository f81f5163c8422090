"""What requests brought into memory: which keys signed it, and that it goes when they are revoked.

Owns nothing that lasts: no record is kept of what requests load, so a restart begins without it. What a root record
says must stop is taken out of memory, also when it was on its way there. Keys are known by a release's record: another
version of the same name may have been asked for meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from engine.engine import Engine
from federation.documents import KeyId, RootRecord
from federation.names import Digest
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
        self._signed: dict[Digest, frozenset[KeyId]] = {}  # of what was found; as many as are installed
        engine.load_on_demand(self.found)
        engine.subscribe(self._changed)

    async def found(self, name: str, version: str | None) -> VerifiedRelease | None:
        """What a request may load."""
        release = await self._find(name, version)
        if release is not None:
            self._signed[release.record_digest] = frozenset(
                [release.keyid, *(member.keyid for member in release.members)]
            )
        return release

    def obey(self, root: RootRecord) -> None:
        """Take out of memory what a root record says must stop, of what requests loaded."""
        for servable in self._engine.loaded():
            if servable.origin == "demand" and self._must_stop(servable, root):
                self._engine.unload(servable.name)
                reason = "its publisher's key was revoked"
                log.warning("revoked_key", extra={"model": servable.name, "reason": reason})

    def _must_stop(self, servable: Servable, root: RootRecord) -> bool:
        return bool(stopping({servable.name: self._signed.get(servable.record_digest, frozenset())}, root))

    def _changed(self, name: str, servable: Servable | None) -> None:
        if servable is not None and servable.origin == "demand" and self._must_stop(servable, self._root()):
            asyncio.get_running_loop().call_soon(self.obey, self._root())
