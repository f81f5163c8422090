"""The statements that run on this peer right now, so that they can be listed, cancelled by id, and stopped with it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from query.declarations import Caller, Role
from query.errors import Forbidden, WorldProblem, unknown

TEXT_SHOWN: Final = 200
SETTLE_S_MAX: Final = 0.5  # for the ledgers of what a stopping peer cancels


class Stopping(WorldProblem):
    """A peer that is being stopped begins nothing new."""

    code = "stopping"


class Cancellable(Protocol):
    """What a query runs in: a task."""

    def cancel(self) -> object: ...


@dataclass(slots=True)
class RunningQuery:
    """One request under way. ``statement`` is the index of the statement it has come to."""

    id: str
    caller: Caller
    text: str
    started: float
    task: Cancellable | None
    statement: int = 0
    rows: int = 0
    cancelled: bool = False


class RunningQueries:
    """Owns the table; an entry lives as long as its request."""

    def __init__(self) -> None:
        self._running: dict[str, RunningQuery] = {}
        self._stopping = False
        self._idle = asyncio.Event()

    def new_id(self) -> str:
        return f"q-{secrets.token_hex(6)}"

    def begin(self, query: str, *, caller: Caller, text: str, now: float) -> RunningQuery:
        """Raises :class:`Stopping`."""
        if self._stopping:
            raise Stopping("this peer is stopping", hint="ask again once it is back")
        entry = RunningQuery(query, caller, text[:TEXT_SHOWN], now, None)
        self._running[query] = entry
        return entry

    def end(self, query: str) -> None:
        self._running.pop(query, None)
        if not self._running:
            self._idle.set()

    @property
    def stopping(self) -> bool:
        """Whether this peer is being stopped: what ends now was not stopped for its own sake."""
        return self._stopping

    def all(self) -> tuple[RunningQuery, ...]:
        return tuple(self._running.values())

    def cancel(self, query: str, *, caller: Caller) -> bool:
        """Stop a query wherever it runs. Raises when there is none, or when it is another's and the role too low."""
        entry = self._running.get(query)
        if entry is None:
            everybodys = caller.role >= Role.OPERATOR
            raise unknown("running query", query, (e.id for e in self.all() if everybodys or same(caller, e.caller)))
        if caller.role < Role.OPERATOR and not same(caller, entry.caller):
            raise Forbidden(f'query "{query}" is of "{entry.caller.name}"; cancelling it needs the role operator')
        _cancel(entry)
        return True

    async def quiet(self, *, within_s: float) -> None:
        """Return when nothing runs, or after ``within_s``."""
        self._idle.clear()
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._idle.wait()

    async def stop(self, *, within_s: float = SETTLE_S_MAX) -> None:
        """Begin nothing more, cancel everything, and return when each has told its ledger, or after ``within_s``."""
        self._stopping = True
        self._idle.clear()
        if not self._running:
            return
        for entry in self.all():
            _cancel(entry)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()


def same(one: Caller, other: Caller) -> bool:
    """Whether two callers are one: by identity, since a name may have been given to another meanwhile."""
    return (one.uuid, one.name) == (other.uuid, other.name)


def _cancel(entry: RunningQuery) -> None:
    entry.cancelled = True
    if entry.task is not None:
        # After the task's own first step, which the loop has in line already: it then tells how it ended.
        asyncio.get_running_loop().call_soon(entry.task.cancel)


class _Within:
    """The part of a task in which a query runs: cancelling the query does nothing to what comes after it there."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task: asyncio.Task[Any] | None = task

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def leave(self, *, cancelled: bool) -> None:
        if self._task is not None and cancelled:
            self._task.uncancel()  # it was for the query, which has told how it ended
        self._task = None


@contextlib.contextmanager
def running_here(entry: RunningQuery) -> Iterator[None]:
    """Have ``entry`` run in this task until this is left, by its end or by its cancellation."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    within = _Within(task)
    entry.task = within
    try:
        yield
    finally:
        within.leave(cancelled=entry.cancelled and task.cancelling() > before)


async def unread_end(task: asyncio.Task[None], queue: asyncio.Queue[Any]) -> None:
    """Wait for the end of a request whose reader is gone, throwing its last frames away: a query that was cancelled by
    its id still has some to tell, and would wait for room where nobody reads.
    """
    while not task.done():
        reading = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait((task, reading), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # once more: the end is waited for all the same
            task.cancel()
        finally:
            reading.cancel()
    if not task.cancelled():
        task.result()
