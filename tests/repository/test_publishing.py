"""What a nameserver does with the releases that are pushed to its repository."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from federation.documents import RootRecord, SignedDocument, decode
from federation.errors import UnknownKey, WrongHash
from federation.events import EpochStarted, Founded, ReleaseDeleted, ReleasePublished, RootSet
from federation.layout import ImageLayout
from federation.layout_index import VersionTaken
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.published import PublishedReleases
from federation.roots import first_root, sign_root
from federation.store import FederationStore
from peers.nameserver_parts import Publishing
from peers.repository_tidying import tidy_repository
from tests.repository.site import CODE, DIRECTOR, FEDERATION, PUBLISHER, ROOT, Federation, Party, packed, write_model

NOW = 1_800_000_000.0
MUCH_LATER = 4_000_000_000.0  # than any file of these tests was written


def root_document(version: int = 1, **publishers: bytes) -> SignedDocument:
    first = first_root(FEDERATION, roots=[ROOT], director=DIRECTOR.public, now=1.0, publishers=publishers)
    record = decode(first.payload, RootRecord)
    return first if version == 1 else sign_root(replace(record, version=version), ROOT)


@pytest.fixture
def store() -> Iterator[FederationStore]:
    store = FederationStore.open(None)
    root = root_document(publisher=PUBLISHER.public)
    store.append([Founded(FEDERATION, "1s"), EpochStarted(1), RootSet(root)], caller="nameserver", now=NOW)
    yield store
    store.close()


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "releases")


@pytest.fixture
def publisher(tmp_path: Path) -> Party:
    return Federation(tmp_path / "keys").publisher


def stored(layout: ImageLayout, release: PackedRelease) -> PackedRelease:
    """All of a release that is pushed before its record is."""
    for content in (*release.files.values(), release.config):
        layout.blobs.put(content)
    layout.put_manifest(release.repository, release.manifest, tag=release.record.version)
    return release


def labels(store: FederationStore) -> list[str]:
    return [release.record.label for release in store.state.releases()]


async def test_a_release_is_registered_once(
    store: FederationStore, layout: ImageLayout, publisher: Party, tmp_path: Path
) -> None:
    publishing = Publishing(store, layout, lambda: NOW)
    release = stored(layout, packed(write_model(tmp_path / "m")))
    for _ in range(2):
        await publishing.on_release(release.signed, release.manifest, publisher.member)
    assert labels(store) == ["doubler@1.0"]
    other = stored(layout, packed(write_model(tmp_path / "m", code=CODE + "// more\n")))
    with pytest.raises(VersionTaken):
        await publishing.on_release(other.signed, other.manifest, publisher.member)


async def test_of_two_at_once_one_is_registered(
    store: FederationStore, layout: ImageLayout, publisher: Party, tmp_path: Path
) -> None:
    publishing = Publishing(store, layout, lambda: NOW)
    releases = [stored(layout, packed(write_model(tmp_path / "m", code=f"{CODE}// {n}\n"))) for n in range(2)]
    ended = await asyncio.gather(
        *(publishing.on_release(one.signed, one.manifest, publisher.member) for one in releases),
        return_exceptions=True,
    )
    assert [type(end) for end in ended] == [type(None), VersionTaken]
    assert labels(store) == ["doubler@1.0"]


async def test_it_counts_who_is_endorsed_when_a_release_is_registered(
    store: FederationStore, layout: ImageLayout, publisher: Party, tmp_path: Path
) -> None:
    publishing = Publishing(store, layout, lambda: NOW)
    release = stored(layout, packed(write_model(tmp_path / "m")))
    registering = asyncio.create_task(publishing.on_release(release.signed, release.manifest, publisher.member))
    await asyncio.sleep(0)  # its files are being hashed now
    store.append([RootSet(root_document(2))], caller="admin", now=NOW)
    with pytest.raises(UnknownKey):
        await registering
    assert labels(store) == []


def test_a_release_that_a_kill_left_unlisted_is_listed_at_the_start(
    store: FederationStore, layout: ImageLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = stored(layout, packed(write_model(tmp_path / "m")))
    store.append([ReleasePublished(release.signed)], caller="publisher", now=NOW)
    for _ in range(2):  # the second time there is nothing to do
        tidy_repository(layout, store.state.published, now=MUCH_LATER)
        assert [entry.label for entry in layout.releases()] == ["doubler@1.0"]
        assert layout.verified(release.signed, root=store.state.root).label == "doubler@1.0"
        assert layout.signed(layout.releases()[0]) == release.signed
    assert [entry.getMessage() for entry in caplog.records] == ["release_repaired"]


def test_a_release_that_is_not_all_here_is_told_and_what_is_left_of_it_kept(
    store: FederationStore, layout: ImageLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(tmp_path / "m", more='docs = ["README.md"]\n')
    (folder / "README.md").write_text("Doubles.")
    lost, whole = packed(folder), stored(layout, packed(write_model(tmp_path / "n", name="n")))
    for content in lost.files.values():
        layout.blobs.put(content)
    layout.blobs.put(lost.manifest)
    (gone,) = (entry for entry in lost.record.files if entry.path == "README.md")
    (left,) = (entry for entry in lost.record.files if entry.path == "f.pql")
    layout.blobs.remove(gone.digest)
    store.append([ReleasePublished(one.signed) for one in (lost, whole)], caller="publisher", now=NOW)
    tidy_repository(layout, store.state.published, now=MUCH_LATER)
    assert [entry.label for entry in layout.releases()] == ["n@1.0"]
    told = {entry.getMessage(): vars(entry) for entry in caplog.records}
    assert told["release_incomplete"]["release"] == "doubler@1.0"
    assert gone.digest in told["release_incomplete"]["reason"]
    assert layout.blobs.size(left.digest) == left.size
    assert layout.blobs.size(lost.record.manifest) == lost.record.manifest_size


def test_only_what_nothing_names_is_removed_and_only_when_it_is_old(
    layout: ImageLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    known = layout.install(packed(write_model(tmp_path / "m")))
    beside = set(layout.blobs.digests())
    uploaded = layout.blobs.put(b"a manifest may follow")
    now = layout.blobs.written(uploaded)
    with layout.blobs.stage(digest_of(b"half"), size=4) as staged:
        staged.write(b"ha")
    tidy_repository(layout, PublishedReleases(), now=now + 60.0)
    assert set(layout.blobs.digests()) == beside | {uploaded}
    tidy_repository(layout, PublishedReleases(), now=now + 3600.0)
    assert set(layout.blobs.digests()) == beside
    assert layout.packed(known).record.label == "doubler@1.0"
    with layout.blobs.stage(digest_of(b"half"), size=4) as staged:
        assert staged.resumed
    assert [entry.getMessage() for entry in caplog.records] == ["garbage_removed"]


@pytest.mark.parametrize("content", [b"{}", None])
def test_nothing_is_removed_while_a_manifest_is_not_whole(
    layout: ImageLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    manifest = layout.blobs.path(layout.install(packed(write_model(tmp_path / "m"))).manifest)
    manifest.write_bytes(content) if content is not None else manifest.unlink()
    there = set(layout.blobs.digests()) | {layout.blobs.put(b"garbage")}
    tidy_repository(layout, PublishedReleases(), now=MUCH_LATER)
    assert set(layout.blobs.digests()) == there
    assert [entry.getMessage() for entry in caplog.records] == ["garbage_kept"]


def test_a_damaged_index_is_told_and_nothing_is_touched(
    store: FederationStore, layout: ImageLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = stored(layout, packed(write_model(tmp_path / "m")))
    store.append([ReleasePublished(release.signed)], caller="publisher", now=NOW)
    (layout.path / "index.json").write_bytes(b"{")
    there = set(layout.blobs.digests())
    tidy_repository(layout, store.state.published, now=MUCH_LATER)
    assert set(layout.blobs.digests()) == there
    assert (layout.path / "index.json").read_bytes() == b"{"
    assert [entry.getMessage() for entry in caplog.records] == ["repository_damaged"]


async def test_a_release_with_other_bytes_is_not_registered(
    store: FederationStore, layout: ImageLayout, publisher: Party, tmp_path: Path
) -> None:
    release = stored(layout, packed(write_model(tmp_path / "m")))
    layout.blobs.path(release.record.files[0].digest).write_bytes(b"x" * len(CODE))
    with pytest.raises(WrongHash):
        await Publishing(store, layout, lambda: NOW).on_release(release.signed, release.manifest, publisher.member)
    assert labels(store) == []


def test_a_release_that_a_kill_left_listed_after_its_deletion_leaves_at_the_start(
    store: FederationStore, layout: ImageLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = packed(write_model(tmp_path / "m")), packed(write_model(tmp_path / "m"), version="2.0")
    for release in (first, second):
        layout.install(release)
        store.append([ReleasePublished(release.signed)], caller="publisher", now=NOW)
    store.append([ReleaseDeleted("doubler", "1.0", first.record.manifest)], caller="admin", now=NOW)
    for _ in range(2):
        tidy_repository(layout, store.state.published, now=MUCH_LATER)
        assert [release.label for release in layout.releases()] == ["doubler@2.0"]
    assert [record.message for record in caplog.records].count("deletion_repaired") == 1
    assert layout.blobs.size(first.record.manifest) is None
    store.append([ReleasePublished(first.signed)], caller="publisher", now=NOW)  # published again, and killed
    tidy_repository(layout, store.state.published, now=MUCH_LATER)
    assert [release.label for release in layout.releases()] == ["doubler@2.0"]  # its manifest is gone: push it again
