"""Debian's docker-registry as a remote repository: publishing to it, asking it, importing from it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federation.documents import ReleaseRecord, RootRecord, decode
from federation.errors import UnknownKey
from federation.layout import ImageLayout
from federation.layout_index import VersionTaken
from federation.manifests import EMPTY_CONFIG, INDEX_TYPE, MANIFEST_BYTES_MAX, read_index, record_attachment
from federation.names import digest_of
from peers.fetching import AlteredContent, WrongLength
from peers.oci_attachments import attach, attachments, fallback_tag
from peers.oci_errors import RegistryUnauthorized, RegistryUntrusted
from peers.oci_registry import Registry
from peers.oci_transfers import Site, Transfer
from peers.remote_repositories import RemoteRepositories, UnsignedRelease
from peers.remote_settings import RemoteBook, read_settings
from query.errors import UnknownName
from tests.repository.registries import PASSWORD, USER, DockerRegistry, copied, docker_registry
from tests.repository.site import CODE, STRANGER, packed, root_record, write_model

KINDS = {"plain": {}, "tls": {"tls": True}, "password": {"password": True}, "both": {"tls": True, "password": True}}


@dataclass
class Party:
    """One peer: its repository and the remote ones that it knows."""

    folder: Path
    root: Callable[[], RootRecord] = root_record
    told: list[tuple[str, int, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = ImageLayout(self.folder / "releases")
        self.book = RemoteBook(self.folder / "repositories.json")
        self.remotes = RemoteRepositories(self.book, self.layout, root=self.root)

    def knows(self, registry: DockerRegistry, name: str = "hub", *, prefix: str = "/team", **more: Any) -> None:
        settings: dict[str, Any] = {"url": registry.url + prefix, **more}
        if registry.ca is not None:
            settings["ca"] = str(registry.ca)
        if registry.password and "credentials" not in settings:
            settings["credentials"] = str(self.secret(f"{USER}:{PASSWORD}"))
        self.book.set(name, read_settings(name, settings))

    def secret(self, text: str, name: str = "secret") -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def progress(self, label: str, done: int, total: int | None, unit: str) -> None:
        self.told.append((label, done, total))

    @property
    def blobs(self) -> set[str]:
        return set(self.layout.blobs.digests())


@pytest.fixture(params=list(KINDS))
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path / "registry", **KINDS[request.param]) as running:
        yield running


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def maker(tmp_path: Path) -> Party:
    party = Party(tmp_path / "maker")
    folder = write_model(tmp_path / "m", more='docs = ["large.txt"]\n')
    (folder / "large.txt").write_bytes(os.urandom(1_500_000).hex().encode())
    party.layout.install(packed(folder))
    return party


async def test_a_release_goes_there_and_comes_back_the_same(
    registry: DockerRegistry, maker: Party, tmp_path: Path
) -> None:
    maker.knows(registry)
    release = maker.layout.installed("doubler", "1.0")
    assert await maker.remotes.available("hub") == []
    assert not await maker.remotes.has("hub", "doubler", "1.0")
    await maker.remotes.publish("hub", release, progress=maker.progress)
    assert {label for label, _, _ in maker.told} == {"publish doubler@1.0"}
    assert maker.told[-1][1] == maker.told[-1][2]
    assert len(maker.told) > 3
    assert await maker.remotes.available("HUB") == ["doubler@1.0"]
    assert await maker.remotes.available("hub", "doubler") == ["doubler@1.0"]
    assert await maker.remotes.available("hub", "tripler") == []
    assert await maker.remotes.has("hub", "doubler", "1.0")
    assert not await maker.remotes.has("hub", "doubler", "1.1")

    taker = Party(tmp_path / "taker")
    taker.knows(registry)
    fetched = await taker.remotes.fetch("hub", "doubler", "1.0", progress=taker.progress)
    assert taker.layout.releases() == ()  # nothing lists it before its caller does
    assert taker.layout.attach(fetched.signed) == release
    assert taker.layout.packed(release) == maker.layout.packed(release)
    assert fetched.release.label == "doubler@1.0"
    assert {label for label, _, _ in taker.told} == {"import doubler@1.0"}
    assert taker.told[-1][1] == taker.told[-1][2]
    assert [done for _, done, _ in taker.told] == sorted(done for _, done, _ in taker.told)


async def test_published_again_nothing_changes_there(plain: DockerRegistry, maker: Party) -> None:
    maker.knows(plain)
    release = maker.layout.installed("doubler", "1.0")
    await maker.remotes.publish("hub", release)
    before = {path: path.stat().st_mtime_ns for path in plain.storage.rglob("*") if path.is_file()}
    await maker.remotes.publish("hub", release)
    assert {
        path: path.stat().st_mtime_ns for path in plain.storage.rglob("*") if path.is_file()
    }.keys() == before.keys()


async def test_a_version_with_other_content_is_left_alone(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    maker.knows(plain)
    first = maker.layout.installed("doubler", "1.0")
    await maker.remotes.publish("hub", first)
    other = Party(tmp_path / "other")
    other.knows(plain)
    second = other.layout.install(packed(write_model(tmp_path / "n", code=CODE + "// more\n")))
    with pytest.raises(VersionTaken) as refused:
        await other.remotes.publish("hub", second)
    assert refused.value.message.startswith('repository "hub": doubler@1.0 exists already')
    assert first.manifest in refused.value.message
    assert second.manifest in refused.value.message
    with pytest.raises(VersionTaken) as refused:
        await other.remotes.fetch("hub", "doubler", "1.0")
    assert first.manifest in refused.value.message
    assert second.manifest in refused.value.message
    assert await maker.remotes.available("hub") == ["doubler@1.0"]
    assert other.layout.releases() == (second,)


async def test_prefixes_part_what_is_in_one_registry(plain: DockerRegistry, maker: Party) -> None:
    for name, prefix in (("a", "/team.one/x"), ("b", "/team"), ("c", "")):
        maker.knows(plain, name, prefix=prefix)
    release = maker.layout.installed("doubler", "1.0")
    await maker.remotes.publish("a", release)
    found = [await maker.remotes.available(name) for name in ("a", "b", "c")]
    assert found == [["doubler@1.0"], [], []]
    await maker.remotes.publish("c", release)
    assert [await maker.remotes.available(name) for name in ("a", "b", "c")] == [["doubler@1.0"], [], ["doubler@1.0"]]


async def test_long_lists_come_in_pages(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    maker.knows(plain)
    folder = write_model(tmp_path / "v")
    site = Site(address=plain.address, scheme="http")
    versions = [f"1.{number}" for number in range(205)]
    release = packed(folder)

    def push() -> None:
        with Registry(site, Transfer("push")) as there:
            for content in (*release.files.values(), release.config):
                path = tmp_path / "blob"
                path.write_bytes(content)
                there.send_blob("team/models/doubler", path, digest_of(content), len(content))
            for version in versions:
                there.send_manifest("team/models/doubler", version, release.manifest)

    await asyncio.to_thread(push)
    assert await maker.remotes.available("hub") == sorted(f"doubler@{version}" for version in versions)


# --- records ----------------------------------------------------------------------------------------------------------


async def test_a_release_without_its_record_is_refused(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    copied(
        "copy",
        *plain.options("dest"),
        f"oci:{maker.layout.path}:models/doubler:1.0",
        plain.reference("team/models/doubler:1.0"),
    )
    taker = Party(tmp_path / "taker")
    taker.knows(plain)
    with pytest.raises(UnsignedRelease, match=r'repository "hub": doubler@1.0 has no signed record') as refused:
        await taker.remotes.fetch("hub", "doubler", "1.0")
    assert "sha256-" in (refused.value.hint or "")
    assert taker.blobs == set()


async def test_a_stranger_s_release_is_refused_before_its_content_comes(plain: DockerRegistry, tmp_path: Path) -> None:
    forger = Party(tmp_path / "forger")
    forger.knows(plain)
    forged = forger.layout.install(packed(write_model(tmp_path / "m"), publisher=STRANGER))
    await forger.remotes.publish("hub", forged)
    taker = Party(tmp_path / "taker")
    taker.knows(plain)
    with pytest.raises(UnknownKey, match=r'^repository "hub": '):
        await taker.remotes.fetch("hub", "doubler", "1.0")
    assert taker.blobs == set()


async def test_a_good_record_is_found_among_others(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    """Strangers may attach what they like: their records hide none."""
    release = maker.layout.installed("doubler", "1.0")
    record = decode(maker.layout.signed(release).payload, ReleaseRecord)
    forger = Party(tmp_path / "forger")
    forger.knows(plain)
    forger.layout.install(packed(tmp_path / "m", publisher=STRANGER))
    await forger.remotes.publish("hub", forger.layout.installed("doubler", "1.0"))
    maker.knows(plain)
    await maker.remotes.publish("hub", release)
    taker = Party(tmp_path / "taker")
    taker.knows(plain)
    fetched = await taker.remotes.fetch("hub", "doubler", "1.0")
    assert fetched.release.record == record


async def test_two_writers_of_one_fall_back_tag_lose_nothing(plain: DockerRegistry, maker: Party) -> None:
    maker.knows(plain)
    release = maker.layout.installed("doubler", "1.0")
    await maker.remotes.publish("hub", release)
    raw = maker.layout.manifest(release.repository, release.manifest).raw
    site = Site(address=plain.address, scheme="http")
    start = threading.Barrier(4)
    sent = []

    def attach_one(number: int) -> None:
        content = json.dumps({"attachment": number}).encode()
        manifest = record_attachment(content, subject=release.manifest, subject_size=len(raw))
        path = maker.folder / f"content{number}"
        path.write_bytes(content)
        empty = maker.folder / f"empty{number}"
        empty.write_bytes(EMPTY_CONFIG)
        with Registry(site, Transfer("attach")) as there:
            there.send_blob("team/models/doubler", path, digest_of(content), len(content))
            there.send_blob("team/models/doubler", empty, digest_of(EMPTY_CONFIG), len(EMPTY_CONFIG))
            start.wait(timeout=10)
            attach(there, "team/models/doubler", manifest)
        sent.append(digest_of(manifest))

    await asyncio.gather(*(asyncio.to_thread(attach_one, number) for number in range(4)))

    def listed() -> tuple[set[str], set[str]]:
        with Registry(site, Transfer("read")) as there:
            path = f"/v2/team/models/doubler/manifests/{fallback_tag(release.manifest)}"
            tagged = read_index(there.get(path, bytes_max=MANIFEST_BYTES_MAX, accept=INDEX_TYPE).body).manifests
            known = attachments(there, "team/models/doubler", release.manifest, tagged[0].artifact_type or "")
            return {one.digest for one in tagged}, {one.digest for one in known}

    by_tag, by_name = await asyncio.to_thread(listed)
    assert by_tag == by_name == {*sent, release.attachment}


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_registry_that_serves_other_bytes(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    maker.knows(plain)
    release = maker.layout.installed("doubler", "1.0")
    await maker.remotes.publish("hub", release)
    (name,) = (entry for entry in maker.layout.packed(release).record.files if entry.path == "large.txt")
    served = plain.blob(name.digest)
    whole = served.read_bytes()
    taker = Party(tmp_path / "taker")
    taker.knows(plain)
    served.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(AlteredContent, match=r'^repository "hub": /v2/team/models/doubler/blobs/sha256'):
        await taker.remotes.fetch("hub", "doubler", "1.0")
    served.write_bytes(whole[:1000])
    with pytest.raises(WrongLength, match="1000 are announced"):
        await taker.remotes.fetch("hub", "doubler", "1.0")
    assert name.digest not in taker.blobs
    assert taker.layout.releases() == ()
    served.write_bytes(whole)
    assert (await taker.remotes.fetch("hub", "doubler", "1.0")).release.label == "doubler@1.0"


async def test_what_came_is_kept_and_resumed(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    maker.knows(plain)
    release = maker.layout.installed("doubler", "1.0")
    await maker.remotes.publish("hub", release)
    (large,) = (entry for entry in maker.layout.packed(release).record.files if entry.path == "large.txt")
    taker = Party(tmp_path / "taker")
    taker.knows(plain)
    content = plain.blob(large.digest).read_bytes()
    with taker.layout.blobs.stage(large.digest, size=large.size) as staged:
        staged.write(content[:1_000_000])
    served = plain.blob(large.digest)
    served.write_bytes(bytes(1_000_000) + content[1_000_000:])  # what is here already is not asked for again
    fetched = await taker.remotes.fetch("hub", "doubler", "1.0")
    assert fetched.release.label == "doubler@1.0"

    damaged = Party(tmp_path / "damaged")
    damaged.knows(plain)
    served.write_bytes(content)
    with damaged.layout.blobs.stage(large.digest, size=large.size) as staged:
        staged.write(hashlib.sha256(b"damage").digest())
    assert (await damaged.remotes.fetch("hub", "doubler", "1.0")).release.label == "doubler@1.0"


async def test_what_is_not_there(plain: DockerRegistry, maker: Party) -> None:
    maker.knows(plain)
    with pytest.raises(UnknownName, match=r'repository "hub": no version "9.0" of "team/models/doubler" there'):
        await maker.remotes.fetch("hub", "doubler", "9.0")
    with pytest.raises(UnknownName, match='no repository "hup" — did you mean "hub"'):
        await maker.remotes.fetch("hup", "doubler", "1.0")


async def test_who_comes_at_the_same_time_finds_it_here(plain: DockerRegistry, maker: Party, tmp_path: Path) -> None:
    maker.knows(plain)
    await maker.remotes.publish("hub", maker.layout.installed("doubler", "1.0"))
    taker = Party(tmp_path / "taker")
    taker.knows(plain)
    both = await asyncio.gather(*(taker.remotes.fetch("hub", "doubler", "1.0") for _ in range(3)))
    assert {one.release.label for one in both} == {"doubler@1.0"}


# --- credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["line", "docker"])
async def test_both_forms_of_credentials(form: str, maker: Party, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", password=True) as registry:
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        text = f"{USER}:{PASSWORD}\n" if form == "line" else json.dumps({"auths": {registry.address: {"auth": auth}}})
        maker.knows(registry, credentials=str(maker.secret(text)))
        await maker.remotes.publish("hub", maker.layout.installed("doubler", "1.0"))
        assert await maker.remotes.available("hub", "doubler") == ["doubler@1.0"]


async def test_wrong_credentials_are_refused_and_in_no_message(maker: Party, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", password=True) as registry:
        for credentials in (None, "mechanic:hunter2-wrong"):
            more = {} if credentials is None else {"credentials": str(maker.secret(credentials))}
            maker.book.set("hub", read_settings("hub", {"url": registry.url, **more}))
            with pytest.raises(
                RegistryUnauthorized, match=r'^repository "hub": GET http://.*/v2/: status 401'
            ) as refused:
                await maker.remotes.publish("hub", maker.layout.installed("doubler", "1.0"))
            with pytest.raises(RegistryUnauthorized, match="status 401"):
                await maker.remotes.available("hub")  # and not that it lists no models
            assert "hunter2" not in f"{refused.value.message} {refused.value.hint} {refused.value!r}"


async def test_another_authority_is_not_trusted(maker: Party, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", tls=True) as registry:
        maker.book.set("hub", read_settings("hub", {"url": registry.url}))
        with pytest.raises(RegistryUntrusted, match="is not the registry that was meant: ") as refused:
            await maker.remotes.available("hub")
        assert '"ca"' in (refused.value.hint or "")
        settings = {"url": registry.url.replace("127.0.0.1", "localhost"), "ca": str(registry.ca)}
        maker.book.set("hub", read_settings("hub", settings))
        with pytest.raises(RegistryUntrusted, match="localhost"):
            await maker.remotes.available("hub")
