"""The edge's end of its uplink: keep it open while INTERACTIVE, run what comes down it, send frames up.

Rules: a statement runs in a task of its own, stops when it is cancelled, when its time is up, or when the uplink
ends; at most ``STATEMENTS_MAX`` run at once; frames wait for credit, so that one slow reader stops one statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import aiohttp
import msgspec

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

    def carried(self, message: StatementMessage) -> AsyncIterator[Frame]: ...


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
        running: dict[int, tuple[asyncio.Task[None], asyncio.Semaphore]] = {}
        async with asyncio.TaskGroup() as tasks:
            try:
                async for message in socket:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        continue
                    match DOWNWARD.decode(message.data):
                        case StatementMessage() as statement if len(running) < STATEMENTS_MAX:
                            credit = asyncio.Semaphore(CREDIT_FRAMES)
                            task = tasks.create_task(self._run(socket, statement, credit))
                            running[statement.id] = (task, credit)
                            task.add_done_callback(partial(_forget, running, statement.id))
                        case CreditMessage(id=number, frames=frames) if number in running:
                            for _ in range(min(frames, CREDIT_FRAMES)):
                                running[number][1].release()
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

    async def _run(
        self, socket: aiohttp.ClientWebSocketResponse, message: StatementMessage, credit: asyncio.Semaphore
    ) -> None:
        async def send(frames: list[Frame]) -> None:
            for encoded in upward(message.id, frames):
                await socket.send_frame(encoded, aiohttp.WSMsgType.TEXT)

        try:
            async with Bunches(send, items_max=FRAMES_AT_ONCE_MAX if message.gathers else 1) as bunches:
                async for frame in self._executor.carried(message):
                    await credit.acquire()
                    await bunches.add(frame, last=isinstance(frame, EndFrame))
        except ConnectionError as error:
            log.info("uplink_lost", extra={"reason": str(error)})


def _forget(running: dict[int, Any], number: int, _: asyncio.Task[None]) -> None:
    running.pop(number, None)
