"""The whole answer of one peer to one statement as bytes: its frames, one JSON object a line, under a bound.

Owns the writing of such an answer while it is given, and the reading of one that another peer wrote. Refuses what is
not one schema first, one end last with the state of one peer, or is over its bound. Rule: an answer that would be
longer is cut where it is full and ends with ``error(limit)``: a partial answer is never shown as a whole one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from query.errors import ErrorRecord, LimitExceeded, PeerProblem, Problem, WorldProblem
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame, decode_frame, encode_frame
from query.ledger import Ledger, Outcome, State

WHOLE_BYTES_MAX: Final = 1024 * 1024
END_BYTES: Final = 16 * 1024  # kept free for how an answer ends


class BadWholeAnswer(PeerProblem):
    """Bytes that are not the whole answer of one peer."""

    code = "bad_whole_answer"


class Interrupted(WorldProblem):
    """A statement had begun when a peer stopped; whether it took effect is not known."""

    code = "interrupted"


class WholeFrames:
    """An answer while it is given; :meth:`written` once it has ended."""

    def __init__(self, *, bytes_max: int = WHOLE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lines: list[bytes] = []
        self._bytes = 0
        self._rows = 0
        self.full = False
        self.end: EndFrame | None = None

    def take(self, frame: Frame) -> None:
        """Add a frame; after :attr:`full` only the end counts. Progress is told to who is there, and not kept."""
        if isinstance(frame, EndFrame):
            self.end = frame
        elif not isinstance(frame, ProgressFrame) and not self.full:
            line = encode_frame(frame)
            if self._bytes + len(line) + 1 > self._bytes_max - END_BYTES:
                self.full = True
                return
            self._lines.append(line)
            self._bytes += len(line) + 1
            self._rows += isinstance(frame, RowFrame)

    def written(self, peer: str, *, index: int) -> bytes:
        """The whole answer of ``peer``; one that was cut says so."""
        end = self.end
        if self.full:
            problem = LimitExceeded(f"an answer that is kept may take {self._bytes_max} bytes: this one is longer")
            self._lines.append(encode_frame(ErrorFrame(index, problem.record(peer=peer))))
            end = _ended(index, Outcome(peer, State.ERROR, problem.code, rows=self._rows), self._rows)
        assert end is not None
        return b"\n".join([*self._lines, encode_frame(end)])


def whole_problem(problem: Problem, peer: str, *, index: int, state: State = State.REFUSED) -> bytes:
    """The whole answer of a peer that gave nothing but an error."""
    record = problem.record(peer=peer)
    frames: tuple[Frame, ...] = (
        SchemaFrame(index, ()),
        ErrorFrame(index, record),
        _ended(index, Outcome(peer, state, problem.code), 0),
    )
    return b"\n".join(map(encode_frame, frames))


def whole_state(peer: str, state: State, detail: str | None = None, *, index: int) -> bytes:
    """The whole answer of a peer that gave nothing at all."""
    frames: tuple[Frame, ...] = (SchemaFrame(index, ()), _ended(index, Outcome(peer, state, detail), 0))
    return b"\n".join(map(encode_frame, frames))


def read_whole(raw: bytes, *, bytes_max: int = WHOLE_BYTES_MAX) -> tuple[Frame, ...]:
    """The frames of a whole answer. Raises :class:`BadWholeAnswer`."""
    if len(raw) > bytes_max:
        raise BadWholeAnswer(f"an answer of {len(raw)} bytes: expected at most {bytes_max}")
    try:
        frames = tuple(decode_frame(line) for line in raw.split(b"\n"))
    except msgspec.MsgspecError as error:
        raise BadWholeAnswer(f"expected the frames of an answer: {error}") from error
    first, *between, last = (*frames, None) if len(frames) == 1 else frames
    if not isinstance(first, SchemaFrame):
        raise BadWholeAnswer("expected an answer that begins with its schema")
    if not isinstance(last, EndFrame) or len(last.ledger.outcomes) != 1:
        raise BadWholeAnswer("expected an answer that ends with the state of one peer")
    if not all(isinstance(frame, RowFrame | ErrorFrame) for frame in between):
        raise BadWholeAnswer("expected rows and errors between an answer's schema and its end")
    return frames


def outcome_in(frames: tuple[Frame, ...]) -> Outcome:
    """The state that a whole answer ends with."""
    last = frames[-1]
    assert isinstance(last, EndFrame)
    return last.ledger.outcomes[0]


def errors_in(frames: tuple[Frame, ...]) -> tuple[ErrorRecord, ...]:
    return tuple(frame.error for frame in frames if isinstance(frame, ErrorFrame))


def _ended(index: int, outcome: Outcome, rows: int) -> EndFrame:
    return EndFrame(index, Ledger((outcome,)), rows, 0.0)
