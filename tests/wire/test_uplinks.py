"""Both ends of an uplink over loopback: credit, cancelling, replacement, loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from federation.names import PeerId
from peers.answering import Frames
from peers.asked import UplinkLost
from peers.federation_client import FederationClient, Unreachable
from peers.uplink_client import UplinkClient
from peers.uplink_messages import CREDIT_FRAMES, StatementMessage
from peers.uplinks import Uplink, Uplinks
from query.frames import EndFrame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State

EDGE = PeerId("11111111-0000-0000-0000-000000000001")


class Counting:
    """An executor that gives ``rows`` numbers; says when one of its statements was stopped."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.given = 0
        self.stopped = asyncio.Event()

    async def carry(self, message: StatementMessage, frames: Frames) -> None:
        try:
            await frames.put(SchemaFrame(message.index, ()))
            for number in range(self.rows):
                self.given = number + 1
                await frames.put(RowFrame(message.index, (number,)))
            ledger = Ledger((Outcome("E1", State.ROWS, rows=self.rows),))
            await frames.put(EndFrame(message.index, ledger, self.rows, 1.0))
        finally:
            self.stopped.set()


class PlainClient(FederationClient):
    """The client without TLS, for loopback tests of what travels inside."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._plain: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def uplink(self) -> AsyncIterator[Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{self._port}/v1/uplink") as socket,
        ):
            yield socket


@asynccontextmanager
async def linked(executor: Counting) -> AsyncIterator[tuple[Uplinks, asyncio.Event]]:
    uplinks = Uplinks()
    up, nudged = asyncio.Event(), asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        up.set()
        await uplinks.serve(EDGE, socket)
        return socket

    application = web.Application()
    application.router.add_get("/v1/uplink", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = UplinkClient(PlainClient(port), executor, on_nudge=nudged.set, pause=lambda _: 0.0, sooner=asyncio.Event())
    holding = asyncio.create_task(client.hold())
    await up.wait()
    await nudged.wait()
    nudged.clear()
    try:
        yield uplinks, nudged
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        await runner.cleanup()


def statement(number: int) -> StatementMessage:
    return StatementMessage(id=number, body=b"{}", index=0, time_left_s=10.0)


def gathering(number: int) -> StatementMessage:
    return StatementMessage(id=number, body=b"{}", index=0, time_left_s=10.0, gathers=True)


BOTH = pytest.mark.parametrize("asked", [statement, gathering])
Asked = Callable[[int], StatementMessage]


@BOTH
async def test_more_rows_than_credit_arrive_in_order(asked: Asked) -> None:
    executor = Counting(rows=3 * CREDIT_FRAMES)
    async with linked(executor) as (uplinks, _):
        uplink = uplinks.uplink(EDGE)
        assert uplink is not None
        async with uplink.ask(asked) as frames:
            got = [frame async for frame in frames]
    assert [frame.values[0] for frame in got if isinstance(frame, RowFrame)] == list(range(3 * CREDIT_FRAMES))
    assert isinstance(got[-1], EndFrame)


@BOTH
async def test_a_reader_that_takes_nothing_stops_the_edge_at_its_credit(asked: Asked) -> None:
    executor = Counting(rows=100_000)
    async with linked(executor) as (uplinks, _):
        uplink = uplinks.uplink(EDGE)
        assert uplink is not None
        async with uplink.ask(asked) as frames, uplink.ask(asked) as second:
            await anext(frames)
            await anext(second)  # the uplink itself is not blocked
        await executor.stopped.wait()  # leaving the block cancelled it
    assert executor.given <= CREDIT_FRAMES + 1


@BOTH
async def test_a_lost_uplink_ends_what_was_asked(asked: Asked) -> None:
    executor = Counting(rows=100_000)
    async with linked(executor) as (uplinks, _):
        uplink = uplinks.uplink(EDGE)
        assert uplink is not None
        async with uplink.ask(asked) as frames:
            await anext(frames)
            await uplinks.drop(EDGE)
            with pytest.raises(UplinkLost):
                async for _frame in frames:
                    pass


async def test_a_nudge_arrives() -> None:
    async with linked(Counting(rows=1)) as (uplinks, nudged):
        pacing = asyncio.create_task(uplinks.pace_nudges())
        uplinks.nudge(EDGE)
        uplinks.nudge(EDGE)
        await nudged.wait()
        pacing.cancel()
        await asyncio.gather(pacing, return_exceptions=True)


class Late(FederationClient):
    """A client whose nameserver is not there at first."""

    def __init__(self) -> None:
        self.tries = 0
        self.back = asyncio.Event()

    @asynccontextmanager
    async def uplink(self) -> AsyncIterator[Any]:
        self.tries += 1
        if self.tries == 1:
            raise Unreachable("nobody is there")
        self.back.set()
        await asyncio.Event().wait()
        yield


async def test_a_long_pause_ends_when_the_nameserver_answers_a_poll() -> None:
    late, paused, sooner = Late(), asyncio.Event(), asyncio.Event()

    def pause(_: int) -> float:
        paused.set()
        return 3600.0

    holding = asyncio.create_task(
        UplinkClient(late, Counting(0), on_nudge=paused.set, pause=pause, sooner=sooner).hold()
    )
    await paused.wait()
    assert late.tries == 1
    sooner.set()
    await late.back.wait()
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


class Unread:
    """A WebSocket whose other end reads nothing and says nothing."""

    closed = False
    code = 0

    def __aiter__(self) -> Unread:
        return self

    async def __anext__(self) -> Any:
        await asyncio.Event().wait()

    async def send_frame(self, message: bytes, opcode: Any) -> None:
        await asyncio.Event().wait()

    async def close(self, *, code: int, message: bytes) -> None:
        self.code = code
        await asyncio.Event().wait()


async def test_an_edge_that_does_not_read_is_an_edge_without_an_uplink() -> None:
    """What is sent to it would pile up, and every wide statement would wait for it."""
    socket: Any = Unread()
    uplink = Uplink(socket, send_timeout_s=0.05)
    serving = asyncio.create_task(uplink.receive())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(UplinkLost, match="does not read"):
            async with uplink.ask(lambda number: b"{}"):
                raise AssertionError
        await serving
    assert socket.code == 1008
