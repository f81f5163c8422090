"""The tar of an export: written the same each time, and read with suspicion."""

import io
import tarfile
from collections import deque
from random import Random

import pytest

from federation.names import digest_of
from peers.archives import (
    CHECKSUM,
    DOCUMENTS,
    MEMBERS_MAX,
    ArchiveReader,
    ArchiveWriter,
    BadArchive,
    DamagedArchive,
    TruncatedArchive,
    blob_name,
    header,
)
from tests.carrying.side import members_of, rewritten

BLOBS = [b"one", b"", bytes(range(256)) * 5, b"x" * 512]


def small() -> bytes:
    members = [(name, f'"{name}"'.encode()) for name in DOCUMENTS]
    members += [("oci-layout", b"{}"), ("index.json", b"{}")]
    return rewritten(members + [(blob_name(digest_of(blob)), blob) for blob in BLOBS])


def read(raw: bytes) -> tuple[dict[str, bytes], list[tuple[str, bytes]]]:
    reader = ArchiveReader(io.BytesIO(raw), size=len(raw))
    documents = reader.documents()
    rest = []
    while (member := reader.next()) is not None:
        rest.append((member.name, b"".join(reader.chunks())))
    return documents, rest


def test_what_is_written_is_read_by_us_and_by_everybody() -> None:
    raw = small()
    documents, rest = read(raw)
    assert documents == {name: f'"{name}"'.encode() for name in DOCUMENTS}
    assert [content for _, content in rest] == [b"{}", b"{}", *BLOBS]
    assert raw == small()
    assert [name for name, _ in members_of(raw)] == [*DOCUMENTS, *(name for name, _ in rest)]


def test_a_member_that_is_not_read_is_passed_over_and_counts_for_the_checksum() -> None:
    raw = small()
    reader = ArchiveReader(io.BytesIO(raw), size=len(raw))
    reader.documents()
    while reader.next() is not None:
        pass
    assert reader.offset == len(raw)


def test_a_file_that_was_cut_anywhere_says_so() -> None:
    raw = small()
    for length in [*range(0, len(raw), 37), len(raw) - 1]:
        with pytest.raises(BadArchive) as raised:
            read(raw[:length])
        assert raised.value.code in ("archive_truncated", "archive_damaged", "bad_archive")
    with pytest.raises(TruncatedArchive, match=r"the file has 5000 bytes and ends inside"):
        read(raw[:5000])


def test_every_byte_counts() -> None:
    raw = small()
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x20
        with pytest.raises(BadArchive):
            read(bytes(changed))


def test_random_bytes_are_refused() -> None:
    random = Random(20260131)
    for _ in range(300):
        raw = random.randbytes(random.randrange(2048))
        with pytest.raises(BadArchive):
            read(raw)
    with pytest.raises(BadArchive, match="this is no tar file"):
        read(b"\x7fELF" * 1000)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
        (b"S", "a sparse file"),
        (b"x", "an extended member"),
        (b"L", "an extended member"),
    ],
)
def test_only_plain_files_are_taken(kind: bytes, told: str) -> None:
    info = tarfile.TarInfo("index.json")
    info.type = kind
    info.linkname = "/etc/passwd"
    with pytest.raises(BadArchive, match=f"is {told}: expected plain files alone"):
        read(info.tobuf(tarfile.USTAR_FORMAT))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../index.json", "peerage/../../x", "blobs/sha256/..", "blobs/sha256/" + "A" * 64, "x"]
)
def test_no_other_name_is_taken(name: str) -> None:
    with pytest.raises(BadArchive, match="nothing of that name belongs here"):
        read(header(name, 0))


def test_documents_come_first_and_in_order() -> None:
    with pytest.raises(BadArchive, match=r"expected peerage/contents.json in its place, found index.json"):
        read(rewritten([("index.json", b"{}")]))


def test_a_name_comes_once() -> None:
    members = [(name, b"{}") for name in DOCUMENTS]
    with pytest.raises(BadArchive, match=r"index\.json comes twice"):
        read(rewritten([*members, ("index.json", b"{}"), ("index.json", b"{}")]))


def test_a_document_has_a_bound() -> None:
    raw = header(DOCUMENTS[0], 5 << 20)
    with pytest.raises(BadArchive, match="expected at most"):
        ArchiveReader(io.BytesIO(raw), size=1 << 40).documents()


def test_a_promise_of_more_than_the_file_has_is_a_cut_file() -> None:
    with pytest.raises(TruncatedArchive, match=r"ends inside peerage/contents\.json"):
        read(header(DOCUMENTS[0], 5 << 30))


def test_members_have_a_bound() -> None:
    class Endless(io.RawIOBase):
        """Documents, then empty blobs for ever."""

        def __init__(self) -> None:
            self.count = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            self.count += 1
            if self.count <= len(DOCUMENTS):
                return header(DOCUMENTS[self.count - 1], 0)
            return header(f"blobs/sha256/{self.count:064x}", 0)

    reader = ArchiveReader(Endless(), size=1 << 40)  # type: ignore[arg-type]
    reader.documents()
    with pytest.raises(BadArchive, match=f"more than {MEMBERS_MAX} members"):
        deque(iter(reader.next, None), maxlen=0)


def test_something_behind_the_end_is_refused() -> None:
    raw = small()
    read(raw + bytes(9 * 1024))  # as tar pads
    with pytest.raises(DamagedArchive, match="behind the end"):
        read(raw + b"x")
    with pytest.raises(DamagedArchive, match="behind the end"):
        read(raw + bytes(100_000))


def test_a_writer_holds_who_writes_to_what_was_announced() -> None:
    writer = ArchiveWriter(io.BytesIO())
    writer.begin("index.json", 3)
    with pytest.raises(BadArchive):
        writer.write(b"four")
    with pytest.raises(BadArchive):
        writer.finish()
    assert CHECKSUM not in DOCUMENTS
