"""Statements that another peer carried here: who signed them decides under which role they run.

Rules: with an envelope that holds, and nothing beside it that it does not cover, the signer's role, as the director
vouches for it; in every other case the carrier's own, which on an edge is ``viewer``. An envelope that does not hold
is refused with its class: it is never silently lowered. A director's key that is not known here may be a newer one: the
root record is followed before its word is refused. A statement that waits has an envelope that says so, and runs at
most once here, whoever brings it again: its answer is the one that is kept.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from federation.documents import RootRecord
from federation.envelopes import WAITING_LIFETIME_S_MAX, KnownWords, NonceMemory, Nonces, check, claimed, nonce_of
from federation.errors import NonceReused, UnknownKey, WrongDocument
from federation.names import shown
from peers.answering import Frames
from peers.errand_book import ErrandBook, ErrandKey
from peers.errands import Errands
from peers.failpoints import reach
from peers.frame_queues import frames_of
from peers.requests import StatementRequest, decode_request
from peers.statements import Statements
from peers.uplink_messages import StatementMessage
from peers.whole_frames import read_whole, whole_problem
from query.declarations import Caller, Role
from query.errors import Problem
from query.frames import EndFrame, ErrorFrame, Frame, SchemaFrame
from query.ledger import Ledger, Outcome, State
from query.values import decode_value


async def _nothing_newer() -> bool:
    return False


CARRIER = Caller(name="nameserver", role=Role.VIEWER)


@dataclass(frozen=True, slots=True)
class _Noting:
    """The edge's book as the memory of nonces: each is noted with the id that the nameserver asks for it by."""

    book: ErrandBook
    errand: str

    def use(self, nonce: str, *, caller: str, expires: float, now: float, issued: float) -> None:
        self.book.use(nonce, caller=caller, expires=expires, now=now, issued=issued, errand=self.errand)


class CarriedStatements:
    """The edge's executor of what comes down its uplink, or is fetched at a poll."""

    def __init__(
        self,
        *,
        name: str,
        federation: str,
        root: Callable[[], RootRecord],
        statements: Statements,
        federation_time: Callable[[], float],
        follow_root: Callable[[], Awaitable[bool]] = _nothing_newer,
        errands: Errands | None = None,
    ) -> None:
        """``follow_root`` takes up newer root records and says whether there were any. ``errands`` runs statements that
        wait; None takes none.
        """
        self._errands = errands
        self._name = name
        self._federation = federation
        self._root = root
        self._statements = statements
        self._now = federation_time
        self._follow_root = follow_root
        self._nonces = NonceMemory()
        self._known = KnownWords()
        self._began = time.monotonic()

    async def carried(self, message: StatementMessage) -> AsyncGenerator[Frame, None]:
        """The frames of the statement, for who takes them one by one."""
        async with aclosing(frames_of(partial(self.carry, message))) as frames:
            async for frame in frames:
                yield frame

    async def carry(self, message: StatementMessage, frames: Frames) -> None:
        """Run the statement in this task, its frames into ``frames``; a refusal is an answer too."""
        if message.errand:
            for frame in read_whole(await self.errand(message)):
                await frames.put(frame)
            return
        try:
            caller = await self._vouched(message, None)
            request = decode_request(message.body)
            variables = {name: decode_value(value) for name, value in message.variables.items()}
        except Problem as problem:
            await frames.put(SchemaFrame(message.index, ()))
            await frames.put(ErrorFrame(message.index, problem.record(peer=shown(self._name))))
            outcome = Outcome(shown(self._name), State.REFUSED, problem.code)
            await frames.put(EndFrame(message.index, Ledger((outcome,)), 0, 0.0))
            return
        await self._run(message, request, caller, variables, frames)

    async def errand(self, message: StatementMessage) -> bytes:
        """The whole answer of a statement that waits (:mod:`peers.whole_frames`): now, or when it was begun before."""
        try:
            if self._errands is None:
                raise WrongDocument("a statement that waits: this peer takes none")
            request = decode_request(message.body)
            variables = {name: decode_value(value) for name, value in message.variables.items()}
            key = _key(message)
            try:
                caller = await self._vouched(message, _Noting(self._errands.book, message.errand))
            except NonceReused:
                return await self._errands.answer(key, index=message.index)
        except Problem as problem:
            return whole_problem(problem, shown(self._name), index=message.index)
        reach("waits.noted")
        frames = frames_of(partial(self._run, message, request, caller, variables))
        self._errands.begin(key, frames, errand=message.errand, index=message.index)
        return await self._errands.answer(key, index=message.index)

    async def _run(
        self,
        message: StatementMessage,
        request: StatementRequest,
        caller: Caller,
        variables: dict[str, Any],
        frames: Frames,
    ) -> None:
        await self._statements.carry(
            request,
            message.index,
            frames,
            caller=caller,
            sender="nameserver",
            variables=variables,
            time_left_s=message.time_left_s,
            partial=message.partial,
        )

    async def _vouched(self, message: StatementMessage, noting: _Noting | None) -> Caller:
        try:
            return self._caller(message, noting)
        except UnknownKey:
            if not await self._follow_root():
                raise
        return self._caller(message, noting)

    def _caller(self, message: StatementMessage, noting: Nonces | None) -> Caller:
        if message.envelope is None or message.credential is None:
            if noting is not None:
                now = self._now()
                expires = min(message.until, now + WAITING_LIFETIME_S_MAX)
                noting.use(_key(message).nonce, caller=_key(message).caller, expires=expires, now=now, issued=now)
            return CARRIER
        # What this peer takes for federation time may have been corrected since it began.
        self._nonces.since = self._now() - (time.monotonic() - self._began)
        caller = check(
            message.envelope,
            message.credential,
            message.body,
            use=str(message.index),
            root=self._root(),
            federation=self._federation,
            now=self._now(),
            nonces=self._nonces,
            lasting=noting,
            known=self._known,
        )
        return CARRIER if message.variables else caller


def _key(message: StatementMessage) -> ErrandKey:
    """What a statement that waits is remembered by: its caller's own number, or the carrier's where nobody signed."""
    if message.envelope is None or message.credential is None:
        return ErrandKey("", message.errand)
    sealed = claimed(message.envelope)
    if not sealed.waits:
        raise WrongDocument("a statement that waits, under an envelope that does not: expected one that says so")
    return ErrandKey(sealed.caller, nonce_of(sealed, str(message.index)))
