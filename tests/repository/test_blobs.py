"""Content on disk: what is hashed again and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from federation.blobs import WITNESSES_MAX, BlobStore
from federation.errors import WrongHash, WrongSize
from federation.layout import ImageLayout
from federation.names import digest_of
from federation.release_checks import check_release
from query.errors import UnknownName
from tests.repository.site import packed, root_record, write_model


def test_a_release_is_checked_without_its_bytes_in_memory(tmp_path: Path) -> None:
    layout, release = ImageLayout(tmp_path / "layout"), packed(write_model(tmp_path / "m"))
    layout.install(release)
    assert check_release(layout.blobs, release.signed, root=root_record()) == release.record
    assert check_release(ImageLayout(tmp_path / "layout").blobs, release.signed, root=root_record()) == release.record


@pytest.mark.parametrize("again", [False, True], ids=["by who wrote it", "by another process"])
def test_a_blob_that_changed_on_disk_is_noticed(tmp_path: Path, again: bool) -> None:
    layout, release = ImageLayout(tmp_path / "layout"), packed(write_model(tmp_path / "m"))
    layout.install(release)
    path = layout.blobs.path(release.record.files[0].digest)
    looked = path.stat()
    content = path.read_bytes()
    asked = ImageLayout(tmp_path / "layout") if again else layout
    path.write_bytes(content[:-1] + b"?")
    os.utime(path, ns=(looked.st_atime_ns, looked.st_mtime_ns))
    with pytest.raises(WrongHash, match=r"f\.pql of doubler@1\.0"):
        check_release(asked.blobs, release.signed, root=root_record())
    path.write_bytes(content + b"more")
    with pytest.raises(WrongSize):
        check_release(asked.blobs, release.signed, root=root_record())
    path.unlink()
    with pytest.raises(UnknownName):
        check_release(asked.blobs, release.signed, root=root_record())


def test_what_is_remembered_of_hashed_blobs_is_bounded(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    looked = tmp_path.stat()
    for number in range(WITNESSES_MAX + 10):
        store.witness(digest_of(str(number).encode()), looked)
    assert len(store._witnesses) == WITNESSES_MAX
