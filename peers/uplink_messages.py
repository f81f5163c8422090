"""What travels on an uplink: one JSON object a WebSocket message.

    nameserver → edge     statement, credit, cancel, nudge, done
    edge → nameserver     frame, frames

``id`` numbers the statements of one uplink. An edge may have :data:`CREDIT_FRAMES` frames of a statement under way;
the nameserver gives credit back as its reader takes them, so a slow reader slows one statement, not the uplink.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from federation.documents import SignedDocument
from query.frames import Frame, encode_frame

CREDIT_FRAMES: Final = 256
FRAMES_AT_ONCE_MAX: Final = 32  # in one message
FRAMES_BYTES_MAX: Final = 256 * 1024  # of several in one message
STATEMENTS_MAX: Final = 256  # under way on one uplink


class StatementMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="message", tag="statement"):
    """Run statement number ``index`` of the request ``body`` here, as the caller that the envelope proves.

    ``variables`` are session variables that the envelope does not cover, encoded as in frames: with any of them, or
    without an envelope, the statement runs as the peer that carries it. ``time_left_s`` can only shorten. ``partial``:
    give partial results of the statement's aggregates, which the carrier merges with those of other peers. ``errand``:
    the id of a statement that waits, ``until`` then by federation time: its answer is kept until the nameserver has it.
    ``gathers``: several frames may come back in one message.
    """

    id: int
    body: bytes
    index: int
    time_left_s: float
    variables: dict[str, Any] = {}
    envelope: SignedDocument | None = None
    credential: SignedDocument | None = None
    partial: bool = False
    errand: str = ""
    until: float = 0.0
    gathers: bool = False


class SharedMessage:
    """A statement that goes to many peers, encoded once; only its number differs from uplink to uplink."""

    _BEFORE: Final = b'{"message":"statement","id":'

    def __init__(self, message: StatementMessage) -> None:
        """The number of ``message`` is 0."""
        encoded = ENCODER.encode(message)
        assert message.id == 0
        assert encoded.startswith(self._BEFORE + b"0,")
        self._after = encoded[len(self._BEFORE) + 1 :]

    def numbered(self, number: int) -> bytes:
        return b"%s%d%s" % (self._BEFORE, number, self._after)


class CreditMessage(msgspec.Struct, frozen=True, tag_field="message", tag="credit"):
    id: int
    frames: int


class CancelMessage(msgspec.Struct, frozen=True, tag_field="message", tag="cancel"):
    id: int


class NudgeMessage(msgspec.Struct, frozen=True, tag_field="message", tag="nudge"):
    """Poll now: something that touches this edge has changed."""


class DoneMessage(msgspec.Struct, frozen=True, tag_field="message", tag="done"):
    """The nameserver has the answer of an errand, or wants none any more: stop it where it runs, forget its answer."""

    errand: str


class FrameMessage(msgspec.Struct, frozen=True, tag_field="message", tag="frame"):
    id: int
    frame: Frame


class FramesMessage(msgspec.Struct, frozen=True, tag_field="message", tag="frames"):
    """Frames that came at once, in their order; only for who said that it gathers."""

    id: int
    frames: tuple[Frame, ...]


Downward: TypeAlias = StatementMessage | CreditMessage | CancelMessage | NudgeMessage | DoneMessage

Upward: TypeAlias = FrameMessage | FramesMessage

DOWNWARD: Final[msgspec.json.Decoder[Downward]] = msgspec.json.Decoder(Downward)
UPWARD: Final[msgspec.json.Decoder[Upward]] = msgspec.json.Decoder(Upward)
ENCODER: Final = msgspec.json.Encoder()


def upward(number: int, frames: Iterable[Frame]) -> Iterator[bytes]:
    """Frames of a statement as messages: small ones together, a large one alone."""
    together: list[bytes] = []
    size = 0
    for encoded in map(encode_frame, frames):
        if together and size + len(encoded) > FRAMES_BYTES_MAX:
            yield _upward(number, together)
            together, size = [], 0
        together.append(encoded)
        size += len(encoded)
    if together:
        yield _upward(number, together)


def _upward(number: int, frames: list[bytes]) -> bytes:
    if len(frames) == 1:
        return b'{"message":"frame","id":%d,"frame":%s}' % (number, frames[0])
    return b'{"message":"frames","id":%d,"frames":[%s]}' % (number, b",".join(frames))
