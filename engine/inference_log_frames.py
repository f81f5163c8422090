"""The form of the inference log on disk: segments, and the frames that they are made of.

Owns the bytes. Pure, and loads no numpy: what stands in a frame's body is :mod:`engine.inference_log_columns`.

A segment is one file, written from its beginning to its end and never changed:

    peerage inference log 1\\n
    {"edge": …, "epoch": …, "first": …}\\n        JSON: whose rows these are, and the first row's number
    frames
    end mark                                      only of a segment that was closed in order

A frame is what was written at once: one or many requests, with the rows ``first`` to ``first + rows - 1``. Rows that
were refused since the frame before have the numbers between that and ``first``, and the header says why. Numbers are
little-endian; a checksum is a CRC-32.

    head    magic "PILF", length of the header, length of the body, first, rows, time of the earliest and of the latest
            row (ms since the epoch), checksum of header and body, checksum of the head itself
    header  MessagePack, :class:`FrameHeader`
    body    the columns, one behind the other

The end mark sums up the segment: magic "PILE", frames, rows, the number of the last one, the two times, where it
stands, its checksum.

Rules: a head that holds says how long its frame is and which rows it has, so that a frame whose content was damaged is
a gap of known size; behind a head that does not hold the next one is looked for. What stands behind the last whole
frame is what a kill has cut off.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

MAGIC: Final = b"peerage inference log 1\n"
PREAMBLE_BYTES_MAX: Final = 1024
FRAME_BYTES_MAX: Final = 1 << 31
_FRAME: Final = struct.Struct("<4sIQQIqqI")
_FRAME_MAGIC: Final = b"PILF"
_END: Final = struct.Struct("<4sQQQqqQ")
_END_MAGIC: Final = b"PILE"
_CHECK: Final = struct.Struct("<I")
HEAD_BYTES: Final = _FRAME.size + _CHECK.size
END_BYTES: Final = _END.size + _CHECK.size
_LOOK_BYTES: Final = 1 << 16


class BadSegment(ValueError):
    """A file that is no segment, or a frame that is damaged."""


class ColumnHeader(Struct, frozen=True, array_like=True):
    """``dtype``: numpy's, as ``<f4``; or ``texts`` and ``records``, which are MessagePack. ``shape``: of the whole."""

    group: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


class RequestsHeader(Struct, frozen=True, array_like=True):
    """Requests to one version of a pipeline, whose columns have the same form. ``models``: name, version, digest."""

    pipeline: str
    version: str
    partition: str
    models: tuple[tuple[str, str, str], ...]
    dropped: tuple[tuple[str, ...], ...]
    columns: tuple[ColumnHeader, ...]


class Refusal(Struct, frozen=True, array_like=True):
    """Rows that were not recorded, between the frame before and this one, and why. Times in ms since the epoch."""

    reason: str
    rows: int
    from_ms: int
    to_ms: int


class FrameHeader(Struct, frozen=True, array_like=True):
    requests: tuple[RequestsHeader, ...]
    refused: tuple[Refusal, ...] = ()


class Preamble(Struct, frozen=True):
    """``first``: the number of the segment's first row."""

    edge: str
    epoch: int
    first: int


@dataclass(frozen=True, slots=True)
class Head:
    """What a frame's head says; ``at``: where in the file the frame begins."""

    at: int
    header_size: int
    body_size: int
    first: int
    rows: int
    from_ms: int
    to_ms: int
    checksum: int

    @property
    def last(self) -> int:
        return self.first + self.rows - 1

    @property
    def end(self) -> int:
        return self.at + HEAD_BYTES + self.header_size + self.body_size


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame ready to be written: its bytes in parts, which are not copied together."""

    parts: tuple[bytes | memoryview, ...]
    size: int
    first: int
    rows: int
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Extent:
    """Of a segment: its frames and rows, the number of the last, their times, and where the whole frames end."""

    frames: int
    rows: int
    last: int
    from_ms: int
    to_ms: int
    end: int

    def with_frame(self, *, first: int, rows: int, from_ms: int, to_ms: int, end: int) -> Extent:
        """One frame longer. A frame may have no rows; then its times say nothing."""
        if rows and self.rows:
            from_ms, to_ms = min(self.from_ms, from_ms), max(self.to_ms, to_ms)
        elif not rows:
            from_ms, to_ms = self.from_ms, self.to_ms
        return Extent(self.frames + 1, self.rows + rows, first + rows - 1, from_ms, to_ms, end)


def preamble_bytes(preamble: Preamble) -> bytes:
    return MAGIC + msgspec.json.encode(preamble) + b"\n"


def head_bytes(
    header: bytes, *, body_size: int, first: int, rows: int, from_ms: int, to_ms: int, checksum: int
) -> bytes:
    """``checksum``: of header and body, as :func:`zlib.crc32` gives it."""
    fields = _FRAME.pack(_FRAME_MAGIC, len(header), body_size, first, rows, from_ms, to_ms, checksum)
    return fields + _CHECK.pack(zlib.crc32(fields))


def end_bytes(extent: Extent) -> bytes:
    fields = _END.pack(_END_MAGIC, extent.frames, extent.rows, extent.last, extent.from_ms, extent.to_ms, extent.end)
    return fields + _CHECK.pack(zlib.crc32(fields))


def read_preamble(file: BinaryIO) -> tuple[Preamble, int]:
    """Of a segment, and where its frames begin. Raises :class:`BadSegment`."""
    file.seek(0)
    start = file.read(PREAMBLE_BYTES_MAX)
    line, newline, _ = start[len(MAGIC) :].partition(b"\n")
    if not start.startswith(MAGIC) or not newline:
        raise BadSegment("it does not begin as a segment of an inference log does")
    try:
        return msgspec.json.decode(line, type=Preamble), len(MAGIC) + len(line) + 1
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadSegment(f"its first lines are damaged: {error}") from error


def read_end(file: BinaryIO, size: int) -> Extent | None:
    """The sum of a segment that was closed in order, and is as long as it says; None without one."""
    if size < END_BYTES:
        return None
    file.seek(size - END_BYTES)
    mark = file.read(END_BYTES)
    if len(mark) != END_BYTES or _CHECK.unpack_from(mark, _END.size)[0] != zlib.crc32(mark[: _END.size]):
        return None
    magic, frames, rows, last, from_ms, to_ms, end = _END.unpack_from(mark)
    if magic != _END_MAGIC or end != size - END_BYTES:
        return None
    return Extent(frames, rows, last, from_ms, to_ms, end)


def heads(file: BinaryIO, start: int, end: int) -> Iterator[Head]:
    """Every frame between two places whose head holds, in order, without reading what is in it."""
    at = start
    while at + HEAD_BYTES <= end:
        file.seek(at)
        head = _head(file.read(HEAD_BYTES), at)
        if head is None or head.end > end:
            at = _next_magic(file, at + 1, end)
            continue
        yield head
        at = head.end


def _head(read: bytes, at: int) -> Head | None:
    if len(read) < HEAD_BYTES or not read.startswith(_FRAME_MAGIC):
        return None
    if _CHECK.unpack_from(read, _FRAME.size)[0] != zlib.crc32(read[: _FRAME.size]):
        return None
    _, header_size, body_size, first, rows, from_ms, to_ms, checksum = _FRAME.unpack_from(read)
    return Head(at, header_size, body_size, first, rows, from_ms, to_ms, checksum)


def _next_magic(file: BinaryIO, at: int, end: int) -> int:
    """Where the next frame could begin; ``end`` when nothing looks like one."""
    kept = b""
    while at < end:
        file.seek(at)
        read = kept + file.read(min(_LOOK_BYTES, end - at))
        found = read.find(_FRAME_MAGIC)
        if found >= 0:
            return at - len(kept) + found
        at += len(read) - len(kept)
        kept = read[-len(_FRAME_MAGIC) + 1 :]
        if not read:
            break
    return end


def read_header(file: BinaryIO, head: Head) -> tuple[FrameHeader, bytes]:
    """What a frame is made of, and its bytes, for :func:`check_body`. Raises :class:`BadSegment`."""
    file.seek(head.at + HEAD_BYTES)
    header = file.read(head.header_size)
    try:
        return msgspec.msgpack.decode(header, type=FrameHeader), header
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadSegment(f"the frame at {head.at} is damaged: {error}") from error


def read_body(file: BinaryIO, head: Head, header: bytes) -> bytes:
    """The columns of a frame, behind its header. Raises :class:`BadSegment`."""
    file.seek(head.at + HEAD_BYTES + head.header_size)
    body = file.read(head.body_size)
    if len(body) != head.body_size or zlib.crc32(body, zlib.crc32(header)) != head.checksum:
        raise BadSegment(f"the frame at {head.at} is damaged: its content is not what was written")
    return body


def holds(file: BinaryIO, head: Head) -> bool:
    """Whether a frame's content is what was written, without keeping it."""
    file.seek(head.at + HEAD_BYTES)
    left, checksum = head.header_size + head.body_size, 0
    while left:
        read = file.read(min(left, _LOOK_BYTES * 16))
        if not read:
            return False
        checksum = zlib.crc32(read, checksum)
        left -= len(read)
    return checksum == head.checksum
