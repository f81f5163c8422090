"""What an editor runs: one text a run, its frames as they come, and its end.

Rules: the frames of a run are told before its result; what the editor does not read is not produced; a run that is
cancelled goes on to ledgers that say so, on every peer; a run whose request the editor takes back, or whose editor is
gone, is cancelled and tells nothing more. At most ``RUNS_MAX`` at once; an id names one of them. Rows beyond
``rows_max`` are counted, not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from peers.client import AsyncConnection
from peers.lsp.messages import RUN_ID_LENGTH_MAX, BadMessage, RunRequest, RunResult
from query.errors import Problem, UserProblem
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.values import decode_value

RUNS_MAX: Final = 16
CANCEL_S_MAX: Final = 5.0  # that a cancelled run may take to its ledgers
CANCEL: Final = "query:cancel(:query)"

Tell = Callable[[Frame], Awaitable[None]]


class TooManyRuns(UserProblem):
    """An editor runs more at once than it may."""

    code = "too_many_runs"


@dataclass(slots=True)
class _Run:
    work: asyncio.Task[None] | None = None  # follows the frames
    stopping: asyncio.Task[None] | None = None
    query: str = ""
    cancelled: bool = False
    rows: int = 0
    told: int = 0
    errors: int = 0
    statements: int = 0
    complete: bool = True
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Runs:
    """See the module."""

    def __init__(self, connection: Callable[[], Awaitable[AsyncConnection]]) -> None:
        self._connection = connection
        self._running: dict[str, _Run] = {}

    async def run(self, request: RunRequest, text: str, *, peer: str | None, tell: Tell) -> RunResult:
        """Run a text, telling its frames; its end. Raises :class:`~query.errors.Problem` when it cannot begin."""
        self._check(request)
        run = self._running[request.id] = _Run()
        started = time.monotonic()
        try:
            connection = await self._connection()
            if not run.cancelled:
                run.work = asyncio.create_task(self._follow(connection, run, request, text, peer=peer, tell=tell))
                await _ended(run)
        finally:
            run.over.set()
            del self._running[request.id]
            if run.stopping is not None:
                await run.stopping
        return RunResult(
            id=request.id,
            complete=run.complete and not run.cancelled and run.statements > 0,
            cancelled=run.cancelled,
            statements=run.statements,
            rows=run.rows,
            told=run.told,
            errors=run.errors,
            elapsed_ms=round((time.monotonic() - started) * 1000, 3),
        )

    async def cancel(self, name: str) -> bool:
        """Stop a run on every peer that it runs on; False when there is none of that id."""
        run = self._running.get(name)
        if run is None:
            return False
        run.cancelled = True
        if run.stopping is None:
            run.stopping = asyncio.create_task(self._stop(run))
        return True

    def _check(self, request: RunRequest) -> None:
        if not request.id or len(request.id) > RUN_ID_LENGTH_MAX:
            raise BadMessage(f"expected an id of 1 to {RUN_ID_LENGTH_MAX} characters")
        if request.id in self._running:
            raise BadMessage(f'a run "{request.id}" is under way')
        if request.rows_max < 0:
            raise BadMessage(f"expected rowsMax of at least 0, found {request.rows_max}")
        if len(self._running) >= RUNS_MAX:
            raise TooManyRuns(f"{RUNS_MAX} runs are under way", hint="cancel one, or wait for its end")

    async def _follow(
        self,
        connection: AsyncConnection,
        run: _Run,
        request: RunRequest,
        text: str,
        *,
        peer: str | None,
        tell: Tell,
    ) -> None:
        params = {name: decode_value(value) for name, value in request.params.items()}
        frames = connection.frames(text, params=params, peer=peer, timeout_s=request.timeout_s)
        async with aclosing(frames) as running:  # type: ignore[type-var]
            try:
                async for frame in running:
                    await self._take(run, frame, request, tell)
            except Problem as problem:
                run.complete = False
                run.errors += 1
                await tell(ErrorFrame(run.statements, problem.record()))

    async def _take(self, run: _Run, frame: Frame, request: RunRequest, tell: Tell) -> None:
        match frame:
            case SchemaFrame(query=query) | ProgressFrame(query=query) if query:  # what waits tells it first
                run.query = query
                run.begun.set()
            case RowFrame():
                run.rows += 1
                if run.rows > request.rows_max:
                    return
                run.told += 1
            case ErrorFrame():
                run.errors += 1
            case EndFrame(ledger=ledger):
                run.statements += 1
                run.complete = run.complete and ledger.complete
        await tell(frame)

    async def _stop(self, run: _Run) -> None:
        """Have what runs cancelled by its id; when that does not end it in time, leave it, which cancels it too."""
        try:
            async with asyncio.timeout(CANCEL_S_MAX):
                await _first(run.begun, run.over)
                if not run.over.is_set():
                    connection = await self._connection()
                    await connection.query(CANCEL, params={"query": run.query})
                    await run.over.wait()
        except (Problem, OSError, TimeoutError):
            if run.work is not None:
                run.work.cancel()


async def _ended(run: _Run) -> None:
    """Wait for the end of what a run does; also when it was left because cancelling took too long."""
    assert run.work is not None
    try:
        await run.work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not run.cancelled or (task is not None and task.cancelling()):
            raise


async def _first(*events: asyncio.Event) -> None:
    """Return once one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
