"""Functions of the language that make, move and load releases.

At home everywhere: each runs with the folders, the repository and the keys of the peer that runs it. A client's home
makes releases; an edge loads them. Moving them between peers is the business of :mod:`peers.repository_functions`.

Rules: nothing is loaded but what ``verify`` admitted; a version is made once. Trying a folder without
making a release of it is the business of :mod:`peers.development_functions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from federation.documents import RootRecord, SignedDocument
from federation.errors import UnknownKey
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.names import checked_model, checked_version
from federation.packing import pack
from federation.verification import VerifiedRelease
from peers.needed_releases import NeededReleases
from peers.release_folders import ReleaseFolders
from peers.release_ports import Memory, ReleaseSite, Trials, identified
from query.declarations import Call, Effect, Example, Role, function
from query.errors import WrongArguments


class ReleaseFunctions:
    """Releases of this peer. ``publisher`` reads the key that signs, or raises."""

    def __init__(
        self,
        layout: ImageLayout,
        *,
        site: ReleaseSite,
        publisher: Callable[[], PrivateKey],
        folders: ReleaseFolders,
        root: Callable[[], RootRecord],
        trials: Trials,
        memory: Memory,
    ) -> None:
        self._layout = layout
        self._site = site
        self._publisher = publisher
        self._folders = folders
        self._root = root
        self._trials = trials
        self._memory = memory
        self.needed = NeededReleases(
            layout, root=root, follow_root=site.follow_root, verified=self.verified, memory=memory
        )

    # --- making -------------------------------------------------------------------------------------------------

    @function(
        "models:create_release(String name, String version, Record options?) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:create_release("my-model", "1.0")'),
    )
    async def create_release(
        self, call: Call, name: str, version: str, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make a release of a model's folder: read, tried out, packed, signed with this home's publisher key, and kept
        in this peer's repository. What its functions call must exist: in the language, among themselves, or in the
        releases that it needs, of which this peer must have fitting ones. Its own test vectors must pass here; the
        option `{"test": false}` leaves them to the peers that load it. Making the same content again changes nothing;
        other content under a version is an error.
        """
        tested = _tested(options or {})
        checked_version(version)
        await self._site.before_signing()
        publisher = self._publisher()
        folder, inspection = await self._folders.read(name)
        _, draft = await self._folders.development(folder, inspection, now=call.now.timestamp())
        calls = any(entry.kind == "code" for entry in draft.record.files)
        beside = await self.needed.of(replace(draft.record, version=version), directly=True) if calls else ()
        if not tested:
            await self._trials.check(draft, beside=beside)
        else:
            problem = (await self._trials.trial(draft, beside=beside)).problem()
            if problem is not None:
                raise problem
        packed = await asyncio.to_thread(
            pack, folder, version=version, publisher=publisher, inspection=inspection, now=call.now.timestamp()
        )
        release = await asyncio.to_thread(self._layout.install, packed)
        return {**identified(release), "size": packed.record.size}

    async def find_release(self, name: str, version: str | None) -> VerifiedRelease | None:
        """An installed release, or of several versions the one made last; None when there is none."""
        newest = await asyncio.to_thread(self._layout.newest, name, version)
        return None if newest is None else await self.verified(newest)

    async def verified(self, signed: SignedDocument) -> VerifiedRelease:
        """A release from its bytes here. A publisher that was endorsed after this home last looked is no stranger."""
        try:
            return await asyncio.to_thread(self._layout.verified, signed, root=self._root())
        except UnknownKey:
            await self._site.follow_root()
        return await asyncio.to_thread(self._layout.verified, signed, root=self._root())

    # --- listing ------------------------------------------------------------------------------------------------

    @function("models:installed() -> Vector of String", example="models:installed()")
    def installed(self, call: Call) -> list[str]:
        """The releases in this peer's repository, as `name@version`; on the nameserver, the federation's."""
        return [release.label for release in self._layout.releases()]

    # --- memory -------------------------------------------------------------------------------------------------

    @function(
        "models:load(String name, String version) -> String",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:load("my-model", "1.0")'),
    )
    async def load(self, call: Call, name: str, version: str) -> str:
        """Load a release that is installed on this peer, and first what it needs; `name@version`."""
        installed = self._layout.installed(checked_model(name), version)
        signed = await asyncio.to_thread(self._layout.signed, installed)
        release = await self.verified(signed)
        await self.needed.load(release.record)
        await self._memory.load_release(release, origin="manual")
        return release.label

    @function(
        "models:unload(String name) -> Boolean",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:unload("my-model")'),
    )
    async def unload(self, call: Call, name: str) -> bool:
        """Take a model out of this peer's memory; true."""
        await self._memory.unload(name)
        return True


def _tested(options: Mapping[str, Any]) -> bool:
    tested = options.get("test", True)
    if set(options) - {"test"} or not isinstance(tested, bool):
        raise WrongArguments('models:create_release knows one option, {"test": true} or {"test": false}')
    return tested
