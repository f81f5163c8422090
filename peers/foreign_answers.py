"""What another peer gives as its answer, held to the form of one before it goes into the answer of all.

Owns what may come in which order: one schema, then rows of its width whose values are values, one end with the state of
that peer. Refuses everything else with :class:`~peers.federation_client.BadAnswer`, which ends that peer's part and
nobody else's. Rules: a peer speaks for itself alone, so that errors and the state are its own whatever it writes there;
how many rows it gave is counted here, and not believed.
"""

from __future__ import annotations

from typing import Final

import msgspec

from federation.names import shown
from peers.federation_client import BadAnswer
from query.errors import Problem
from query.frames import EndFrame, ErrorFrame, Frame, RowFrame, SchemaFrame
from query.ledger import COMPLETE, State
from query.values import decode_value

DETAIL_MAX: Final = 200


class ForeignAnswer:
    """One statement's answer of one peer, frame after frame."""

    __slots__ = ("_columns", "_ended", "_peer", "_rows")

    def __init__(self, peer: str) -> None:
        self._peer = shown(peer)
        self._columns: int | None = None
        self._rows = 0
        self._ended = False

    def taken(self, frame: Frame) -> Frame:
        """A frame as it may be passed on. Raises :class:`BadAnswer`."""
        if self._ended:
            raise self._bad("frames after the end")
        match frame:
            case SchemaFrame(columns=columns):
                if self._columns is not None:
                    raise self._bad("a second schema")
                self._columns = len(columns)
            case RowFrame(values=values):
                self._check_row(values)
                self._rows += 1
            case ErrorFrame(error=error) if error.peer != self._peer:
                return ErrorFrame(frame.statement, msgspec.structs.replace(error, peer=self._peer))
            case EndFrame():
                self._ended = True
                return self._end(frame)
        return frame

    def _check_row(self, values: tuple[object, ...]) -> None:
        if self._columns is None:
            raise self._bad("a row before the schema")
        if len(values) != self._columns:
            raise self._bad(f"a row of {len(values)} values under {self._columns} columns")
        for value in values:
            if isinstance(value, dict | list):
                try:
                    decode_value(value)
                except Problem as problem:
                    raise self._bad(f"what is no value: {problem.message}") from problem

    def _end(self, frame: EndFrame) -> EndFrame:
        if len(frame.ledger.outcomes) != 1:
            raise self._bad(f"a ledger of {len(frame.ledger.outcomes)} peers")
        (said,) = frame.ledger.outcomes
        state = said.state
        if state in COMPLETE:
            state = State.ROWS if self._rows else State.EMPTY
        detail = said.detail[:DETAIL_MAX] if said.detail is not None else None
        own = msgspec.structs.replace(said, peer=self._peer, state=state, detail=detail, rows=self._rows, way="")
        return msgspec.structs.replace(frame, ledger=msgspec.structs.replace(frame.ledger, outcomes=(own,)))

    def _bad(self, found: str) -> BadAnswer:
        return BadAnswer(f"{self._peer} gave {found}: expected the answer of one peer to one statement")
