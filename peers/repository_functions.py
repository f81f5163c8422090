"""Functions of the language about repositories: what they offer, importing from them and publishing to them.

At home everywhere: each runs with the repository and the keys of the peer that runs it. ``default`` is the nameserver's
repository, the federation's. Rules: the record of an import is verified before anything else is fetched, and what was
fetched is verified before it is loaded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from federation.documents import RootRecord, SignedDocument
from federation.errors import MixedParts
from federation.layout import ImageLayout
from federation.names import DEFAULT_REPOSITORY, checked_model, checked_version
from federation.verification import VerifiedRelease, verify_record
from peers.fetching import fetch, find_records
from peers.release_ports import Memory, NoNameserver, ReleaseSite, Statements, identified
from query.declarations import Call, Effect, Example, Role, function
from query.errors import Problem, UnknownName, UserProblem


class OtherRepository(UserProblem):
    """A repository other than the nameserver's."""

    code = "other_repository"


class RepositoryFunctions:
    """Releases of this peer, and the repositories. ``verified`` reads a release from its bytes here."""

    def __init__(
        self,
        layout: ImageLayout,
        *,
        site: ReleaseSite,
        root: Callable[[], RootRecord],
        verified: Callable[[SignedDocument], Awaitable[VerifiedRelease]],
        memory: Memory,
        statements: Statements,
    ) -> None:
        self._layout = layout
        self._site = site
        self._root = root
        self._verified = verified
        self._memory = memory
        self._statements = statements

    @function("models:available() -> Vector of String", example="models:available()")
    async def available(self, call: Call) -> list[str]:
        """The releases in the nameserver's repository, from any peer."""
        if self._site.repository is None and self._site.source is None:
            return [release.label for release in self._layout.releases()]
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
        return identified(release)

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
