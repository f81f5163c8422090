"""Statements that wait on their way: from who asks, to the edges that have an uplink, and to this nameserver itself.

Owns the tasks that ask edges over their uplinks, a few at a time for each edge, so that what waits never fills an
uplink that others need. Edges without one fetch what waits themselves (:mod:`peers.waiting_routes`). Rules: a delivery
that breaks off settles nothing; the edge is asked again when it is back, and gives the answer that it kept. Who asked
may leave; only its word ends the statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from federation.names import PeerId, fold, shown
from peers.answering import Answering
from peers.asked import UplinkLost
from peers.running import RunningQueries, Stopping
from peers.statements import Errand, RunHere
from peers.uplink_messages import DoneMessage, StatementMessage
from peers.uplinks import UplinkBusy, Uplinks
from peers.waiting import WaitingStatements
from peers.waiting_intake import AnswerIntake
from peers.waiting_reading import WaitingAnswers
from peers.whole_frames import Interrupted, WholeFrames, whole_problem
from query.errors import Problem, UnknownName
from query.frames import Frame
from query.ledger import State

DELIVERED_AT_ONCE: Final = 16  # to one edge, which runs fewer: what waits there holds up no other caller's
GRACE_S: Final = 30.0  # that an answer over an uplink may take beyond the statement's own time
NEW_KEYS_MAX: Final = 4  # of the director, while one statement is on its way

log = logging.getLogger("peerage.waiting")


class UplinkDelivery:
    """Asks edges over their uplinks; see :class:`peers.waiting.Deliverer`."""

    def __init__(self, waiting: WaitingStatements, intake: AnswerIntake, uplinks: Uplinks) -> None:
        self._waiting = waiting
        self._intake = intake
        self._uplinks = uplinks
        self._gates: dict[PeerId, asyncio.Semaphore] = {}
        self._asking: set[tuple[PeerId, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, uuid: PeerId) -> None:
        """Bring an edge that has an uplink everything that waits for it."""
        if not self._uplinks.connected(uuid):
            return
        for statement in self._waiting.open_for(uuid):
            if (uuid, statement) not in self._asking:
                self._asking.add((uuid, statement))
                self._spawn(self._ask(uuid, statement))

    def done(self, uuid: PeerId, statement: str) -> None:
        self._spawn(self._tell_done(uuid, statement))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, uuid: PeerId, statement: str) -> None:
        gate = self._gates.setdefault(uuid, asyncio.Semaphore(DELIVERED_AT_ONCE))
        try:
            async with gate:
                for _ in range(NEW_KEYS_MAX):
                    if await self._asked(uuid, statement):
                        await self._tell_done(uuid, statement)
                        break
        except (UnknownName, UplinkLost, UplinkBusy, TimeoutError) as end:  # it is over, or tried again
            log.debug("not_delivered", extra={"query": statement, "edge": uuid, "reason": str(end)})
        except Problem as problem:
            log.warning("answer_not_taken", extra={"query": statement, "edge": uuid, "reason": problem.message})
        finally:
            self._asking.discard((uuid, statement))
            if not self._waiting.waits_for(uuid):
                self._gates.pop(uuid, None)

    async def _asked(self, uuid: PeerId, statement: str) -> bool:
        """Have the answer of an edge kept. False when it refused a director's word that has another key by now."""
        uplink = self._uplinks.uplink(uuid)
        if uplink is None:
            raise UplinkLost("the edge has no uplink any more")
        first = self._waiting.message(uuid, statement)
        whole = WholeFrames()

        def numbered(number: int) -> StatementMessage:
            nonlocal first
            first = self._waiting.message(uuid, statement, number=number)
            return first

        async with asyncio.timeout(first.time_left_s + GRACE_S), uplink.ask(numbered, lasting=True) as frames:
            async for frame in frames:
                whole.take(frame)
        answer = whole.written(statement, index=first.index)
        signer = first.credential.signatures[0].keyid if first.credential is not None else None
        if self._waiting.is_signed_anew(statement, answer, signer):
            return False
        await self._intake.take(uuid, statement, answer)
        return True

    async def _tell_done(self, uuid: PeerId, statement: str) -> None:
        uplink = self._uplinks.uplink(uuid)
        if uplink is not None:
            with suppress(UplinkLost):
                await uplink.send(DoneMessage(statement))


class WaitingRequests:
    """Asking with patience: what the nameserver's fan-out does with a statement that waits."""

    def __init__(
        self,
        waiting: WaitingStatements,
        answers: WaitingAnswers,
        *,
        name: str,
        uuid: PeerId,
        queries: RunningQueries,
    ) -> None:
        """``name`` and ``uuid`` are this nameserver's."""
        self._waiting = waiting
        self._answers = answers
        self._name = name
        self._uuid = uuid
        self._queries = queries
        self._own: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        errand: Errand,
        answering: Answering,
        *,
        here: RunHere,
        wait_s: float,
        variables: dict[str, Any],
    ) -> None:
        """Keep a statement and follow its answer; a second one under the same envelope follows the first."""
        try:
            statement, new = self._waiting.begin(
                errand,
                wait_s=wait_s,
                variables=variables,
                partial=errand.merging is not None,
                unmatched=answering.unmatched,
            )
        except Problem as problem:
            await answering.error(problem.record(peer=shown(self._name)))
            answering.settle_open(State.ERROR, problem.code)
            return
        if new and any(fold(target) == fold(self._name) for target in errand.targets):
            task = asyncio.create_task(self._run_own(errand, statement, here))
            self._own.add(task)
            task.add_done_callback(self._own.discard)
        try:
            await self._answers.follow(statement, answering, merging=errand.merging)
        except asyncio.CancelledError:
            if errand.stopped():
                self._waiting.cancel(statement, caller=errand.origin.caller)
                self._answers.settle(statement, answering)
            elif self._queries.stopping:
                stopping = Stopping(f"this nameserver is stopping; the statement waits on as {statement}")
                await answering.error(stopping.record(peer=shown(self._name)))
                answering.settle_open(State.CANCELLED, f"the nameserver is stopping; {statement} waits on")
            raise

    def begin(self) -> None:
        """What this nameserver itself was running when it stopped is not run again."""
        me = shown(self._name)
        for statement in self._waiting.open_for(self._uuid):
            problem = Interrupted(f"{me} stopped while it ran the statement: whether it took effect is not known")
            self._waiting.answered(self._uuid, statement, whole_problem(problem, me, index=0, state=State.ERROR))

    async def close(self) -> None:
        for task in self._own:
            task.cancel()
        await asyncio.gather(*self._own, return_exceptions=True)

    async def _run_own(self, errand: Errand, statement: str, here: RunHere) -> None:
        """This nameserver's share: it runs when the statement begins, and whoever asked may have left."""
        whole = WholeFrames()
        own = Answering(_Into(whole), statement=errand.index, targets=(self._name,), query=statement, tagged=False)
        await here(own)
        await own.end()
        try:
            self._waiting.answered(self._uuid, statement, whole.written(shown(self._name), index=errand.index))
        except Problem as problem:
            log.warning("answer_not_taken", extra={"query": statement, "reason": problem.message})


class _Into:
    """Frames into a whole answer."""

    def __init__(self, whole: WholeFrames) -> None:
        self._whole = whole

    async def put(self, item: Frame, /) -> None:
        self._whole.take(item)

    def put_nowait(self, item: Frame, /) -> None:
        self._whole.take(item)
