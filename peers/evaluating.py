"""One statement on this peer: resolved, permitted, run within its time and budget, its state in the ledger settled.

Rules: what a statement needs more than its caller has, and what is not at home here, is refused before anything runs.
Of this peer's own budget, the request's and the directive's the smaller of each part holds; what the statement gave
before it was over stays given. Whatever happens, this peer's state is settled, with what was used; a fault of ours is
logged once and told without its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from federation.names import shown
from peers.answering import Answering
from peers.merging import Part
from peers.shares import Share, Shares
from query.budgets import UNBOUNDED, Budget, Spending, tightest
from query.declarations import Call, Caller, Home, Role
from query.errors import DeadlinePassed, Forbidden, InternalProblem, Problem, WrongHome
from query.evaluation import CurrentCatalogue, evaluate
from query.frames import Column
from query.ledger import Outcome, State
from query.part_functions import with_parts
from query.partials import BadPartial
from query.plan import Plan
from query.resolution import resolve
from query.session import Session
from query.splitting import check_partial, split
from query.syntax import SetVariable, Statement
from query.types import OBJECT
from query.values import encode_value

TIME_IS_UP: Final = "the statement's time is up"

log = logging.getLogger("peerage.query")


class Evaluating:
    """Runs statements on one peer, one call each."""

    def __init__(
        self,
        *,
        name: str,
        is_nameserver: bool,
        catalogue: CurrentCatalogue,
        federation_time: Callable[[], float],
        budget: Budget = UNBOUNDED,
    ) -> None:
        """``budget``: what every statement may use on this peer."""
        self._budget = budget
        self.shares = Shares()
        self._name = name
        self._is_nameserver = is_nameserver
        self._catalogue = catalogue
        self._now = federation_time

    def call(self, caller: Caller, *, sender: str | None = None) -> Call:
        """What the implementations that a statement calls are told of it."""
        return Call(caller, datetime.fromtimestamp(self._now(), UTC), self._name, sender=sender)

    async def run(
        self,
        statement: Statement,
        answering: Answering | Part,
        call: Call,
        session: Session,
        *,
        deadline: float | None,
        budget: Budget | None = None,
        partial: bool = False,
    ) -> None:
        """Resolve and run a statement; settles this peer's state. ``deadline``: of ``time.monotonic()``.

        ``budget``: what its request allows. ``partial``: give this peer's part of an answer of several.
        """
        me = shown(self._name)
        asked = tightest(budget, statement.directives.budget)
        spending = Spending(asked, own=self._budget)
        began = time.monotonic()

        def settle(outcome: Outcome) -> None:
            told = asked != UNBOUNDED or (outcome.detail or "").startswith("over_budget")
            used = msgspec.structs.replace(
                outcome,
                rows=spending.rows,
                bytes=spending.bytes,
                elapsed_ms=round((time.monotonic() - began) * 1000, 3),
                allowed=spending.budget if told else None,
            )
            answering.settle(used)

        try:
            async with _within(deadline, began, spending):
                with self.shares.share() as share:
                    plan = self._plan(statement, session, partial=partial)
                    await self._rows(plan, answering, call, session, spending=spending, share=share)
            settle(answering.answered_by(self._name))
        except TimeoutError:
            await answering.error(DeadlinePassed(TIME_IS_UP).record(peer=me))
            settle(Outcome(me, State.TIMEOUT))
        except Problem as problem:
            await answering.error(problem.record(peer=me))
            refused = isinstance(problem, Forbidden)
            settle(Outcome(me, State.REFUSED if refused else State.ERROR, problem.code))
        except Exception:
            log.exception("statement_failed", extra={"text": statement.text[:200]})
            fault = InternalProblem(f"{me} failed to run the statement; its log has the cause")
            await answering.error(fault.record(peer=me))
            settle(Outcome(me, State.ERROR, fault.code))

    def _plan(self, statement: Statement, session: Session, *, partial: bool) -> Plan:
        catalogue = self._catalogue.current
        if not partial:
            return resolve(statement, catalogue, session.variables)
        splitting = split(statement, catalogue, session.variables)
        if splitting is None:
            raise BadPartial("the statement runs whole at each peer, and a part of it was asked for")
        plan = resolve(splitting.partial, with_parts(catalogue), session.variables)
        check_partial(splitting, plan)
        return plan

    async def _rows(
        self,
        plan: Plan,
        answering: Answering | Part,
        call: Call,
        session: Session,
        *,
        spending: Spending,
        share: Share,
    ) -> None:
        """Give schema and rows; raises what goes wrong."""
        loop = asyncio.get_running_loop()

        def progress(label: str, done: int, total: int | None, unit: str) -> None:
            loop.call_soon_threadsafe(functools.partial(answering.progress, label, done, total, unit, peer=self._name))

        self._permit(plan, call)
        body = plan.statement.body
        carried = body if call.sender is not None and type(body) is SetVariable else None
        columns = plan.columns if carried is None else ((f":{carried.name}", OBJECT),)
        await answering.schema(tuple(Column(name, str(kind)) for name, kind in columns))
        told = replace(call, progress=progress, pause=share.pause)
        async with contextlib.aclosing(evaluate(plan, told, session=session, catalogue=self._catalogue)) as rows:
            async for row in rows:
                values = tuple(encode_value(value) for value in row)
                spending.row(values)
                await answering.row(values, peer=self._name)
                await share.row()
        if carried is not None:  # who carried it here keeps the value
            kept = (encode_value(session.variables[carried.name]),)
            spending.row(kept)
            await answering.row(kept, peer=self._name)

    def _permit(self, plan: Plan, call: Call) -> None:
        """Raises :class:`WrongHome` or :class:`Forbidden` before anything runs."""
        for used in plan.functions:
            if used.home is Home.NAMESERVER and not self._is_nameserver:
                raise WrongHome(
                    f"{used.name} is at home on the nameserver, and this is {shown(self._name)}",
                    hint="write //peer: nameserver above the statement",
                )
        if plan.role > call.caller.role:
            needing = next((used.name for used in plan.functions if used.role > call.caller.role), "the statement")
            raise Forbidden(
                f"{needing} needs the role {plan.role.name.lower()}, "
                f'and "{call.caller.name}" is {Role(call.caller.role).name.lower()} here',
                hint="use a home whose identity has that role: peerage query --home ADMIN-HOME",
            )


@contextlib.asynccontextmanager
async def _within(deadline: float | None, began: float, spending: Spending) -> AsyncIterator[None]:
    """Raises TimeoutError past the deadline, and :class:`~query.budgets.OverBudgetTime` when that comes first."""
    time_s = spending.budget.time_s
    ends = None if time_s is None else began + time_s
    spent = ends is not None and (deadline is None or ends < deadline)
    until = ends if spent else deadline
    try:
        async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())) as timer:
            yield
    except TimeoutError:
        if spent and timer.expired():
            raise spending.out_of_time() from None
        raise
