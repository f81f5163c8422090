"""Results on the wire: a sequence of frames, one JSON object a line.

For each statement of a script in order: one ``schema``, any number of ``row``, ``progress`` and ``error``, one ``end``.
The first frame leaves before the last row is known. ``statement`` is the statement's index in the script, from 0.

Values are JSON where JSON has them. What JSON lacks is an object with one key that starts with ``$``:

    {"$time": "2026-01-31T12:00:00+00:00"}                       a time stamp
    {"$tensor": {"dtype": "<f4", "shape": [2, 3], "data": "…"}}  a tensor, little-endian, row-major, base64
    {"$number": "NaN" | "Infinity" | "-Infinity"}                a number outside JSON
    {"$record": {…}}                                             a record one of whose keys starts with ``$``
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from query.errors import ErrorRecord
from query.ledger import Ledger


class Column(msgspec.Struct, frozen=True):
    name: str
    type: str


class SchemaFrame(msgspec.Struct, frozen=True, tag_field="frame", tag="schema", omit_defaults=True):
    statement: int
    columns: tuple[Column, ...]
    plot: str | None = None
    query: str = ""  # the id that cancels this statement


class RowFrame(msgspec.Struct, frozen=True, tag_field="frame", tag="row", omit_defaults=True):
    """``values`` are encoded values, one a column."""

    statement: int
    values: tuple[Any, ...]
    peer: str | None = None


class ProgressFrame(msgspec.Struct, frozen=True, tag_field="frame", tag="progress", omit_defaults=True):
    """``query``: the id of a statement that waits, by which it is found again."""

    statement: int
    label: str
    done: int
    total: int | None = None
    unit: str = ""
    peer: str | None = None
    query: str = ""


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="frame", tag="error"):
    statement: int
    error: ErrorRecord


class EndFrame(msgspec.Struct, frozen=True, tag_field="frame", tag="end", omit_defaults=True):
    statement: int
    ledger: Ledger
    rows: int
    elapsed_ms: float
    query: str = ""


Frame: TypeAlias = SchemaFrame | RowFrame | ProgressFrame | ErrorFrame | EndFrame

_DECODER: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)
_ENCODER = msgspec.json.Encoder()


def encode_frame(frame: Frame) -> bytes:
    """One line of the answer, without its newline."""
    return _ENCODER.encode(frame)


def decode_frame(line: bytes | str) -> Frame:
    """Raises ``msgspec.DecodeError`` on anything that is not a frame."""
    try:
        return _DECODER.decode(line)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(f"nested too deep, or not UTF-8: {error}") from error
