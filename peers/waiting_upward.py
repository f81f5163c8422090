"""Asking the nameserver for what waits, from any other peer: following its answer over restarts of either side.

Owns one statement's following. Rules: the request and its envelope are made once; sent again, they are the same
statement to the nameserver, which gives its answer from the beginning, in the same order, and what was passed on is
passed over. What breaks off before the nameserver has said that it keeps the statement is tried again for
some seconds, after that until the wait is over. Leaving stops nothing; only who cancels it does, and then the
nameserver is told.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Protocol

from federation.documents import SignedDocument
from peers.answering import Answering
from peers.backoff import Backoff
from peers.federation_client import BadAnswer, FederationClient, Unreachable
from peers.requests import StatementRequest, encode_request
from peers.running import Stopping
from peers.statements import Errand
from query.errors import DeadlinePassed, Problem
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame

SILENCE_S_MAX: Final = 60.0  # the nameserver gives a sign of life more often
LATE_S: Final = 30.0  # that an answer may come after the wait
UNKNOWN_S_MAX: Final = 10.0  # of trying again while it is not known whether the nameserver keeps the statement
PAUSE_BASE_S: Final = 0.5
PAUSE_CAP_S: Final = 15.0
CANCEL_S_MAX: Final = 1.5  # for the nameserver to say how a cancelled statement stands


class Seal(Protocol):
    """Signs a request with this home's identity."""

    def __call__(self, body: bytes, *, lifetime_s: float, waits: bool = False) -> SignedDocument: ...


class Patience:
    """Follow one statement that waits with :meth:`ask`."""

    def __init__(self, client: FederationClient, seal: Seal, *, wait_s: float) -> None:
        self._client = client
        self._seal = seal
        self._wait_s = wait_s
        self._statement = ""  # its id, once the nameserver keeps it
        self._rows = 0
        self._errors = 0
        self._backoff = Backoff(random.Random().random, base_s=PAUSE_BASE_S, cap_s=PAUSE_CAP_S)  # noqa: S311 — jitter
        self._known = asyncio.Event()
        self._sooner = asyncio.Event()  # ends a pause: there is something to be read

    async def ask(self, errand: Errand, body: bytes, answering: Answering, frames_of: Frames) -> None:
        """Raises what came before the nameserver kept the statement, and :class:`DeadlinePassed` after the wait."""
        lifetime_s = self._wait_s + errand.time_left_s + LATE_S
        await self._client.hear_the_time()
        envelope = self._seal(body, lifetime_s=lifetime_s + LATE_S, waits=True)
        following = asyncio.create_task(self._follow(body, envelope, answering, frames_of, lifetime_s))
        try:
            await asyncio.wait([following])
            following.result()
        except asyncio.CancelledError:
            if errand.stopped():
                with suppress(TimeoutError, Problem):
                    async with asyncio.timeout(CANCEL_S_MAX):
                        await self._known.wait()
                        await self._cancel()
                        self._sooner.set()
                        await asyncio.wait([following])
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(
        self, body: bytes, envelope: SignedDocument, answering: Answering, frames_of: Frames, lifetime_s: float
    ) -> None:
        began = time.monotonic()
        ends = began + lifetime_s
        while not answering.relayed:
            try:
                async with self._client.query(body, envelope=envelope) as frames:
                    await self._read(frames_of(frames), answering)
            except (Unreachable, BadAnswer, Stopping, TimeoutError) as broken:
                left_s = ends - time.monotonic()
                if not self._statement and time.monotonic() - began > UNKNOWN_S_MAX:
                    raise Unreachable(
                        "the nameserver broke off before it said whether it keeps the statement",
                        hint="query:list() shows it if it does",
                    ) from broken
                if left_s <= 0:
                    raise DeadlinePassed(
                        "the wait is over, and the nameserver does not answer",
                        hint=f'ask it later: query:results("{self._statement}")',
                    ) from broken
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, self._backoff.failed())):
                        await self._sooner.wait()
                self._sooner.clear()

    async def _read(self, frames: AsyncIterator[Frame], answering: Answering) -> None:
        """Pass on what is new. Raises :class:`Stopping` when the nameserver goes, :class:`BadAnswer` for no end."""
        rows = errors = 0
        while True:
            async with asyncio.timeout(SILENCE_S_MAX):
                frame = await anext(frames, None)
            match frame:
                case None:
                    raise BadAnswer("the nameserver's answer ended before its ledger")
                case ProgressFrame(query=query) if query:
                    self._statement = query
                    self._known.set()
                    self._backoff.succeeded()
                case ErrorFrame(error=error) if error.code == Stopping.code:
                    raise Stopping(error.message)
                case RowFrame():
                    rows += 1
                    if rows <= self._rows:
                        continue
                    self._rows = rows
                case ErrorFrame():
                    errors += 1
                    if errors <= self._errors:
                        continue
                    self._errors = errors
                case _:
                    pass
            await answering.relay(frame)
            if isinstance(frame, EndFrame):
                return

    async def _cancel(self) -> None:
        text = f"//peer: nameserver\nquery:cancel({json.dumps(self._statement)})"
        body = encode_request(StatementRequest(text=text, timeout=CANCEL_S_MAX))
        async with self._client.query(body, envelope=self._seal(body, lifetime_s=LATE_S)) as frames:
            async for _ in frames:
                pass


class Frames(Protocol):
    """What is done to the frames of an answer before they are passed on."""

    def __call__(self, frames: AsyncIterator[Frame]) -> AsyncIterator[Frame]: ...
