"""The edge's end of its uplink: keep it open while INTERACTIVE, run what comes down it, send frames up.

Rules: a statement runs in a task of its own, stops when it is cancelled, when its time is up, or when the uplink
ends; at most ``STATEMENTS_MAX`` run at once; frames wait for credit, so that one slow reader stops one statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import aiohttp
import msgspec

from peers.answering import Frames
from peers.bunches import Bunches
from peers.federation_client import FederationClient
from peers.uplink_messages import (
    CREDIT_FRAMES,
    DOWNWARD,
    FRAMES_AT_ONCE_MAX,
    STATEMENTS_MAX,
    CancelMessage,
    CreditMessage,
    DoneMessage,
    NudgeMessage,
    StatementMessage,
    upward,
)
from query.errors import Problem
from query.frames import EndFrame, Frame

log = logging.getLogger("peerage.uplink")


class Executor(Protocol):
    """What runs a statement that another peer carried here."""

    async def carry(self, message: StatementMessage, frames: Frames, /) -> None: ...


def _nothing_waits(errand: str) -> None:
    """This peer takes no statements that wait."""


class UplinkClient:
    """Use :meth:`hold` as one task of the edge."""

    def __init__(
        self,
        client: FederationClient,
        executor: Executor,
        *,
        on_nudge: Callable[[], None],
        pause: Callable[[int], float],
        sooner: asyncio.Event,
        on_done: Callable[[str], None] = _nothing_waits,
    ) -> None:
        """``pause(attempt)`` gives the seconds to wait before the next attempt, jittered. ``on_done``: the nameserver
        wants an errand no more.

        ``sooner`` ends a pause: it is set when the nameserver has answered something else. Polls are jittered
        themselves, so that uplinks which follow them come back no more at once than they.
        """
        self._client = client
        self._executor = executor
        self._on_nudge = on_nudge
        self._on_done = on_done
        self._pause = pause
        self._sooner = sooner
        self._connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def hold(self) -> None:
        """Connect, serve, connect again, until cancelled."""
        attempt = 0
        while True:
            self._sooner.clear()
            try:
                async with self._client.uplink() as socket:
                    attempt = 0
                    self._connected.set()
                    log.info("uplink_open")
                    self._on_nudge()  # whatever changed while there was no uplink
                    await self._serve(socket)
                    log.info("uplink_closed", extra={"close_code": socket.close_code})
            except Problem as problem:
                log.info("uplink_failed", extra={"code": problem.code, "reason": problem.message})
            finally:
                if self._connected.is_set():
                    self._connected.clear()
                    self._sooner.clear()  # what was answered while the uplink was open says nothing
            attempt += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause(attempt)):
                    await self._sooner.wait()

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        running: dict[int, tuple[asyncio.Task[None], _Outward]] = {}
        async with asyncio.TaskGroup() as tasks:
            try:
                async for message in socket:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        continue
                    match DOWNWARD.decode(message.data):
                        case StatementMessage() as statement if len(running) < STATEMENTS_MAX:
                            outward = _Outward(socket, statement)
                            task = tasks.create_task(self._run(statement, outward))
                            running[statement.id] = (task, outward)
                            task.add_done_callback(partial(_forget, running, statement.id))
                        case CreditMessage(id=number, frames=frames) if number in running:
                            running[number][1].give(frames)
                        case CancelMessage(id=number) if number in running:
                            running[number][0].cancel()
                        case NudgeMessage():
                            self._on_nudge()
                        case DoneMessage(errand=errand):
                            self._on_done(errand)
                        case _:
                            pass
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                log.warning("uplink_garbage", extra={"reason": str(error)})
                await socket.close(code=1007)
            finally:
                for task, _ in tuple(running.values()):
                    task.cancel()

    async def _run(self, message: StatementMessage, outward: _Outward) -> None:
        try:
            async with outward.bunches:
                await self._executor.carry(message, outward)
        except ConnectionError as error:
            log.info("uplink_lost", extra={"reason": str(error)})


class _Outward:
    """Where a statement's frames go: up the uplink, as far as its credit reaches."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, message: StatementMessage) -> None:
        self._socket = socket
        self._id = message.id
        self._credit = CREDIT_FRAMES
        self._more = asyncio.Event()
        self.bunches: Bunches[Frame] = Bunches(self._send, items_max=FRAMES_AT_ONCE_MAX if message.gathers else 1)

    def give(self, frames: int) -> None:
        """More credit, of which there is never more than at the beginning."""
        self._credit = min(self._credit + frames, CREDIT_FRAMES)
        self._more.set()

    async def put(self, item: Frame, /) -> None:
        while not self._credit:
            self._more.clear()
            await self._more.wait()
        self._credit -= 1
        await self.bunches.add(item, last=isinstance(item, EndFrame))

    def put_nowait(self, item: Frame, /) -> None:
        """Raises :class:`asyncio.QueueFull` where it would have to wait."""
        if not self._credit:
            raise asyncio.QueueFull
        self.bunches.add_nowait(item)
        self._credit -= 1

    async def _send(self, frames: list[Frame]) -> None:
        for encoded in upward(self._id, frames):
            await self._socket.send_frame(encoded, aiohttp.WSMsgType.TEXT)


def _forget(running: dict[int, Any], number: int, _: asyncio.Task[None]) -> None:
    running.pop(number, None)
