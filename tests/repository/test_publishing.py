"""What a nameserver does with the releases that are pushed to its repository."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from federation.documents import RootRecord, SignedDocument, decode
from federation.errors import UnknownKey, WrongHash
from federation.events import EpochStarted, Founded, RootSet
from federation.layout import ImageLayout
from federation.layout_index import VersionTaken
from federation.packing import PackedRelease
from federation.roots import first_root, sign_root
from federation.store import FederationStore
from peers.nameserver_parts import Publishing
from tests.repository.site import CODE, DIRECTOR, FEDERATION, PUBLISHER, ROOT, Federation, Party, packed, write_model

NOW = 1_800_000_000.0


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


async def test_a_release_with_other_bytes_is_not_registered(
    store: FederationStore, layout: ImageLayout, publisher: Party, tmp_path: Path
) -> None:
    release = stored(layout, packed(write_model(tmp_path / "m")))
    layout.blobs.path(release.record.files[0].digest).write_bytes(b"x" * len(CODE))
    with pytest.raises(WrongHash):
        await Publishing(store, layout, lambda: NOW).on_release(release.signed, release.manifest, publisher.member)
    assert labels(store) == []
