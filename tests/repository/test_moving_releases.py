"""Releases that other people's tools move: skopeo and Debian's docker-registry, over mutual TLS with ``peerage certs``.

A release is its manifest with files and config, and the signed record that is attached to it; both keep their digests
at every station, through registries, layouts and archives. The record travels under the fall-back tag.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation.attachments import fallback_tag
from federation.documents import RootRecord, SignedDocument, decode, encode
from federation.keys import read_key
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import digest_of
from federation.roots import endorse, sign_root
from peers.joining import join
from tests.repository.registries import DockerRegistry, copied, docker_registry, skopeo
from tests.shell.running import PEERAGE, environment
from tests.shell.running import federation as processes
from tests.wire.living import Living, living, publisher_in, publisher_of_thermo

LOADED_ASKED_MAX = 40  # a poll answers when the edge has begun to load

pytestmark = pytest.mark.timeout(180)


@dataclass
class Station:
    """A place that releases are copied to and from, in skopeo's words."""

    place: str
    options: dict[str, list[str]]

    def name(self, tag: str) -> str:
        return self.place.format(tag=tag)


def of_registry(registry: DockerRegistry, repository: str = "models/thermo") -> Station:
    options = {side: registry.options(side) for side in ("src", "dest", "")}
    return Station(f"docker://{registry.address}/{repository}:{{tag}}", options)


def on_disk(kind: str, folder: Path) -> Station:
    folder.mkdir()
    tail = {"oci": "/layout:{tag}", "oci-archive": "/{tag}.tar:{tag}", "dir": "/{tag}"}[kind]
    return Station(f"{kind}:{folder}{tail}", {"src": [], "dest": [], "": []})


async def of_nameserver(federation: Living, home: str, *, repository: str = "models/thermo") -> Station:
    """The repository of a federation, for the certificates of a home."""
    folder = federation.folder / f"{home}-certs"
    written = await asyncio.to_thread(
        subprocess.run,
        [*PEERAGE, "certs", "--home", str(federation.home(home).path), str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert written.returncode == 0, written.stderr
    address = federation.peers["ns"].record.federation
    options = {side: [f"--{side}-cert-dir={folder}"] for side in ("src", "dest")} | {"": [f"--cert-dir={folder}"]}
    return Station(f"docker://{address}/{repository}:{{tag}}", options)


def copy_now(source: Station, destination: Station, tag: str) -> None:
    """One tag; with everything that an index names."""
    options = [*source.options["src"], *destination.options["dest"]]
    copied("copy", "--all", *options, source.name(tag), destination.name(tag))


async def copy(source: Station, destination: Station, tag: str) -> None:
    await asyncio.to_thread(copy_now, source, destination, tag)


async def refused(source: Station, destination: Station, tag: str) -> str:
    options = [*source.options["src"], *destination.options["dest"]]
    ran = await asyncio.to_thread(skopeo, "copy", "--all", *options, source.name(tag), destination.name(tag))
    assert ran.returncode != 0
    return ran.stderr


async def raw(station: Station, tag: str) -> bytes:
    told = await asyncio.to_thread(copied, "inspect", "--raw", *station.options[""], station.name(tag))
    return told.encode()


def layout_of(federation: Living) -> ImageLayout:
    return ImageLayout(federation.home("ns").releases)


async def released(federation: Living) -> InstalledRelease:
    """``thermo@1.0`` published by ada."""
    await publisher_of_thermo(federation)
    return layout_of(federation).installed("thermo", "1.0")


async def endorse_there(federation: Living, key: bytes) -> None:
    """Another federation's publisher is endorsed in this one."""
    root_key = read_key(federation.home("ns-root").root_key)
    documents = await federation.ask("keys:root_documents()")
    root = decode(decode(documents.rows[-1].value.encode(), SignedDocument).payload, RootRecord)
    signed = sign_root(endorse(root, publisher="far", key=key, now=root.created + 1.0), root_key)
    await federation.value("keys:set_root(:document)", params={"document": encode(signed).decode()})


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Living]:
    (tmp_path / "here").mkdir()
    async with living(tmp_path / "here") as federation:
        yield federation


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Living]:
    (tmp_path / "there").mkdir()
    async with living(tmp_path / "there", "e9") as federation:
        yield federation


async def test_a_release_goes_through_every_kind_of_place_and_is_one_in_another_federation(
    here: Living, there: Living, tmp_path: Path
) -> None:
    release = await released(here)
    await endorse_there(there, read_key(here.home("ada").publisher_key).public)
    listed = fallback_tag(release.manifest)
    with (
        docker_registry(tmp_path / "plain") as plain,
        docker_registry(tmp_path / "tls", tls=True) as tls,
        docker_registry(tmp_path / "password", tls=True, password=True) as password,
    ):
        stations = [
            await of_nameserver(here, "ada"),
            of_registry(plain),
            on_disk("oci", tmp_path / "oci"),
            of_registry(tls),
            on_disk("oci-archive", tmp_path / "archive"),
            of_registry(password),
            on_disk("dir", tmp_path / "dir"),
            await of_nameserver(there, "ns-admin"),
        ]
        for source, destination in itertools.pairwise(stations):
            for tag in ("1.0", listed):
                await copy(source, destination, tag)
            assert digest_of(await raw(destination, "1.0")) == release.manifest
            (attached,) = json.loads(await raw(destination, listed))["manifests"]
            assert attached["digest"] == release.attachment
    assert layout_of(there).installed("thermo", "1.0") == release
    await there.value('edge:add_group("e9", "field")')
    await there.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
    await there.until('edge:actual_state("e9")["models:loaded"]', ["thermo@1.0"])


async def test_the_record_may_come_before_its_manifest(here: Living, there: Living) -> None:
    release = await released(here)
    await endorse_there(there, read_key(here.home("ada").publisher_key).public)
    source, destination = await of_nameserver(here, "ada"), await of_nameserver(there, "ns-admin")
    await copy(source, destination, fallback_tag(release.manifest))
    assert layout_of(there).releases() == ()
    await copy(source, destination, "1.0")
    assert layout_of(there).releases() == (release,)


async def test_a_publisher_whom_nobody_endorsed_there_is_refused(here: Living, there: Living) -> None:
    release = await released(here)
    source, destination = await of_nameserver(here, "ada"), await of_nameserver(there, "ns-admin")
    await copy(source, destination, "1.0")  # a manifest and its files alone are no release
    listed = fallback_tag(release.manifest)
    assert "denied" in (await refused(source, destination, listed)).lower()
    assert layout_of(there).releases() == ()
    assert layout_of(there).referrers("models/thermo", release.manifest) == ()


async def test_who_may_not_push_is_told_so(here: Living) -> None:
    release = await released(here)
    bundle = await here.value("peer:register(:name, :options)", params={"name": "eve", "options": {"role": "viewer"}})
    await join(here.home("eve"), bundle)
    eve = await of_nameserver(here, "eve")
    assert digest_of(await raw(eve, "1.0")) == release.manifest
    told = await refused(eve, eve, "1.0")
    assert "denied" in told
    assert "may not push or delete: expected the role operator or a publisher key" in told


async def test_without_a_certificate_of_the_federation_nothing_is_told(here: Living, tmp_path: Path) -> None:
    await released(here)
    known = await of_nameserver(here, "ada")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "ca.crt").write_text(here.home("ada").text(here.home("ada").ca_crt))
    bare = Station(known.place, {side: [f"--src-cert-dir={tmp_path / 'bare'}"] for side in ("src", "dest", "")})
    told = await refused(bare, on_disk("dir", tmp_path / "dir"), "1.0")
    assert "status code from registry 403" in told


async def test_listing_and_deleting(here: Living) -> None:
    """What a group names stays, and the group is told; nothing else is in the way of deleting a release."""
    release = await released(here)
    ada = await of_nameserver(here, "ada")
    name = ada.name("1.0")
    listing = await asyncio.to_thread(copied, "list-tags", *ada.options[""], name.removesuffix(":1.0"))
    assert json.loads(listing)["Tags"] == ["1.0"]
    await here.value('edge:register("e1")')
    await here.value('edge:add_group("e1", "field")')
    await here.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
    ran = await asyncio.to_thread(skopeo, "delete", *ada.options[""], name)
    assert ran.returncode != 0
    assert "thermo@1.0 is held by 1, expected nobody: group field has it" in ran.stderr
    assert layout_of(here).releases() == (release,)


async def test_a_release_is_deleted_and_published_again(here: Living) -> None:
    release = await released(here)
    ada = await of_nameserver(here, "ada")
    await asyncio.to_thread(copied, "delete", *ada.options[""], ada.name("1.0"))
    assert layout_of(here).releases() == ()
    assert await here.value("//peer: nameserver\nmodels:installed()") == []
    await here.value('models:publish("thermo", "1.0")', home="ada")
    assert layout_of(here).releases() == (release,)


async def test_a_version_with_other_content_is_refused_whoever_brings_it(here: Living, there: Living) -> None:
    release = await released(here)
    await publisher_in(there)
    await there.value('models:create("thermo")', home="ada")
    description = there.home("ada").models / "thermo" / "model.toml"
    description.write_text(description.read_text().replace("a template", "another template"))
    await there.value('models:create_release("thermo", "1.0")', home="ada")
    await there.value('models:publish("thermo", "1.0")', home="ada")
    other = layout_of(there).installed("thermo", "1.0")
    assert other.manifest != release.manifest
    told = await refused(await of_nameserver(here, "ada"), await of_nameserver(there, "ns-admin"), "1.0")
    assert "thermo:1.0 exists already with other content" in told
    assert layout_of(there).releases() == (other,)


def test_with_real_processes_and_the_files_of_peerage_certs(tmp_path: Path) -> None:
    """Out of one nameserver into an archive and a registry with TLS and a password; deleted; and back, onto an edge."""
    with docker_registry(tmp_path / "docker", tls=True, password=True) as far, processes(tmp_path) as made:
        for done in (
            made.member("ada", "--role", "operator", "--publisher"),
            made.member("e1"),
            made.peerage("keys", "endorse", "ada", "--root-home", "ns-root", "--home", "ns-admin"),
            made.peerage("query", "--home", "ada", 'models:create("thermo")'),
            made.peerage("query", "--home", "ada", 'models:create_release("thermo", "1.0")'),
            made.peerage("query", "--home", "ada", 'models:publish("thermo", "1.0")'),
            made.peerage("certs", "--home", "ada", "certs"),
        ):
            assert done.status == 0, done.err
        layout = ImageLayout(made.folder / "ns" / "releases")
        release = layout.installed("thermo", "1.0")
        address = json.loads((made.folder / "ns" / "run.json").read_text())["federation"]
        certs = made.folder / "certs"
        near = Station(
            f"docker://{address}/models/thermo:{{tag}}",
            {side: [f"--{side}-cert-dir={certs}"] for side in ("src", "dest")} | {"": [f"--cert-dir={certs}"]},
        )
        places = (near, on_disk("oci-archive", tmp_path / "archive"), of_registry(far))
        tags = ("1.0", fallback_tag(release.manifest))
        for source, destination in itertools.pairwise(places):
            for tag in tags:
                copy_now(source, destination, tag)
        copied("delete", *near.options[""], near.name("1.0"))
        assert layout.releases() == ()
        gone = made.peerage("query", "--home", "ns-admin", "--json", "//peer: nameserver\nmodels:installed()")
        assert "thermo@1.0" not in gone.out
        for tag in tags:
            copy_now(of_registry(far), near, tag)
        assert layout.releases() == (release,)
        made.start("e1", "edge")
        for text in (
            'edge:add_group("e1", "field")',
            'edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])',
        ):
            assert made.peerage("query", "--home", "ns-admin", text).status == 0
        assert made.peerage("query", "--home", "e1", "edge:poll()").status == 0
        for _ in range(LOADED_ASKED_MAX):
            answered = made.peerage("query", "--home", "e1", 'models:infer("thermo", [100.0])')
            if answered.status == 0:
                break
        assert "212" in answered.out, answered
