"""The acting half of an edge's turn: does what was decided, and what a person asks for.

Owns the actions under way, at most one a model name, and who waits for their end. Decides nothing: after every change
it asks :func:`federation.reconciliation.decide` again.

Rules:

- A person's request is on disk before it is begun, and is told its end: the first failure of a request ends it.
- Fetches run a few at a time, trials and loads one at a time, so that a slow model does not block the others and two
  trials do not share one budget of memory.
- Fetches and trials that no goal wants any more are cancelled; a load that has begun ends.
- What is no longer needed is removed when nothing is under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal

from msgspec.structs import replace

from federation.actual import (
    Done,
    Fetch,
    Lasting,
    Load,
    Passing,
    Report,
    Run,
    Stop,
    Unload,
    Verify,
    Wait,
    dispensable,
    known_verdict,
    removed,
    report_digest,
)
from federation.documents import REPORT_BYTES_MAX, LoadedEntry, Mode, encode
from federation.load_order import hindered, learned, noted
from federation.names import Digest, PeerId
from federation.outcomes import finished
from federation.reconciliation import abandoned, decide, dismissed, requested
from peers.edge_actions import Act, Actions, ReleaseMissing, Releases
from peers.edge_polling import Nameserver
from peers.edge_rhythm import Clock
from peers.edge_state import EdgeState
from peers.failpoints import reach
from query.errors import Cancelled, Problem, unknown

FETCHES_MAX: Final = 3
_REPORTING: Final = ""  # where a report under way stands among the models' names

log = logging.getLogger("peerage.agent")


class Turn:
    """Acts until cancelled. Used by one agent."""

    def __init__(
        self,
        state: EdgeState,
        actions: Actions,
        releases: Releases,
        nameserver: Nameserver,
        *,
        identity: PeerId,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._state = state
        self._actions = actions
        self._releases = releases
        self._nameserver = nameserver
        self._identity = identity
        self._clock = clock
        self._random = random
        self._wake = asyncio.Event()
        self._under_way: dict[str, tuple[Act | Report, asyncio.Task[None]]] = {}
        self._loading: dict[tuple[str, Digest], list[asyncio.Future[LoadedEntry]]] = {}
        self._unloading: dict[str, list[asyncio.Future[None]]] = {}
        self._fetching = asyncio.Semaphore(FETCHES_MAX)
        self._changing = asyncio.Lock()
        self.pruning = asyncio.Lock()  # held by who counts on what is in the repository

    async def restore(self) -> None:
        """Load what was loaded when the edge stopped, from this disk alone. What fails is taken up by :meth:`run`."""
        self._state.restore(await asyncio.to_thread(self._releases.installed))
        while await self._restored_some():
            pass
        log.info("restored", extra={"models": [entry.label for entry in self._state.actual.loaded.values()]})

    async def _restored_some(self) -> bool:
        """Load what can be now; whether that may let others follow, which need it."""
        before = len(self._state.actual.restoring)
        for name in tuple(self._state.actual.restoring):
            while (run := self._state.actual.restoring.get(name)) is not None and not run.attempts:
                alone = replace(self._state.actual, restoring={name: run}, goals={})
                action = next(iter(decide(None, alone, self._clock.now())), None)
                if not isinstance(action, Verify | Load):
                    break
                await self._act(action)
        return 0 < len(self._state.actual.restoring) < before

    async def run(self) -> None:
        """Act until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                now = self._clock.now()
                state = self._state
                until: float | None = None
                report = None if state.mode == "AUTONOMOUS" else state.report_digest()
                for action in decide(state.desired, state.actual, now, report=report):
                    if isinstance(action, Wait):
                        until = action.until
                        continue
                    key = _REPORTING if isinstance(action, Report) else action.name
                    if key not in self._under_way:
                        self._under_way[key] = (action, tasks.create_task(self._go(key, action)))
                if not self._under_way:
                    await self._prune()
                await self._clock.wait(self._wake, None if until is None else max(0.0, until - now))

    def changed(self) -> None:
        """Goals may have changed: stop what none of them wants, tell who waited for it, and decide again."""
        wanted = self._wanted()
        for action, task in tuple(self._under_way.values()):
            if isinstance(action, Fetch | Verify) and (action.name, action.record) not in wanted:
                task.cancel()
        for name, record in tuple(self._loading):
            present = self._under_way.get(name)
            ending = present is not None and isinstance(present[0], Load) and present[0].record == record
            if (name, record) not in wanted and not ending:
                self._fail_loading(name, record, Cancelled(f'the load of "{name}" gave way to what a group wants'))
        self._give_up_hindered()
        for name in tuple(self._unloading):
            if name in self._state.actual.loaded and not isinstance(self._state.actual.goals.get(name), Stop):
                for asker in self._unloading.pop(name):
                    if not asker.done():
                        asker.set_exception(Cancelled(f'"{name}" stays: a group wants it'))
        self._wake.set()

    def _wanted(self) -> set[tuple[str, Digest]]:
        runs = (*self._state.actual.goals.values(), *self._state.actual.restoring.values())
        return {(run.name, run.record) for run in runs if isinstance(run, Run)}

    # --- a person's requests ------------------------------------------------------------------------------------

    async def load(
        self, name: str, version: str, record: Digest, *, origin: Literal["manual", "development"]
    ) -> LoadedEntry:
        """Load an installed release now. Raises why it could not be; then nothing of the request stays."""
        installed = await asyncio.to_thread(self._releases.installed)
        if record not in installed:
            raise ReleaseMissing(f"{name}@{version} is not installed on this peer")
        # Its record is kept too: should the files be damaged one day, it says what to fetch again.
        document = (await asyncio.to_thread(self._releases.read, record)).document
        actual = replace(self._state.actual, installed=dict(installed))
        actual = learned(actual, (document,), self._state.desired)
        wanted = requested(actual, name=name, version=version, record=record, origin=origin)
        wanted = noted(wanted, self._clock.now())
        self._state.keep(wanted, records=(document,))
        reach("manual.recorded")
        asker: asyncio.Future[LoadedEntry] = asyncio.get_running_loop().create_future()
        self._loading.setdefault((name, record), []).append(asker)
        self.changed()
        try:
            return await asker
        except asyncio.CancelledError:
            self._state.become(abandoned(self._state.actual, name=name, version=version, record=record))
            self.changed()
            raise

    async def unload(self, name: str) -> None:
        """Take a model out of memory now. Raises :class:`~query.errors.UnknownName` when it is not there."""
        actual = self._state.actual
        if name not in actual.loaded and name not in actual.restoring and name not in actual.lost:
            raise unknown("loaded model", name, actual.loaded, hint="models:loaded() lists what is")
        self._state.keep(dismissed(actual, name))
        reach("manual.recorded")
        self.changed()
        if name not in self._state.actual.loaded:
            return
        asker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unloading.setdefault(name, []).append(asker)
        await asker

    def _fail_loading(self, name: str, record: Digest, problem: Problem) -> None:
        for asker in self._loading.pop((name, record), ()):
            if not asker.done():
                asker.set_exception(problem)

    def _give_up_hindered(self) -> None:
        """A person is told at once of a need that is not met any more; it is not waited for."""
        for name, record in tuple(self._loading):
            goal = self._state.actual.goals.get(name)
            problem = hindered(self._state.actual, goal) if goal is not None else None
            if problem is not None and isinstance(goal, Run) and goal.record == record:
                self._state.become(abandoned(self._state.actual, name=name, version=goal.version, record=record))
                self._fail_loading(name, record, problem)

    # --- actions ------------------------------------------------------------------------------------------------

    async def _go(self, key: str, action: Act | Report) -> None:
        try:
            match action:
                case Report():
                    await self._report(action)
                case Fetch():
                    async with self._fetching:
                        await self._act(action)
                case _:
                    async with self._changing:
                        if self._stands(action):
                            await self._act(action)
        finally:
            del self._under_way[key]
            self._wake.set()

    def _stands(self, action: Act) -> bool:
        """Whether it would still be decided: what was done while it waited may have left it without what it needs."""
        if isinstance(action, Verify):
            return True
        state = self._state
        return action in decide(state.desired, state.actual, self._clock.now())

    async def _act(self, action: Act) -> None:
        """Do it, keep the state that follows, tell who waits for it."""
        verdict = known_verdict(self._state.actual, action.record) if isinstance(action, Load) else None
        ending = await self._actions.perform(action, trial=verdict.trial if verdict else None)
        outcome, problem = ending.outcome, ending.problem
        self._state.become(finished(self._state.actual, action, outcome, self._clock.now(), self._random()))
        self._give_up_hindered()
        if isinstance(outcome, Done):
            if isinstance(action, Load):
                self._state.judge(self._clock.now())  # what goes on under a revoked key goes on being shown
            self._done(action)
            return
        lasting = isinstance(outcome, Lasting)
        about = {"code": outcome.error, "reason": outcome.message, "lasting": lasting}
        log.warning("action_failed", extra={"action": type(action).__name__.lower(), "model": action.name} | about)
        label = action.name if isinstance(action, Unload) else action.label
        self._state.journal.note_failure(label, outcome.error, now=self._clock.now())
        if problem is not None and not isinstance(action, Unload) and (action.name, action.record) in self._loading:
            name, version, record = action.name, action.version, action.record
            self._state.become(abandoned(self._state.actual, name=name, version=version, record=record))
            self._fail_loading(action.name, action.record, problem)

    def _done(self, action: Act) -> None:
        match action:
            case Fetch():
                reach("fetch.recorded")
                log.info("fetched", extra={"model": action.label})
            case Verify():
                reach("verify.recorded")
            case Load():
                reach("load.recorded")
                journal = self._state.journal
                journal.note_success("loaded", action.name, action.label, now=self._clock.now())
                log.info("loaded", extra={"model": action.label, "origin": action.origin})
                entry = self._state.actual.loaded[action.name]
                for asker in self._loading.pop((action.name, action.record), ()):
                    if not asker.done():
                        asker.set_result(entry)
            case Unload():
                reach("unload.recorded")
                self._state.journal.note_success("unloaded", action.name, action.name, now=self._clock.now())
                log.info("unloaded", extra={"model": action.name})
                for waiting in self._unloading.pop(action.name, ()):
                    if not waiting.done():
                        waiting.set_result(None)

    async def _report(self, action: Report) -> None:
        told = self._state.reported()
        history = told.history
        body = encode(replace(told, reported=int(self._clock.now())))
        while len(body) > REPORT_BYTES_MAX and told.history:  # the state itself goes before what was long ago
            told = replace(told, history=told.history[len(told.history) // 2 + 1 :])
            body = encode(replace(told, reported=int(self._clock.now())))
        outcome: Done | Passing = Done()
        if len(body) > REPORT_BYTES_MAX:
            outcome = Passing("report_too_large", f"{len(body)} bytes, expected at most {REPORT_BYTES_MAX}")
        else:
            try:
                await self._nameserver.report(self._identity, body)
            except Problem as problem:
                outcome = Passing(problem.code, problem.message)
        if isinstance(outcome, Done):
            reach("report.sent")
            self._state.journal.acknowledged(history)
            action = Report(report_digest(replace(told, history=self._state.reported().history)))
        else:
            log.info("report_failed", extra={"code": outcome.error, "reason": outcome.message})
        self._state.become(finished(self._state.actual, action, outcome, self._clock.now(), self._random()))
        reach("report.recorded")

    async def report_once(self, *, mode: Mode) -> None:
        """Tell the nameserver now, without noting that it was told. Raises why it was not."""
        told = replace(self._state.reported(), mode=mode, reported=int(self._clock.now()))
        await self._nameserver.report(self._identity, encode(told))

    def forget(self, record: Digest) -> None:
        """A release is off this disk by a person's word."""
        self._state.become(removed(self._state.actual, record))
        self._wake.set()

    async def _prune(self) -> None:
        if self.pruning.locked():
            return  # who holds it has the turn look again
        async with self.pruning:
            await self._remove_dispensable()

    async def _remove_dispensable(self) -> None:
        for record in dispensable(self._state.desired, self._state.actual):
            label = self._state.actual.installed[record]
            try:
                await asyncio.to_thread(self._releases.remove, record)
            except (Problem, OSError) as problem:
                log.warning("not_pruned", extra={"model": label, "reason": str(problem)})
                return
            reach("prune.removed")
            log.info("pruned", extra={"model": label})
            self._state.become(removed(self._state.actual, record))
            self._wake.set()
