"""How peers stop: statements tell their ledgers, nothing new begins, uplinks end with a word."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from peers.edge_parts import home_context
from peers.local_parts import opened_client
from peers.running import RunningQueries, Stopping
from query.declarations import Caller, Role
from query.errors import UnknownName
from query.ledger import State
from tests.wire.living import living

pytestmark = pytest.mark.timeout(60)

ADA = Caller("ada", Role.OPERATOR)
ENDLESS = "count(select a from a in range(1, 30000), b in range(1, 30000) where a = b)"


async def test_what_runs_is_cancelled_and_nothing_begins_any_more() -> None:
    running = RunningQueries()
    entry = running.begin("q-1", caller=ADA, text="1", now=0.0)
    told = asyncio.Event()

    async def statement() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert entry.cancelled
            told.set()

    entry.task = asyncio.create_task(statement())  # not begun when the peer stops
    entry.task.add_done_callback(lambda _: running.end("q-1"))
    await running.stop(within_s=10.0)
    assert told.is_set()
    assert running.all() == ()
    with pytest.raises(Stopping):
        running.begin("q-2", caller=ADA, text="1", now=0.0)


@pytest.mark.parametrize(("caller", "told"), [(ADA, True), (Caller("bob", Role.VIEWER), False)])
async def test_a_slip_tells_nobody_of_queries_of_others(caller: Caller, told: bool) -> None:
    running = RunningQueries()
    running.begin("q-0123456789ab", caller=Caller("ann", Role.VIEWER), text="1", now=0.0)
    with pytest.raises(UnknownName) as raised:
        running.cancel("q-0123456789ac", caller=caller)
    assert ("q-0123456789ab" in raised.value.message) == told


async def test_a_statement_that_does_not_end_holds_no_peer_back() -> None:
    running = RunningQueries()
    running.begin("q-1", caller=ADA, text="1", now=0.0)
    await running.stop(within_s=0.0)
    assert len(running.all()) == 1


@pytest.mark.parametrize(("home", "peer"), [("ns", "nameserver"), ("E1", "E1")])
async def test_a_peer_that_stops_tells_the_ledger_of_what_ran_there(tmp_path: Path, home: str, peer: str) -> None:
    async with living(tmp_path, "E1") as federation:
        await federation.until('edge:listening("E1")', wanted=True)
        asking = asyncio.create_task(federation.ask(f"//peer: {peer}\n{ENDLESS}"))
        await federation.until("count(query:list())", 2, home=home)  # this one and the endless one
        await federation.stop(home)
        (outcome,) = (await asking).ledgers[0].outcomes
        assert (outcome.peer, outcome.state) == (peer.upper(), State.CANCELLED)


async def test_an_edge_is_told_why_its_uplink_ends_and_that_there_is_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "peerage.uplink")
    async with living(tmp_path, "E1") as federation:
        await federation.until('edge:listening("E1")', wanted=True)
        await federation.stop("ns")
        closed = [record for record in caplog.records if record.message == "uplink_closed"]
        assert [getattr(record, "close_code", None) for record in closed] == [1001]


async def test_a_renewed_certificate_does_not_cut_what_is_under_way(tmp_path: Path) -> None:
    async with living(tmp_path, "E1") as federation:
        await federation.stop("E1")
        client = opened_client(federation.home("E1"), None, clock=time.time)
        async with client, client.uplink() as socket:
            await client.use_context(home_context(federation.home("E1")))
            async with client.request("GET", "/v1/whoami") as response:
                assert (await response.json())["name"] == "E1"
            assert not socket.closed
