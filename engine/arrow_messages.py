"""How much memory an Arrow IPC stream asks for, read from its metadata before anything is decompressed.

Owns the few offsets of the flatbuffers of Arrow's ``Message.fbs`` that this takes. Pure; no pyarrow. pyarrow checks the
metadata of a message when it reads one, so only checked metadata comes here, and still nothing is read past its end.

    Message      version: 0 · header_type: 1 · header: 2 · custom_metadata: 4
    RecordBatch  length: 0 · buffers: 2, a vector of (offset, length) in the body · compression: 3

A flatbuffer table begins with the distance back to its list of field offsets; an offset of 0 is an absent field. With
compression each buffer of the body begins with its length when decompressed, 8 bytes; -1: it is not compressed. Before
Arrow 1.0 (version V4) the compression stood in the custom metadata, and pyarrow still looks there: such are refused.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final

from engine.errors import InputProblem

BUFFERS_MAX: Final = 4096  # of one batch: a column has three at most
_I32, _I64, _U16, _U32 = (Struct(f"<{code}") for code in "iqHI")
_I16: Final = Struct("<h")
_V5: Final = 4
_VERSION, _HEADER, _CUSTOM_METADATA = 0, 2, 4
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3


def batch_size(metadata: bytes | memoryview, body: bytes | memoryview) -> tuple[int, int]:
    """The rows of a record batch's message, and the bytes of its buffers when decompressed.

    Raises ``InputProblem`` for what is no such message.
    """
    try:
        return _batch_size(memoryview(metadata), memoryview(body))
    except (struct.error, IndexError, ValueError) as error:
        raise InputProblem(f"the Arrow data is damaged: {error}") from error


def _batch_size(metadata: memoryview, body: memoryview) -> tuple[int, int]:
    message = _forward(metadata, 0)
    version_at = _field(metadata, message, _VERSION)
    version = 0 if version_at is None else _I16.unpack_from(metadata, version_at)[0]
    if version < _V5 and _field(metadata, message, _CUSTOM_METADATA) is not None:
        raise InputProblem(
            "expected batches of Arrow 1.0 or later, or without metadata of their own, found older ones with some",
            hint="write them without metadata_version V4",
        )
    header = _field(metadata, message, _HEADER)
    if header is None:
        raise ValueError("a message without a header")
    batch = _forward(metadata, header)
    length_at = _field(metadata, batch, _LENGTH)
    rows = 0 if length_at is None else _I64.unpack_from(metadata, length_at)[0]
    buffers_at = _field(metadata, batch, _BUFFERS)
    if buffers_at is None:
        return rows, 0
    vector = _forward(metadata, buffers_at)
    count = _U32.unpack_from(metadata, vector)[0]
    if count > BUFFERS_MAX:
        raise ValueError(f"expected at most {BUFFERS_MAX} buffers in a batch, found {count}")
    compressed = _field(metadata, batch, _COMPRESSION) is not None
    size = 0
    for at in range(count):
        offset = _I64.unpack_from(metadata, vector + 4 + 16 * at)[0]
        length = _I64.unpack_from(metadata, vector + 12 + 16 * at)[0]
        if offset < 0 or length < 0 or offset + length > len(body):
            raise ValueError("a buffer outside the body")
        if compressed and length:
            inflated = _I64.unpack_from(body, offset)[0]
            if inflated < -1:
                raise ValueError("a buffer of negative length")
            length = length if inflated == -1 else inflated
        size += length
    return rows, size


def _forward(data: memoryview, at: int) -> int:
    """Where the offset that stands at ``at`` points to."""
    return int(at + _U32.unpack_from(data, at)[0])


def _field(data: memoryview, table: int, index: int) -> int | None:
    """Where a table's field stands; None when it is absent."""
    fields = table - _I32.unpack_from(data, table)[0]
    if fields < 0:
        raise ValueError("a table outside the message")
    if 4 + 2 * index >= _U16.unpack_from(data, fields)[0]:
        return None
    offset = _U16.unpack_from(data, fields + 4 + 2 * index)[0]
    return table + offset if offset else None
