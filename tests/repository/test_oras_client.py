"""The oras package as a client, as its users have it: what it sends, and releases that it moves in and out.

Its transport is the package's own; our adapter (:mod:`peers.oci_registry`) is not used here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from federation.documents import encode
from federation.layout import ImageLayout
from federation.manifests import EMPTY_CONFIG, MANIFEST_TYPE
from federation.names import digest_of
from federation.packing import PackedRelease
from peers.registry_routes import registry_routes
from tests.repository.registries import PASSWORD, USER, DockerRegistry, docker_registry
from tests.repository.site import Federation, Party, Registrations, packed, write_model

REPOSITORY = "models/doubler"


@dataclass
class Bench:
    """A nameserver's repository that writes down what it is asked."""

    federation: Federation
    layout: ImageLayout
    registrations: Registrations
    address: str
    asked: list[str]

    def client(self, party: Party) -> Any:
        """An oras client with the files of a peer, as ``peerage certs`` writes them."""
        from oras.provider import Registry

        client = Registry(hostname=self.address, tls_verify=str(party.identity.ca), auth_backend="basic")
        client.session.trust_env = False
        client.session.cert = (str(party.identity.certificate), str(party.identity.key))
        return client

    def told(self) -> list[str]:
        """What was asked since the last time, digests and upload ids left out."""
        told, self.asked[:] = list(self.asked), []
        return told


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    federation, layout = Federation(tmp_path / "keys"), ImageLayout(tmp_path / "central")
    registrations = Registrations()
    asked: list[str] = []

    def member_of(request: web.Request) -> Any:
        kind = next((part for part in ("uploads", "blobs", "manifests", "tags") if part in request.path), "version")
        digest = "?digest" if "digest" in request.query else ""
        line = f"{request.method} {kind}{digest}"
        asked.append(line)
        return federation.member_of(request)

    routes = registry_routes(
        layout,
        member_of=member_of,
        on_release=registrations,
        check_record=registrations.check,
        on_delete=registrations.let_go,
    )
    async with federation.serve(routes) as address:
        yield Bench(federation, layout, registrations, address, asked)


@pytest.fixture
def release(tmp_path: Path) -> PackedRelease:
    return packed(write_model(tmp_path / "m"))


def push_all(client: Any, address: str, release: PackedRelease, folder: Path) -> None:
    """A release as oras's own functions push it: blobs from files, then both manifests."""
    folder.mkdir()
    envelope = encode(release.signed)
    for content in (*release.files.values(), release.config, EMPTY_CONFIG, envelope):
        path = folder / digest_of(content).removeprefix("sha256:")
        path.write_bytes(content)
        container = client.get_container(f"{address}/{REPOSITORY}:1.0")
        layer = {"digest": digest_of(content), "size": len(content), "mediaType": "application/octet-stream"}
        client.upload_blob(str(path), container, layer)
    for reference, raw in (("1.0", release.manifest), (digest_of(release.attachment), release.attachment)):
        url = f"{client.prefix}://{address}/v2/{REPOSITORY}/manifests/{reference}"
        put = client.do_request(url, "PUT", data=raw, headers={"Content-Type": MANIFEST_TYPE})
        assert put.status_code == 201, put.text


def pull_all(client: Any, address: str, release: PackedRelease) -> None:
    manifest = client.get_manifest(f"{address}/{REPOSITORY}:1.0", allowed_media_type=[MANIFEST_TYPE])
    assert manifest == json.loads(release.manifest)
    for layer in manifest["layers"]:
        container = client.get_container(f"{address}/{REPOSITORY}:1.0")
        assert digest_of(client.get_blob(container, layer["digest"]).content) == layer["digest"]
    assert client.get_tags(f"{address}/{REPOSITORY}") == ["1.0"]


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


async def test_a_release_moves_in_and_out(bench: Bench, release: PackedRelease, tmp_path: Path) -> None:
    client = bench.client(bench.federation.publisher)
    await in_thread(push_all, client, bench.address, release, tmp_path / "files")
    assert bench.registrations.labels == ["doubler@1.0"]
    (installed,) = bench.layout.releases()
    assert installed.manifest == release.record.manifest
    pushed = bench.told()
    assert pushed[:3] == ["HEAD blobs", "POST uploads", "PUT uploads?digest"]
    assert pushed[-2:] == ["PUT manifests", "PUT manifests"]
    assert "GET version" not in pushed
    await in_thread(pull_all, client, bench.address, release)
    assert bench.told() == ["GET manifests", "GET blobs", "GET tags"]
    client.session.close()


async def test_deleting_by_tag_takes_the_manifest_with_all_its_tags(bench: Bench, release: PackedRelease) -> None:
    bench.layout.install(release)
    bench.layout.put_manifest(REPOSITORY, release.manifest, tag="latest")
    client = bench.client(bench.federation.operator)
    assert await in_thread(client.delete_tag, f"{bench.address}/{REPOSITORY}", "latest") is True
    assert bench.told() == ["HEAD manifests", "DELETE manifests"]
    assert bench.layout.tags(REPOSITORY) == ()
    assert [label for label, _ in bench.registrations.deleted] == ["doubler@1.0"]
    client.session.close()


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "tls and password"])
async def test_between_docker_registry_and_the_nameserver(
    bench: Bench, release: PackedRelease, tmp_path: Path, guarded: bool
) -> None:
    with docker_registry(tmp_path / "docker", tls=guarded, password=guarded) as running:
        far = far_client(running)
        await in_thread(push_all, far, running.address, release, tmp_path / "files")
        await in_thread(pull_all, far, running.address, release)
        near = bench.client(bench.federation.operator)
        await in_thread(move_all, far, running.address, near, bench.address)
        far.session.close()
        near.session.close()
    assert bench.layout.manifest(REPOSITORY, "1.0").raw == release.manifest
    assert bench.layout.packed(bench.layout.attach(release.signed)).files == release.files


def far_client(running: DockerRegistry) -> Any:
    from oras.provider import Registry

    client = Registry(
        hostname=running.address,
        insecure=running.ca is None,
        tls_verify=True if running.ca is None else str(running.ca),
        auth_backend="basic",
    )
    client.session.trust_env = False
    if running.password:
        client.auth.set_basic_auth(USER, PASSWORD)
    return client


def move_all(source: Any, at: str, destination: Any, to: str) -> None:
    """A release from one registry to another through memory: blobs, then the manifest's exact bytes."""
    answer = source.do_request(
        f"{source.prefix}://{at}/v2/{REPOSITORY}/manifests/1.0", headers={"Accept": MANIFEST_TYPE}
    )
    manifest = answer.json()
    for part in (manifest["config"], *manifest["layers"]):
        content = source.get_blob(source.get_container(f"{at}/{REPOSITORY}:1.0"), part["digest"]).content
        url = f"{destination.prefix}://{to}/v2/{REPOSITORY}/blobs/uploads/?digest={part['digest']}"
        assert destination.do_request(url, "POST", data=content).status_code == 201
    url = f"{destination.prefix}://{to}/v2/{REPOSITORY}/manifests/1.0"
    put = destination.do_request(url, "PUT", data=answer.content, headers={"Content-Type": MANIFEST_TYPE})
    assert put.status_code == 201, put.text
