"""The releases in the repository of a peer that is no nameserver: its own copies, which it may make and fetch again.

Owns what may leave that repository by a person's word: never what the peer has in memory or is about to load. What an
edge fetched for its groups it prunes by itself (:func:`federation.actual.dispensable`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from federation import release_records
from federation.documents import ReleaseRecord, RootRecord, decode
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import Digest
from peers.release_lifecycle import GarbageOptions
from query.declarations import Call
from query.errors import UserProblem, WrongArguments, unknown


class ReleaseLoaded(UserProblem):
    """A release that this peer runs, or is about to, is not deleted from under it."""

    code = "release_loaded"


class Use(Protocol):
    """What this peer does with its releases."""

    def used(self) -> frozenset[Digest]:
        """The records of the releases in memory, or on their way there."""

    def forget(self, record: Digest) -> None:
        """A release is no longer on disk."""

    def described(self, record: Digest) -> dict[str, Any]:
        """What is shown of a release because it is loaded, or that it is not."""


class OwnReleases:
    """A client's or an edge's :class:`~peers.release_lifecycle.Releases`."""

    def __init__(
        self,
        layout: ImageLayout,
        *,
        root: Callable[[], RootRecord],
        follow_root: Callable[[], Awaitable[None]],
        use: Use,
    ) -> None:
        """``follow_root`` takes up newer root records: a publisher endorsed since this home last looked is known."""
        self._follow_root = follow_root
        self._layout = layout
        self._root = root
        self._use = use

    async def listed(self, name: str | None, call: Call) -> AsyncIterator[dict[str, Any]]:
        every = await asyncio.to_thread(self._layout.releases)
        found = [release for release in every if name in (None, release.name)]
        if name is not None and not found:
            raise unknown("installed model", name, {release.name for release in every})
        for release in found:
            record, signer = await asyncio.to_thread(self._read, release)
            loaded = release.record_digest in self._use.used()
            yield {**release_records.listed(record, release.record_digest, signer), "loaded": loaded}

    async def told(self, name: str, version: str, call: Call) -> dict[str, Any]:
        every = await asyncio.to_thread(self._layout.releases, development=True)
        release = next((one for one in every if one.label == f"{name}@{version}"), None)
        if release is None:
            release = self._layout.installed(name, version)  # raises with the nearest
        record, signer = await asyncio.to_thread(self._read, release)
        if signer.standing == "unknown" and not record.development:
            await self._follow_root()
            record, signer = await asyncio.to_thread(self._read, release)
        return {
            **release_records.told(record, release.record_digest, signer),
            "attachment": release.attachment,
            **self._use.described(release.record_digest),
        }

    async def delete(self, name: str, version: str, call: Call) -> None:
        release = self._layout.installed(name, version)
        if release.record_digest in self._use.used():
            raise ReleaseLoaded(
                f"{release.label} is loaded on this peer, or about to be: expected nobody to use it",
                hint=f'models:unload("{name}") takes it out of memory; what a group assigns is the nameserver\'s word',
            )
        await asyncio.shield(asyncio.to_thread(self._layout.remove, release))
        self._use.forget(release.record_digest)

    async def collect_garbage(self, options: GarbageOptions, call: Call) -> dict[str, Any]:
        if options.deprecated:
            raise WrongArguments(
                'the option "deprecated" is for the nameserver: releases are deprecated in the federation'
            )
        removed = await asyncio.to_thread(
            self._layout.collect_garbage, written_before=time.time() - options.unnamed_s, dry_run=options.dry_run
        )
        return {"blobs": removed.blobs, "bytes": removed.size, "dry_run": options.dry_run}

    def _read(self, release: InstalledRelease) -> tuple[ReleaseRecord, release_records.Signer]:
        signed = self._layout.signed(release)
        return decode(signed.payload, ReleaseRecord), release_records.signer_of(signed, self._root())
