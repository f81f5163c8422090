"""What a backup folder says of itself: names, manifests, what a repository needs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from federation.entries import Release
from federation.layout_index import LayoutContents
from federation.manifests import Descriptor, Index, encode_index
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.published import PublishedReleases
from federation.snapshots import (
    HOME_FILES_MAX,
    BadBackup,
    Snapshot,
    StoredFile,
    Wanted,
    chosen_snapshot,
    encode_snapshot,
    is_home_file,
    is_snapshot_name,
    manifest_line,
    read_snapshot,
    snapshot_name,
    superfluous,
    unnamed,
)
from query.errors import UnknownName
from tests.repository.site import packed, write_model

FILE = StoredFile(digest_of(b"x"), 1)


def snapshot(**changes: object) -> Snapshot:
    usual = Snapshot(
        federation="mine",
        nameserver="nameserver",
        taken=1_800_000_000.5,
        epoch=7,
        seq=12,
        edges=1,
        releases=1,
        with_keys=True,
        keys={"ca.key": "00"},
        files={"state.db": FILE, "home/ca.key": FILE},
        blobs={digest_of(b"a"): 1, digest_of(b"b"): 2},
    )
    return msgspec.structs.replace(usual, **changes)


def test_names_sort_by_time_and_are_unlike() -> None:
    assert snapshot_name(1_800_000_000.9) == "20270115T080000Z"
    again = snapshot_name(1_800_000_000.9, others=["20270115T080000Z"])
    assert again == "20270115T080000Z-0001"
    later = snapshot_name(1_800_000_001.0)
    assert sorted([later, again, "20270115T080000Z"]) == ["20270115T080000Z", again, later]
    assert all(map(is_snapshot_name, (again, later)))
    assert not any(map(is_snapshot_name, (".unfinished", ".removed", "..", "20270115", "x20270115T080000Z")))


def test_one_is_chosen_by_the_beginning_of_its_name() -> None:
    names = ["20270114T080000Z", "20270115T080000Z", "20270115T090000Z"]
    assert chosen_snapshot(names, None) == "20270115T090000Z"
    assert chosen_snapshot(names, "20270114") == "20270114T080000Z"
    with pytest.raises(BadBackup, match="beginning of 2 snapshots") as several:
        chosen_snapshot(names, "20270115")
    assert "peerage backup --list" in (several.value.hint or "")
    with pytest.raises(UnknownName, match=r'no snapshot "20270115T090001Z" — did you mean "20270115T090000Z"'):
        chosen_snapshot(names, "20270115T090001Z")
    with pytest.raises(BadBackup, match="no finished snapshot"):
        chosen_snapshot([], None)
    assert superfluous(names, keep=2) == ("20270114T080000Z",)
    assert superfluous(names, keep=5) == ()
    assert superfluous(names, keep=1, with_keys=names[:2]) == tuple(sorted(names[:2])[:1])


def test_a_manifest_is_read_back_and_its_line_is_one_of_sha256sum() -> None:
    raw = encode_snapshot(snapshot())
    assert manifest_line(raw) == f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n".encode()
    assert read_snapshot(raw, manifest_line(raw), where="it") == snapshot()
    assert encode_snapshot(snapshot()) == raw


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2: expected 1"),
        ({"files": {"home/ca.key": FILE}}, "has no state.db"),
        ({"files": {"state.db": FILE, "home/../../x": FILE}}, "that no snapshot has"),
        ({"files": {"state.db": FILE, "/etc/passwd": FILE}}, "that no snapshot has"),
        ({"files": {"state.db": FILE, "home/.bashrc": FILE}}, "that no snapshot has"),
        ({"files": {"state.db": FILE} | {f"home/f{n}": FILE for n in range(HOME_FILES_MAX + 2)}}, "expected at most"),
    ],
)
def test_a_manifest_that_would_lead_elsewhere_is_refused(changes: dict[str, object], message: str) -> None:
    raw = encode_snapshot(snapshot(**changes))
    with pytest.raises(BadBackup, match=message):
        read_snapshot(raw, manifest_line(raw), where="it")


def test_every_changed_byte_of_a_manifest_is_found() -> None:
    raw = encode_snapshot(snapshot())
    for at in range(0, len(raw), 7):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(BadBackup, match="damaged"):
            read_snapshot(changed, manifest_line(raw), where="it")
    with pytest.raises(BadBackup, match="another version"):
        read_snapshot(b"{}", manifest_line(b"{}"), where="it")


def test_files_of_a_home_by_name() -> None:
    assert all(map(is_home_file, ("ca.key", "peerage.toml", "director-2.key")))
    assert not any(map(is_home_file, ("", ".x", "a/b", "..", "x" * 101, "a\nb")))


def test_all_that_a_release_is_made_of_is_wanted_though_nothing_lists_it(tmp_path: Path) -> None:
    release = packed(write_model(tmp_path / "m"))
    published = PublishedReleases([_published(release)])
    wanted = Wanted(published, LayoutContents())
    assert wanted.next_manifest() == (release.record.manifest, "application/vnd.oci.image.manifest.v1+json")
    wanted.read(release.record.manifest, "application/vnd.oci.image.manifest.v1+json", release.manifest)
    assert wanted.next_manifest() is None
    files = {entry.digest for entry in release.record.files}
    assert set(wanted.blobs) == {release.record.manifest, digest_of(release.config), *files}
    assert set(wanted.blobs.values()) == {"doubler@1.0"}
    assert all(map(wanted.needed, wanted.blobs))


def test_what_an_index_only_speaks_of_is_not_needed() -> None:
    spoken = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest_of(b"m"), size=1)
    raw = encode_index(Index(manifests=(spoken,)))
    kind = "application/vnd.oci.image.index.v1+json"
    listed = Descriptor(media_type=kind, digest=digest_of(raw), size=len(raw), annotations={"peerage.repository": "r"})
    wanted = Wanted(PublishedReleases(), LayoutContents.of([listed]))
    wanted.read(digest_of(raw), kind, raw)
    assert (wanted.needed(digest_of(raw)), wanted.needed(digest_of(b"m"))) == (True, False)


def test_blobs_that_no_snapshot_names() -> None:
    here = [digest_of(b"a"), digest_of(b"c")]
    assert unnamed(here, [snapshot()]) == {digest_of(b"c")}
    assert unnamed(here, []) == set(here)


def _published(release: PackedRelease) -> Release:
    record, signed = release.record, release.signed
    return Release(record=record, digest=digest_of(signed.payload), document=signed, seq=1, time=1.0, by="ada")
