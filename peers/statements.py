"""Running what is asked of this peer: each statement of a request at its targets, here or elsewhere.

    body → StatementRequest → parse → for each statement: route → here: resolve → evaluate
                                                            elsewhere: ask, merge
         → frames, ledger

Owns the request's shape, its session, its deadline and its cancellation. Where "elsewhere" is, and how it is asked,
is a port: the nameserver fans out over its uplinks, every other peer asks the nameserver.

Rules: a request runs in one task of its own, so that a cancelled query still ends with a ledger; a statement that was
carried here runs here or not at all; a script stops after a statement that no target answered; a ``set`` sets the
variable of the session that was asked, wherever its expression runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from federation.names import fold, shown
from peers.answering import Answering, Frames
from peers.evaluating import Evaluating
from peers.kept_values import KeptValue, expression_of, is_bag
from peers.merging import Merging, Part
from peers.requests import Origin, StatementRequest, decode_request
from peers.running import RunningQueries, RunningQuery, running_here, unread_end
from query.budgets import UNBOUNDED, Budget
from query.declarations import Caller
from query.errors import Cancelled, Problem, SyntaxProblem, WrongArguments
from query.evaluation import CurrentCatalogue
from query.frames import EndFrame, Frame
from query.ledger import Outcome, State
from query.parsing import parse_again
from query.placement import NAMESERVER, Directory, Here, Placement, Reason, Route, route
from query.session import Session
from query.syntax import Explain, SetVariable, Statement
from query.values import decode_value

FRAMES_AHEAD_MAX: Final = 64
REMOTE_TIMEOUT_S: Final = 60.0  # for statements that leave this peer and name no time

Queue: TypeAlias = "asyncio.Queue[Frame | None]"

HERE: Final = Route(Here(), Reason.HERE)


@dataclass(frozen=True, slots=True)
class Errand:
    """A statement that has to be asked elsewhere. ``targets`` are fixed when it begins."""

    statement: Statement
    index: int
    alone: bool  # the request has only this statement
    route: Route
    request: StatementRequest
    body: bytes
    origin: Origin
    variables: Mapping[str, Any]
    deadline: float | None  # time.monotonic()
    targets: tuple[str, ...] = ()
    query: str = ""  # of the request
    merging: Merging | None = None  # of a statement that its targets answer together
    stopped: Callable[[], bool] = lambda: False  # whether somebody cancelled it, who has the right to

    @property
    def time_left_s(self) -> float:
        return REMOTE_TIMEOUT_S if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class RunHere(Protocol):
    """Runs an errand on this peer, into the answer of all or another one."""

    def __call__(self, into: Answering | Part | None = None) -> Awaitable[None]: ...


class Elsewhere(Protocol):
    """How this peer reaches the others."""

    def place(self, route: Route) -> Placement:
        """The peers that a route means, as far as this peer can tell. Raises for names that do not exist."""
        ...

    def way(self, route: Route) -> str | None:
        """How this peer would ask a peer itself, in words; None where the nameserver finds the way."""
        ...

    async def ask(self, errand: Errand, answering: Answering, *, here: RunHere) -> None:
        """Run an errand into an answer, settling every target. ``here`` runs it on this peer."""
        ...


class Statements:
    """Runs requests on one peer."""

    def __init__(
        self,
        *,
        name: str,
        is_nameserver: bool,
        catalogue: CurrentCatalogue,
        elsewhere: Elsewhere,
        running: RunningQueries,
        federation_time: Callable[[], float],
        directory: Directory | None = None,
        budget: Budget = UNBOUNDED,
    ) -> None:
        """``directory``: whom ``explain`` can name; None where only the nameserver knows. ``budget``: what every
        statement may use on this peer.
        """
        self._name = name
        self._is_nameserver = is_nameserver
        self._catalogue = catalogue
        self._elsewhere = elsewhere
        self._running = running
        self._now = federation_time
        self._directory = directory
        self._evaluating = Evaluating(
            name=name,
            is_nameserver=is_nameserver,
            catalogue=catalogue,
            federation_time=federation_time,
            budget=budget,
        )

    def new_query(self) -> str:
        return self._running.new_id()

    async def run(
        self, body: bytes, *, origin: Origin, query: str, session: Session | None = None
    ) -> AsyncGenerator[Frame, None]:
        """The frames of a request. Closing the iterator cancels it, wherever it runs.

        Raises before the first frame when the body is no request; after that, errors are frames.
        """
        request = decode_request(body)
        entry = self._running.begin(query, caller=origin.caller, text=request.text, now=self._now())
        queue: Queue = asyncio.Queue(FRAMES_AHEAD_MAX)
        async with contextlib.aclosing(
            self._frames(functools.partial(self._script, request, body, origin, entry, session, queue), entry, queue)
        ) as frames:
            async for frame in frames:
                yield frame

    async def carry(
        self,
        request: StatementRequest,
        index: int,
        frames: Frames,
        *,
        caller: Caller,
        sender: str,
        variables: Mapping[str, Any],
        time_left_s: float,
        partial: bool = False,
    ) -> None:
        """One statement of a request that another peer carried here: runs here, whatever its directive says.

        In the caller's own task: cancelling that stops it. ``partial``: gives its part of an answer of several peers.
        """
        entry = self._running.begin(self.new_query(), caller=caller, text=request.text, now=self._now())
        deadline = time.monotonic() + time_left_s
        answering = self._answering(frames, index, (self._name,), entry, None, tagged=False)
        try:
            try:
                with running_here(entry):
                    await self._carried(request, index, variables, answering, caller, sender, deadline, partial=partial)
            except asyncio.CancelledError:
                if not entry.cancelled:
                    raise
                answering.settle_open(State.CANCELLED)
            await answering.end()
        finally:
            self._running.end(entry.id)

    async def _carried(
        self,
        request: StatementRequest,
        index: int,
        variables: Mapping[str, Any],
        answering: Answering,
        caller: Caller,
        sender: str,
        deadline: float,
        *,
        partial: bool,
    ) -> None:
        try:
            session = Session()
            session.variables.update({name: decode_value(value) for name, value in request.params.items()})
            session.variables.update(variables)
            statements = parse_again(request.text).statements
            if not 0 <= index < len(statements):
                raise WrongArguments(f"no statement {index} in a script of {len(statements)}")
            await self._evaluating.run(
                statements[index],
                answering,
                self._evaluating.call(caller, sender=sender),
                session,
                deadline=deadline,
                budget=request.bounds,
                partial=partial,
            )
        except Problem as problem:
            await answering.error(problem.record(peer=shown(self._name)))
            answering.settle_open(State.ERROR, problem.code)

    async def _frames(
        self, work: Callable[[], Awaitable[None]], entry: RunningQuery, queue: Queue
    ) -> AsyncGenerator[Frame, None]:
        """The frames that ``work`` puts into ``queue``, in a task that ends with this iterator."""
        task = asyncio.create_task(self._produce(work, entry, queue))
        entry.task = task
        try:
            while (frame := await queue.get()) is not None:
                yield frame
            await task
        finally:
            task.cancel()
            await unread_end(task, queue)
            self._running.end(entry.id)

    # --- the task of a request ----------------------------------------------------------------------------------

    async def _produce(self, work: Callable[[], Awaitable[None]], entry: RunningQuery, queue: Queue) -> None:
        """Run to the end and say so; a query cancelled by its id has an end too, and so has a fault of ours."""
        left = False
        try:
            await work()
        except asyncio.CancelledError:
            left = not entry.cancelled  # whoever read the frames is gone, and the queue may be full
            if left:
                raise
        finally:
            if not left:
                await queue.put(None)

    async def _script(
        self,
        request: StatementRequest,
        body: bytes,
        origin: Origin,
        entry: RunningQuery,
        session: Session | None,
        queue: Queue,
    ) -> None:
        whole = None if request.timeout is None else time.monotonic() + request.timeout
        session = Session(directory=self._directory, way=self._elsewhere.way, lasting=session)
        session.default = _spec(request.targets)
        try:
            session.variables.update({name: decode_value(value) for name, value in request.params.items()})
            script = parse_again(request.text)
            if not script.statements:
                raise SyntaxProblem("expected statements, found none")
        except Problem as problem:
            await self._fail(problem, queue, entry)
            return
        for index, statement in enumerate(script.statements):
            entry.statement = index
            errand = Errand(
                statement=statement,
                index=index,
                alone=len(script.statements) == 1,
                route=HERE,
                request=request,
                body=body,
                origin=origin,
                variables=session.variables,
                deadline=_sooner(whole, statement.directives.timeout_s),
                query=entry.id,
                stopped=lambda: entry.cancelled and not self._running.stopping,
            )
            if not await self._statement(errand, session, entry, queue):
                break

    async def _statement(self, errand: Errand, session: Session, entry: RunningQuery, queue: Queue) -> bool:
        """Run one statement to its end frame. False when no target answered."""
        answering = self._answering(queue, errand.index, (self._name,), entry, errand.statement, tagged=False)
        try:
            going = self._route(errand.statement, errand.request.targets)
            placed = self._elsewhere.place(going)
            merging = await self._merging(errand, session) if len(placed.targets) > 1 else None
        except Problem as problem:
            await answering.error(problem.record(peer=shown(self._name)))
            answering.settle(Outcome(shown(self._name), State.ERROR, problem.code))
            await answering.end()
            return False
        targets = placed.targets
        errand = replace(errand, route=going, targets=targets, merging=merging)
        alone_here = len(targets) == 1 and fold(targets[0]) == fold(self._name)
        answering = self._answering(queue, errand.index, targets, entry, errand.statement, tagged=len(targets) > 1)
        answering.unmatched = placed.unmatched

        async def here(into: Answering | Part | None = None) -> None:
            call = self._evaluating.call(errand.origin.caller)
            answer, budget = into or answering, errand.request.bounds
            await self._evaluating.run(
                errand.statement,
                answer,
                call,
                session,
                deadline=errand.deadline,
                budget=budget,
                partial=merging is not None,
            )

        try:
            if alone_here:
                await here()
            else:
                if errand.deadline is None:
                    errand = replace(errand, deadline=time.monotonic() + REMOTE_TIMEOUT_S)
                if isinstance(errand.statement.body, SetVariable):
                    await self._assign(errand, errand.statement.body, answering, session, entry, here)
                else:
                    await self._ask(errand, answering, here)
        except asyncio.CancelledError:
            if not entry.cancelled:
                raise
            answering.settle_open(State.CANCELLED)
            if merging is not None:
                await merging.give(answering, peer=self._name)
            if not self._running.stopping or errand.statement.directives.wait_s is None:  # else it waits on
                await answering.error(Cancelled("the query was cancelled").record())
            await answering.end()
            raise
        entry.rows += answering.rows
        await answering.end()
        return answering.answered

    async def _merging(self, errand: Errand, session: Session) -> Merging | None:
        """How several peers answer together, where they do."""
        call = self._evaluating.call(errand.origin.caller)
        found = await Merging.of(errand.statement, call=call, variables=session.variables, catalogue=self._catalogue)
        if found is not None:
            found.shares = self._evaluating.shares
        return found

    async def _ask(self, errand: Errand, answering: Answering, here: RunHere) -> None:
        """Ask elsewhere. What was merged is given when every target has its state, whichever that is."""
        if errand.merging is not None and errand.merging.columns is not None:
            await answering.schema(errand.merging.columns)
        await self._elsewhere.ask(errand, answering, here=here)
        if errand.merging is not None:
            await errand.merging.give(answering, peer=self._name)

    async def _assign(
        self,
        errand: Errand,
        assignment: SetVariable,
        answering: Answering,
        session: Session,
        entry: RunningQuery,
        here: RunHere,
    ) -> None:
        """Ask the expression of a ``set`` elsewhere and keep its value here. The answer has a ledger and no rows."""
        asked = replace(errand, statement=expression_of(errand.statement, assignment))
        kept = KeptValue(answering)
        asking = Answering(kept, statement=errand.index, targets=errand.targets, query=entry.id, tagged=False)
        await self._elsewhere.ask(asked, asking, here=here)
        await asking.end()
        # The nameserver carries the request as it came, and an edge answers a set with one row, the whole value.
        many = not self._is_nameserver and is_bag(asked.statement, self._catalogue.current, session.variables)
        problem = kept.keep(assignment.name, session, many=many)
        if problem is not None:
            span = errand.statement.source.span(assignment.place)
            await answering.error(problem.at(span).record(peer=shown(self._name)))
        await answering.relay(EndFrame(errand.index, kept.ledger, 0, 0.0))

    def _route(self, statement: Statement, default: str | tuple[str, ...] | None) -> Route:
        """Where a statement goes; an ``explain`` of one that goes elsewhere, to who knows all peers."""
        if not isinstance(statement.body, Explain):
            return route(statement, self._catalogue.current, default=default)
        explained = msgspec.structs.replace(statement, body=statement.body.body)
        going = route(explained, self._catalogue.current, default=default)
        here = isinstance(going.target, Here) or self._elsewhere.way(going)
        return HERE if here else Route(NAMESERVER, going.reason, going.function)

    def _answering(
        self,
        queue: Frames,
        index: int,
        targets: tuple[str, ...],
        entry: RunningQuery,
        statement: Statement | None,
        *,
        tagged: bool,
    ) -> Answering:
        plot = statement.directives.plot if statement is not None else None
        return Answering(queue, statement=index, targets=targets, query=entry.id, plot=plot, tagged=tagged)

    async def _fail(self, problem: Problem, queue: Queue, entry: RunningQuery) -> None:
        """The answer of a text that is not a script."""
        answering = self._answering(queue, 0, (self._name,), entry, None, tagged=False)
        await answering.error(problem.record(peer=shown(self._name)))
        answering.settle_open(State.ERROR, problem.code)
        await answering.end()


def _sooner(deadline: float | None, timeout_s: float | None) -> float | None:
    """Of a request's deadline and a directive's time, whichever ends first."""
    if timeout_s is None:
        return deadline
    own = time.monotonic() + timeout_s
    return own if deadline is None else min(deadline, own)


def _spec(targets: str | tuple[str, ...] | None) -> str | None:
    """A request's default target in the words of ``//peer:``."""
    return ", ".join(targets) if isinstance(targets, tuple) else targets
