"""What travels on an uplink: one JSON object a WebSocket message.

    nameserver → edge     statement, credit, cancel, nudge, done
    edge → nameserver     frame

``id`` numbers the statements of one uplink. An edge may have :data:`CREDIT_FRAMES` frames of a statement under way;
the nameserver gives credit back as its reader takes them, so a slow reader slows one statement, not the uplink.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from federation.documents import SignedDocument

CREDIT_FRAMES: Final = 256
STATEMENTS_MAX: Final = 256  # under way on one uplink


class StatementMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="message", tag="statement"):
    """Run statement number ``index`` of the request ``body`` here, as the caller that the envelope proves.

    ``variables`` are session variables that the envelope does not cover, encoded as in frames: with any of them, or
    without an envelope, the statement runs as the peer that carries it. ``time_left_s`` can only shorten. ``partial``:
    give partial results of the statement's aggregates, which the carrier merges with those of other peers. ``errand``:
    the id of a statement that waits, ``until`` then by federation time: its answer is kept until the nameserver has it.
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
    frame: msgspec.Raw


Downward: TypeAlias = StatementMessage | CreditMessage | CancelMessage | NudgeMessage | DoneMessage

DOWNWARD: Final[msgspec.json.Decoder[Downward]] = msgspec.json.Decoder(Downward)
UPWARD: Final[msgspec.json.Decoder[FrameMessage]] = msgspec.json.Decoder(FrameMessage)
ENCODER: Final = msgspec.json.Encoder()
