"""An edge that does not run, for commands that change or read its state on disk.

Owns nothing beyond the open store. Refuses a home in which a process runs. What is kept here is acted on at the edge's
next start, as after a poll whose process was stopped at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from msgspec.structs import replace

from federation.documents import ActualState, HistoryEntry
from federation.layout import ImageLayout
from federation.names import Digest
from federation.verification import Cursor
from peers.device_mode import read_mode
from peers.edge_parts import HomeTrust, installed_in, trusted_root
from peers.edge_polling import Answer
from peers.edge_state import EdgeState
from peers.edge_store import EdgeStore
from peers.homes import Home, Membership
from peers.local_parts import built_in_properties, opened_engine
from peers.settings import EdgeSettings, read_settings


class StoppedEdge:
    """Open with :func:`stopped_edge`."""

    def __init__(self, home: Home, membership: Membership, store: EdgeStore, *, clock: Callable[[], float]) -> None:
        settings = read_settings(home, EdgeSettings, environment=os.environ, flags={})
        engine = opened_engine(EdgeSettings())
        try:
            runtime = engine.runtime_version
        finally:
            engine.close()
        self.membership = membership
        self.layout = ImageLayout(home.releases)
        self.trust = HomeTrust(home, trusted_root(home))
        self.store = store
        self._clock = clock
        self._offset_s = store.read().clock_offset_s or 0.0
        self._state = EdgeState(
            store,
            membership.uuid,
            runtime=runtime,
            trust=self.trust,
            properties=built_in_properties(site=settings.site),
            autonomous=read_mode(home) is not None,
        )
        self._state.restore(installed_in(self.layout))

    def now(self) -> float:
        """Federation time, as far as this device knows it."""
        return self._clock() + self._offset_s

    @property
    def cursor(self) -> Cursor | None:
        return self._state.cursor

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        return self._state.journal.entries

    def note(self, event: str, detail: str = "") -> None:
        self._state.journal.note(event, detail, now=self.now())

    @asynccontextmanager
    async def bringing(self) -> AsyncIterator[None]:
        yield  # the home's lock keeps everybody else away

    async def take(self, answer: Answer, *, carried: frozenset[Digest]) -> None:
        self._state.accept(answer, now=self.now(), carried=carried)

    async def look_again(self) -> None:
        self._state.become(replace(self._state.actual, installed=dict(installed_in(self.layout))))

    def actual_state(self) -> ActualState:
        """What it had in memory when it stopped."""
        told = self._state.reported()
        return replace(told, loaded=tuple(self._state.actual.saved().loaded.values()))


@contextmanager
def stopped_edge(home: Home, *, clock: Callable[[], float] = time.time) -> Iterator[StoppedEdge]:
    """The edge of a home that holds its lock meanwhile. Raises ``HomeInUse``, ``NotJoined``."""
    membership = home.membership()
    with home.occupy():
        store = EdgeStore.open(home.state_db)
        try:
            yield StoppedEdge(home, membership, store, clock=clock)
        finally:
            store.close()
