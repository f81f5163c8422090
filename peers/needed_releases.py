"""What a release needs, found and brought for a person who makes, loads or imports it on this peer.

Owns the choice among what this peer has in its repository, what is in memory before anything else, and, where that does
not do, the nameserver's choice. Loads in order, each like a load by hand. Refuses with the chain what cannot be met.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from federation.documents import ReleaseRecord, RootRecord, SignedDocument
from federation.layout import ImageLayout
from federation.names import Digest
from federation.needs import Candidate, NeedsUnmet, Standing, resolve
from federation.verification import VerifiedRelease, verify_record
from peers.release_ports import Memory
from query.errors import Problem


class NeededReleases:
    """``verified`` reads a release from its bytes here."""

    def __init__(
        self,
        layout: ImageLayout,
        *,
        root: Callable[[], RootRecord],
        follow_root: Callable[[], Awaitable[None]],
        verified: Callable[[SignedDocument], Awaitable[VerifiedRelease]],
        memory: Memory,
    ) -> None:
        self._layout = layout
        self._root = root
        self._follow_root = follow_root
        self._verified = verified
        self._memory = memory

    async def of(self, record: ReleaseRecord, *, directly: bool = False) -> tuple[VerifiedRelease, ...]:
        """What a release needs, among what this peer has, in the order of loading; or only what it needs itself, whose
        functions it may call. Raises :class:`~federation.needs.NeedsUnmet` with the chain.
        """
        if not record.needs.releases:
            return ()
        try:
            chosen, signed = await asyncio.to_thread(self._chosen, record, directly)
        except NeedsUnmet:
            await self._follow_root()  # a publisher that was endorsed after this home last looked is no stranger
            chosen, signed = await asyncio.to_thread(self._chosen, record, directly)
        return tuple([await self._verified(signed[candidate.record]) for candidate in chosen])

    async def load(self, record: ReleaseRecord) -> None:
        """Load what a release needs and memory lacks, from what this peer has. Raises as :meth:`of`, and as a load."""
        for release in await self.of(record):
            if release.record_digest not in {model.record_digest for model in self._memory.present()}:
                await self._memory.load_release(release, origin="manual")

    def _chosen(
        self, record: ReleaseRecord, directly: bool
    ) -> tuple[tuple[Candidate, ...], dict[Digest, SignedDocument]]:
        signed: dict[Digest, SignedDocument] = {}
        present = {model.record_digest for model in self._memory.present()}

        def installed(name: str) -> list[Candidate]:
            found = []
            for release in self._layout.releases():
                if release.name != name:
                    continue
                try:
                    document = self._layout.signed(release)
                    known = verify_record(document, self._root())
                except Problem:
                    continue  # no release that may run here
                signed[release.record_digest] = document
                needs = {} if directly else known.needs.releases
                digest = release.record_digest
                found.append(Candidate(name, known.version, digest, needs, preferred=digest in present))
            return found

        standing = (
            ()
            if directly
            else [
                Standing(model.record.name, name, condition, f"{model.record.label}, which is loaded,")
                for model in self._memory.present()
                for name, condition in model.record.needs.releases.items()
            ]
        )
        asked = Candidate(record.name, record.version, Digest(""), record.needs.releases)
        try:
            (chosen,) = resolve((asked,), installed, standing)
        except NeedsUnmet as problem:
            name = problem.model or next(iter(record.needs.releases))
            hint = f'models:import("{name}", "…") brings a release here; models:available() lists them'
            raise NeedsUnmet(f"{problem.message} on this peer", hint=hint) from problem
        return chosen, signed
