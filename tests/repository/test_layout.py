"""The repository on disk: what is kept, what is refused, and what any crash leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.blobs import PARTS_MAX, BlobStore, BusyBlob, DamagedBlob, StorageFailed, StorageFull, storing
from federation.errors import WrongHash, WrongSize
from federation.layout import ImageLayout
from federation.layout_index import DEVELOPMENT_RELEASES_MAX, LayoutContents, VersionTaken, with_entry
from federation.manifest_store import MANIFESTS_MAX, Garbage, MissingPart
from federation.manifests import INDEX_TYPE, MANIFEST_TYPE, BadManifest, Descriptor, Index, encode_index
from federation.names import digest_of
from federation.packing import record_digest
from query.errors import LimitExceeded, UnknownName
from tests.repository.site import CODE, OPERATOR, packed, root_record, write_model

HELLO = digest_of(b"hello")


# --- blobs ----------------------------------------------------------------------------------------------------------


def test_a_blob_has_its_digest_or_is_not_there(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    assert blobs.put(b"hello") == HELLO
    assert blobs.read(HELLO, bytes_max=5) == b"hello"
    assert blobs.size(HELLO) == 5
    assert blobs.size(digest_of(b"other")) is None
    with pytest.raises(LimitExceeded):
        blobs.read(HELLO, bytes_max=4)
    with pytest.raises(UnknownName):
        blobs.read(digest_of(b"other"), bytes_max=5)
    blobs.path(HELLO).write_bytes(b"hallo")
    with pytest.raises(DamagedBlob):
        blobs.read(HELLO, bytes_max=5)


def test_staged_content_is_resumed_by_another_writer_and_finished_once(tmp_path: Path) -> None:
    with BlobStore(tmp_path).stage(HELLO, size=5) as staged:
        staged.write(b"hel")
    blobs = BlobStore(tmp_path)
    assert blobs.size(HELLO) is None
    with blobs.stage(HELLO, size=5) as staged:
        assert (staged.offset, staged.resumed) == (3, True)
        with pytest.raises(BusyBlob), blobs.stage(HELLO, size=5):
            pass
        staged.write(b"lo")
        assert staged.finish(HELLO) == HELLO
    assert blobs.read(HELLO, bytes_max=5) == b"hello"
    assert not list((tmp_path / "staging").glob("*.part"))


def test_wrong_content_leaves_nothing(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with blobs.stage(HELLO, size=5) as staged:
        staged.write(b"hallo")
        with pytest.raises(WrongHash):
            staged.finish(HELLO)
    with blobs.stage(HELLO, size=5) as staged:
        assert staged.offset == 0
        with pytest.raises(WrongSize):
            staged.write(b"hello!")
        assert staged.offset == 0
    assert list(blobs.digests()) == []


def test_a_part_longer_than_its_content_begins_anew(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with blobs.stage(HELLO, size=50) as staged:
        staged.write(b"x" * 20)
    with blobs.stage(HELLO, size=5) as staged:
        assert staged.offset == 0


def test_new_content_of_a_writer_that_died_is_swept_and_of_one_that_lives_is_not(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    (tmp_path / "staging" / "new-dead").write_bytes(b"x")
    with blobs.stage_new(bytes_max=9) as staged:
        staged.write(b"hello")
        BlobStore(tmp_path)
        assert not (tmp_path / "staging" / "new-dead").exists()
        staged.finish()
    assert blobs.size(HELLO) == 5


def test_parts_are_bounded(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    for number in range(PARTS_MAX + 5):
        with blobs.stage(digest_of(bytes([number])), size=9) as staged:
            staged.write(b"part")
    assert len(list((tmp_path / "staging").glob("*.part"))) == PARTS_MAX


def test_nothing_is_removed_while_somebody_copies(tmp_path: Path) -> None:
    blobs, other = BlobStore(tmp_path), BlobStore(tmp_path)
    kept = blobs.put(b"hello")
    with blobs.keeping(), other.keeping():  # two may copy at once
        assert not other.remove(kept)
        assert blobs.size(kept) == 5
    assert other.remove(kept)
    assert blobs.size(kept) is None


def test_a_full_disk_is_named() -> None:
    with pytest.raises(StorageFull, match="no space left to write x"), storing("x"):
        raise OSError(28, "No space left on device")
    with pytest.raises(StorageFailed, match="cannot write x: Input/output error"), storing("x"):
        raise OSError(5, "Input/output error")


# --- releases -------------------------------------------------------------------------------------------------------


def test_a_release_is_kept_listed_found_and_verified(tmp_path: Path) -> None:
    release = packed(write_model(tmp_path / "m"))
    layout = ImageLayout(tmp_path / "releases")
    installed = layout.install(release)
    assert layout.install(release) == installed
    again = ImageLayout(tmp_path / "releases")
    assert [entry.label for entry in again.releases()] == ["doubler@1.0"]
    assert again.find("doubler", "1.0") == installed
    assert again.find_record(record_digest(release.signed)) == installed
    assert again.packed(installed) == release
    assert again.signed(installed) == release.signed
    assert again.verified(release.signed, root=root_record()).label == "doubler@1.0"
    assert again.tags("models/doubler") == ("1.0",)
    assert again.repositories() == ("models/doubler",)
    (referrer,) = again.referrers("models/doubler", release.record.manifest)
    assert referrer.digest == installed.attachment
    with pytest.raises(UnknownName, match=r'no installed release "doubler@1\.1" — did you mean "doubler@1\.0"'):
        again.installed("doubler", "1.1")


def test_it_is_an_oci_image_layout(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path)
    layout.install(packed(write_model(tmp_path / "m")))
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["schemaVersion"] == 2
    names = [entry["annotations"].get("org.opencontainers.image.ref.name") for entry in index["manifests"]]
    assert names == ["models/doubler:1.0", None]
    for entry in index["manifests"]:
        raw = (tmp_path / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
        assert (digest_of(raw), len(raw)) == (entry["digest"], entry["size"])


def test_a_version_is_made_once(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "releases")
    first = layout.install(packed(write_model(tmp_path / "m"), now=1.0))
    assert layout.install(packed(tmp_path / "m", now=2.0)) == first
    other = packed(write_model(tmp_path / "m", code=CODE + "// more\n"))
    with pytest.raises(VersionTaken) as refused:
        layout.install(other)
    assert first.manifest in refused.value.message
    assert other.record.manifest in refused.value.message
    assert layout.releases() == (first,)


def test_a_tag_moves_until_a_record_is_attached_and_never_after(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "releases")
    first = packed(write_model(tmp_path / "m"))
    second = packed(write_model(tmp_path / "m", code=CODE + "// more\n"))
    layout.put_manifest("models/doubler", first.manifest, tag="1.0")
    layout.put_manifest("models/doubler", second.manifest, tag="1.0")
    assert layout.manifest("models/doubler", "1.0").raw == second.manifest
    layout.install(second)
    with pytest.raises(VersionTaken):
        layout.put_manifest("models/doubler", first.manifest, tag="1.0")
    assert layout.manifest("models/doubler", "1.0").raw == second.manifest
    assert layout.tags("models/doubler") == ("1.0",)


def test_what_a_change_of_another_process_is_seen(tmp_path: Path) -> None:
    one, other = ImageLayout(tmp_path), ImageLayout(tmp_path)
    assert one.releases() == ()
    other.install(packed(write_model(tmp_path / "m")))
    assert [entry.label for entry in one.releases()] == ["doubler@1.0"]
    one.install(packed(tmp_path / "m", version="2.0"))
    assert [entry.label for entry in other.releases()] == ["doubler@1.0", "doubler@2.0"]


SHARING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from federation.layout import ImageLayout
from federation.manifests import INDEX_TYPE

layout = ImageLayout(Path(sys.argv[1]))
tags = [f"{number:02}" for number in range(40)]

def put(tag):
    layout.put_manifest("models/m", b'{"schemaVersion":2,"manifests":[]}', media_type=INDEX_TYPE, tag=tag)
    for _ in range(20):
        assert tag in layout.tags("models/m")

sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(put, tags))
assert layout.tags("models/m") == tuple(tags)
"""


def test_threads_share_a_layout(tmp_path: Path) -> None:
    """In a fresh process: what msgspec knows of a type must be there before two threads use it for the first time."""
    ran = subprocess.run(
        [sys.executable, "-c", SHARING, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_removal_drops_what_nothing_else_names(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "releases")
    first = layout.install(packed(write_model(tmp_path / "m")))
    second = packed(tmp_path / "m", version="2.0")  # shares its file with 1.0
    layout.install(second)
    layout.blobs.put(b"garbage")
    layout.remove(first)
    assert [entry.label for entry in layout.releases()] == ["doubler@2.0"]
    assert layout.verified(second.signed, root=root_record()).label == "doubler@2.0"
    assert layout.blobs.size(first.manifest) is None
    assert layout.collect_garbage(keep=[HELLO]).blobs == 1
    assert layout.verified(second.signed, root=root_record()).label == "doubler@2.0"


def test_what_an_index_names_is_no_garbage(tmp_path: Path) -> None:
    """Also what is no manifest of its own here, or is a layer elsewhere."""
    layout = ImageLayout(tmp_path / "releases")
    release = packed(write_model(tmp_path / "m"))
    for content in (*release.files.values(), release.config):
        layout.blobs.put(content)
    digest, size = layout.blobs.put(release.manifest), len(release.manifest)
    as_layer = Descriptor(media_type="text/plain", digest=digest, size=size)
    as_manifest = Descriptor(media_type=MANIFEST_TYPE, digest=digest, size=size)
    never_pushed = Descriptor(media_type=MANIFEST_TYPE, digest=HELLO, size=5)
    index = Index(media_type=INDEX_TYPE, manifests=(as_layer, as_manifest, never_pushed))
    layout.put_manifest("models/doubler", encode_index(index), media_type=INDEX_TYPE)
    layout.blobs.put(b"garbage")
    assert layout.collect_garbage(written_before=0.0) == Garbage(0, 0)
    assert layout.collect_garbage(dry_run=True) == Garbage(1, len(b"garbage"))
    assert layout.collect_garbage() == Garbage(1, len(b"garbage"))
    assert all(
        layout.blobs.size(digest_of(content)) is not None for content in (*release.files.values(), release.config)
    )


def test_development_releases_are_bounded_and_apart(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "releases")
    for number in range(DEVELOPMENT_RELEASES_MAX + 3):
        folder = write_model(tmp_path / "m", code=f"{CODE}// {number}\n")
        last = layout.install(packed(folder, publisher=OPERATOR, development=True))
    assert layout.releases() == ()
    kept = layout.releases(development=True)
    assert len(kept) == DEVELOPMENT_RELEASES_MAX
    assert last in kept
    assert layout.tags("development/doubler") == ()


def test_a_record_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "releases")
    release = packed(write_model(tmp_path / "m"))
    layout.install(release)
    with pytest.raises(BadManifest, match='belongs to "models/doubler"'):
        layout.put_manifest("models/other", release.attachment)
    with pytest.raises(BadManifest, match="expected an OCI manifest"):
        layout.put_manifest("models/other", b"<html>")
    with pytest.raises(BadManifest, match="expected at most"):
        layout.put_manifest("models/other", b" " * (4 * 1024 * 1024 + 1))


def test_the_number_of_manifests_is_bounded(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path)
    entry = Descriptor(media_type=INDEX_TYPE, digest=HELLO, size=5)
    (tmp_path / "index.json").write_bytes(encode_index(Index(manifests=(entry,) * MANIFESTS_MAX)))
    with pytest.raises(LimitExceeded, match="manifests already"):
        layout.put_manifest("models/m", b'{"schemaVersion":2,"manifests":[]}', media_type=INDEX_TYPE)


def test_a_damaged_index_is_named_and_not_replaced(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path)
    (tmp_path / "index.json").write_bytes(b'{"schemaVersion":2,"manif')
    for action in (layout.releases, lambda: layout.install(packed(write_model(tmp_path / "m")))):
        with pytest.raises(StorageFailed, match=r"index\.json is damaged"):
            action()
    assert (tmp_path / "index.json").read_bytes() == b'{"schemaVersion":2,"manif'


def test_an_entry_stands_once() -> None:
    entry = Descriptor(media_type="t", digest=HELLO, size=5, annotations={"peerage.repository": "models/m"})
    once = LayoutContents.of(with_entry(LayoutContents(), entry))
    assert with_entry(once, entry) == [entry]


# --- crashes --------------------------------------------------------------------------------------------------------

CRASHING = """
import os, signal, sys
from pathlib import Path
from federation.layout import ImageLayout
from tests.repository.site import packed

folder, path = Path(sys.argv[1]), Path(sys.argv[2])
first, second = packed(folder), packed(folder, version="2.0")
ImageLayout(path).install(first)
step = 0
finished = False
while not finished:
    step += 1
    child = os.fork()
    if child == 0:
        left = step
        def die(event, arguments):
            global left
            if event in ("open", "os.rename", "os.remove"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(die)
        ImageLayout(path).install(second)
        os._exit(0)
    finished = os.waitpid(child, 0)[1] == 0
    layout = ImageLayout(path)
    labels = [entry.label for entry in layout.releases()]
    assert labels[0] == "doubler@1.0" and labels[1:] in ([], ["doubler@2.0"]), labels
    for entry in layout.releases():
        layout.packed(entry)  # hashes everything
    for digest in layout.blobs.digests():
        layout.blobs.read(digest, bytes_max=10_000)
    assert not list((path / "staging").glob("new-*"))
assert labels == ["doubler@1.0", "doubler@2.0"]
print(step)
"""


def test_killed_at_every_step_of_an_installation(tmp_path: Path) -> None:
    """Every open, rename and removal is a place to die; each attempt goes on where the last one died."""
    write_model(tmp_path / "m")
    ran = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path / "m"), str(tmp_path / "releases")],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 10


def test_what_is_not_whole_any_more_is_not_listed(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "releases")
    release = packed(write_model(tmp_path / "m"))
    for content in (*release.files.values(), release.manifest):
        layout.blobs.put(content)
    with pytest.raises(MissingPart, match=digest_of(release.config)):
        layout.attach(release.signed)
    assert layout.repositories() == ()
    layout.blobs.put(release.config)
    assert layout.attach(release.signed).label == "doubler@1.0"


def test_of_releases_made_in_one_second_the_last_to_come_is_the_newest(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    folder = write_model(tmp_path / "model")
    later, earlier = (layout.install(packed(folder, version=version)) for version in ("1.0", "2.0"))
    for at, release in enumerate((earlier, later)):
        os.utime(layout.blobs.path(release.attachment), (at, at))
    newest = layout.newest("doubler")
    assert newest is not None
    assert newest == layout.signed(later)
    assert layout.newest("doubler", "2.0") == layout.signed(earlier)
    assert layout.newest("nothing") is None
