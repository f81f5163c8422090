"""An edge that gives what no honest one gives: its own state is told, and nobody else's answer changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from peers.local_parts import opened_client
from peers.uplink_client import UplinkClient
from peers.uplink_messages import StatementMessage
from query.errors import ErrorRecord
from query.frames import Column, EndFrame, ErrorFrame, Frame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State
from tests.wire.living import Living, living

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SCHEMA = SchemaFrame(0, (Column("this_peer", "String"),))
ROW = RowFrame(0, ("ODD",))


def end(*outcomes: Outcome) -> EndFrame:
    return EndFrame(0, Ledger(outcomes), 1, 0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """``good`` is an edge; the uplink of ``odd`` is held by the tests."""
    async with living(Path(tmp_path_factory.mktemp("hostile")), "good", "odd") as made:
        await made.stop("odd")
        yield made


class Giving:
    """Gives the same frames to whatever it is asked."""

    def __init__(self, *frames: Frame) -> None:
        self._frames = frames

    async def carry(self, message: StatementMessage, frames: Any, /) -> None:
        for frame in self._frames:
            await frames.put(frame)


@asynccontextmanager
async def odd_edge(federation: Living, *frames: Frame) -> AsyncIterator[None]:
    home = federation.home("odd")
    client = opened_client(home, None, clock=time.time)
    uplink = UplinkClient(client, Giving(*frames), on_nudge=lambda: None, pause=lambda _: 0.05, sooner=asyncio.Event())
    holding = asyncio.create_task(uplink.hold())
    try:
        async with asyncio.timeout(20):
            while not uplink.connected:  # noqa: ASYNC110 — a real uplink is polled, bounded above
                await asyncio.sleep(0.01)
        yield
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await client.close()


BAD = [
    (SCHEMA, ROW, end()),
    (ROW, SCHEMA, end(Outcome("ODD", State.ROWS))),
    (SCHEMA, SCHEMA),
    (SCHEMA, RowFrame(0, ())),
    (SCHEMA, RowFrame(0, (1, 2, 3))),
    (SCHEMA, ROW, end(Outcome("ODD", State.ROWS), Outcome("GOOD", State.ERROR))),
    (SCHEMA, RowFrame(0, ({"$what": 1},))),
]


@pytest.mark.parametrize("frames", BAD)
async def test_what_is_no_answer_is_an_error_of_who_gave_it(federation: Living, frames: tuple[Frame, ...]) -> None:
    async with odd_edge(federation, *frames):
        answer = await federation.ask("//peer: good, odd\nthis_peer()")
        alone = await federation.ask("//peer: odd\nthis_peer()")
        merged = await federation.ask("//peer: good, odd\nselect count(this_peer())")
    assert [row.value for row in answer if row.peer == "GOOD"] == ["GOOD"]
    assert [str(outcome) for outcome in answer.ledgers[0].outcomes] == ["rows", "error(bad_answer)"]
    assert [problem.record().peer for problem in answer.errors] == ["ODD"]
    assert [str(outcome) for outcome in alone.ledgers[0].outcomes] == ["error(bad_answer)"]
    assert [row.value for row in merged] == [1]
    assert [outcome.state for outcome in merged.ledgers[0].outcomes] == [State.ROWS, State.ERROR]


async def test_rows_are_counted_and_not_believed(federation: Living) -> None:
    lie = Outcome("GOOD", State.EMPTY, "x" * 1000, rows=7, way="direct")
    async with odd_edge(federation, SCHEMA, ROW, ROW, end(lie)):
        answer = await federation.ask("//peer: good, odd\nthis_peer()")
    assert [row.peer for row in answer] == ["GOOD", "ODD", "ODD"] or [row.peer for row in answer][-1] == "GOOD"
    (told,) = (outcome for outcome in answer.ledgers[0].outcomes if outcome.peer == "ODD")
    assert (told.state, told.rows, told.way, len(told.detail or "")) == (State.ROWS, 2, "", 200)


async def test_a_peer_speaks_for_itself_alone(federation: Living) -> None:
    """Neither rows nor errors are another's because they say so."""
    error = ErrorFrame(0, ErrorRecord("made_up", "x", peer="GOOD"))
    async with odd_edge(federation, SCHEMA, RowFrame(0, (1,), "GOOD"), error, end(Outcome("ODD", State.ERROR))):
        answer = await federation.ask("//peer: good, odd\nthis_peer()")
    assert sorted((row.peer, row.value) for row in answer) == [("GOOD", "GOOD"), ("ODD", 1)]
    assert [problem.record().peer for problem in answer.errors] == ["ODD"]
