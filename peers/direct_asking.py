"""Asking another peer without the nameserver between, where its address is known; else as before.

    address known, introduction good → dial → the certificate is of who was meant → the statement, signed → its frames

Owns the way to one peer. Refuses to dial where the mode forbids it. Rules: only a statement for one peer that is named
goes directly; what is for several, for a group or for the nameserver, or waits, goes by the nameserver, which knows
whom it means and merges what they answer. Who answers must hold the key of its introduction before anything is sent.
What certainly did not run there — nobody answered, or it was refused for the director's word — is asked again by the
nameserver; what may have run is not. The ledger says ``direct``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NoReturn

import msgspec

from federation.documents import encode
from federation.errors import EnvelopeExpired, NonceReused, UnknownKey
from federation.introductions import Introduced
from federation.names import fold, shown
from peers.answering import Answering
from peers.direct_connections import AnswerLost, DirectConnections, NotReached
from peers.direct_face import DIRECT_BYTES_MAX, DirectStatement
from peers.elsewhere import Identity, alone, merge, placed
from peers.federation_client import BadAnswer
from peers.foreign_answers import ForeignAnswer
from peers.introductions import Introductions
from peers.statements import Elsewhere, Errand, RunHere
from query.errors import DeadlinePassed, ErrorRecord, Problem
from query.frames import EndFrame, ErrorFrame, Frame, SchemaFrame
from query.ledger import Outcome, State
from query.placement import Peers, Placement, Route

DIRECT: Final = "direct"
LEDGER_S: Final = 2.0  # past a statement's time, for the other peer to say that it is up
NOT_TAKEN: Final = frozenset({UnknownKey.code, EnvelopeExpired.code})  # refusals for which the director's word is stale
_REFUSALS: Final = NOT_TAKEN | {NonceReused.code}

log = logging.getLogger("peerage.direct")


class DirectFirst:
    """An :class:`~peers.statements.Elsewhere` in front of another one."""

    def __init__(
        self,
        upward: Elsewhere,
        *,
        identity: Identity,
        addresses: Callable[[str], Sequence[str]],
        introductions: Introductions,
        connections: DirectConnections,
        may_dial: Callable[[], None],
    ) -> None:
        """``addresses(name)``: where a peer listens for others, as far as is known. ``may_dial`` raises why not."""
        self._upward = upward
        self._identity = identity
        self._addresses = addresses
        self._introductions = introductions
        self._connections = connections
        self._may_dial = may_dial

    def place(self, route: Route) -> Placement:
        return self._upward.place(route)

    def way(self, route: Route) -> str | None:
        """How a statement would go from here, in words; None when the nameserver would be asked."""
        name = self._neighbour(route)
        if name is None:
            return None
        held = self._introductions.held(name) is not None
        until = "" if held else ", once the nameserver has introduced them"
        return f"{shown(name)} directly, at {' or '.join(self._addresses(name))}{until}"

    async def ask(self, errand: Errand, answering: Answering, *, here: RunHere) -> None:
        name = self._neighbour(errand.route)
        failed: Problem | None = None
        if name is not None and errand.statement.directives.wait_s is None:
            try:
                await self._ask(name, errand, answering)
                return
            except NotReached as problem:
                failed = problem
                log.info("not_reached_directly", extra={"peer_name": name, "reason": problem.message})
        await self._upward.ask(errand, answering, here=here)
        if failed is not None and not answering.relayed:  # neither way led there
            await answering.error(failed.record())

    def _neighbour(self, route: Route) -> str | None:
        """The one peer that a route names, when its address is known and was not silent a moment ago."""
        match route.target:
            case Peers(names=(name,)) if fold(name) not in ("nameserver", fold(self._identity.name)):
                return name if self._connections.to_try(self._addresses(name)) else None
            case _:
                return None

    async def _ask(self, name: str, errand: Errand, answering: Answering) -> None:
        """Give the peer's answer. Raises :class:`NotReached` when nothing ran there."""
        try:
            async with asyncio.timeout(errand.time_left_s + LEDGER_S):
                introduced = await self._introduced(name)
                asked = self._signed(introduced, errand)
                await self._relayed(name, introduced, asked, errand, answering)
        except TimeoutError:
            if answering.open:
                late = DeadlinePassed(f"{shown(name)} did not answer in time")
                await self._broke_off(answering, late, State.TIMEOUT)
        except BadAnswer as problem:
            await self._broke_off(answering, problem, State.ERROR, problem.code)
        except AnswerLost as problem:
            lost = datetime.now(UTC).isoformat(timespec="seconds")
            await self._broke_off(answering, problem, State.UNREACHABLE, lost)

    async def _broke_off(self, answering: Answering, problem: Problem, state: State, detail: str | None = None) -> None:
        (peer,) = answering.open
        await answering.error(problem.record(peer=peer))
        answering.settle(Outcome(peer, state, detail, way=DIRECT))

    async def _introduced(self, name: str) -> Introduced:
        try:
            self._may_dial()
            return await self._introductions.obtain(name)
        except Problem as problem:
            raise NotReached(f"{shown(name)} and this peer are not introduced: {problem.message}") from problem

    def _signed(self, introduced: Introduced, errand: Errand) -> bytes:
        body = alone(errand)
        envelope = self._identity.seal(body, lifetime_s=errand.time_left_s + 60.0)
        left_s = max(0.001, errand.time_left_s)
        asked = encode(DirectStatement(body, left_s, envelope, introduced.introduction.own))
        if len(asked) > DIRECT_BYTES_MAX:
            raise NotReached(f"a statement of {len(asked)} bytes, and a peer takes at most {DIRECT_BYTES_MAX} directly")
        return asked

    async def _relayed(
        self, name: str, introduced: Introduced, asked: bytes, errand: Errand, answering: Answering
    ) -> None:
        schema: Frame | None = None
        given = ForeignAnswer(name)
        async with self._connections.ask(name, introduced, self._addresses(name), asked) as brought:
            async for arrived in brought.frames:
                match frame := given.taken(arrived):
                    case SchemaFrame(columns=()) if schema is None:
                        schema = frame  # a refusal begins so
                        continue
                    case ErrorFrame(error=error) if schema is not None and error.code in _REFUSALS:
                        self._refused(name, error, again=brought.again)
                    case EndFrame():
                        frame = _by_this_way(frame)
                if schema is not None:
                    await merge(schema, answering, name)
                    schema = None
                await merge(placed(frame, errand.statement), answering, name)
                if isinstance(frame, EndFrame):
                    return
        raise AnswerLost(f"the connection to {shown(name)} ended before its answer did")

    def _refused(self, name: str, error: ErrorRecord, *, again: bool) -> NoReturn:
        """``again``: these bytes were brought before on a connection that was lost, and may have run then."""
        if error.code in NOT_TAKEN:
            self._introductions.forget(name)
        if again or error.code == NonceReused.code:
            raise AnswerLost(f"{shown(name)} took it on a connection that was lost")
        raise NotReached(f"{shown(name)} refused the introduction: {error.message}")


def _by_this_way(end: EndFrame) -> EndFrame:
    outcomes = tuple(msgspec.structs.replace(outcome, way=DIRECT) for outcome in end.ledger.outcomes)
    return msgspec.structs.replace(end, ledger=msgspec.structs.replace(end.ledger, outcomes=outcomes))
