"""The functions about releases, over real layouts and a real registry; engine and memory are twins that remember."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from federation.documents import TensorSpec, encode
from federation.errors import BadKeyFile, DevelopmentRefused, UnknownKey
from federation.folders import BadFolder
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.layout_index import VersionTaken
from federation.verification import VerifiedRelease
from peers.development_functions import DevelopmentFunctions, NotDeployed
from peers.model_functions import ReleaseFunctions
from peers.oci_push import NameserverRepository
from peers.release_folders import ReleaseFolders
from peers.release_ports import NoNameserver, Present, ReleaseSite
from peers.remote_repositories import RemoteRepositories
from peers.remote_settings import BadRepository, RemoteBook
from peers.repository_functions import RepositoryFunctions
from query.declarations import Call, Caller, Role
from query.errors import Problem, UnknownName, WrongArguments
from tests.repository.site import (
    CODE,
    OPERATOR,
    PUBLISHER,
    STRANGER,
    VIEWER,
    Federation,
    Party,
    packed,
    registry,
    root_record,
    write_model,
)


class Failed(Problem):
    code = "test_vectors_failed_in_a_twin"


@dataclass
class Verdict:
    found: Problem | None

    def problem(self) -> Problem | None:
        return self.found


@dataclass
class Description:
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, 4)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "FP32", (-1, 1)),)
    opset: Mapping[str, int] = field(default_factory=lambda: {"ai.onnx": 17})


@dataclass
class Trials:
    """An engine that describes every graph alike and finds ``problem``."""

    problem: Problem | None = None
    tried: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    async def describe(self, graph: bytes) -> Description:
        return Description()

    async def check(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> None:
        self.checked.append(release.label)

    async def trial(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Verdict:
        self.tried.append(release.label)
        return Verdict(self.problem)


@dataclass
class Memory:
    loaded: list[tuple[str, str]] = field(default_factory=list)

    async def load_release(self, release: VerifiedRelease, *, origin: str) -> None:
        self.loaded.append((release.label, origin))

    async def unload(self, name: str) -> None:
        self.loaded = [entry for entry in self.loaded if not entry[0].startswith(f"{name}@")]

    def present(self) -> Sequence[Present]:
        return ()


def caller(key: PrivateKey | None = None) -> Caller:
    return Caller("somebody", Role.ADMIN, "uuid", None if key is None else key.public)


Functions = tuple[ReleaseFunctions, RepositoryFunctions, DevelopmentFunctions]


@dataclass
class Statements:
    """Peers by name; a statement is one of the two that these functions send."""

    peers: dict[str, Functions] = field(default_factory=dict)
    caller: Caller = field(default_factory=caller)

    async def run(
        self, targets: Sequence[str], text: str, params: Mapping[str, Any], *, call: Call
    ) -> Mapping[str, Any]:
        return {target: await self._one(self.peers[target], text, params) for target in targets}

    async def _one(self, peer: Functions, text: str, params: Mapping[str, Any]) -> Any:
        releases, _, development = peer
        try:
            if text == "models:installed()":
                return releases.installed(call(self.caller))
            assert text == "models:load_development(:record)"
            return await development.load_development(call(self.caller), params["record"])
        except Problem as problem:
            return problem


def call(who: Caller | None = None) -> Call:
    return Call(caller=who or caller(), now=datetime(2026, 1, 1, tzinfo=UTC), peer="here")


@dataclass
class Parts:
    """What the functions of one peer are composed of."""

    layout: ImageLayout
    site: ReleaseSite
    identity: PrivateKey
    publisher: Callable[[], PrivateKey]
    models: Path
    trials: Trials
    memory: Memory

    def functions(self, statements: Statements) -> Functions:
        folders = ReleaseFolders(self.models, identity=self.identity, root=root_record, trials=self.trials)
        releases = ReleaseFunctions(
            self.layout,
            site=self.site,
            publisher=self.publisher,
            folders=folders,
            root=root_record,
            trials=self.trials,
            memory=self.memory,
        )
        repositories = RepositoryFunctions(
            self.layout,
            site=self.site,
            remotes=RemoteRepositories(
                RemoteBook(self.models.parent / "repositories.json"), self.layout, root=root_record
            ),
            root=root_record,
            verified=releases.verified,
            memory=self.memory,
            needed=releases.needed,
            statements=statements,
        )
        development = DevelopmentFunctions(
            self.layout,
            site=self.site,
            identity=self.identity,
            folders=folders,
            root=root_record,
            memory=self.memory,
            needed=releases.needed,
            statements=statements,
        )
        return releases, repositories, development


@dataclass
class Peer:
    functions: ReleaseFunctions
    repositories: RepositoryFunctions
    development: DevelopmentFunctions
    layout: ImageLayout
    models: Path
    trials: Trials
    memory: Memory


@dataclass
class World:
    """A nameserver, a publisher's home, and edges on the same registry."""

    folder: Path
    federation: Federation
    stack: AsyncExitStack
    statements: Statements
    central: ImageLayout
    address: str = ""

    async def peer(
        self, name: str, identity: PrivateKey, party: Party, *, edge: bool = False, accepts: bool = False
    ) -> Peer:
        home = self.folder / name
        layout, trials, memory = ImageLayout(home / "releases"), Trials(), Memory()
        client = await self.stack.enter_async_context(party.client(self.address))

        def publisher() -> PrivateKey:
            if party is not self.federation.publisher:
                raise BadKeyFile("no key file publisher.key")
            return PUBLISHER

        site = ReleaseSite(
            accept_development=accepts,
            loads_imports=edge,
            source=client,
            repository=NameserverRepository(layout, addresses=lambda: [self.address], identity=party.identity),
        )
        parts = Parts(layout, site, identity, publisher, home / "models", trials, memory)
        functions, repositories, development = self.statements.peers[name] = parts.functions(self.statements)
        return Peer(functions, repositories, development, layout, home / "models", trials, memory)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    federation = Federation(tmp_path / "keys")
    central = ImageLayout(tmp_path / "central")
    async with AsyncExitStack() as stack:
        world = World(tmp_path, federation, stack, Statements(), central)
        world.address = await stack.enter_async_context(registry(federation, central))
        site = ReleaseSite(accept_development=False, loads_imports=False)
        parts = Parts(central, site, STRANGER, lambda: STRANGER, tmp_path / "none", Trials(), Memory())
        world.statements.peers["nameserver"] = parts.functions(world.statements)
        yield world


@pytest.fixture
async def home(world: World) -> Peer:
    home = await world.peer("home", OPERATOR, world.federation.publisher)
    write_model(home.models / "doubler")
    return home


# --- from a folder to an edge ---------------------------------------------------------------------------------------


async def test_a_folder_becomes_a_release_is_published_and_imported(world: World, home: Peer) -> None:
    made = await home.functions.create_release(call(), "doubler", "1.0")
    assert made["model"] == "doubler@1.0"
    release = home.layout.installed("doubler", "1.0")
    assert (made["digest"], made["manifest"]) == (release.record_digest, release.manifest)
    assert home.trials.tried[0].startswith("doubler@dev+")
    assert home.functions.installed(call()) == ["doubler@1.0"]
    assert await home.repositories.available(call()) == []
    assert not await home.repositories.is_published(call(), "doubler", "1.0")
    published = await home.repositories.publish(call(), "doubler", "1.0")
    named = {"model": "doubler@1.0", "digest": made["digest"], "manifest": made["manifest"]}
    assert published == named
    assert await home.repositories.available_in(call(), "default") == ["doubler@1.0"]
    assert await home.repositories.is_published_in(call(), "default", "doubler", "1.0")

    edge = await world.peer("edge", VIEWER, world.federation.viewer, edge=True)
    imported = await edge.repositories.import_release(call(), "doubler", "1.0")
    assert imported == {**named, "loaded": True}
    assert edge.memory.loaded == [("doubler@1.0", "manual")]
    assert edge.functions.installed(call()) == ["doubler@1.0"]
    assert await edge.functions.unload(call(), "doubler")
    assert await edge.functions.load(call(), "doubler", "1.0") == "doubler@1.0"
    assert edge.memory.loaded == [("doubler@1.0", "manual")]

    client = await world.peer("client", STRANGER, world.federation.operator)
    assert not (await client.repositories.import_from(call(), "default", "doubler", "1.0"))["loaded"]
    assert client.memory.loaded == []


async def test_a_release_is_made_once(home: Peer) -> None:
    first = await home.functions.create_release(call(), "doubler", "1.0")
    assert await home.functions.create_release(call(), "doubler", "1.0") == first
    write_model(home.models / "doubler", code=CODE + "// more\n")
    with pytest.raises(VersionTaken):
        await home.functions.create_release(call(), "doubler", "1.0")


async def test_vectors_must_pass_here_unless_told_otherwise(home: Peer) -> None:
    home.trials.problem = Failed("vector 1 gave another answer")
    with pytest.raises(Failed):
        await home.functions.create_release(call(), "doubler", "1.0")
    assert home.functions.installed(call()) == []
    await home.functions.create_release(call(), "doubler", "1.0", {"test": False})
    assert home.functions.installed(call()) == ["doubler@1.0"]
    assert len(home.trials.tried) == len(home.trials.checked) == 1  # what its files say is checked all the same
    for options in ({"tests": False}, {"test": 0}):
        with pytest.raises(WrongArguments, match="knows one option"):
            await home.functions.create_release(call(), "doubler", "2.0", options)


async def test_an_onnx_folder_takes_its_signature_from_the_model(home: Peer) -> None:
    folder = home.models / "net"
    folder.mkdir()
    (folder / "model.toml").write_text('name = "net"\n')
    (folder / "model.onnx").write_bytes(b"a graph")
    await home.functions.create_release(call(), "net", "1.0")
    record = home.layout.packed(home.layout.installed("net", "1.0")).record
    assert (record.inputs, record.outputs, record.opset) == (
        Description().inputs,
        Description().outputs,
        {"ai.onnx": 17},
    )


async def test_what_cannot_be_made(world: World, home: Peer) -> None:
    with pytest.raises(UnknownName, match='no model folder "dubler" — did you mean "doubler"'):
        await home.functions.create_release(call(), "dubler", "1.0")
    with pytest.raises(Problem, match="cannot be a version"):
        await home.functions.create_release(call(), "doubler", "1 0")
    with pytest.raises(Problem, match="cannot name a model"):
        await home.functions.create_release(call(), "../doubler", "1.0")
    write_model(home.models / "other", name="doubler")
    with pytest.raises(BadFolder, match='name "other" of its folder, found "doubler"'):
        await home.functions.create_release(call(), "other", "1.0")
    keyless = await world.peer("keyless", OPERATOR, world.federation.operator)
    write_model(keyless.models / "doubler")
    with pytest.raises(BadKeyFile):
        await keyless.functions.create_release(call(), "doubler", "1.0")


async def test_what_is_not_there(home: Peer) -> None:
    for missing in (
        home.repositories.publish(call(), "doubler", "9.0"),
        home.repositories.import_release(call(), "doubler", "9.0"),
        home.functions.load(call(), "doubler", "9.0"),
    ):
        with pytest.raises(UnknownName, match=r"9\.0"):
            await missing


async def test_an_import_that_no_endorsed_publisher_signed(world: World, home: Peer) -> None:
    world.central.install(packed(home.models / "doubler", publisher=STRANGER))
    with pytest.raises(UnknownKey):
        await home.repositories.import_release(call(), "doubler", "1.0")
    assert list(home.layout.blobs.digests()) == []


async def test_what_repositories_there_are(world: World, home: Peer) -> None:
    nameserver = {"name": "default", "kind": "nameserver", "addresses": [world.address]}
    assert home.repositories.repository(call(), "default") == nameserver
    assert home.repositories.set_repository(call(), "Hub", {"url": "http://127.0.0.1:5000/team"})
    hub = {"name": "Hub", "kind": "oci", "url": "http://127.0.0.1:5000/team"}
    assert home.repositories.repository(call(), "hub") == hub
    assert home.repositories.repositories(call()) == [nameserver, hub]
    for other in (
        home.repositories.publish_to(call(), "hup", "doubler", "1.0"),
        home.repositories.import_from(call(), "hup", "doubler", "1.0"),
        home.repositories.available_in(call(), "hup"),
        home.repositories.available_of(call(), "hup", "doubler"),
        home.repositories.is_published_in(call(), "hup", "doubler", "1.0"),
    ):
        with pytest.raises(UnknownName, match=r"hup|doubler@1"):
            await other
    assert home.repositories.set_repository(call(), "HUB", None)
    assert home.repositories.repositories(call()) == [nameserver]
    with pytest.raises(BadRepository, match="stays it"):
        home.repositories.set_repository(call(), "default", {"url": "http://127.0.0.1:5000"})
    with pytest.raises(WrongArguments, match="a record of settings, or null"):
        home.repositories.set_repository(call(), "hub", "http://127.0.0.1:5000")


# --- development releases -------------------------------------------------------------------------------------------


async def test_a_folder_is_loaded_only_where_development_is_accepted(world: World, home: Peer) -> None:
    with pytest.raises(DevelopmentRefused) as refused:
        await home.development.load_folder(call(), "doubler")
    assert "accept_development = true" in (refused.value.hint or "")
    bench = await world.peer("bench", OPERATOR, world.federation.operator, accepts=True)
    write_model(bench.models / "doubler")
    label = await bench.development.load_folder(call(), "doubler")
    assert label.startswith("doubler@dev+")
    assert bench.memory.loaded == [(label, "development")]
    assert bench.functions.installed(call()) == []


async def test_deploying_tells_for_each_edge_what_it_did(world: World) -> None:
    maker = await world.peer("maker", OPERATOR, world.federation.operator)
    write_model(maker.models / "doubler")
    willing = await world.peer("willing", VIEWER, world.federation.viewer, edge=True, accepts=True)
    unwilling = await world.peer("unwilling", STRANGER, world.federation.viewer, edge=True)
    world.statements.caller = caller(OPERATOR)
    outcome = await maker.development.deploy(call(), ["willing", "unwilling"], "doubler")
    label = willing.memory.loaded[0][0]
    assert willing.memory.loaded == [(label, "development")]
    assert outcome["willing"] == label
    assert outcome["unwilling"]["error"] == "development_refused"
    assert unwilling.memory.loaded == []
    assert await maker.repositories.available(call()) == []
    # After a restart the edge's own key admits what it has accepted, and nobody else's does.
    (kept,) = willing.layout.releases(development=True)
    signed = willing.layout.signed(kept)
    assert willing.layout.verified(signed, root=root_record(), development_key=VIEWER.public).label == label
    with pytest.raises(UnknownKey):
        willing.layout.verified(signed, root=root_record(), development_key=PUBLISHER.public)


async def test_development_work_of_somebody_else_is_not_accepted(world: World) -> None:
    maker = await world.peer("maker", OPERATOR, world.federation.operator)
    write_model(maker.models / "doubler")
    edge = await world.peer("edge", VIEWER, world.federation.viewer, edge=True, accepts=True)
    for key, error in ((STRANGER, "unknown_key"), (None, "development_refused")):
        world.statements.caller = caller(key)
        with pytest.raises(NotDeployed, match=rf"no edge loaded doubler@dev\+.*: edge: .*\({error}\)"):
            await maker.development.deploy(call(), "edge", "doubler")
    assert edge.memory.loaded == []
    assert list(edge.layout.blobs.digests()) == []


async def test_what_load_development_refuses(world: World, home: Peer) -> None:
    edge = await world.peer("edge", VIEWER, world.federation.viewer, edge=True, accepts=True)
    release = packed(home.models / "doubler")
    for record, error, message in (
        ("{", WrongArguments, "expects a signed release record"),
        ("x" * (1024 * 1024 + 1), WrongArguments, "expected at most"),
        (encode(release.signed).decode(), WrongArguments, "models:import loads it"),
    ):
        with pytest.raises(error, match=message):
            await edge.development.load_development(call(caller(OPERATOR)), record)
    with pytest.raises(WrongArguments, match="name of an edge or a vector of names"):
        await edge.development.deploy(call(), [], "doubler")
    with pytest.raises(NoNameserver):
        await world.statements.peers["nameserver"][2].deploy(call(), "edge", "doubler")
