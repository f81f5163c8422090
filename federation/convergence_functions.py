"""Waiting until edges run what they should; at home on the nameserver.

Owns nothing: a call watches the log of changes and the log of reports for as long as it runs. Rules: the edges that are
waited for are fixed when the call begins; only what a change or a report touches is looked at again; others are served
between every :data:`LOOKED_AT_ONCE` edges.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from federation.convergence import Standing, edges_meant, gone, standing
from federation.events import Change
from federation.names import PeerId
from federation.polling import Director
from federation.presence import Presence, last_report
from query.declarations import Call, Example, Home, function
from query.errors import WrongArguments
from query.values import described

if TYPE_CHECKING:
    from federation.store import FederationStore

WAIT_S_MAX: Final = 24 * 3600.0
WHY_MAX: Final = 100  # edges that are told one by one
LOOKED_AT_ONCE: Final = 50


class ConvergenceFunctions:
    """Bind on the nameserver."""

    def __init__(self, store: FederationStore, director: Director, presence: Presence) -> None:
        self._store = store
        self._director = director
        self._presence = presence

    @function(
        "edge:converged(String edge_or_group, Number seconds?) -> Record",
        home=Home.NAMESERVER,
        example=(
            Example('edge:converged("MY-EDGE-1")'),
            Example('edge:converged("staging-area-edges", 2)'),
        ),
    )
    async def converged(self, call: Call, edge_or_group: str, seconds: float = 0.0) -> dict[str, Any]:
        """How many of the edges run what they should, and why the others do not.

        With ``seconds`` it waits so long, tells its progress, and ends as soon as all are ``converged`` or nothing is
        under way that could change it: ``failed`` edges do not try again by themselves, and of the ``waiting`` ones
        those that never joined or are AUTONOMOUS are not heard of. ``why`` has one record an edge, the first 100.
        To wait for more than a minute, give the statement the time: ``//timeout: 10min``.
        """
        if not 0 <= seconds <= WAIT_S_MAX:
            raise WrongArguments(f"edge:converged: expected 0 to {WAIT_S_MAX:.0f} seconds, found {described(seconds)}")
        meant = edges_meant(self._store.state, edge_or_group)
        loop = asyncio.get_running_loop()
        began, ends = loop.time(), loop.time() + seconds
        started = call.now.timestamp()
        with _Watch(self._store, meant) as watch:
            standings: dict[PeerId, Standing] = {}
            told = -1
            while True:
                for number, uuid in enumerate(watch.taken(), 1):
                    standings[uuid] = self._standing(uuid, standings.get(uuid), started + loop.time() - began)
                    if number % LOOKED_AT_ONCE == 0:
                        await asyncio.sleep(0)
                done = sum(one.status == "converged" for one in standings.values())
                if done != told:
                    told = done
                    call.progress(f"converged: {edge_or_group}", done, len(meant), "edges")
                    await asyncio.sleep(0)  # it is told before what follows from it
                if all(one.settled for one in standings.values()) or not await watch.changed(ends - loop.time()):
                    break
            for uuid in [uuid for uuid, one in standings.items() if one.status != "converged"][:WHY_MAX]:
                standings[uuid] = self._standing(uuid, standings[uuid], started + loop.time() - began)
        return _record(standings.values())

    def _standing(self, uuid: PeerId, before: Standing | None, now: float) -> Standing:
        state = self._store.state
        entry = state.entry(uuid)
        if entry is None:
            member = state.member(uuid)
            return gone(before.edge if before is not None else member.name if member is not None else uuid)
        actual, contact = last_report(self._store, self._presence, entry.member)
        desired = self._director.desired(uuid, now=now)
        return standing(state, entry.member, desired, actual, contact, now=now)


def _record(standings: Iterable[Standing]) -> dict[str, Any]:
    everybody = tuple(standings)
    counts = Counter(one.status for one in everybody)
    open_ones = sorted((one for one in everybody if one.status != "converged"), key=lambda one: one.status)
    return {
        "edges": len(everybody),
        "converged": counts["converged"],
        "waiting": counts["waiting"],
        "failed": counts["failed"],
        "why": [one.record() for one in open_ones[:WHY_MAX]],
    }


class _Watch:
    """Which of some edges have to be looked at: all at first, then those that a change or a report touches."""

    def __init__(self, store: FederationStore, meant: tuple[PeerId, ...]) -> None:
        self._store = store
        self._meant = dict.fromkeys(meant)
        self._open = dict.fromkeys(meant)
        self._changes_from: int | None = None
        self._happened = asyncio.Event()

    def __enter__(self) -> _Watch:
        self._ends = (self._store.subscribe(self._changed), self._store.reports.subscribe(self._reported))
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end()

    def taken(self) -> tuple[PeerId, ...]:
        """The edges to look at now, each once."""
        first, self._changes_from = self._changes_from, None
        if first is not None:
            state = self._store.state
            touched = (u for u in self._meant if state.entry(u) is None or state.generation(u) >= first)
            self._open.update(dict.fromkeys(touched))
        open_now = tuple(self._open)
        self._open.clear()
        self._happened.clear()
        return open_now

    async def changed(self, seconds: float) -> bool:
        """Wait until there is something to look at. False when the time is over before."""
        if seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        except TimeoutError:
            return False
        return True

    def _changed(self, changes: tuple[Change, ...]) -> None:
        if self._changes_from is None:
            self._changes_from = changes[0].seq
        self._happened.set()

    def _reported(self, edge: PeerId) -> None:
        if edge in self._meant:
            self._open[edge] = None
            self._happened.set()
