"""The public Python client: ``peers.connect(...)``, synchronous, and ``peers.connect_async(...)``.

    with peers.connect(home="~/.peerage-admin") as federation:
        federation.value('edge:groups("E1")')                      # one value
        for row in federation.query("//peer: all\\nmodels:loaded()"):
            print(row.peer, row.value)

A connection goes to the peer that runs in ``home`` (over its Unix socket), or, where ``home`` belongs to a client, is
itself a short-lived client peer: functions at home everywhere run in this process, the rest is sent on, signed with
the home's key. ``url`` and ``token`` reach a peer's application port instead.

Rules: an answer is never silently partial. ``value`` and ``values`` raise on anything but a complete answer; ``query``
gives what came, with the ledger. Errors are of the class that the other peer raised.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from peers.error_classes import load_error_class
from query.errors import Problem, UserProblem, WorldProblem
from query.frames import EndFrame, ErrorFrame, Frame, RowFrame, SchemaFrame
from query.ledger import Ledger
from query.values import decode_value

if TYPE_CHECKING:
    from peers.pipeline_client import AsyncPipeline, Pipeline

CANCEL_S_MAX: Final = 5.0  # that an interrupted call waits for what it cancelled

_T = TypeVar("_T")

Problem.load_unknown_with(load_error_class)  # what reads errors in this program reads them as what was raised


class PartialAnswer(WorldProblem):
    """Not every target answered; ``ledger`` says which and why."""

    code = "partial_answer"
    ledger: Ledger | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values, one a column, and the peer it came from where several were asked."""

    values: tuple[Any, ...]
    peer: str | None = None

    @property
    def value(self) -> Any:
        """The only value, or the tuple of them."""
        return self.values[0] if len(self.values) == 1 else self.values


@dataclass(slots=True)
class Answer:
    """What a text answered: the rows of all its statements, the errors, and the ledger of each statement."""

    rows: list[Row] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    columns: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def complete(self) -> bool:
        return not self.errors and all(ledger.complete for ledger in self.ledgers)

    def add(self, frame: Frame) -> None:
        match frame:
            case SchemaFrame(columns=columns):
                self.columns = tuple(column.name for column in columns)
            case RowFrame(values=values, peer=peer):
                self.rows.append(Row(tuple(decode_value(value) for value in values), peer))
            case ErrorFrame(error=error):
                self.errors.append(Problem.from_record(error))
            case EndFrame(ledger=ledger):
                self.ledgers.append(ledger)

    def checked(self) -> Answer:
        """This answer when it is complete. Raises the first error, or :class:`PartialAnswer`."""
        if self.errors:
            raise self.errors[0]
        for ledger in self.ledgers:
            if not ledger.complete:
                missing = ", ".join(f"{o.peer}: {o}" for o in ledger.outcomes if o.state.value not in ("rows", "empty"))
                problem = PartialAnswer(f"not every peer answered: {missing}")
                problem.ledger = ledger
                raise problem
        return self


class Link(Protocol):
    """One way to a peer: runs a text there and gives its frames. What a text sets lasts as long as the link."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """The values that were set, by folded name."""
        ...

    def frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any],
        peer: str | None,
        timeout_s: float | None,
        budget: str | None = None,
    ) -> AsyncIterator[Frame]: ...

    async def cancel(self) -> None:
        """Stop what runs over this link, wherever it runs; its frames go on to their ledgers."""
        ...

    async def close(self) -> None: ...


class AsyncConnection:
    """See the module. An async context manager."""

    def __init__(self, opening: Callable[[], Awaitable[Link]]) -> None:
        self._opening = opening
        self._link: Link | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._link = await self._opening()
        self._stack.push_async_callback(self._link.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._link = None

    def frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any] | None = None,
        peer: str | None = None,
        timeout_s: float | None = None,
        budget: str | None = None,
    ) -> AsyncIterator[Frame]:
        """The frames of each statement as they arrive. Closing the iterator cancels what still runs.

        ``params``: values that ``:name`` reads. ``peer``: the default target, below a directive and below home.
        ``budget``: what each statement may use on each peer, in the words of ``//budget:``.
        """
        if self._link is None:
            raise UserProblem("the connection is not open", hint="use it as a context manager")
        return self._link.frames(text, params=params or {}, peer=peer, timeout_s=timeout_s, budget=budget)

    @property
    def variables(self) -> Mapping[str, Any]:
        """What ``set`` has set over this connection, by name in lower case."""
        return {} if self._link is None else self._link.variables

    async def cancel(self) -> None:
        """Stop what runs over this connection, on every peer; its frames go on, to ledgers that say ``cancelled``."""
        if self._link is not None:
            await self._link.cancel()

    async def query(
        self,
        text: str,
        *,
        params: Mapping[str, Any] | None = None,
        peer: str | None = None,
        timeout_s: float | None = None,
        budget: str | None = None,
    ) -> Answer:
        """Everything that the text answers, with its errors and ledgers."""
        answer = Answer()
        running = self.frames(text, params=params, peer=peer, timeout_s=timeout_s, budget=budget)
        async with aclosing(running) as frames:  # type: ignore[type-var]
            async for frame in frames:
                answer.add(frame)
        return answer

    async def values(self, text: str, **options: Any) -> list[Any]:
        """The value of every row. Raises unless the answer is complete."""
        return [row.value for row in (await self.query(text, **options)).checked()]

    async def value(self, text: str, **options: Any) -> Any:
        """The value of the only row. Raises unless the answer is complete and has one row."""
        return _only(await self.values(text, **options), text)

    def pipeline(self, name: str) -> AsyncPipeline:
        """A pipeline in the home of this connection, to be edited, deployed and asked; see peers.pipeline_client."""
        from peers.pipeline_client import AsyncPipeline

        return AsyncPipeline(self, name)


class Connection:
    """The synchronous form of :class:`AsyncConnection`: same calls, same meanings. A context manager.

    Works inside a running event loop too (a notebook): the connection has a loop in a thread of its own.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="peerage-client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._connection.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait(self._connection.__aexit__(kind, value, trace))
        finally:
            self._stop()

    def frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any] | None = None,
        peer: str | None = None,
        timeout_s: float | None = None,
        budget: str | None = None,
    ) -> Iterator[Frame]:
        frames = self._connection.frames(text, params=params, peer=peer, timeout_s=timeout_s, budget=budget)
        try:
            while (frame := self._wait(_next(frames))) is not None:
                yield frame
        finally:
            self._wait(_close(frames))

    @property
    def variables(self) -> Mapping[str, Any]:
        return self._connection.variables

    def begin(self, ask: Callable[[AsyncConnection], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Start what ``ask`` makes of the asynchronous connection, beside what else runs."""
        return asyncio.run_coroutine_threadsafe(ask(self._connection), self._loop)

    def cancel(self) -> None:
        """Ask for :meth:`AsyncConnection.cancel` and return at once. For other threads and signal handlers."""
        asyncio.run_coroutine_threadsafe(self._connection.cancel(), self._loop)

    def query(self, text: str, **options: Any) -> Answer:
        return self._wait(self._connection.query(text, **options))

    def values(self, text: str, **options: Any) -> list[Any]:
        return self._wait(self._connection.values(text, **options))

    def value(self, text: str, **options: Any) -> Any:
        return self._wait(self._connection.value(text, **options))

    def pipeline(self, name: str) -> Pipeline:
        from peers.pipeline_client import Pipeline

        return Pipeline(self._connection.pipeline(name), self._wait)

    def _wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Its result. An interruption cancels it, and is raised once it has ended: what it held is free then."""
        ended: Future[_T] = Future()
        tasks: list[asyncio.Task[_T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(partial(_hand_over, ended))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self._loop.call_soon_threadsafe(begin)
        try:
            return ended.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(cancel)
            wait_for_futures([ended], timeout=CANCEL_S_MAX)
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_S_MAX)
        if not self._thread.is_alive():  # else it computes, and ends with the process
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


def connect(
    home: str | Path | None = None,
    *,
    url: str | None = None,
    token: str | None = None,
    socket: str | Path | None = None,
) -> Connection:
    """A synchronous connection; see the module. One of ``home``, ``url``, ``socket``; none: the default home."""
    return Connection(connect_async(home, url=url, token=token, socket=socket))


def connect_async(
    home: str | Path | None = None,
    *,
    url: str | None = None,
    token: str | None = None,
    socket: str | Path | None = None,
) -> AsyncConnection:
    """An asynchronous connection; see the module."""
    given = [name for name, value in (("home", home), ("url", url), ("socket", socket)) if value is not None]
    if len(given) > 1:
        raise UserProblem(f"expected one of home, url and socket, found {' and '.join(given)}")

    folder = Path(home).expanduser() if home is not None else None

    async def opening() -> Link:
        from peers.links import HttpLink, home_link

        if url is not None:
            return HttpLink(url, token=token)
        if socket is not None:
            return HttpLink("http://localhost", socket=Path(socket))
        return await home_link(folder)

    return AsyncConnection(opening)


def _hand_over(ended: Future[_T], task: asyncio.Task[_T]) -> None:
    """How a task of the connection's thread ended, to who waits in another."""
    if task.cancelled():
        ended.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


async def _next(frames: AsyncIterator[Frame]) -> Frame | None:
    return await anext(frames, None)


async def _close(frames: AsyncIterator[Frame]) -> None:
    close = getattr(frames, "aclose", None)
    if close is not None:
        await close()


def _only(values: list[Any], text: str) -> Any:
    if len(values) != 1:
        raise UserProblem(f"expected one value from {text.strip()[:80]!r}, found {len(values)}")
    return values[0]
