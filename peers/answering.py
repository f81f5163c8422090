"""One statement's answer while it is being given: its frames in order, its ledger, its clock.

Rules: one ``schema`` first, one ``end`` last; an error that comes before the schema waits for it; the ledger is
closed at the end, whatever happened, and sums to the targets.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from federation.names import shown
from query.errors import ErrorRecord
from query.frames import Column, EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.ledger import COMPLETE, Ledger, OpenLedger, Outcome, State


class Frames(Protocol):
    """Where frames go: an ``asyncio.Queue``."""

    async def put(self, item: Frame, /) -> None: ...

    def put_nowait(self, item: Frame, /) -> None: ...


class Answering:
    """``targets`` are peer names as they were found; they are shown in upper case.

    ``tagged``: rows carry their peer, because several were asked. ``unmatched``: as in the ledger.
    """

    def __init__(
        self,
        frames: Frames,
        *,
        statement: int,
        targets: Iterable[str],
        query: str,
        plot: str | None = None,
        tagged: bool,
    ) -> None:
        self._frames = frames
        self._statement = statement
        self._query = query
        self._plot = plot
        self._tagged = tagged
        self._ledger = OpenLedger(shown(target) for target in targets)
        self._waiting: list[ErrorRecord] = []
        self._schema_given = False
        self._started = time.perf_counter()
        self._rows_by_peer: dict[str, int] = {}
        self._relayed: Ledger | None = None
        self.rows = 0
        self.answered = False
        self.ended = False
        self.unmatched = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """All of them, in upper case."""
        return self._ledger.targets

    @property
    def open(self) -> tuple[str, ...]:
        """Targets without a state, in upper case."""
        return self._ledger.open

    @property
    def relayed(self) -> bool:
        """Whether another peer's ledger came with its answer."""
        return self._relayed is not None

    async def schema(self, columns: tuple[Column, ...]) -> None:
        """Give the schema; only the first of several peers' counts."""
        if self._schema_given:
            return
        self._schema_given = True
        await self._frames.put(SchemaFrame(self._statement, columns, self._plot, self._query))
        for record in self._waiting:
            await self._frames.put(ErrorFrame(self._statement, record))
        self._waiting.clear()

    async def row(self, values: tuple[object, ...], *, peer: str | None) -> None:
        """Give a row; ``peer`` None: of all peers together."""
        self.rows += 1
        if peer is not None:
            self._rows_by_peer[peer] = self._rows_by_peer.get(peer, 0) + 1
        await self._frames.put(RowFrame(self._statement, values, self._shown(peer)))

    def _shown(self, peer: str | None) -> str | None:
        return shown(peer) if self._tagged and peer is not None else None

    def progress(self, label: str, done: int, total: int | None, unit: str, *, peer: str | None) -> None:
        """Tell of work under way; dropped when the reader is behind or the answer has ended."""
        if not self.ended:
            with contextlib.suppress(asyncio.QueueFull):
                self._frames.put_nowait(ProgressFrame(self._statement, label, done, total, unit, self._shown(peer)))

    async def waits(self, query: str, done: int, total: int) -> None:
        """Tell by which id a statement that waits is found again, and how many of its targets have a state."""
        self._query = query
        await self._frames.put(ProgressFrame(self._statement, f"{query} answered", done, total, "peers", query=query))

    async def error(self, record: ErrorRecord) -> None:
        if self._schema_given:
            await self._frames.put(ErrorFrame(self._statement, record))
        else:
            self._waiting.append(record)

    def answered_by(self, peer: str) -> Outcome:
        """The state of a target that came to its end: ``rows`` or ``empty``."""
        rows = self._rows_by_peer.get(peer, 0)
        return Outcome(shown(peer), State.ROWS if rows else State.EMPTY, rows=rows)

    def settle(self, outcome: Outcome) -> None:
        self._ledger.settle(outcome)
        if outcome.state in COMPLETE:
            self.answered = True

    def settle_open(self, state: State, detail: str | None = None) -> None:
        """Give every target without a state this one."""
        for peer in self._ledger.open:
            self.settle(Outcome(peer, state, detail))

    async def relay(self, frame: Frame) -> None:
        """Pass on a frame of an answer that another peer composes: its rows keep their peers, its ledger counts."""
        match frame:
            case SchemaFrame(columns=columns):
                await self.schema(columns)
            case RowFrame(values=values, peer=peer):
                self.rows += 1
                await self._frames.put(RowFrame(self._statement, values, peer))
            case ProgressFrame(query=query) if query:
                await self.waits(query, frame.done, frame.total or 0)
            case ProgressFrame():
                with contextlib.suppress(asyncio.QueueFull):
                    self._frames.put_nowait(msgspec.structs.replace(frame, statement=self._statement))
            case ErrorFrame(error=error):
                await self.error(error)
            case EndFrame(ledger=ledger):
                self._relayed = ledger
                self.answered = any(outcome.state in COMPLETE for outcome in ledger.outcomes)

    async def end(self) -> None:
        """Close the ledger and give the last frame. Every target must have a state."""
        if self.ended:
            return
        self.ended = True
        await self.schema(())
        ledger = self._relayed or self._ledger.close(unmatched=self.unmatched)
        elapsed_ms = round((time.perf_counter() - self._started) * 1000, 3)
        await self._frames.put(EndFrame(self._statement, ledger, self.rows, elapsed_ms, self._query))
