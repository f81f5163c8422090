"""What the repository lists in the end: deletion, attachments, fall-back tags, records that come early, and bounds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from federation.attachments import ANNOTATION_BYTES_MAX, TYPE_LENGTH_MAX, fallback_tag
from federation.documents import encode
from federation.errors import WrongRole
from federation.integrity import Finding
from federation.layout import ImageLayout
from federation.layout_index import (
    ATTACHMENTS_MAX,
    REPOSITORY_ENTRIES_MAX,
    LayoutContents,
    RepositoryFull,
    VersionTaken,
    with_entry,
)
from federation.manifest_store import INDEX_BYTES_MAX, LISTINGS_MAX, MissingPart
from federation.manifests import EMPTY_CONFIG, INDEX_TYPE, MANIFEST_TYPE, REF_NAME, Descriptor
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.signing import sign
from federation.store import FederationStore
from peers.endings import to_the_end
from peers.homes import Home
from peers.mending import _rebuild_list
from peers.repository_checks import Advice, check_repository
from peers.repository_turns import RepositoryTurns
from query.declarations import silent
from query.errors import LimitExceeded
from tests.repository.conformance import described, manifest
from tests.repository.site import CODE, OPERATOR, PUBLISHER, STRANGER, packed, write_model
from tests.repository.test_registry import ABSENT, Site, code_of, release, site

__all__ = ["release", "site"]

REPOSITORY = "models/doubler"
BASE = f"/v2/{REPOSITORY}"


async def files_of(site: Site, pushed: PackedRelease) -> None:
    for content in (*pushed.files.values(), pushed.config, EMPTY_CONFIG, encode(pushed.signed)):
        await site.upload(content)


async def take(site: Site, raw: bytes, reference: str | None = None, kind: str = MANIFEST_TYPE) -> tuple[int, Any]:
    status, headers, body = await site.put(f"{BASE}/manifests/{reference or digest_of(raw)}", raw, kind)
    return status, code_of(body) if body else headers


def labels(site: Site) -> list[str]:
    return [entry.label for entry in site.layout.releases(development=True)]


# --- records that come early, twice, or are others' -----------------------------------------------------------------


async def test_a_record_before_its_manifest_waits_for_it(site: Site, release: PackedRelease) -> None:
    await files_of(site, release)
    assert (await take(site, release.attachment))[0] == 201
    assert (labels(site), site.registrations.labels) == ([], [])
    _, _, body = await site.ask("GET", f"{BASE}/referrers/{release.record.manifest}")
    assert digest_of(release.attachment) in body.decode()
    assert (await take(site, release.manifest, "latest"))[0] == 201  # not its version
    assert labels(site) == []
    assert (await take(site, release.manifest, "1.0"))[0] == 201
    assert (labels(site), site.registrations.labels) == (["doubler@1.0"], ["doubler@1.0"])
    assert (await take(site, release.manifest, "1.0"))[0] == 201
    assert site.registrations.labels == ["doubler@1.0"]
    assert site.layout.tags(REPOSITORY) == ("1.0", "latest")


async def test_a_development_record_before_its_manifest(site: Site, tmp_path: Path) -> None:
    work = packed(write_model(tmp_path / "m"), publisher=OPERATOR, development=True)
    for content in (*work.files.values(), work.config, EMPTY_CONFIG, encode(work.signed)):
        await site.upload(content)
    base = "/v2/development/doubler/manifests"
    for raw in (work.attachment, work.manifest):
        assert (await site.put(f"{base}/{digest_of(raw)}", raw))[0] == 201
    assert labels(site) == [work.record.label]


async def test_an_early_record_of_a_stranger_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    forged = packed(write_model(tmp_path / "m"), publisher=STRANGER)
    await files_of(site, forged)
    status, _, body = await site.put(f"{BASE}/manifests/{digest_of(forged.attachment)}", forged.attachment)
    assert (status, code_of(body)) == (403, "DENIED")
    assert b"unknown_key" in body
    assert site.layout.referrers(REPOSITORY, forged.record.manifest) == ()


async def test_an_early_record_that_no_longer_holds_goes_and_is_named(site: Site, release: PackedRelease) -> None:
    await files_of(site, release)
    await take(site, release.attachment)

    site.registrations.refusing = WrongRole("the publisher may publish no more")
    status, _, body = await site.put(f"{BASE}/manifests/1.0", release.manifest)
    assert (status, code_of(body)) == (403, "DENIED")
    assert b"may publish no more" in body
    assert (labels(site), site.layout.referrers(REPOSITORY, release.record.manifest)) == ([], ())
    site.registrations.refusing = None
    assert (await site.push(release))[0] == 201
    assert labels(site) == ["doubler@1.0"]


async def test_two_records_of_one_release(site: Site, release: PackedRelease, tmp_path: Path) -> None:
    """Packed at another time: the same manifest, another record. The first one counts, the second is kept beside it."""
    await site.push(release)
    again = packed(tmp_path / "m", now=200.0)
    assert again.manifest == release.manifest
    await site.upload(encode(again.signed))
    assert (await take(site, again.attachment))[0] == 201
    assert labels(site) == ["doubler@1.0"]
    assert site.registrations.labels == ["doubler@1.0"]
    assert len(site.layout.referrers(REPOSITORY, release.record.manifest)) == 2
    assert (await take(site, release.manifest, "1.0"))[0] == 201
    assert labels(site) == ["doubler@1.0"]


async def test_a_record_of_another_repository(site: Site, tmp_path: Path) -> None:
    other = packed(write_model(tmp_path / "m", name="other"))
    await files_of(site, other)
    assert (await take(site, other.manifest, "1.0"))[0] == 201
    assert await take(site, other.attachment) == (400, "MANIFEST_INVALID")
    assert site.registrations.labels == []


async def test_a_record_whose_payload_is_none(site: Site, release: PackedRelease) -> None:
    await files_of(site, release)
    for content in (b"{}", b"<html>", encode(sign(b"{}", "text/plain", PUBLISHER))):
        await site.upload(content)
        crossed = release.attachment.replace(
            digest_of(encode(release.signed)).encode(), digest_of(content).encode()
        ).replace(b'"size":%d' % len(encode(release.signed)), b'"size":%d' % len(content))
        assert await take(site, crossed) == (400, "MANIFEST_INVALID")


# --- deleting -------------------------------------------------------------------------------------------------------


async def test_deleting_a_release_asks_first(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    site.registrations.held.add("doubler@1.0")
    path = f"{BASE}/manifests/{release.record.manifest}"
    status, _, body = await site.ask("DELETE", path)
    assert (status, code_of(body)) == (403, "DENIED")
    assert b"group field has it" in body
    assert labels(site) == ["doubler@1.0"]
    site.registrations.held.clear()
    assert (await site.ask("DELETE", path))[0] == 202
    (installed,) = {digest for _, digest in site.registrations.deleted}
    assert installed == digest_of(release.signed.payload)
    assert (labels(site), site.layout.repositories()) == ([], ())
    assert (await site.ask("DELETE", path))[0] == 404
    assert (await site.push(release))[0] == 201  # its blobs are there still, or pushed again


async def test_what_belongs_to_a_release_stays_with_it(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    await take(site, release.manifest, "latest")
    for reference in ("1.0", digest_of(release.attachment)):
        status, _, body = await site.ask("DELETE", f"{BASE}/manifests/{reference}")
        assert (status, code_of(body)) == (403, "DENIED")
        assert release.record.manifest in body.decode()
    assert (await site.ask("DELETE", f"{BASE}/manifests/latest"))[0] == 202
    assert site.layout.tags(REPOSITORY) == ("1.0",)
    for digest in (release.record.manifest, digest_of(release.config), digest_of(CODE.encode())):
        status, _, body = await site.ask("DELETE", f"{BASE}/blobs/{digest}")
        assert (status, code_of(body)) == (403, "DENIED")
    assert (await site.ask("GET", f"{BASE}/blobs/{digest_of(CODE.encode())}"))[2] == CODE.encode()


async def test_viewers_delete_nothing(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    await site.upload(b"alone")
    for path in (f"manifests/{release.record.manifest}", "manifests/1.0", f"blobs/{digest_of(b'alone')}"):
        status, _, body = await site.ask("DELETE", f"{BASE}/{path}", party=site.federation.viewer)
        assert (status, code_of(body)) == (403, "DENIED")
    assert labels(site) == ["doubler@1.0"]


async def test_a_blob_that_is_deleted_while_its_manifest_comes(site: Site, release: PackedRelease) -> None:
    await files_of(site, release)
    assert (await site.ask("DELETE", f"{BASE}/blobs/{digest_of(release.config)}"))[0] == 202
    assert await take(site, release.manifest, "1.0") == (404, "MANIFEST_BLOB_UNKNOWN")
    with pytest.raises(MissingPart):
        site.layout.put_manifest(REPOSITORY, release.manifest, tag="1.0", whole=True)
    assert site.layout.repositories() == ()


# --- the fall-back tag ----------------------------------------------------------------------------------------------


async def test_the_fall_back_tag_is_made_and_found_by_its_digest(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    tag = fallback_tag(release.record.manifest)
    status, headers, made = await site.ask("GET", f"{BASE}/manifests/{tag}")
    assert (status, headers["Content-Type"]) == (200, INDEX_TYPE)
    assert [entry["digest"] for entry in json.loads(made)["manifests"]] == [digest_of(release.attachment)]
    again = await site.ask("GET", f"{BASE}/manifests/{headers['Docker-Content-Digest']}")
    assert (again[0], again[2]) == (200, made)
    for reference in (tag, headers["Docker-Content-Digest"]):  # it follows from what is attached
        status, _, body = await site.ask("DELETE", f"{BASE}/manifests/{reference}")
        assert (status, code_of(body)) == (405, "UNSUPPORTED")
    assert (await site.ask("GET", f"{BASE}/manifests/{fallback_tag(ABSENT)}"))[0] == 404


async def test_what_is_pushed_under_the_fall_back_tag_is_merged(site: Site, release: PackedRelease) -> None:
    """Also what has no subject of its own. Two who write the tag lose nothing of one another."""
    await site.push(release)
    bare = [manifest(CODE.encode(), config=config(release), artifactType=f"application/vnd.{n}") for n in range(2)]
    for raw in bare:
        assert (await take(site, raw))[0] == 201
    tag = fallback_tag(release.record.manifest)
    for raw in bare:  # each writes an index of its own alone
        index = index_of(raw)
        status, headers = await take(site, index, tag, INDEX_TYPE)
        assert (status, "Docker-Content-Digest" in headers) == (201, False)
    expected = {digest_of(raw) for raw in (release.attachment, *bare)}
    for path in (f"manifests/{tag}", f"referrers/{release.record.manifest}"):
        listed = json.loads((await site.ask("GET", f"{BASE}/{path}"))[2])["manifests"]
        assert {entry["digest"] for entry in listed} == expected
    assert labels(site) == ["doubler@1.0"]
    whole = index_of(release.attachment, *bare)
    status, headers = await take(site, whole, tag, INDEX_TYPE)
    assert headers["Docker-Content-Digest"] == digest_of(whole)
    assert (await site.ask("GET", f"{BASE}/manifests/{tag}"))[2] == whole
    assert (await site.ask("DELETE", f"{BASE}/manifests/{tag}"))[0] == 202
    assert len(json.loads((await site.ask("GET", f"{BASE}/manifests/{tag}"))[2])["manifests"]) == 3
    site.registrations.deleted.clear()
    assert (await site.ask("DELETE", f"{BASE}/manifests/{release.record.manifest}"))[0] == 202
    assert (await site.ask("GET", f"{BASE}/manifests/{tag}"))[0] == 404


async def test_an_index_under_the_fall_back_tag_that_cannot_be(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    other = manifest(CODE.encode(), config=config(release), subject=b"something else", artifactType="a/b")
    assert (await take(site, other))[0] == 201
    tag = fallback_tag(release.record.manifest)
    for raw, kind in (
        (index_of(b"never pushed"), INDEX_TYPE),
        (index_of(other), INDEX_TYPE),
        (release.manifest, MANIFEST_TYPE),
        (b"[]", INDEX_TYPE),
    ):
        assert await take(site, raw, tag, kind) == (400, "MANIFEST_INVALID")
    assert len(site.layout.referrers(REPOSITORY, release.record.manifest)) == 1


async def test_a_release_is_not_deleted_with_what_a_stranger_attached_it_to(site: Site, release: PackedRelease) -> None:
    """Also when that was done before its record came, which makes it a release."""
    other = manifest(CODE.encode(), config=config(release), artifactType="a/b")
    await files_of(site, release)
    assert (await take(site, other))[0] == 201
    assert (await take(site, release.manifest, "1.0"))[0] == 201
    tag = fallback_tag(digest_of(other))
    assert (await take(site, index_of(release.manifest), tag, INDEX_TYPE))[0] == 201
    assert (await take(site, release.attachment))[0] == 201
    site.registrations.held.add("doubler@1.0")
    assert (await site.ask("DELETE", f"{BASE}/manifests/{digest_of(other)}"))[0] == 202
    assert labels(site) == ["doubler@1.0"]
    assert (await site.ask("GET", f"{BASE}/manifests/1.0"))[2] == release.manifest
    assert (await site.ask("GET", f"{BASE}/manifests/{digest_of(release.attachment)}"))[2] == release.attachment


async def test_a_release_is_attached_to_nothing(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    other = manifest(CODE.encode(), config=config(release), artifactType="a/b")
    assert (await take(site, other))[0] == 201
    tag = fallback_tag(digest_of(other))
    assert await take(site, index_of(release.manifest), tag, INDEX_TYPE) == (400, "MANIFEST_INVALID")


def test_what_a_tag_attaches_is_no_damage_and_is_listed_again(release: PackedRelease, tmp_path: Path) -> None:
    """Nor does a record that waits become a release when the list is made anew."""
    home = Home(tmp_path / "home").prepare()
    layout = ImageLayout(home.releases)
    layout.install(release)
    bare = manifest(CODE.encode(), config=config(release), artifactType="a/b")
    layout.put_manifest(REPOSITORY, bare)
    layout.put_fallback(REPOSITORY, index_of(release.attachment, bare), release.record.manifest)
    other = packed(write_model(tmp_path / "other"), now=200.0)
    layout.blobs.put(encode(other.signed))
    layout.put_manifest(REPOSITORY, other.attachment, pending=True)
    advice = Advice("", unlists=False)

    def findings() -> list[Finding]:
        return check_repository(home.releases, advice=advice, in_use=False, progress=silent).findings

    def facts() -> tuple[set[str], list[str]]:
        referrers = layout.referrers(REPOSITORY, release.record.manifest)
        return {one.digest for one in referrers}, [one.record_digest for one in layout.releases()]

    assert findings() == []
    before = facts()
    nothing_published = FederationStore.open(None).state
    _rebuild_list(home, nothing_published)
    assert (facts(), findings()) == (before, [])


def config(release: PackedRelease) -> dict[str, Any]:
    return {"mediaType": "text/plain", "digest": digest_of(release.config), "size": len(release.config)}


def index_of(*raws: bytes) -> bytes:
    entries = [{"mediaType": MANIFEST_TYPE, "digest": digest_of(raw), "size": len(raw)} for raw in raws]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode()


# --- bounds ---------------------------------------------------------------------------------------------------------


def listed(number: int, **told: str) -> Descriptor:
    annotations = {"peerage.repository": "models/m", **told}
    return Descriptor(media_type="t", digest=digest_of(b"%d" % number), size=1, annotations=annotations)


def test_a_repository_has_so_many_manifests_and_tags() -> None:
    entries = tuple(listed(number) for number in range(REPOSITORY_ENTRIES_MAX - 1))
    contents = LayoutContents.of(entries)
    contents = LayoutContents.of(with_entry(contents, listed(0, **{REF_NAME: "models/m:1.0"})))  # takes no room
    assert len(contents.entries) == REPOSITORY_ENTRIES_MAX - 1
    contents = LayoutContents.of(with_entry(contents, listed(0, **{REF_NAME: "models/m:latest"})))
    with pytest.raises(RepositoryFull, match="the most it can have"):
        with_entry(contents, listed(0, **{REF_NAME: "models/m:another"}))
    with pytest.raises(RepositoryFull):
        with_entry(contents, listed(-1))
    assert with_entry(contents, listed(1, **{REF_NAME: "models/m:latest"}))  # a tag that moves takes none
    other = Descriptor(media_type="t", digest=ABSENT, size=1, annotations={"peerage.repository": "models/other"})
    assert with_entry(contents, other)[-1] == other


def test_so_many_manifests_are_attached_to_one() -> None:
    contents = LayoutContents.of(listed(number, **{"peerage.subject": ABSENT}) for number in range(ATTACHMENTS_MAX))
    with pytest.raises(RepositoryFull, match="attached to"):
        with_entry(contents, listed(-1, **{"peerage.subject": ABSENT}))
    assert with_entry(contents, listed(0, **{"peerage.subject": ABSENT})) == list(contents.entries)


async def test_a_full_repository_is_told_so(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    for number in range(ATTACHMENTS_MAX - 1):
        raw = manifest(config=config(release), subject=release.manifest, artifactType=f"a/{number}")
        site.layout.put_manifest(REPOSITORY, raw)
    raw = manifest(config=config(release), subject=release.manifest, artifactType="a/more")
    assert await take(site, raw) == (403, "DENIED")
    large = manifest(
        config=config(release), subject=b"else", artifactType="a/b", annotations={"a": "x" * ANNOTATION_BYTES_MAX}
    )
    assert await take(site, large) == (400, "MANIFEST_INVALID")


async def test_what_would_make_a_listing_too_long_or_unreadable(site: Site, release: PackedRelease) -> None:
    await files_of(site, release)
    longest = manifest(config=config(release), artifactType="a" * TYPE_LENGTH_MAX)
    assert (await take(site, longest, "1.0"))[0] == 201
    crooked = described(b"x", MANIFEST_TYPE) | {"digest": "sha256:../../index.json"}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE}
    for raw, kind in (
        (manifest(config=config(release), artifactType="a" * (TYPE_LENGTH_MAX + 1)), MANIFEST_TYPE),
        (manifest(config={**config(release), "digest": "sha256:abc"}), MANIFEST_TYPE),
        (
            manifest(config=config(release)).replace(b'"layers"', b'"subject": %s, "layers"' % dumped(crooked)),
            MANIFEST_TYPE,
        ),
        (manifest(config={**config(release), "size": -1}), MANIFEST_TYPE),
        (dumped({**index, "manifests": [crooked]}), INDEX_TYPE),
        (dumped({**index, "manifests": [], "subject": crooked}), INDEX_TYPE),
        (dumped({**index, "manifests": [], "artifactType": "a" * (TYPE_LENGTH_MAX + 1)}), INDEX_TYPE),
        (dumped({**index, "manifests": []}), MANIFEST_TYPE),
        (manifest(config=config(release)), INDEX_TYPE),
        (b"[" * 100_000, MANIFEST_TYPE),
        (b"\xff\xfe", INDEX_TYPE),
    ):
        assert await take(site, raw, "2.0", kind) == (400, "MANIFEST_INVALID"), raw[:300]
    assert site.layout.tags(REPOSITORY) == ("1.0",)
    site.layout.collect_garbage()


def test_a_listing_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path)
    layout.put_manifest("models/m", manifest(), tag="1.0")
    before = (tmp_path / "index.json").read_bytes()
    large = listed(1, note="x" * INDEX_BYTES_MAX)
    with pytest.raises(LimitExceeded, match="the most is"):
        layout._change(lambda contents: [*contents.entries, large])
    assert (tmp_path / "index.json").read_bytes() == before
    assert layout.tags("models/m") == ("1.0",)


def dumped(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def test_the_digests_of_made_indices_are_forgotten_in_time(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path)
    for number in range(3):
        raw = manifest(subject=b"%d" % number, artifactType="a/b")
        layout.put_manifest("models/m", raw)
    for _ in range(2):
        for number in range(3):
            layout.manifest("models/m", fallback_tag(digest_of(b"%d" % number)))
    assert len(layout._listings) == 3 <= LISTINGS_MAX


# --- at the same time -----------------------------------------------------------------------------------------------


async def test_two_who_push_one_version_at_the_same_time(site: Site, release: PackedRelease, tmp_path: Path) -> None:
    """One of them wins, whole; the other is told so."""
    other = packed(write_model(tmp_path / "m", code=CODE + "// more\n"))
    for pushed in (release, other):
        await files_of(site, pushed)

    async def push(pushed: PackedRelease) -> int:
        status, _ = await take(site, pushed.manifest, "1.0")
        return status if status != 201 else (await take(site, pushed.attachment))[0]

    answers = await asyncio.gather(*(push(pushed) for pushed in (release, other, release, other)))
    assert labels(site) == ["doubler@1.0"]
    (won,) = site.layout.releases()
    assert site.layout.manifest(REPOSITORY, "1.0").digest == won.manifest
    assert set(answers) <= {201, 409}
    assert 201 in answers
    with pytest.raises(VersionTaken):
        site.layout.install(other if won.manifest == release.record.manifest else release)


async def test_deleting_while_it_is_pushed(site: Site, release: PackedRelease) -> None:
    """In turn: at the end the release is there whole, or not at all."""
    await site.push(release)
    path = f"{BASE}/manifests/{release.record.manifest}"
    for _ in range(3):
        await asyncio.gather(
            take(site, release.manifest, "1.0"), site.ask("DELETE", path), take(site, release.attachment)
        )
        for entry in site.layout.releases():
            assert site.layout.packed(entry) == release


async def test_what_was_begun_in_a_turn_ends_in_it_whoever_has_left() -> None:
    """Or the next one would decide while a thread still lists or drops what this one decided on."""
    turns, begun, going_on, done = RepositoryTurns(), asyncio.Event(), asyncio.Event(), []

    async def work() -> str:
        begun.set()
        await going_on.wait()
        done.append("all of it")
        return "told"

    async def request() -> str:
        async with turns.of(REPOSITORY):
            return await to_the_end(work())

    asking = asyncio.create_task(request())
    await begun.wait()
    for _ in range(3):  # who leaves, and then a server that stops
        asking.cancel()
        await asyncio.sleep(0)
    assert (turns.of(REPOSITORY).locked(), asking.done()) == (True, False)
    going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (done, turns.of(REPOSITORY).locked()) == (["all of it"], False)
    assert await request() == "told"
