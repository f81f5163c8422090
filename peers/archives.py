"""An export's file: one uncompressed tar that is an OCI image layout with signed documents beside it.

    peerage/contents.json peerage/roots.json peerage/answer.json peerage/releases.json     documents, in this order
    oci-layout index.json                                                                  for registry tools
    blobs/sha256/<hex> …                                                                   manifests first
    peerage/checksum                                                                       sha256 of all before it, hex

Owns the bytes of tar (POSIX ustar), written and read in one pass. Nothing is ever extracted by its path: a reader takes
documents and blobs by the names above and refuses everything else. Refuses links, devices, folders, sparse and extended
members, absolute and ``..`` paths, a name that comes twice, more than :data:`MEMBERS_MAX` members, a document larger
than :data:`DOCUMENT_BYTES_MAX`, and bytes after the end.

    BadArchive (PeerProblem)     not such a file, or one with something in it that does not belong there
    ├── TruncatedArchive         it ends early; the message says how far it came
    └── DamagedArchive           a byte of it changed since it was written

Rules: what a blob is called is what its content hashes to, checked by whoever keeps it; the checksum finds what no
signature covers. It is no proof against anybody who can count: that is what the signatures are for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from federation.documents import DOCUMENT_BYTES_MAX, ROOTS_BYTES_MAX
from federation.names import Digest
from query.errors import PeerProblem

BLOCK: Final = 512
CHUNK_BYTES: Final = 1024 * 1024
MEMBERS_MAX: Final = 70_000
MEMBER_BYTES_MAX: Final = 8 * 1024**3 - 1  # what eleven octal digits hold; a release's bound is the same
TAIL_BYTES_MAX: Final = 64 * 1024  # zeros that a tool may put behind the end

CONTENTS: Final = "peerage/contents.json"
ROOTS: Final = "peerage/roots.json"
ANSWER: Final = "peerage/answer.json"
RELEASES: Final = "peerage/releases.json"
CHECKSUM: Final = "peerage/checksum"
DOCUMENTS: Final = (CONTENTS, ROOTS, ANSWER, RELEASES)
LAYOUT: Final = ("oci-layout", "index.json")

_BLOB: Final = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class BadArchive(PeerProblem):
    code = "bad_archive"


class TruncatedArchive(BadArchive):
    code = "archive_truncated"


class DamagedArchive(BadArchive):
    code = "archive_damaged"


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    size: int

    @property
    def blob(self) -> Digest | None:
        """The digest that a blob's name promises."""
        found = _BLOB.fullmatch(self.name)
        return Digest(f"sha256:{found[1]}") if found else None


def blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def document_bytes_max(name: str) -> int:
    return ROOTS_BYTES_MAX if name == ROOTS else DOCUMENT_BYTES_MAX


def header(name: str, size: int) -> bytes:
    """A member's block. The same name and size make the same bytes: no time, no owner."""
    if size > MEMBER_BYTES_MAX or len(name) > 100:
        raise BadArchive(f"cannot put {name} of {size} bytes into a tar")
    block = bytearray(BLOCK)
    block[0 : len(name)] = name.encode("ascii")
    fields = ((100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, b"%011o\0" % size))
    for at, field in (*fields, (136, b"%011o\0" % 0), (148, b" " * 8), (156, b"0"), (257, b"ustar\x0000")):
        block[at : at + len(field)] = field
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class ArchiveWriter:
    """Writes members one after another; :meth:`finish` puts the checksum and the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._left = 0
        self._padding = 0

    def begin(self, name: str, size: int) -> None:
        self._end_member()
        self._put(header(name, size))
        self._left = size
        self._padding = -size % BLOCK

    def write(self, chunk: bytes) -> None:
        if len(chunk) > self._left:
            raise BadArchive("more bytes than were announced for a member")
        self._left -= len(chunk)
        self._put(chunk)

    def put(self, name: str, content: bytes) -> None:
        self.begin(name, len(content))
        self.write(content)

    def finish(self) -> None:
        self._end_member()
        self.put(CHECKSUM, self._hash.hexdigest().encode("ascii"))
        self._end_member()
        self._put(bytes(2 * BLOCK))

    def _end_member(self) -> None:
        if self._left:
            raise BadArchive(f"{self._left} bytes fewer than were announced for a member")
        self._put(bytes(self._padding))
        self._padding = 0

    def _put(self, content: bytes) -> None:
        self._hash.update(content)
        self._stream.write(content)


class ArchiveReader:
    """Reads a file from its beginning, in one pass. ``offset`` is how far it came, ``size`` how long the file is."""

    def __init__(self, stream: BinaryIO, *, size: int) -> None:
        self._stream = stream
        self.size = size
        self.offset = 0
        self._hash = hashlib.sha256()
        self._seen: set[str] = set()
        self._left = 0
        self._padding = 0

    def documents(self) -> dict[str, bytes]:
        """The documents, which come first."""
        found: dict[str, bytes] = {}
        for name in DOCUMENTS:
            member = self.next()
            if member is None or member.name != name:
                raise BadArchive(
                    f"expected {name} in its place, found {member.name if member else 'the end'}",
                    hint='expected a file that "peerage export --edge NAME FILE" wrote',
                )
            found[name] = self.read(member)
        return found

    def next(self) -> Member | None:
        """The next member, with what was left of the one before passed over; None once the file has ended as it should.

        The checksum is read here too.
        """
        while self._left:
            self._take(min(self._left, CHUNK_BYTES))
        self._pad()
        before = self._hash.hexdigest()
        block = self._exactly(BLOCK)
        if not any(block):
            raise DamagedArchive(f"the file ends at byte {self.offset} without its checksum")
        member = self._member(block)
        if member.name == CHECKSUM:
            self._end(self.read(member), before)
            return None
        return member

    def read(self, member: Member) -> bytes:
        """A whole small member."""
        bytes_max = document_bytes_max(member.name)
        if member.size > bytes_max:
            raise BadArchive(f"{member.name} has {member.size} bytes: expected at most {bytes_max}")
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The content of the member that was begun last."""
        while self._left:
            yield self._take(min(self._left, CHUNK_BYTES))

    def _member(self, block: bytes) -> Member:
        told = block[148:156].rstrip(b"\0 ").lstrip(b" ")
        if not _octal(told) or int(told, 8) != sum(block) - sum(block[148:156]) + 8 * 32:
            if self.offset == BLOCK:
                raise BadArchive(
                    "this is no tar file", hint='expected a file that "peerage export --edge NAME FILE" wrote'
                )
            raise DamagedArchive(f"the header at byte {self.offset - BLOCK} does not have its checksum")
        raw, kind = block[:100].rstrip(b"\0"), block[156:157]
        name = raw.decode("ascii", "replace")
        if kind not in (b"0", b"\0"):
            raise BadArchive(f"{name[:80]!r} is {_KINDS.get(kind, 'an extended member')}: expected plain files alone")
        if any(block[345:500]) or not (name in {*DOCUMENTS, *LAYOUT, CHECKSUM} or _BLOB.fullmatch(name)):
            raise BadArchive(f"a member {name[:80]!r} at byte {self.offset - BLOCK}: nothing of that name belongs here")
        digits = block[124:136].rstrip(b"\0 ")
        if not _octal(digits):
            raise BadArchive(f"{name} has a size of {digits[:12]!r}: expected octal digits")
        size = int(digits, 8)
        if block != header(name, size):
            raise DamagedArchive(f"the header of {name} is not as it is written here")
        if name in self._seen:
            raise BadArchive(f"{name} comes twice")
        if len(self._seen) >= MEMBERS_MAX:
            raise BadArchive(f"more than {MEMBERS_MAX} members")
        self._seen.add(name)
        self._left = size
        self._padding = -self._left % BLOCK
        if self.offset + self._left + self._padding > self.size:
            raise TruncatedArchive(
                f"the file has {self.size} bytes and ends inside {name}, which takes it to "
                f"{self.offset + self._left + self._padding}",
                hint="copy it again: it was cut on its way",
            )
        return Member(name, self._left)

    def _end(self, checksum: bytes, before: str) -> None:
        self._pad()
        rest = b""
        while (chunk := self._stream.read(CHUNK_BYTES)) and len(rest) <= TAIL_BYTES_MAX:
            rest += chunk
        self.offset += len(rest)
        if checksum.decode("ascii", "replace") != before:
            raise DamagedArchive(
                "the file does not have its checksum: bytes of it changed since it was written",
                hint="copy it again, or export it again",
            )
        if len(rest) < 2 * BLOCK:
            raise TruncatedArchive(f"the file has {self.size} bytes and lacks its end", hint="copy it again")
        if any(rest) or len(rest) > TAIL_BYTES_MAX:
            raise DamagedArchive("there is something behind the end of the file")

    def _pad(self) -> None:
        if any(self._exactly(self._padding)):
            raise DamagedArchive(f"something before byte {self.offset}, where nothing belongs")
        self._padding = 0

    def _take(self, count: int) -> bytes:
        chunk = self._exactly(count)
        self._left -= count
        return chunk

    def _exactly(self, count: int) -> bytes:
        chunk = self._stream.read(count) if count else b""
        self.offset += len(chunk)
        if len(chunk) != count:
            raise TruncatedArchive(
                f"the file ends after {self.offset} bytes, inside a member", hint="copy it again: it was cut on its way"
            )
        self._hash.update(chunk)
        return chunk


def _octal(digits: bytes) -> bool:
    return bool(digits) and all(48 <= digit <= 55 for digit in digits)
