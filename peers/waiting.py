"""Statements that wait for edges which are away, on the nameserver: kept, delivered, settled, followed, ended.

Owns which of them are open, and for whom; :mod:`peers.waiting_store` holds what survives a restart. Whoever reads an
answer is a follower that may leave at any time. Rules:

- What a target answers is on disk before a follower sees it, in the order in which it came.
- Whether the caller may is judged at each delivery; one who was removed, or has another key, is refused by name.
- A target has a state once. What an edge answers after the end stands in its place, marked as late, while the query is
kept. - Bounded: statements, in all and for each caller; their targets together; bytes of a request; ended ones by
number and age.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from federation.documents import SignedDocument
from federation.envelopes import check_waiting, nonce_of
from federation.events import Change, Removed
from federation.members import Member
from federation.names import PeerId, shown
from peers.failpoints import reach
from peers.foreign_answers import ForeignAnswer
from peers.statements import Errand
from peers.uplink_messages import StatementMessage
from peers.waiting_room import AnswerRoom, Entry
from peers.waiting_store import How, Kept, Standing, WaitingStore
from peers.whole_frames import errors_in, outcome_in, read_whole, whole_problem
from query.declarations import Caller, Role
from query.errors import Forbidden, LimitExceeded, PeerProblem, Problem, UnknownName
from query.ledger import Outcome, State

WAITING_MAX: Final = 512
WAITING_PER_CALLER_MAX: Final = 64
TARGETS_MAX: Final = 500_000  # without a state, of all statements together
TARGETS_PER_CALLER_MAX: Final = 250_000
RUN_S_MAX: Final = 3600.0  # on each peer, once it has it
REQUEST_BYTES_MAX: Final = 128 * 1024  # of one that waits, with the variables beside it
KEPT_MAX: Final = 1000  # ended ones
KEPT_S: Final = 24 * 3600.0  # after the end
LOOK_S: Final = 30.0  # between looks at what is over
LISTED_MAX: Final = 256
TEXT_SHOWN: Final = 200

log = logging.getLogger("peerage.waiting")


class CallerGone(PeerProblem):
    """Who asked was removed from the federation, or has another key, since its statement began to wait."""

    code = "caller_gone"


class Roster(Protocol):
    """What the nameserver knows of members."""

    def member(self, uuid: str) -> Member | None: ...

    def member_named(self, name: str) -> Member: ...

    def away(self, member: Member) -> Outcome:
        """What the silence of a peer means that was not asked."""
        ...


class Deliverer(Protocol):
    """What brings statements to the edges that can be asked now."""

    def deliver(self, uuid: PeerId) -> None: ...

    def done(self, uuid: PeerId, statement: str) -> None:
        """Nobody wants the answer of this edge any more."""
        ...


@dataclass(slots=True)
class Open:
    """One that waits. ``taken``: who has it and has not answered. ``bytes``: of what was answered."""

    standing: Standing
    targets: dict[PeerId, str]
    bytes: int = 0
    taken: set[PeerId] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class WaitingStatements:
    """See the module. ``vouch`` is the director's word on a caller, made when it is asked for."""

    def __init__(
        self,
        store: WaitingStore,
        *,
        federation: str,
        roster: Roster,
        vouch: Callable[[str], SignedDocument | None],
        clock: Callable[[], float],
        room: AnswerRoom | None = None,
    ) -> None:
        self._store = store
        self._room = room or AnswerRoom(store)
        self._federation = federation
        self._roster = roster
        self._vouch = vouch
        self._clock = clock
        self._open: dict[str, Open] = {}
        self._for: dict[PeerId, dict[str, None]] = {}
        self._recalled: set[PeerId] = set()  # edges that may run what is over, and are to look
        self._sooner = asyncio.Event()
        self.deliverer: Deliverer | None = None
        self.reload()

    def reload(self) -> None:
        """Stand as it is on the disk, after a start or a failure to write."""
        self._room.recount()
        kept = [(one, self._store.open_targets(one.id)) for one in self._store.all() if one.ended is None]
        before, self._open = self._open, {}
        self._for.clear()
        for standing, targets in kept:
            self._remember(standing, targets)
        for standing, _ in kept:
            self.settle(standing.id, [])  # a kill may have come between the last answer and the end
        for waiting in before.values():
            waiting.changed.set()

    def _remember(self, standing: Standing, targets: dict[PeerId, str]) -> None:
        self._open[standing.id] = Open(standing, targets, standing.bytes)
        for peer in targets:
            self._for.setdefault(peer, {})[standing.id] = None

    # --- beginning ----------------------------------------------------------------------------------------------

    def begin(
        self, errand: Errand, *, wait_s: float, variables: dict[str, Any], partial: bool = False, unmatched: int = 0
    ) -> tuple[str, bool]:
        """Keep a statement, durable on return: its id, and whether it is new. The same envelope is the same statement.
        ``variables`` are those that its request does not cover.

        Raises what is wrong with its envelope, and :class:`~query.errors.LimitExceeded`.
        """
        caller, envelope, now = errand.origin.caller, errand.origin.envelope, self._clock()
        nonce = None
        if envelope is not None:
            key = caller.key
            if key is None:
                raise CallerGone(f'"{caller.name}" signed a statement and has no key here')
            sealed = check_waiting(
                envelope, errand.body, key=key, caller=caller.uuid, federation=self._federation, now=now
            )
            nonce = nonce_of(sealed, str(errand.index))
            known = self._store.by_nonce(PeerId(caller.uuid), nonce)
            if known is not None:
                return known.id, False
            if sealed.issued + sealed.lifetime_s < now + wait_s:
                raise LimitExceeded(
                    f"the envelope is good for {sealed.issued + sealed.lifetime_s - now:.0f} s: "
                    f"expected at least the {wait_s:.0f} s of the wait"
                )
        kept = Kept(
            id=errand.query if errand.alone else f"{errand.query}.{errand.index}",
            caller=PeerId(caller.uuid),
            name=caller.name,
            nonce=nonce,
            key=caller.key,
            text=errand.statement.text[:TEXT_SHOWN],
            body=errand.body,
            index=errand.index,
            variables=variables,
            envelope=envelope,
            run_s=min(errand.time_left_s, RUN_S_MAX),
            begun=now,
            until=now + wait_s,
            partial=partial,
            unmatched=unmatched,
        )
        members = [self._roster.member_named(name) for name in errand.targets]
        self._check_room(kept, len(members))
        self._store.add(kept, ((member.uuid, member.name) for member in members))
        self._room.took_targets(len(members))
        reach("waits.kept")
        standing = self._store.find(kept.id)
        assert standing is not None
        self._remember(standing, {member.uuid: member.name for member in members})
        self._sooner.set()
        log.info("statement_waits", extra={"query": kept.id, "caller": kept.name, "targets": len(members)})
        self.settle(kept.id, [(m.uuid, self._roster.away(m), None) for m in members if m.kind == "client"])
        if self.deliverer is not None:
            for member in members:
                self.deliverer.deliver(member.uuid)
        return kept.id, True

    def _check_room(self, kept: Kept, targets: int) -> None:
        own = [waiting for waiting in self._open.values() if waiting.standing.caller == kept.caller]
        size = len(kept.body) + len(msgspec.json.encode(kept.variables))
        for what, found, most in (
            ("statements that wait here", len(self._open) + 1, WAITING_MAX),
            (f'statements of "{kept.name}" that wait', len(own) + 1, WAITING_PER_CALLER_MAX),
            ("bytes of a statement that waits", size, REQUEST_BYTES_MAX),
            ("targets that are waited for", targets + _open_targets(self._open.values()), TARGETS_MAX),
            (f'targets that "{kept.name}" waits for', targets + _open_targets(own), TARGETS_PER_CALLER_MAX),
        ):
            if found > most:
                raise LimitExceeded(f"{found} {what}: expected at most {most}", hint="query:list() shows what waits")
        self._room.make_room_for(targets)

    # --- delivering ---------------------------------------------------------------------------------------------

    def waits_for(self, uuid: PeerId) -> bool:
        """Whether an edge is to look what is open for it: a look-up."""
        return uuid in self._for or uuid in self._recalled

    def looked(self, uuid: PeerId) -> None:
        """An edge has been told what is open for it."""
        self._recalled.discard(uuid)

    def open_for(self, uuid: PeerId) -> tuple[str, ...]:
        """The statements that wait for an edge, the oldest first."""
        return tuple(self._for.get(uuid, ()))

    def message(self, uuid: PeerId, statement: str, *, number: int = 0) -> StatementMessage:
        """A statement as an edge gets it, under the director's word of now; it counts as taken.

        Raises :class:`UnknownName` when it is not open for that edge, also when its caller is gone.
        """
        waiting = self._open.get(statement)
        if waiting is None or uuid not in waiting.targets:
            raise UnknownName(f"no statement {statement[:64]} waits for this edge")
        kept, credential = self._store.kept(statement), None
        if kept.envelope is not None:
            credential = self._word_on(kept)
            if credential is None:
                raise UnknownName(f"no statement {statement[:64]} waits for this edge any more")
        waiting.taken.add(uuid)
        return StatementMessage(
            id=number,
            body=kept.body,
            index=kept.index,
            time_left_s=max(0.0, min(kept.run_s, kept.until - self._clock())),
            variables=kept.variables,
            envelope=kept.envelope,
            credential=credential,
            partial=kept.partial,
            errand=kept.id,
            until=kept.until,
        )

    def _word_on(self, kept: Kept) -> SignedDocument | None:
        """The director's word on a caller; None for one who is gone, and then its statement is over."""
        member = self._roster.member(kept.caller)
        if member is not None and not member.removed and member.key == kept.key:
            return self._vouch(kept.caller)
        why = "was removed from the federation" if member is None or member.removed else "has another key"
        self._refuse(kept.id, CallerGone(f'"{kept.name}" {why}, and its statement waits no more'))
        return None

    def answered(self, uuid: PeerId, statement: str, whole: bytes) -> None:
        """Take the whole answer of an edge; durable on return. The same one again changes nothing.

        Raises :class:`~peers.whole_frames.BadWholeAnswer`, :class:`~peers.federation_client.BadAnswer`, and
        :class:`UnknownName` for what is not kept (any more).
        """
        frames = tuple(map(ForeignAnswer(uuid).taken, read_whole(whole)))
        waiting = self._open.get(statement)
        if waiting is not None and uuid in waiting.targets:
            self.settle(
                statement,
                [self._room.entry(uuid, waiting.targets[uuid], outcome_in(frames), whole, held=waiting.bytes)],
            )
            return
        if (target := self._store.target(statement, uuid)) is None:
            raise UnknownName(f"no statement {statement[:64]} is kept for this edge")
        if target.answer is None:
            standing = self._store.find(statement)
            held = standing.bytes if standing is not None else 0
            entry = self._room.entry(uuid, target.name, outcome_in(frames), whole, held=held)
            self._store.settle(statement, [entry], late=True)
            self._room.took(len(entry[2] or b""))
            log.info("late_answer", extra={"query": statement, "edge": target.name, "state": str(entry[1])})

    def is_signed_anew(self, statement: str, whole: bytes, by: str | None) -> bool:
        """Whether an edge refused the director's word by a key that is not the director's any more."""
        waiting = self._open.get(statement)
        if waiting is None or not any(error.code == "unknown_key" for error in errors_in(read_whole(whole))):
            return False
        word = self._vouch(waiting.standing.caller)
        return word is not None and word.signatures[0].keyid != by

    # --- ending -------------------------------------------------------------------------------------------------

    def settle(self, statement: str, outcomes: Iterable[Entry], *, how: How = "answered") -> None:
        """Give open targets their states; the statement is over with the last of them."""
        waiting = self._open[statement]
        settled = [entry for entry in outcomes if entry[0] in waiting.targets]
        if settled:
            self._store.settle(statement, settled)
            reach("waits.settled")
        for peer, _, answer in settled:
            waiting.bytes += len(answer or b"")
            self._room.took(len(answer or b""))
            del waiting.targets[peer]
            waiting.taken.discard(peer)
            queue = self._for[peer]
            queue.pop(statement, None)
            if not queue:
                del self._for[peer]
        if not waiting.targets:
            self._store.end(statement, ended=self._clock(), how=how)
            del self._open[statement]
            log.info("statement_over", extra={"query": statement, "how": how})
        waiting.changed.set()

    def _refuse(self, statement: str, problem: CallerGone) -> None:
        index = self._store.kept(statement).index
        self._end_open(
            statement,
            lambda name: Outcome(shown(name), State.REFUSED, problem.code),
            lambda name: whole_problem(problem, shown(name), index=index),
            how="refused",
        )

    def _end_open(
        self,
        statement: str,
        outcome: Callable[[str], Outcome],
        answer: Callable[[str], bytes | None] = lambda name: None,
        *,
        how: How,
    ) -> None:
        waiting = self._open[statement]
        taken = tuple(waiting.taken)
        self._recalled.update(taken)
        ends = [(peer, outcome(name), answer(name)) for peer, name in waiting.targets.items()]
        self.settle(statement, ends, how=how)
        if self.deliverer is not None:
            for peer in taken:
                self.deliverer.done(peer, statement)

    def cancel(self, statement: str, *, caller: Caller) -> bool:
        """End one by its caller's word, or an operator's, on every peer. False when none of that id waits here."""
        waiting = self._open.get(statement)
        if waiting is None:
            return False
        if caller.role < Role.OPERATOR and caller.uuid != waiting.standing.caller:
            owner = waiting.standing.name
            raise Forbidden(f'query "{statement}" is of "{owner}"; cancelling it needs the role operator')
        self._end_open(statement, lambda name: Outcome(shown(name), State.CANCELLED), how="cancelled")
        return True

    def follow_changes(self, changes: tuple[Change, ...]) -> None:
        """Nobody waits for a peer that was removed, nor on behalf of one."""
        for change in changes:
            if isinstance(change.event, Removed):
                try:
                    self._follow_removal(change.event.uuid)
                except Problem as problem:  # at a delivery, or the end of the wait, it is found again
                    log.warning("waiting_not_ended", extra={"code": problem.code, "reason": problem.message})

    def _follow_removal(self, gone: PeerId) -> None:
        for statement in self.open_for(gone):
            name = self._open[statement].targets[gone]
            self.settle(statement, [(gone, Outcome(shown(name), State.REFUSED, "removed"), None)])
        for waiting in tuple(self._open.values()):
            if waiting.standing.caller == gone:
                self._word_on(self._store.kept(waiting.standing.id))

    def look(self) -> float:
        """End what is over and forget what is old; the seconds until there is something to be looked at again."""
        now = self._clock()
        for statement, waiting in tuple(self._open.items()):
            if waiting.standing.until <= now:
                self._end_open(statement, self._silence(waiting), how="over")
        self._room.forget(ended_before=now - KEPT_S, keep=KEPT_MAX)
        first = min((waiting.standing.until for waiting in self._open.values()), default=now + LOOK_S)
        return max(0.0, min(LOOK_S, first - now))

    async def run(self) -> None:
        """Look whenever there is something to be looked at, until cancelled."""
        while True:
            self._sooner.clear()
            try:
                pause_s = self.look()
            except Problem as problem:  # the disk: it is looked again
                log.warning("waiting_not_ended", extra={"code": problem.code, "reason": problem.message})
                pause_s = LOOK_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._sooner.wait()
            except TimeoutError:
                if self.deliverer is not None:
                    for peer in tuple(self._for):
                        self.deliverer.deliver(peer)

    def _silence(self, waiting: Open) -> Callable[[str], Outcome]:
        taken = {waiting.targets[peer] for peer in waiting.taken}

        def silence(name: str) -> Outcome:
            if name in taken:
                return Outcome(shown(name), State.TIMEOUT)
            return self._roster.away(self._roster.member_named(name))

        return silence

    def changed(self, statement: str) -> asyncio.Event | None:
        """For who reads on: set at the next change of one that waits; None when it is over."""
        waiting = self._open.get(statement)
        if waiting is None:
            return None
        if waiting.changed.is_set():
            waiting.changed = asyncio.Event()
        return waiting.changed


def _open_targets(statements: Iterable[Open]) -> int:
    return sum(len(waiting.targets) for waiting in statements)
