"""How a peer reaches the others: the nameserver fans out over its uplinks, every other peer asks the nameserver.

Both settle every target of an answer. What an edge that cannot be asked right now answers is told by its mode:
``refused(online, next poll in …)``, ``refused(autonomous)``, ``unreachable(last seen …)``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec

from federation.documents import SignedDocument
from federation.errors import UnknownKey, UnknownPeer
from federation.members import Member
from federation.names import PeerId, fold, shown
from peers.answering import Answering
from peers.asked import UplinkLost
from peers.asking_upward import AskedUpward
from peers.federation_client import BadAnswer, FederationClient, Unreachable, UntrustedNameserver
from peers.foreign_answers import ForeignAnswer
from peers.merging import Part
from peers.requests import StatementRequest, encode_request
from peers.statements import Errand, RunHere
from peers.turns import Turns
from peers.uplink_messages import SharedMessage, StatementMessage
from peers.uplinks import Uplink, Uplinks
from peers.waiting_upward import Patience
from query.errors import DeadlinePassed, Problem
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.ledger import Outcome, State
from query.placement import NAMESERVER, Directory, Here, Peers, Placement, Route, place
from query.syntax import Statement, shifted
from query.values import encode_value

ASKED_AT_ONCE_MAX = 256
WORDED_S = 0.05
ASKED_A_TURN = 16  # by all wide statements together, in one turn of the event loop: a small one goes between

log = logging.getLogger("peerage.query")


class Seal(Protocol):
    """Signs a request with this home's identity."""

    def __call__(self, body: bytes, *, lifetime_s: float, waits: bool = False) -> SignedDocument: ...


class Edges(Protocol):
    """What the nameserver knows of a peer that is to be asked."""

    def member_named(self, name: str) -> Member: ...

    def mode(self, uuid: PeerId) -> str: ...

    def last_seen(self, uuid: PeerId) -> float | None: ...

    def next_poll_at(self, uuid: PeerId) -> float | None: ...


class Patient(Protocol):
    """Asks statements that wait for edges which are away."""

    async def ask(
        self, errand: Errand, answering: Answering, *, here: RunHere, wait_s: float, variables: dict[str, Any]
    ) -> None: ...


class _Wording:
    """An errand as it goes to every target: encoded once, and again when the director's word is another, or when the
    time remaining, which can only shorten, has changed by more than :data:`WORDED_S`.
    """

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._said: tuple[SignedDocument | None, float, SharedMessage] | None = None

    def of(self, credential: SignedDocument | None) -> SharedMessage:
        errand = self._errand
        time_left_s = errand.time_left_s
        if self._said is not None and self._said[0] is credential and self._said[1] - time_left_s < WORDED_S:
            return self._said[2]
        message = StatementMessage(
            id=0,
            body=errand.body,
            index=errand.index,
            time_left_s=time_left_s,
            variables=_beyond(errand),
            envelope=errand.origin.envelope,
            credential=credential,
            partial=errand.merging is not None,
            gathers=True,
        )
        shared = SharedMessage(message)
        self._said = (credential, time_left_s, shared)
        return shared


class FanOut:
    """The nameserver's elsewhere."""

    def __init__(
        self,
        *,
        name: str,
        directory: Directory,
        edges: Edges,
        uplinks: Uplinks,
        vouch: Callable[[str], SignedDocument | None],
        clock: Callable[[], float],
    ) -> None:
        """``vouch(uuid)`` is the director's short-lived word on a caller; None for one it cannot vouch for."""
        self._name = name
        self._directory = directory
        self._edges = edges
        self._uplinks = uplinks
        self._vouch = vouch
        self._clock = clock
        self._turns = Turns()
        self.patient: Patient | None = None  # asks what waits; None where nothing does

    def place(self, route: Route) -> Placement:
        return place(route, self._directory)

    def way(self, route: Route) -> None:
        """Its uplinks are the only ones."""

    async def ask(self, errand: Errand, answering: Answering, *, here: RunHere) -> None:
        wait_s = errand.statement.directives.wait_s
        if wait_s is not None and self.patient is not None:
            await self.patient.ask(errand, answering, here=here, wait_s=wait_s, variables=_beyond(errand))
            return
        gate = asyncio.Semaphore(ASKED_AT_ONCE_MAX)
        wording = _Wording(errand)

        async def one(target: str) -> None:
            part = None if errand.merging is None else errand.merging.part(target, answering)
            async with gate:
                if fold(target) == fold(self._name):
                    await here(part)
                else:
                    await self._ask_edge(target, errand, wording, part or answering)
            if part is not None:
                await part.end()

        try:
            async with asyncio.timeout(errand.time_left_s), asyncio.TaskGroup() as tasks:
                for count, target in enumerate(errand.targets, 1):
                    tasks.create_task(one(target))
                    if count % ASKED_A_TURN == 0:
                        await self._turns.turn()
        except TimeoutError:
            await answering.error(DeadlinePassed("the statement's time is up").record())
            answering.settle_open(State.TIMEOUT)

    async def _ask_edge(self, target: str, errand: Errand, wording: _Wording, answering: Answering | Part) -> None:
        member = self._edges.member_named(target)
        uplink = self._uplinks.uplink(member.uuid)
        if uplink is None:
            answering.settle(self.away(member))
            return

        try:
            while not await self._asked(uplink, target, errand, wording, answering):
                pass  # the director's key was replaced while the statement was on its way
        except UplinkLost:
            answering.settle(Outcome(shown(target), State.UNREACHABLE, _moment(self._clock())))
        except Problem as problem:
            await answering.error(problem.record(peer=shown(target)))
            answering.settle(Outcome(shown(target), State.ERROR, problem.code))

    async def _asked(
        self, uplink: Uplink, target: str, errand: Errand, wording: _Wording, answering: Answering | Part
    ) -> bool:
        """Merge an edge's answer. False when it refused the director's word and the director has another key by now:
        nothing ran there then, and it may be asked again under the new one.
        """
        uuid = errand.origin.caller.uuid
        credential = self._vouch(uuid) if errand.origin.envelope is not None else None
        if credential is None and errand.origin.envelope is not None:  # else it would run as this nameserver
            raise UnknownPeer(f'"{errand.origin.caller.name}" was removed from the federation')
        message = wording.of(credential).numbered
        schema: Frame | None = None
        given = ForeignAnswer(target)
        async with uplink.ask(message) as frames:
            async for arrived in frames:
                match frame := given.taken(arrived):
                    case SchemaFrame(columns=()) if schema is None:
                        schema = frame  # a refusal begins so
                        continue
                    case ErrorFrame(error=error) if error.code == UnknownKey.code and schema is not None:
                        if _signer(credential) != _signer(self._vouch(uuid)):
                            return False
                if schema is not None:
                    await merge(schema, answering, target)
                    schema = None
                await merge(frame, answering, target)
        return True

    def away(self, member: Member) -> Outcome:
        """What the silence of an edge without an uplink means."""
        name = shown(member.name)
        if member.kind != "edge":
            return Outcome(name, State.REFUSED, f"{member.kind}, takes no statements")
        match self._edges.mode(member.uuid):
            case "ONLINE":
                next_at = self._edges.next_poll_at(member.uuid)
                if next_at is not None:
                    return Outcome(
                        name, State.REFUSED, f"online, next poll in {max(0.0, next_at - self._clock()):.0f} s"
                    )
            case "AUTONOMOUS":
                return Outcome(name, State.REFUSED, "autonomous")
        seen = self._edges.last_seen(member.uuid)
        return Outcome(name, State.UNREACHABLE, "never" if seen is None else _moment(seen))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this home is, for a peer that is not the nameserver."""

    name: str
    seal: Seal


class Upward:
    """Every other peer's elsewhere: the nameserver finds the targets and asks them."""

    def __init__(self, *, identity: Identity, client: FederationClient) -> None:
        self._identity = identity
        self._client = client

    def place(self, route: Route) -> Placement:
        """This peer's own name, or the route's words: only the nameserver knows whom they mean."""
        match route.target:
            case Here():
                return Placement((self._identity.name,), route)
            case Peers(names=(name,)) if fold(name) == fold(self._identity.name):
                return Placement((self._identity.name,), route)
            case target:
                return Placement((str(target),), route)

    def way(self, route: Route) -> None:
        """The nameserver's matter."""

    async def ask(self, errand: Errand, answering: Answering, *, here: RunHere) -> None:
        body = alone(errand)
        wait_s = errand.statement.directives.wait_s
        try:
            if wait_s is not None and errand.route.target != NAMESERVER:
                patience = Patience(self._client, self._identity.seal, wait_s=wait_s)
                await patience.ask(errand, body, answering, lambda frames: _all_placed(frames, errand.statement))
                return
            async with asyncio.timeout(errand.time_left_s + 5.0):
                await self._client.hear_the_time()  # an envelope with a wrong time is refused
                envelope = self._identity.seal(body, lifetime_s=errand.time_left_s + 60.0)
                asked = AskedUpward(self._client, self._identity.seal, answering)
                place = partial(placed, statement=errand.statement)
                await asked.ask(body, envelope, placed=place, stopped=errand.stopped)
            if not answering.relayed:
                raise BadAnswer("the nameserver's answer ended before its ledger")
        except TimeoutError:
            await answering.error(DeadlinePassed("the nameserver did not answer in time").record())
            answering.settle_open(State.TIMEOUT)
        except (Unreachable, UntrustedNameserver) as problem:
            await answering.error(problem.record())
            answering.settle_open(State.UNREACHABLE, self._silence(errand.route))
        except Problem as problem:
            await answering.error(problem.record())
            answering.settle_open(State.ERROR, problem.code)

    def _silence(self, route: Route) -> str:
        """What this peer knows of a target that it could not ask: of all but the nameserver, nothing."""
        if route.target != NAMESERVER:
            return "the nameserver is unreachable, and only it knows"
        seen = self._client.last_contact
        return "not since this peer started" if seen is None else _moment(seen)


def alone(errand: Errand) -> bytes:
    """The statement of an errand as a request of its own, to be signed by this peer."""
    request = StatementRequest(
        text=errand.statement.text,
        params={name: encode_value(value) for name, value in errand.variables.items()},
        targets=errand.request.targets,
        timeout=max(0.001, errand.time_left_s),
        budget=errand.request.budget,
    )
    return encode_request(request)


def placed(frame: Frame, statement: Statement) -> Frame:
    """An error's place in the statement's own text, as a place in the text that it was written in."""
    match frame:
        case ErrorFrame(number, error) if error.span is not None:
            span = shifted(error.span, statement.span)
            return ErrorFrame(number, msgspec.structs.replace(error, span=span))
        case _:
            return frame


async def _all_placed(frames: AsyncIterator[Frame], statement: Statement) -> AsyncIterator[Frame]:
    async for frame in frames:
        yield placed(frame, statement)


def _signer(credential: SignedDocument | None) -> str | None:
    return credential.signatures[0].keyid if credential is not None else None


async def merge(frame: Any, answering: Answering | Part, target: str) -> None:
    """Take a frame of one target, which was looked at (:class:`ForeignAnswer`), into the answer of all."""
    match frame:
        case SchemaFrame(columns=columns):
            await answering.schema(columns)
        case RowFrame(values=values):
            await answering.row(values, peer=target)
        case ProgressFrame():
            answering.progress(frame.label, frame.done, frame.total, frame.unit, peer=target)
        case ErrorFrame(error=error):
            await answering.error(error)
        case EndFrame(ledger=ledger):
            (outcome,) = ledger.outcomes
            answering.settle(outcome)


def _beyond(errand: Errand) -> dict[str, Any]:
    """The session variables that the request's own parameters do not cover, encoded."""
    covered = errand.request.params
    return {
        name: encoded
        for name, value in errand.variables.items()
        if covered.get(name, covered) != (encoded := encode_value(value))
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
