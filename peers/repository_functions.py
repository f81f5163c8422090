"""Functions of the language about repositories: what they offer, importing from them and publishing to them.

At home everywhere: each runs with the repository, the keys and the remote repositories of the peer that runs it.
``default`` is the nameserver's repository, the federation's; any other name is one that this peer was given. Rules: the
record of an import is verified before anything else is fetched, and what was fetched is verified before it is loaded,
listed or published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from federation.assignments import WantedModel
from federation.documents import ReleaseRecord, RootRecord, SignedDocument
from federation.errors import MixedParts
from federation.layout import ImageLayout
from federation.names import DEFAULT_REPOSITORY, checked_model, checked_version, fold
from federation.needs import NeedsUnmet
from federation.verification import VerifiedRelease, verify_record
from peers.fetching import fetch, find_records
from peers.needed_releases import NeededReleases
from peers.release_ports import Memory, NoNameserver, ReleaseSite, Statements, identified
from peers.remote_repositories import RemoteRepositories
from peers.remote_settings import RemoteSettings, read_settings
from query.declarations import Call, Effect, Example, Role, function
from query.errors import Problem, UnknownName, WrongArguments


class RepositoryFunctions:
    """Releases of this peer, and the repositories. ``verified`` reads a release from its bytes here."""

    def __init__(
        self,
        layout: ImageLayout,
        *,
        site: ReleaseSite,
        remotes: RemoteRepositories,
        root: Callable[[], RootRecord],
        verified: Callable[[SignedDocument], Awaitable[VerifiedRelease]],
        memory: Memory,
        needed: NeededReleases,
        statements: Statements,
    ) -> None:
        self._layout = layout
        self._site = site
        self._remotes = remotes
        self._root = root
        self._verified = verified
        self._memory = memory
        self._needed = needed
        self._statements = statements

    # --- which there are ----------------------------------------------------------------------------------------

    @function("models:repository(String name) -> Record", example='models:repository("default")')
    def repository(self, call: Call, name: str) -> dict[str, Any]:
        """What a repository is and where. Of secrets, the files that hold them."""
        if fold(name) != DEFAULT_REPOSITORY:
            return _shown(*self._remotes.book.find(name))
        addresses = () if self._site.repository is None else self._site.repository.addresses
        return {"name": DEFAULT_REPOSITORY, "kind": "nameserver", "addresses": list(addresses)}

    @function("models:repositories() -> Vector of Record", example="models:repositories()")
    def repositories(self, call: Call) -> list[dict[str, Any]]:
        """The repositories of this peer: `default`, the nameserver's, and those that were set here."""
        remote = [_shown(name, settings) for name, settings in sorted(self._remotes.book.all().items())]
        return [self.repository(call, DEFAULT_REPOSITORY), *remote]

    @function(
        "models:set_repository(String name, Object settings) -> Boolean",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('models:set_repository("hub", {"url": "https://registry.example:5000/team"})', shows="true"),
    )
    def set_repository(self, call: Call, name: str, settings: Any) -> bool:
        """Name an OCI registry as a repository of this peer; null or `{}` forgets it.

        Settings: `url`; `credentials`, a file with one line `user:password` or as `docker login` writes it, which
        nobody else may read; `ca`, a file with the authorities to trust; `certs`, a folder as `peerage certs` writes
        it; `insecure`, true to allow plain http to another device.
        """
        if settings is not None and not isinstance(settings, Mapping):
            raise WrongArguments(
                "models:set_repository expects a record of settings, or null",
                hint='a record is like {"url": "https://registry.example:5000/team"}',
            )
        self._remotes.book.set(name, read_settings(name, settings) if settings else None)
        return True

    # --- what they offer ----------------------------------------------------------------------------------------

    @function("models:available() -> Vector of String", example="models:available()")
    async def available(self, call: Call) -> list[str]:
        """The releases in the nameserver's repository, from any peer."""
        if self._site.repository is None and self._site.source is None:
            return [release.label for release in self._layout.releases()]
        return list(await self._of_nameserver("models:installed()", {}, call))

    @function("models:available(String repo) -> Vector of String", example='models:available("default")')
    async def available_in(self, call: Call, repo: str) -> list[str]:
        """The releases in a repository. A registry that does not list its repositories is asked for one model."""
        if fold(repo) == DEFAULT_REPOSITORY:
            return await self.available(call)
        return await self._remotes.available(repo)

    @function(
        "models:available(String repo, String name) -> Vector of String",
        example='models:available("default", "my-model")',
    )
    async def available_of(self, call: Call, repo: str, name: str) -> list[str]:
        """The releases of one model in a repository."""
        if fold(repo) != DEFAULT_REPOSITORY:
            return await self._remotes.available(repo, name)
        return [label for label in await self.available(call) if label.startswith(f"{checked_model(name)}@")]

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
        """Whether a repository has a version of a model."""
        if fold(repo) == DEFAULT_REPOSITORY:
            return await self.is_published(call, name, version)
        return await self._remotes.has(repo, name, version)

    # --- publishing ---------------------------------------------------------------------------------------------

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
        return identified(release)

    @function(
        "models:publish(String repo, String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:publish("default", "my-model", "1.0")'),
    )
    async def publish_to(self, call: Call, repo: str, name: str, version: str) -> dict[str, Any]:
        """Send a release from this peer's repository to another one, with its signed record. Sending it again changes
        nothing; a version that is there with other content is left alone, and an error.
        """
        if fold(repo) == DEFAULT_REPOSITORY:
            return await self.publish(call, name, version)
        release = self._layout.installed(name, version)
        await self._remotes.publish(repo, release, progress=call.progress)
        return identified(release)

    # --- importing ----------------------------------------------------------------------------------------------

    @function(
        "models:import(String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:import("my-model", "1.0")'),
    )
    async def import_release(self, call: Call, name: str, version: str) -> dict[str, Any]:
        """Fetch a release from the nameserver and verify it, and first what it needs; an edge loads them too, until its
        groups say otherwise at the next answered poll.
        """
        release = await self.fetched(checked_model(name), checked_version(version), call)
        await self._bring_needed(release.record, call)
        return await self._imported(release)

    @function(
        "models:import(String repo, String name, String version) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:import("default", "my-model", "1.0")'),
    )
    async def import_from(self, call: Call, repo: str, name: str, version: str) -> dict[str, Any]:
        """Fetch a release from a repository, with what it needs, and verify it by this federation's root; an edge loads
        it too, the nameserver publishes it to the federation. Nothing of it is here when that fails.
        """
        if fold(repo) == DEFAULT_REPOSITORY:
            return await self.import_release(call, name, version)
        model = WantedModel(name, version, repo)
        if self._site.register is not None:
            await self._site.register.bring((model,), call=call)
            return await self._imported(
                await self._verified(self._layout.signed(self._layout.installed(name, version)))
            )
        here = [(release.name, release.version) for release in self._layout.releases()]
        fetched = await self._remotes.fetch_all(
            (model,),
            here=lambda name: [version for known, version in here if known == name],
            progress=call.progress,
        )
        for one in fetched:
            await asyncio.to_thread(self._layout.attach, one.signed)
        return await self._imported(fetched[0].release)

    async def fetched(self, name: str, version: str, call: Call) -> VerifiedRelease:
        """A release from here, else from the nameserver, with its files; verified."""
        signed = await self.wanted(name, version)
        if self._site.source is not None:
            await fetch(signed, client=self._site.source, layout=self._layout, progress=call.progress)
        return await self._verified(signed)

    async def _bring_needed(self, record: ReleaseRecord, call: Call) -> None:
        """What a release needs: as this peer has it, else as the nameserver would choose it."""
        try:
            await self._needed.of(record)
        except NeedsUnmet:
            if self._site.source is None:
                return  # the nameserver has what it has
            needs = {"name": record.name, "version": record.version}
            for pin in await self._of_nameserver("models:needs(:name, :version)", needs, call):
                await self.fetched(pin["name"], pin["version"], call)

    async def _imported(self, release: VerifiedRelease) -> dict[str, Any]:
        if self._site.loads_imports:
            await self._needed.load(release.record)
            await self._memory.load_release(release, origin="manual")
        return {
            "model": release.label,
            "digest": release.record_digest,
            "manifest": release.record.manifest,
            "loaded": self._site.loads_imports,
        }

    async def wanted(self, name: str, version: str) -> SignedDocument:
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

    async def _of_nameserver(self, text: str, params: Mapping[str, Any], call: Call) -> Any:
        answers = await self._statements.run(("nameserver",), text, params, call=call)
        for answer in answers.values():
            if isinstance(answer, Problem):
                raise answer
            return answer
        raise NoNameserver("the nameserver gave no answer")


def _shown(name: str, settings: RemoteSettings) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": name, "kind": "oci", "url": settings.url}
    for key in ("credentials", "ca", "certs", "insecure"):
        if getattr(settings, key):
            shown[key] = getattr(settings, key)
    return shown
