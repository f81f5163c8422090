"""Functions of the language that make, move and load releases.

At home everywhere: each runs with the folders, the repository and the keys of the peer that runs it. A client's home
makes and publishes releases; an edge loads them; the nameserver's repository is the federation's.

Rules: nothing is loaded but what ``verify`` admitted; a version is made and published once. Trying a folder without
making a release of it is the business of :mod:`peers.development_functions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from federation.documents import ReleaseRecord, RootRecord, SignedDocument, decode
from federation.errors import MixedParts, UnknownKey
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import DEFAULT_REPOSITORY, checked_model, checked_version
from federation.packing import pack
from federation.verification import VerifiedRelease, verify_record
from peers.fetching import fetch, find_records
from peers.release_folders import ReleaseFolders
from peers.release_ports import Memory, ReleaseSite, Statements, Trials
from query.declarations import Call, Effect, Example, Role, function
from query.errors import PeerProblem, Problem, UnknownName, UserProblem, WrongArguments


class OtherRepository(UserProblem):
    """A repository other than the nameserver's."""

    code = "other_repository"


class NoNameserver(PeerProblem):
    """A function that talks to the nameserver, on a peer that has no way to one."""

    code = "no_nameserver"


class ReleaseFunctions:
    """Releases of this peer, and the federation's repository. ``publisher`` reads the key that signs, or raises."""

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
        statements: Statements,
    ) -> None:
        self._layout = layout
        self._site = site
        self._publisher = publisher
        self._folders = folders
        self._root = root
        self._trials = trials
        self._memory = memory
        self._statements = statements

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
        in this peer's repository. What its functions call must exist: in the language, or among themselves. Its own
        test vectors must pass here; the option `{"test": false}` leaves them to the peers that load it. Making the same
        content again changes nothing; other content under a version is an error.
        """
        tested = _tested(options or {})
        checked_version(version)
        publisher = self._publisher()
        folder, inspection = await self._folders.read(name)
        _, draft = await self._folders.development(folder, inspection, now=call.now.timestamp())
        if not tested:
            await self._trials.check(draft)
        else:
            problem = (await self._trials.trial(draft)).problem()
            if problem is not None:
                raise problem
        packed = await asyncio.to_thread(
            pack, folder, version=version, publisher=publisher, inspection=inspection, now=call.now.timestamp()
        )
        release = await asyncio.to_thread(self._layout.install, packed)
        return {**_identified(release), "size": packed.record.size}

    async def find_release(self, name: str, version: str | None) -> VerifiedRelease | None:
        """An installed release, or of several versions the one made last; None when there is none."""
        found = [
            release
            for release in self._layout.releases()
            if release.name == name and version in (None, release.version)
        ]
        signed = [await asyncio.to_thread(self._layout.signed, release) for release in found]
        if not signed:
            return None
        newest = max(signed, key=lambda document: decode(document.payload, ReleaseRecord).created)
        return await self._verified(newest)

    async def _verified(self, signed: SignedDocument) -> VerifiedRelease:
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

    @function("models:available() -> Vector of String", example="models:available()")
    async def available(self, call: Call) -> list[str]:
        """The releases in the nameserver's repository, from any peer."""
        if self._site.repository is None and self._site.source is None:
            return self.installed(call)
        return list(await self._of_nameserver("models:installed()", {}, call))

    @function("models:available(String repo) -> Vector of String", example='models:available("default")')
    async def available_in(self, call: Call, repo: str) -> list[str]:
        """The releases in a repository; this version knows `default`, the nameserver's."""
        _only_default(repo)
        return await self.available(call)

    @function(
        "models:is_published(String name, String version) -> Boolean", example='models:is_published("my-model", "1.0")'
    )
    async def is_published(self, call: Call, name: str, version: str) -> bool:
        """Whether the nameserver has a release."""
        label = f"{checked_model(name)}@{checked_version(version)}"
        return label in await self.available(call)

    @function(
        "models:is_published(String repo, String name, String version) -> Boolean",
        example='models:is_published("default", "my-model", "1.0")',
    )
    async def is_published_in(self, call: Call, repo: str, name: str, version: str) -> bool:
        """Whether a repository has a release; this version knows `default`."""
        _only_default(repo)
        return await self.is_published(call, name, version)

    @function("models:repository(String name) -> Record", example='models:repository("default")')
    def repository(self, call: Call, name: str) -> dict[str, Any]:
        """What a repository is and where; this version knows `default`, the nameserver's."""
        _only_default(name)
        addresses = () if self._site.repository is None else self._site.repository.addresses
        return {"name": DEFAULT_REPOSITORY, "kind": "nameserver", "addresses": list(addresses)}

    @function(
        "models:set_repository(String name, Record settings) -> Boolean",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example='models:set_repository("default", {"kind": "nameserver"})',
    )
    def set_repository(self, call: Call, name: str, settings: Mapping[str, Any]) -> bool:
        """Name another repository. This version has `default` alone, which is the nameserver and stays it."""
        _only_default(name)
        if dict(settings) != {"kind": "nameserver"}:
            raise OtherRepository(f'"{DEFAULT_REPOSITORY}" is the nameserver and cannot be set by this version')
        return True

    # --- to and from the nameserver -----------------------------------------------------------------------------

    @function(
        "models:publish(String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:publish("my-model", "1.0")'),
    )
    async def publish(self, call: Call, name: str, version: str) -> dict[str, Any]:
        """Send a release from this peer's repository to the nameserver, showing progress. The nameserver takes it when
        its publisher's key is endorsed, and refuses a version that it has with other content.
        """
        release = self._layout.installed(name, version)
        if self._site.repository is not None:
            await self._site.repository.push(release, progress=call.progress)
        return _identified(release)

    @function(
        "models:publish(String repo, String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:publish("default", "my-model", "1.0")'),
    )
    async def publish_to(self, call: Call, repo: str, name: str, version: str) -> dict[str, Any]:
        """Send a release to a repository; this version knows `default`."""
        _only_default(repo)
        return await self.publish(call, name, version)

    @function(
        "models:import(String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:import("my-model", "1.0")'),
    )
    async def import_release(self, call: Call, name: str, version: str) -> dict[str, Any]:
        """Fetch a release from the nameserver and verify it; an edge loads it too, until its groups say otherwise at
        the next answered poll.
        """
        checked_model(name)
        checked_version(version)
        signed = await self._wanted(name, version)
        if self._site.source is not None:
            await fetch(signed, client=self._site.source, layout=self._layout, progress=call.progress)
        release = await self._verified(signed)
        if self._site.loads_imports:
            await self._memory.load_release(release, origin="manual")
        return {
            "model": release.label,
            "digest": release.record_digest,
            "manifest": release.record.manifest,
            "loaded": self._site.loads_imports,
        }

    @function(
        "models:import(String repo, String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:import("default", "my-model", "1.0")'),
    )
    async def import_from(self, call: Call, repo: str, name: str, version: str) -> dict[str, Any]:
        """Fetch a release from a repository; this version knows `default`."""
        _only_default(repo)
        return await self.import_release(call, name, version)

    async def _wanted(self, name: str, version: str) -> SignedDocument:
        """The record of a release, signed by an endorsed publisher: from here, else from the nameserver."""
        known = self._layout.find(name, version)
        if known is not None:
            return self._layout.signed(known)
        if self._site.source is None:
            return self._layout.signed(self._layout.installed(name, version))
        await self._site.follow_root()
        problem: Problem = UnknownName(f"no release {name}@{version} on the nameserver")
        try:
            records = await find_records(name, version, client=self._site.source)
        except UnknownName as error:
            raise UnknownName(
                f'no version "{version}" of model "{name}" on the nameserver',
                hint="//peer: nameserver models:installed() lists what is there",
            ) from error
        for signed in records:
            try:
                record = verify_record(signed, self._root())
            except Problem as refused:
                problem = refused
                continue
            if (record.name, record.version) == (name, version):
                return signed
            problem = MixedParts(f"expected the record of {name}@{version}, found that of {record.label}")
        raise problem

    # --- memory -------------------------------------------------------------------------------------------------

    @function(
        "models:load(String name, String version) -> String",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:load("my-model", "1.0")'),
    )
    async def load(self, call: Call, name: str, version: str) -> str:
        """Load a release that is installed on this peer; `name@version`."""
        installed = self._layout.installed(checked_model(name), version)
        signed = await asyncio.to_thread(self._layout.signed, installed)
        release = await self._verified(signed)
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

    async def _of_nameserver(self, text: str, params: Mapping[str, Any], call: Call) -> Any:
        answers = await self._statements.run(("nameserver",), text, params, call=call)
        for answer in answers.values():
            if isinstance(answer, Problem):
                raise answer
            return answer
        raise NoNameserver("the nameserver gave no answer")


def _only_default(repo: str) -> None:
    if repo != DEFAULT_REPOSITORY:
        raise OtherRepository(
            f'repository "{repo[:80]}" is not supported by this version: expected "{DEFAULT_REPOSITORY}"'
        )


def _identified(release: InstalledRelease) -> dict[str, Any]:
    """A release as results name it: ``digest`` is of its signed record, ``manifest`` of what a registry knows it by."""
    return {"model": release.label, "digest": release.record_digest, "manifest": release.manifest}


def _tested(options: Mapping[str, Any]) -> bool:
    tested = options.get("test", True)
    if set(options) - {"test"} or not isinstance(tested, bool):
        raise WrongArguments('models:create_release knows one option, {"test": true} or {"test": false}')
    return tested
