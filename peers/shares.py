"""What each statement gets of a peer that runs many: small ones go at once, heavy ones share what is left.

A statement is small until it has taken :data:`SMALL_SLICES` slices of work, of some hundred steps or rows each; then it
is heavy. Of all heavy ones together one slice runs in every :data:`TURNS_A_SLICE` turns of the event loop, whoever's
turn it is, so that a small statement waits for no more, with one heavy statement beside it or with fifty; where nothing
else is ready the turns between cost next to nothing. At most
:data:`HEAVY_MAX` heavy ones run at once and hold memory; others wait for a place, within their own time, and more than
:data:`WAITING_MAX` are refused.

Rules: a statement that another one asks of the same peer counts with the one that asked, and so never waits for a place
that the other holds. Places are given in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from peers.turns import Turns
from query.errors import WorldProblem

SMALL_SLICES: Final = 20  # 10 000 steps, some milliseconds
ROWS_A_SLICE: Final = 64
TURNS_A_SLICE: Final = 8
HEAVY_MAX: Final = 8
WAITING_MAX: Final = 64


class PeerBusy(WorldProblem):
    """So many heavy statements run and wait on a peer that it takes no further one."""

    code = "peer_busy"


class Share:
    """One statement's, and that of the statements it asks here itself."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._slices = 0
        self._rows = 0
        self._entering = False
        self.heavy = False
        self.ended = False

    @property
    def shares(self) -> Shares:
        return self._shares

    async def pause(self) -> None:
        """Between two slices: let others run. Raises :class:`PeerBusy` for one heavy statement too many."""
        self._slices += 1
        if not self.heavy and not self._entering:
            if self._slices < SMALL_SLICES:
                await asyncio.sleep(0)
                return
            self._entering = True
            await self._shares.enter()
            self.heavy = True
        await self._shares.turns.turn()

    async def row(self) -> None:
        """Count a row that was given."""
        self._rows += 1
        if self._rows % ROWS_A_SLICE == 0:
            await self.pause()


_CURRENT: ContextVar[Share | None] = ContextVar("share", default=None)


class Shares:
    """One peer's."""

    def __init__(self, *, heavy_max: int = HEAVY_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._heavy_max = heavy_max
        self._waiting_max = waiting_max
        self._heavy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.turns = Turns(every=TURNS_A_SLICE)

    @contextmanager
    def share(self) -> Iterator[Share]:
        """For as long as a statement runs in this task."""
        current = _CURRENT.get()
        if current is not None and current.shares is self and not current.ended:
            yield current
            return
        share = Share(self)
        token = _CURRENT.set(share)
        try:
            yield share
        finally:
            _CURRENT.reset(token)
            share.ended = True
            if share.heavy:
                self.leave()

    async def enter(self) -> None:
        """Take a place among the heavy ones, when there is one."""
        if self._heavy < self._heavy_max:
            self._heavy += 1
            return
        if len(self._waiting) >= self._waiting_max:
            raise PeerBusy(
                f"{self._heavy} long statements run on this peer and {len(self._waiting)} wait, no more fit",
                hint="ask again later, or for less",
            )
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()  # it was given a place at the very moment it was stopped
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def leave(self) -> None:
        """Give a place back: to who waits longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._heavy -= 1
