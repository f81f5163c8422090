"""Functions of the language that load a model's folder for a try, here or on an edge, without making a release of it.

At home everywhere: a folder becomes a development release, signed by the identity of the home that sends it.

Rules: nothing is loaded but what ``verify`` admitted, and only where this device's own settings accept development
releases; from elsewhere only what the caller itself signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from federation.documents import RELEASE_TYPE, ReleaseRecord, RootRecord, SignedDocument, decode, encode
from federation.errors import DevelopmentRefused
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.signing import sign
from federation.verification import verify_record
from peers.fetching import fetch
from peers.needed_releases import NeededReleases
from peers.release_folders import ReleaseFolders
from peers.release_ports import Memory, NoNameserver, ReleaseSite, Statements
from query.declarations import Call, Effect, Example, Role, function
from query.errors import PeerProblem, Problem, UnknownName, WrongArguments

RECORD_BYTES_MAX: Final = 1024 * 1024


class NotDeployed(PeerProblem):
    """No edge that was asked loaded the development release; the message has what each said."""

    code = "not_deployed"


class DevelopmentFunctions:
    """Development releases of this peer's folders, and those that others send to it."""

    def __init__(
        self,
        layout: ImageLayout,
        *,
        site: ReleaseSite,
        identity: PrivateKey,
        folders: ReleaseFolders,
        root: Callable[[], RootRecord],
        memory: Memory,
        needed: NeededReleases,
        statements: Statements,
    ) -> None:
        self._layout = layout
        self._site = site
        self._identity = identity
        self._folders = folders
        self._root = root
        self._memory = memory
        self._needed = needed
        self._statements = statements

    @function(
        "models:load(String name) -> String",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:load("my-model")'),
    )
    async def load_folder(self, call: Call, name: str) -> str:
        """Load a model's folder on this peer as a development release, `name@dev+…`, for a try. Only where the
        device's own settings say accept_development.
        """
        self._require_folder(name)
        self._require_development(name)
        folder, inspection = await self._folders.read(name)
        packed, release = await self._folders.development(folder, inspection, now=call.now.timestamp())
        await asyncio.to_thread(self._layout.install, packed)
        await self._needed.load(release.record)
        await self._memory.load_release(release, origin="development")
        return release.label

    @function(
        "models:deploy(Object edges, String name) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:deploy("E1", "my-model")'),
    )
    async def deploy(self, call: Call, edges: str | Sequence[str], name: str) -> dict[str, Any]:
        """Send a model's folder to one edge or several for a try, as a development release signed by this home's
        identity. Edges take it where their own settings accept development releases, and report it as such. The
        result says for each edge which release it loaded, or why it did not; none that did is an error.
        """
        targets = [edges] if isinstance(edges, str) else list(edges)
        if not targets or not all(isinstance(target, str) for target in targets):
            raise WrongArguments("models:deploy expects the name of an edge or a vector of names")
        if self._site.repository is None:
            raise NoNameserver(
                "development work is deployed from a client's or an edge's home, not from the nameserver"
            )
        folder, inspection = await self._folders.read(name)
        packed, _ = await self._folders.development(folder, inspection, now=call.now.timestamp())
        release = await asyncio.to_thread(self._layout.install, packed)
        await self._site.repository.push(release, progress=call.progress)
        signed = await asyncio.to_thread(self._layout.signed, release)
        text = "models:load_development(:record)"
        answers = await self._statements.run(targets, text, {"record": encode(signed).decode("ascii")}, call=call)
        if all(isinstance(answer, Problem) for answer in answers.values()):
            told = "; ".join(f"{peer}: {answer.message} ({answer.code})" for peer, answer in answers.items())
            hints = [answer.hint for answer in answers.values() if answer.hint]
            raise NotDeployed(f"no edge loaded {release.label}: {told}", hint=hints[0] if hints else None)
        return {peer: _outcome(answer) for peer, answer in answers.items()}

    @function(
        "models:load_development(String record) -> String",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:load_development("…")'),
    )
    async def load_development(self, call: Call, record: str) -> str:
        """The edge's half of models:deploy: fetch and load the development release of a signed record, when the caller
        itself signed it and this device's own settings say accept_development.
        """
        if len(record) > RECORD_BYTES_MAX:
            raise WrongArguments(f"a record of {len(record)} characters, expected at most {RECORD_BYTES_MAX}")
        try:
            signed = decode(record.encode(), SignedDocument)
            told = decode(signed.payload, ReleaseRecord)
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            raise WrongArguments(f"models:load_development expects a signed release record: {error}") from error
        self._require_development(told.label)
        if call.caller.key is None:
            raise DevelopmentRefused(f'the key of "{call.caller.name}" is not known here, so its work is not accepted')
        accepted = verify_record(signed, self._root(), development_key=call.caller.key)
        if not accepted.development:
            raise WrongArguments(f"{accepted.label} is a release: models:import loads it")
        if self._site.source is None:
            raise NoNameserver(f"{accepted.label} cannot be fetched: this peer has no nameserver")
        # This device signs beside the caller: after a restart its own key alone still admits what it has accepted.
        own = sign(signed.payload, RELEASE_TYPE, self._identity)
        kept = msgspec.structs.replace(signed, signatures=(*signed.signatures, *own.signatures))
        await fetch(kept, client=self._site.source, layout=self._layout, progress=call.progress)
        release = await asyncio.to_thread(
            self._layout.verified, kept, root=self._root(), development_key=self._identity.public
        )
        await self._needed.load(release.record)
        await self._memory.load_release(release, origin="development")
        return release.label

    def _require_folder(self, name: str) -> None:
        """Raises for a name without a folder; one that is installed as a release is told to be loaded as such."""
        try:
            self._folders.path_of(name)
        except UnknownName as problem:
            installed = [release for release in self._layout.releases() if release.name == name]
            if installed:
                version = installed[-1].version
                problem.hint = f'a release is loaded with its version: models:load("{name}", "{version}")'
            raise

    def _require_development(self, what: str) -> None:
        if not self._site.accept_development:
            raise DevelopmentRefused(
                f"{what} would be a development release, which this peer does not accept",
                hint="accept_development = true in that peer's own peerage.toml admits it; else make a release",
            )


def _outcome(answer: Any) -> Any:
    """What an edge said, as a value: the release it loaded, or the error's code and message."""
    return {"error": answer.code, "message": answer.message} if isinstance(answer, Problem) else answer
