"""Remote repositories in a whole federation: publishing to one, importing from one, assigning from one."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from federation.layout import ImageLayout
from federation.layout_index import VersionTaken
from peers.cli import main
from peers.device_mode import Autonomous, enter
from peers.oci_errors import RegistryFailed
from query.errors import Forbidden, UnknownName
from query.frames import ErrorFrame, ProgressFrame
from tests.repository import liars
from tests.repository.liars import Liar, serving
from tests.repository.registries import PASSWORD, USER, DockerRegistry, docker_registry
from tests.wire.living import Living, living, publisher_in

pytestmark = pytest.mark.timeout(120)

FROM_HUB = 'edge:set_group_models("all", [{"repo": "hub", "name": "thermo", "version": "1.0"}])'
SECRETS = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "e1") as made:
        await publisher_in(made)
        await made.value('models:create("thermo")', home="ada")
        await made.value('models:create_release("thermo", "1.0")', home="ada")
        yield made


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path / "hub", tls=True, password=True) as running:
        yield running


async def name_hub(federation: Living, registry: DockerRegistry, *, at: str) -> dict[str, Any]:
    """Name the registry on a peer; ``at`` is a directive, or the name of a home."""
    secret = federation.folder / "secret"
    secret.write_text(f"{USER}:{PASSWORD}\n")
    secret.chmod(0o600)
    settings = {"url": f"{registry.url}/team", "credentials": str(secret), "ca": str(registry.ca)}
    if at.startswith("//"):
        await federation.value(f"{at}\nmodels:set_repository(:n, :s)", params={"n": "hub", "s": settings})
    else:
        await federation.value("models:set_repository(:n, :s)", params={"n": "hub", "s": settings}, home=at)
    return settings


async def count(federation: Living) -> int:
    """How much the federation's log and repository hold."""
    return len(await federation.value("//peer: nameserver\nmodels:installed()")) + len(
        await federation.value('edge:group_models("all")')
    )


async def test_a_release_goes_through_a_registry_to_the_edges(
    federation: Living, hub: DockerRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = await name_hub(federation, hub, at="ada")
    assert await federation.value('models:available("hub")', home="ada") == []
    published = await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    assert await federation.value('models:available("hub")', home="ada") == ["thermo@1.0"]
    assert await federation.value('models:is_published("hub", "thermo", "1.0")', home="ada")
    assert await federation.value("models:available()", home="ada") == []

    unknown = (await federation.ask(FROM_HUB)).errors[0]
    assert isinstance(unknown, UnknownName)
    await name_hub(federation, hub, at="//peer: nameserver")
    assert await federation.value('//peer: nameserver\nmodels:available("hub")') == ["thermo@1.0"]
    shown = await federation.value('//peer: nameserver\nmodels:repository("hub")')
    assert shown == {"name": "hub", "kind": "oci", **settings}

    seen: list[Any] = []
    async with federation.connection() as peer:
        async for frame in peer.frames(FROM_HUB):
            seen.append(frame)
    progress = [frame for frame in seen if isinstance(frame, ProgressFrame)]
    assert {frame.label for frame in progress} == {"import thermo@1.0"}
    assert progress[-1].done == progress[-1].total
    assert not [frame for frame in seen if isinstance(frame, ErrorFrame)]
    await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])
    assert await federation.value('edge:group_models("all")') == [{"repo": "hub", "name": "thermo", "version": "1.0"}]
    info = await federation.value('//peer: nameserver\nmodels:info("thermo", "1.0")')
    assert info["manifest"] == published["manifest"]
    assert info["by"] == "ns-admin" or info["by"]

    # Repeating it renews the assignment and imports nothing.
    again = await federation.value(FROM_HUB)
    assert again["assigned"] == ["thermo@1.0"]

    # Nothing that was told, kept or logged carries the password.
    told = repr(seen) + repr(shown) + repr(again) + "\n".join(record.getMessage() for record in caplog.records)
    told += "".join(repr(vars(record)) for record in caplog.records)
    told += repr(await federation.value('edge:get_config("e1")'))
    for path in federation.folder.rglob("*"):
        if path.is_file() and path.name != "secret" and hub.storage not in path.parents:
            told += path.read_bytes().decode("latin-1")
    for secret in SECRETS:
        assert secret not in told


async def test_an_edge_imports_by_itself(federation: Living, hub: DockerRegistry) -> None:
    await name_hub(federation, hub, at="ada")
    await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    await name_hub(federation, hub, at="//peer: e1")
    imported = await federation.value('//peer: e1\nmodels:import("hub", "thermo", "1.0")')
    assert (imported["model"], imported["loaded"]) == ("thermo@1.0", True)
    assert await federation.value("//peer: e1\nmodels:loaded()") == ["thermo@1.0"]
    assert await federation.value("//peer: nameserver\nmodels:installed()") == []
    refused = (await federation.ask('//peer: e1\nmodels:set_repository("x", null)', home="ada")).errors[0]
    assert isinstance(refused, Forbidden)


async def test_the_nameserver_imports_for_the_federation(federation: Living, hub: DockerRegistry) -> None:
    await name_hub(federation, hub, at="ada")
    await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    await name_hub(federation, hub, at="//peer: nameserver")
    for _ in range(2):
        imported = await federation.value('//peer: nameserver\nmodels:import("hub", "thermo", "1.0")')
        assert imported["loaded"] is False
    assert await federation.value("models:available()") == ["thermo@1.0"]
    assert (await federation.value('//peer: nameserver\nmodels:info("thermo", "1.0")'))["by"]
    await federation.value('edge:set_group_models("all", [{"name": "thermo", "version": "1.0"}])')
    await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])


async def test_all_of_them_or_nothing(federation: Living, hub: DockerRegistry) -> None:
    await name_hub(federation, hub, at="ada")
    await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    await name_hub(federation, hub, at="//peer: nameserver")
    before = await count(federation)
    models = '[{"repo": "hub", "name": "thermo", "version": "1.0"}, {"repo": "hub", "name": "hygro", "version": "1.0"}]'
    (problem,) = (await federation.ask(f'edge:set_group_models("all", {models})')).errors
    assert isinstance(problem, UnknownName)
    assert problem.message.startswith('repository "hub": no version "1.0" of "team/models/hygro" there')
    (problem,) = (await federation.ask(FROM_HUB.replace("all", "nowhere"))).errors
    assert problem.message.startswith('no group "nowhere"')
    assert await count(federation) == before
    await federation.value(FROM_HUB)
    assert await count(federation) == before + 2


async def test_the_same_release_twice_at_once(federation: Living, hub: DockerRegistry) -> None:
    await name_hub(federation, hub, at="ada")
    await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    await name_hub(federation, hub, at="//peer: nameserver")
    answers = await asyncio.gather(*(federation.ask(FROM_HUB) for _ in range(3)))
    assert [answer.errors for answer in answers] == [[], [], []]
    assert await federation.value("models:available()") == ["thermo@1.0"]
    await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])


async def test_a_release_that_is_here_with_other_content(federation: Living, hub: DockerRegistry) -> None:
    await name_hub(federation, hub, at="ada")
    theirs = await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    await publisher_in(federation, "bob")
    folder = Path(await federation.value('models:create("thermo")', home="bob"))
    described = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(described.replace('description = "', 'description = "another: '))
    ours = await federation.value('models:create_release("thermo", "1.0")', home="bob")
    await federation.value('models:publish("thermo", "1.0")', home="bob")
    await name_hub(federation, hub, at="//peer: nameserver")
    before = await count(federation)
    (problem,) = (await federation.ask(FROM_HUB)).errors
    assert isinstance(problem, VersionTaken)
    assert theirs["manifest"] in problem.message
    assert ours["manifest"] in problem.message
    assert await count(federation) == before


async def test_a_release_of_a_deleted_version_with_other_content(federation: Living, hub: DockerRegistry) -> None:
    await federation.value('models:publish("thermo", "1.0")', home="ada")
    await federation.value('//peer: nameserver\nmodels:delete("thermo", "1.0")')
    await name_hub(federation, hub, at="ada")
    await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    await name_hub(federation, hub, at="//peer: nameserver")
    await federation.value(FROM_HUB)  # the same bytes come back
    await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])


# --- registries that are none, and people that leave ------------------------------------------------------------------


@pytest.fixture
async def liar(federation: Living) -> AsyncIterator[Liar]:
    layout = ImageLayout(federation.home("ada").releases)
    made = Liar(layout, layout.installed("thermo", "1.0"))
    async with serving(made) as origin:
        await federation.value(
            "//peer: nameserver\nmodels:set_repository(:n, :s)", params={"n": "hub", "s": {"url": origin}}
        )
        yield made


async def test_a_registry_that_fails_changes_nothing(federation: Living, liar: Liar) -> None:
    before = await count(federation)
    for asked in ("manifest", "blob"):
        liar.lies = {asked: liars.status(500)}
        (problem,) = (await federation.ask(FROM_HUB)).errors
        assert isinstance(problem, RegistryFailed)
        assert problem.message.startswith('repository "hub": GET http://127.0.0.1:')
        assert await count(federation) == before
    liar.lies = {}
    assert (await federation.value(FROM_HUB))["assigned"] == ["thermo@1.0"]
    liar.lies = {"any": liars.status(500), "manifest": liars.status(500)}
    (problem,) = (await federation.ask(FROM_HUB)).errors
    assert problem.hint == 'the federation has all of it already: leave "repo" out to assign what is here'


async def test_who_leaves_leaves_nothing_assigned(federation: Living, liar: Liar) -> None:
    reached = asyncio.Event()

    async def wait(request: web.Request, truth: bytes) -> web.StreamResponse:
        reached.set()
        await liar.ended.wait()
        return web.Response()

    before = await count(federation)
    liar.lies = {"blob": wait}
    async with federation.connection() as peer:
        asking = asyncio.create_task(peer.query(FROM_HUB))
        await reached.wait()
        await peer.cancel()
        answer = await asking
    assert [problem.code for problem in answer.errors] == ["cancelled"] or not answer.complete
    assert answer.rows == []
    assert await count(federation) == before
    liar.lies = {}
    assert (await federation.value(FROM_HUB))["assigned"] == ["thermo@1.0"]


async def test_an_autonomous_device_asks_nobody(federation: Living, liar: Liar) -> None:
    edge = federation.home("e1")
    await federation.value("//peer: e1\nmodels:set_repository(:n, :s)", params={"n": "hub", "s": {"url": liar.origin}})
    enter(edge, now=1.0)
    for text in ('models:available("hub")', 'models:import("hub", "thermo", "1.0")'):
        (problem,) = (await federation.ask(text, home="e1")).errors
        assert isinstance(problem, Autonomous)
    assert liar.asked == []


# --- another federation -----------------------------------------------------------------------------------------------


async def test_the_nameserver_of_another_federation_is_a_repository(tmp_path: Path) -> None:
    """With the certificate of somebody who is known there, and its own, which names its address."""
    async with living(tmp_path / "there") as there, living(tmp_path / "here") as here:
        home = await publisher_in(there, "ada")
        assert await asyncio.to_thread(main, ["certs", "--home", str(home.path), str(tmp_path / "certs")]) == 0
        address = there.peers["ns"].record.federation
        assert address is not None
        settings = {"url": f"https://{address}", "certs": str(tmp_path / "certs")}
        await here.value("models:set_repository(:n, :s)", params={"n": "there", "s": settings})
        await there.value('models:create("thermo")', home="ada")
        await there.value('models:create_release("thermo", "1.0")', home="ada")
        await there.value('models:publish("thermo", "1.0")', home="ada")
        assert await here.value('models:available("there", "thermo")') == ["thermo@1.0"]
        (problem,) = (await here.ask('models:import("there", "thermo", "1.0")')).errors
        assert problem.code == "unknown_key"  # its publisher is nobody here


async def test_what_a_release_needs_comes_along(federation: Living, hub: DockerRegistry) -> None:
    await name_hub(federation, hub, at="ada")
    await federation.value('models:create("hygro")', home="ada")
    folder = Path(await federation.value('models:create("weather")', home="ada"))
    described = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(described + '\n[needs]\nhygro = ">=1.1,<2"\nthermo = "==1.0"\n')
    made = [("hygro", "1.0"), ("hygro", "1.2"), ("hygro", "1.10"), ("hygro", "2.0"), ("weather", "1.0")]
    for name, version in made:
        await federation.value(f'models:create_release("{name}", "{version}", {{"test": false}})', home="ada")
    for name, version in made:
        await federation.value(f'models:publish("hub", "{name}", "{version}")', home="ada")
    await name_hub(federation, hub, at="//peer: nameserver")
    wanted = 'edge:set_group_models("all", [{"repo": "hub", "name": "weather", "version": "1.0"}])'
    (problem,) = (await federation.ask(wanted)).errors
    assert problem.code == "needs_unmet"  # the hub has no thermo
    assert await federation.value("models:available()") == []
    await federation.value('models:publish("hub", "thermo", "1.0")', home="ada")
    assert (await federation.value(wanted))["needed"] == ["hygro@1.10", "thermo@1.0"]
    assert await federation.value("models:available()") == ["hygro@1.10", "thermo@1.0", "weather@1.0"]
    await federation.until("//peer: e1\ncount(models:loaded())", 3)
    await name_hub(federation, hub, at="ns-admin")
    imported = await federation.value('models:import("hub", "weather", "1.0")')
    assert imported["loaded"] is False
    assert await federation.value("models:installed()") == ["hygro@1.10", "thermo@1.0", "weather@1.0"]
