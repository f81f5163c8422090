"""``Content-Encoding`` of requests and answers: gzip and deflate, bounded.

Owns which codings are known, and how much may come out of a compressed body. Pure.

Rules: ``deflate`` is zlib's format (RFC 9110, 8.4.1.2); a gzip body may have several members; the bound counts what
comes out, and is noticed before more than a piece beyond it was made; a body that ends early, goes on behind its end or
is damaged is refused. An answer is compressed when a coding is asked for alone, as a client does that wants it; where
it is one of several, as libraries ask by habit, it costs more than it saves next to the model.
"""

from __future__ import annotations

import re
import zlib
from typing import Final, Literal

from peers.answers import shortened
from query.errors import LimitExceeded, UserProblem

Coding = Literal["gzip", "deflate"]

WINDOW_BITS: Final[dict[Coding, int]] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
PIECE_BYTES: Final = 256 * 1024
MEMBERS_MAX: Final = 1000  # of one gzip body
LEVEL: Final = 1


class UnknownCoding(UserProblem):
    """A Content-Encoding that is not one of ours."""

    code = "unknown_coding"


class BadCoding(UserProblem):
    """A body that is not what its Content-Encoding says."""

    code = "bad_coding"


def coding_of(header: str | None) -> Coding | None:
    """The coding of a request's body; None when it has none. Raises :class:`UnknownCoding`."""
    match (header or "").strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return "gzip"
        case "deflate":
            return "deflate"
        case other:
            raise UnknownCoding(f'expected Content-Encoding gzip or deflate, found "{shortened(other)}"')


def wanted_coding(header: str | None) -> Coding | None:
    """The coding for an answer to whoever sent this ``Accept-Encoding``."""
    match (header or "").partition(";")[0].strip().lower():
        case "gzip":
            return "gzip" if _is_wanted(header) else None
        case "deflate":
            return "deflate" if _is_wanted(header) else None
        case _:
            return None


def _is_wanted(header: str | None) -> bool:
    """Whether one coding's weight is more than nothing."""
    return not re.search(r";\s*q\s*=\s*0(\.0*)?\s*$", header or "")


def decompressed(body: bytes, coding: Coding, *, bytes_max: int) -> bytes:
    """What a compressed body holds. Raises :class:`BadCoding` and :class:`~query.errors.LimitExceeded`."""
    pieces: list[bytes] = []
    whole = memoryview(body)
    size = members = at = 0
    while at < len(whole) or not members:
        members += 1
        if members > MEMBERS_MAX:
            raise LimitExceeded(f"expected at most {MEMBERS_MAX} parts in a compressed body, found more")
        reader = zlib.decompressobj(WINDOW_BITS[coding])
        rest = b""
        while not reader.eof:
            # Piece by piece also of what goes in: the reader copies all that it was given and did not take.
            given = rest or whole[at : at + PIECE_BYTES]
            at += 0 if rest else len(given)
            try:
                piece = reader.decompress(given, min(PIECE_BYTES, bytes_max - size + 1))
            except zlib.error as error:
                raise BadCoding(f"expected a body in {coding}, found damage: {error}") from error
            rest = reader.unconsumed_tail
            size += len(piece)
            if size > bytes_max:
                raise LimitExceeded(f"expected at most {bytes_max} bytes in a compressed body, found more")
            if not piece and not rest and at == len(whole) and not reader.eof:
                raise BadCoding(f"expected a whole body in {coding}, found its end missing")
            pieces.append(piece)
        at -= len(reader.unused_data)
        if at < len(whole) and coding == "deflate":
            raise BadCoding(f"expected the body to end with its {coding} data, found {len(whole) - at} bytes behind it")
    return b"".join(pieces)


def compressed(body: bytes, coding: Coding) -> bytes:
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS[coding])
    return writer.compress(body) + writer.flush()
