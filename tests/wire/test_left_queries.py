"""A query that is cancelled by its id while its reader leaves: it ends, however many frames nobody reads."""

import asyncio
from typing import Any

import pytest

from peers.catalogues import PeerCatalogue
from peers.requests import Origin, StatementRequest, encode_request
from peers.running import RunningQueries
from peers.statements import FRAMES_AHEAD_MAX, Statements
from query.declarations import Caller, Role
from query.placement import Placement, Route

ADMIN = Caller("admin", Role.ADMIN)


class Nowhere:
    """This peer knows no other."""

    def place(self, route: Route) -> Placement:
        return Placement(("E1",), route)

    def targets(self, route: Route) -> tuple[str, ...]:
        return ("E1",)

    def way(self, route: Route) -> None: ...

    async def ask(self, *_: Any, **__: Any) -> None:
        raise AssertionError("nothing goes elsewhere")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_it_ends_though_its_last_frames_find_no_room(cancelled_first: bool) -> None:
    catalogue = PeerCatalogue()
    catalogue.compose()
    running = RunningQueries()
    statements = Statements(
        name="E1",
        is_nameserver=False,
        catalogue=catalogue,
        elsewhere=Nowhere(),  # type: ignore[arg-type]
        running=running,
        federation_time=lambda: 0.0,
    )
    body = encode_request(StatementRequest(text=f"select x from x in range(1, {FRAMES_AHEAD_MAX * 10})"))
    frames = statements.run(body, origin=Origin(ADMIN, own=True), query="q-1")
    await anext(frames)
    await turns(1_000)  # the queue is full, and who writes waits
    if cancelled_first:
        running.cancel("q-1", caller=ADMIN)
        await turns(20)
    else:
        running.all()[0].cancelled = True  # as a peer that stops marks it, while the reader is leaving
    await frames.aclose()
    assert running.all() == ()
