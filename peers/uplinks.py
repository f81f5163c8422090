"""The nameserver's ends of the uplinks: which edges can be asked right now, and asking them.

Owns the open WebSockets, one an edge (a newer one replaces an older), and the statements under way on each.

    close codes: 1001 the nameserver is stopping · 1007 garbage · 1008 more frames than credit, or not read in time
                 4001 replaced by a newer uplink · 4003 the edge was removed

Rules: asking is a context: leaving it cancels on the edge whatever has not ended. A lost uplink ends every statement
under way on it with :class:`UplinkLost`. Nudges leave at a bounded rate.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import WSMsgType

from federation.names import PeerId
from peers.asked import AskedFrames, Overrun, UplinkLost
from peers.running import Stopping
from peers.uplink_messages import (
    ENCODER,
    STATEMENTS_MAX,
    UPWARD,
    CancelMessage,
    CreditMessage,
    FrameMessage,
    NudgeMessage,
    StatementMessage,
)
from query.errors import WorldProblem
from query.frames import Frame

if TYPE_CHECKING:
    from aiohttp import web  # a client's home routes by uplinks too, and serves nobody

NUDGES_PER_S: Final = 5000
SEND_TIMEOUT_S: Final = 10.0
FAREWELL_S: Final = 0.5  # for an edge to answer that its uplink ends

log = logging.getLogger("peerage.uplink")


class UplinkBusy(WorldProblem):
    """Too many statements are under way on one uplink."""

    code = "uplink_busy"


class Uplink:
    """One open WebSocket to an edge."""

    def __init__(self, socket: web.WebSocketResponse, *, send_timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._socket = socket
        self._send_timeout_s = send_timeout_s
        self._ids = itertools.count(1)
        self._asked: dict[int, AskedFrames] = {}
        self._receiving: asyncio.Task[None] | None = None
        self._parting: tuple[int, bytes] | None = None  # code and reason
        self._ended = asyncio.Event()

    async def close(self, code: int, reason: bytes) -> None:
        """End it, telling the edge why; returns when it has ended."""
        self._part(code, reason)
        if self._receiving is not None:
            await self._ended.wait()

    def _part(self, code: int, reason: bytes) -> None:
        self._parting = self._parting or (code, reason)
        if self._receiving is not None:
            self._receiving.cancel()

    async def receive(self) -> None:
        """Hand arriving frames to their statements until the socket ends, or is closed from here."""
        self._receiving = asyncio.create_task(self._receive())
        if self._parting is not None:
            self._receiving.cancel()
        try:
            await asyncio.wait([self._receiving])
            if self._parting is None:
                await self._receiving
            else:  # here, where nothing else reads: the edge's own farewell is waited for
                await self._farewell(*self._parting)
        finally:
            self._receiving.cancel()
            self._ended.set()
            for frames in self._asked.values():
                frames.lose()

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                arrived = UPWARD.decode(message.data)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                log.warning("uplink_garbage", extra={"reason": str(error)})
                await self._farewell(1007, b"")
                return
            asked = self._asked.get(arrived.id)
            if asked is not None:
                try:
                    asked.put((arrived.frame,) if isinstance(arrived, FrameMessage) else arrived.frames)
                except Overrun:
                    log.warning("uplink_overrun", extra={"statement": arrived.id})
                    await self._farewell(1008, b"")
                    return

    async def _farewell(self, code: int, reason: bytes) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * FAREWELL_S):  # who does not read has no room for it
                await self._socket.close(code=code, message=reason)

    async def send(self, message: msgspec.Struct | bytes) -> None:
        """Raises :class:`UplinkLost` when the edge does not take it in time, and then the uplink ends: what it does not
        read would pile up here. Bytes are a message that is encoded.
        """
        encoded = message if isinstance(message, bytes) else ENCODER.encode(message)
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await self._socket.send_frame(encoded, WSMsgType.TEXT)
        except TimeoutError as error:
            log.warning("uplink_not_read")
            self._part(1008, b"not read in time")
            raise UplinkLost("the edge does not read its uplink") from error
        except ConnectionError as error:
            raise UplinkLost("the uplink ended") from error

    @asynccontextmanager
    async def ask(
        self, make: Callable[[int], StatementMessage | bytes], *, lasting: bool = False
    ) -> AsyncIterator[AsyncIterator[Frame]]:
        """``lasting``: what is left before its end goes on there."""
        if len(self._asked) >= STATEMENTS_MAX:
            raise UplinkBusy(f"{STATEMENTS_MAX} statements are under way on this edge's uplink")
        number = next(self._ids)
        frames = self._asked[number] = AskedFrames(lambda credit: self.send(CreditMessage(number, credit)))
        try:
            await self.send(make(number))
            yield frames
        finally:
            del self._asked[number]
            if not frames.ended and not lasting and self._parting is None and not self._socket.closed:
                try:
                    await asyncio.shield(self.send(CancelMessage(number)))
                except UplinkLost:
                    pass


def _unheard(uuid: PeerId) -> None:
    """Nobody waits for an uplink."""


class Uplinks:
    """All edges that can be asked now. ``opened`` is told each whose uplink begins."""

    def __init__(self) -> None:
        self.opened: Callable[[PeerId], None] = _unheard
        self._open: dict[PeerId, Uplink] = {}
        self._to_nudge: asyncio.Queue[PeerId] = asyncio.Queue()
        self._queued: set[PeerId] = set()
        self._stopping = False

    def require_open(self) -> None:
        """Raises :class:`~peers.running.Stopping` once :meth:`close` was called."""
        if self._stopping:
            raise Stopping("this nameserver is stopping")

    def connected(self, uuid: PeerId) -> bool:
        return uuid in self._open

    def all_connected(self) -> tuple[PeerId, ...]:
        return tuple(self._open)

    def uplink(self, uuid: PeerId) -> Uplink | None:
        return self._open.get(uuid)

    async def serve(self, uuid: PeerId, socket: web.WebSocketResponse) -> None:
        """Hold one edge's uplink until it ends."""
        uplink = Uplink(socket)
        older = self._open.get(uuid)
        self._open[uuid] = uplink
        try:
            if older is not None:
                await older.close(4001, b"replaced by a newer uplink")
            self.opened(uuid)
            await uplink.receive()
        finally:
            if self._open.get(uuid) is uplink:
                del self._open[uuid]

    async def drop(self, uuid: PeerId) -> None:
        """End the uplink of an edge that was removed or left INTERACTIVE."""
        uplink = self._open.get(uuid)
        if uplink is not None:
            await uplink.close(4003, b"no longer wanted")

    async def close(self) -> None:
        """End them all, and take no more."""
        self._stopping = True
        closing = (uplink.close(1001, b"the nameserver is stopping") for uplink in self._open.values())
        await asyncio.gather(*closing)

    def nudge(self, uuid: PeerId) -> None:
        """Ask for a poll soon; several before it leaves are one."""
        if uuid in self._open and uuid not in self._queued:
            self._queued.add(uuid)
            self._to_nudge.put_nowait(uuid)

    async def pace_nudges(self) -> None:
        """Send the nudges, at most :data:`NUDGES_PER_S` a second. Runs until cancelled."""
        while True:
            uuid = await self._to_nudge.get()
            self._queued.discard(uuid)
            uplink = self._open.get(uuid)
            if uplink is not None:
                try:
                    await uplink.send(NudgeMessage())
                except UplinkLost:
                    continue
            await asyncio.sleep(1 / NUDGES_PER_S)
