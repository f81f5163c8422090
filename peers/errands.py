"""Running statements that wait on an edge: each once, in a task of its own, its answer kept until it is fetched.

Owns the tasks. What brought a statement (an uplink, a poll) may be lost, and come again: it gets the answer that is
kept, or waits for the one under way. Rules: a statement whose answer was not kept when this edge stopped ends with
``error(interrupted)`` and does not run again; stopping one is the nameserver's word alone, or its time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from federation.names import shown
from peers.errand_book import ErrandBook, ErrandKey
from peers.failpoints import reach
from peers.running import RunningQueries
from peers.whole_frames import Interrupted, WholeFrames, outcome_in, read_whole, whole_problem, whole_state
from query.errors import LimitExceeded, Problem
from query.frames import Frame
from query.ledger import State

ERRANDS_AT_ONCE: Final = 4  # that one edge runs, whoever brought them
ERRANDS_OF_ONE_CALLER: Final = 2  # of these, so that one caller's long ones leave room for others

log = logging.getLogger("peerage.errands")


@dataclass(slots=True)
class _Running:
    errand: str
    task: asyncio.Task[bytes]
    stopped: bool = False


class Errands:
    """``now``: federation time. ``queries``: what runs on this peer, to tell a stopping peer's end from others."""

    def __init__(self, book: ErrandBook, *, name: str, queries: RunningQueries, now: Callable[[], float]) -> None:
        self._book = book
        self._name = name
        self._queries = queries
        self._now = now
        self._running: dict[ErrandKey, _Running] = {}
        self._gate = asyncio.Semaphore(ERRANDS_AT_ONCE)
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by caller

    @property
    def book(self) -> ErrandBook:
        return self._book

    def begin(self, key: ErrandKey, frames: AsyncGenerator[Frame, None], *, errand: str, index: int) -> None:
        """Run what was just noted in the book. ``frames`` begins when it is read."""
        self._running[key] = running = _Running(errand, asyncio.create_task(self._run(key, frames, index)))
        running.task.add_done_callback(lambda _: self._running.pop(key, None))

    async def answer(self, key: ErrandKey, *, index: int) -> bytes:
        """The whole answer of a statement that was begun here, at any time before. Leaving stops nothing."""
        running = self._running.get(key)
        if running is not None:
            return await asyncio.shield(running.task)
        kept = self._book.answer(key)
        if kept is not None:
            return kept
        me = shown(self._name)
        problem = Interrupted(
            f"{me} stopped while it ran the statement, and does not run it twice: whether it took effect is not known",
            hint="look at what it should have changed, then ask anew",
        )
        return whole_problem(problem, me, index=index, state=State.ERROR)

    def known(self) -> frozenset[str]:
        """The ids of the errands that run here, or whose answers are kept."""
        return frozenset(running.errand for running in self._running.values()) | self._book.unfetched()

    def done(self, errands: Iterable[str]) -> None:
        """The nameserver wants these no more: what runs is stopped, what is kept is forgotten."""
        gone = frozenset(errands)
        for running in tuple(self._running.values()):
            if running.errand in gone:
                running.stopped = True
                running.task.cancel()
        self._book.done(gone)

    async def close(self) -> None:
        """End what runs, as this peer does."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: ErrandKey, frames: AsyncGenerator[Frame, None], index: int) -> bytes:
        me = shown(self._name)
        whole = WholeFrames()
        own = self._gates.setdefault(key.caller, asyncio.Semaphore(ERRANDS_OF_ONE_CALLER))
        try:
            async with aclosing(frames) as given, own, self._gate:
                async for frame in given:
                    whole.take(frame)
                    if whole.full:
                        break
            reach("waits.run")
            answer = whole.written(me, index=index)
        except asyncio.CancelledError:
            if not self._running[key].stopped:
                raise
            answer = whole_state(me, State.CANCELLED, index=index)
        if self._queries.stopping and outcome_in(read_whole(answer)).state is State.CANCELLED:
            return answer  # by the end of this peer, which nobody asked for: told as interrupted later
        try:
            try:
                self._book.keep(key, answer, now=self._now())
                reach("waits.answer_kept")
            except LimitExceeded as problem:
                answer = whole_problem(problem, me, index=index, state=State.ERROR)
                self._book.keep(key, answer, now=self._now())
        except Problem as problem:  # it can be told to who waits for it now, not later
            log.warning("answer_not_kept", extra={"code": problem.code, "reason": problem.message})
        return answer
