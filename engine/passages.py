"""One request on its way through a pipeline, and how its models and expressions are run.

Owns :class:`Passage`, what a request has become so far, and the two ways of running: :class:`OnTheSpot`, all of it on
this thread, and :class:`Awaiting`, what takes long in the engine's pool. Both are coroutines; the first never waits, so
that :func:`at_once` ends it in one go, on the event loop or on any thread.

Rules: each step has until the request's deadline, and never longer than the engine allows a run; a loop over rows looks
at the time between two of them. Whoever asks waits for challengers no longer than ``CHALLENGERS_S``, or
``CHALLENGERS_TIMES`` what the champion took, and never longer than ``CHALLENGERS_SHARE`` of the time that is left, so
that the rest of the pipeline still has some.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import numpy as np

from engine.errors import ModelFailed, OverTime
from engine.inferences import AnsweringModel
from engine.signature import Array
from engine.streams import Standing, StreamCall, Streams
from query.errors import InternalProblem, Problem

if TYPE_CHECKING:
    from engine.deadlines import Started
    from engine.loaded import LoadedModel
    from engine.servables import Runner
    from engine.statistics import Counters
    from federation.pipeline_schemas import Way

T = TypeVar("T")
Columns = Mapping[str, Array]

CHALLENGERS_SHARE: Final = 0.5
CHALLENGERS_S: Final = 2.0
CHALLENGERS_TIMES: Final = 4.0


@dataclass(slots=True)
class Passage:
    """``fields``: the record as it is now. ``splits``: for each split so far which model answered which row, as text.

    ``models`` and ``answered``: what gave the record, as an inference says it. ``deadline_ns``: by ``monotonic_ns``.
    ``calls``: those on streams so far, with where each stood before.
    """

    count: int
    inputs: Columns
    fields: Columns
    deadline_ns: int | None = None
    stream: StreamCall | None = None
    calls: list[tuple[Streams, StreamCall, Standing]] = field(default_factory=list)
    challengers: dict[str, Columns] = field(default_factory=dict)
    splits: list[Array] = field(default_factory=list)
    models: tuple[AnsweringModel, ...] = ()
    answered: Array | None = None
    elapsed_ns: list[int] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def left_s(self) -> float | None:
        """The time that is left. Raises ``OverTime`` when there is none."""
        if self.deadline_ns is None:
            return None
        left_ns = self.deadline_ns - monotonic_ns()
        if left_ns <= 0:
            raise OverTime("the pipeline took longer than allowed and was ended between two steps")
        return left_ns / 1e9

    def stream_at(self, rows: Rows) -> StreamCall | None:
        """The request's stream at a stateful model's place; ``scope`` is empty for a model without state."""
        stream = self.stream
        if stream is None or not rows.scope:
            return None
        call = StreamCall(key=stream.key, start=stream.start, end=stream.end, scope=rows.scope)
        self.calls.append((rows.model.streams, call, rows.model.streams.standing(call)))
        return call

    def put_back(self) -> None:
        """The streams that went on are put back to where they were when the request came."""
        for streams, call, before in reversed(self.calls):
            streams.put_back(call, before)

    def advanced(self, going: StreamCall | None) -> None:
        """What is said of the stream of one model, said of the request's."""
        if self.stream is not None and going is not None:
            self.stream.position = going.position
            self.stream.restarted = going.restarted or self.stream.restarted


class Rows:
    """How a model's columns become runs of it. Light; one for each model of a step."""

    __slots__ = ("entire", "model", "scope", "way")

    def __init__(self, model: LoadedModel, way: Way, *, entire: frozenset[str] = frozenset(), scope: str = "") -> None:
        """``entire``: inputs and outputs without a dimension for rows. ``scope``: the place of a stateful model's
        streams, empty for one that carries nothing.
        """
        self.model = model
        self.way = way
        self.entire = entire
        self.scope = scope

    def feed(self, columns: Columns, at: int) -> dict[str, Array]:
        """What the model gets for one row."""
        entire = self.entire
        return {name: column[at, ...] if name in entire else column[at : at + 1] for name, column in columns.items()}

    def joined(self, answers: list[dict[str, Array]]) -> dict[str, Array]:
        """The columns of the answers to all rows. Raises ``ModelFailed`` when they have no common shape."""
        found: dict[str, Array] = {}
        for name in answers[0]:
            parts = [answer[name] for answer in answers]
            shapes = sorted({str(list(part.shape)) for part in parts})
            if len(shapes) > 1 or (name not in self.entire and parts[0].shape[:1] != (1,)):
                raise ModelFailed(
                    f'{self.model.label}: output "{name}": expected one shape and one row for each row, '
                    f"found {', '.join(shapes)}"
                )
            found[name] = np.stack(parts) if name in self.entire else np.concatenate(parts)
        return found

    def each(
        self,
        columns: Columns,
        count: int,
        deadline_ns: int,
        *,
        stream: StreamCall | None = None,
        begun: Callable[[Started], None] | None = None,
    ) -> dict[str, Array]:
        """Row by row on this thread. Raises ``OverTime`` when the deadline passes between two rows.

        The rows of a stateful model are moments of one stream, which ends with the last where nobody named one.
        """
        answers = []
        alone = stream is None
        if self.scope and stream is None:
            stream = StreamCall(key=uuid.uuid4().hex, start=True, end=True, scope=self.scope)
        going: StreamCall | None = None
        for at in range(count):
            left_s = (deadline_ns - monotonic_ns()) / 1e9
            if left_s <= 0:
                raise OverTime(f"{self.model.label}: the time was over after {at} of {count} rows")
            if stream is not None:
                going = replace(
                    stream, start=stream.start if at == 0 else None, end=stream.end and at == count - 1, restarted=""
                )
            answers.append(self.model.run(self.feed(columns, at), begun=begun, limit_s=left_s, stream=going))
            if stream is not None and going is not None and not alone:
                stream.position = going.position
                stream.restarted = going.restarted or stream.restarted
        return self.joined(answers)


class Running(Protocol):
    """A way of running."""

    async def model(
        self, rows: Rows, columns: dict[str, Array], passage: Passage, *, left_s: float | None
    ) -> dict[str, Array]:
        """Columns by output of checked columns by input."""
        ...

    async def work(
        self, work: Callable[[Callable[[], None]], T], passage: Passage, *, row_us: float, counters: Counters
    ) -> T:
        """``work(check)`` for all rows, of which each should take ``row_us``; ``check`` raises when time is over."""
        ...

    async def beside(
        self, champion: Coroutine[Any, Any, T], challengers: Sequence[Challenger[T]], passage: Passage
    ) -> tuple[T, list[T | Problem]]:
        """What the champion gave, and what each of the others gave or failed with. Raises what the champion raises."""
        ...


Challenger = Callable[["float | None"], Coroutine[Any, Any, T]]
"""Runs for at most so many seconds."""


def patience_s(passage: Passage, champion_ns: int) -> float:
    """How long challengers are waited for once the champion has answered. Raises ``OverTime`` when no time is left."""
    most_s = max(CHALLENGERS_S, CHALLENGERS_TIMES * champion_ns / 1e9)
    left_s = passage.left_s()
    return most_s if left_s is None else min(most_s, CHALLENGERS_SHARE * left_s)


def _until_ns(left_s: float | None, limit_s: float) -> int:
    return monotonic_ns() + int(min(limit_s, limit_s if left_s is None else left_s) * 1e9)


def _checking(deadline_ns: int) -> Callable[[], None]:
    def check() -> None:
        if monotonic_ns() > deadline_ns:
            raise OverTime("the expressions of a pipeline took longer than allowed and were ended")

    return check


@dataclass(frozen=True, slots=True)
class OnTheSpot:
    """Everything on this thread, one after the other."""

    limit_s: float

    async def model(
        self, rows: Rows, columns: dict[str, Array], passage: Passage, *, left_s: float | None
    ) -> dict[str, Array]:
        stream = passage.stream_at(rows)
        if rows.way == "batch":
            outputs = rows.model.run(columns, limit_s=left_s, stream=stream)
        else:
            outputs = rows.each(columns, passage.count, _until_ns(left_s, self.limit_s), stream=stream)
        passage.advanced(stream)
        return outputs

    async def work(
        self, work: Callable[[Callable[[], None]], T], passage: Passage, *, row_us: float, counters: Counters
    ) -> T:
        return work(_checking(_until_ns(passage.left_s(), self.limit_s)))

    async def beside(
        self, champion: Coroutine[Any, Any, T], challengers: Sequence[Challenger[T]], passage: Passage
    ) -> tuple[T, list[T | Problem]]:
        started_ns = monotonic_ns()
        first = await champion
        until_ns = monotonic_ns() + int(patience_s(passage, monotonic_ns() - started_ns) * 1e9)
        others: list[T | Problem] = []
        for challenger in challengers:
            try:
                others.append(await challenger((until_ns - monotonic_ns()) / 1e9))
            except Problem as problem:
                others.append(problem)
        return first, others


@dataclass(frozen=True, slots=True)
class Awaiting:
    """What takes long in the pool, while the event loop goes on. ``inline_us``: what does not."""

    runner: Runner
    limit_s: float
    inline_us: float

    async def model(
        self, rows: Rows, columns: dict[str, Array], passage: Passage, *, left_s: float | None
    ) -> dict[str, Array]:
        stream = passage.stream_at(rows)
        deadline_ns = _until_ns(left_s, self.limit_s)
        if rows.way == "batch":
            outputs = await self.runner.run(rows.model, columns, deadline_s=left_s, stream=stream)
        elif rows.model.expected_us(rows.feed(columns, 0)) * passage.count <= self.inline_us:
            outputs = rows.each(columns, passage.count, deadline_ns, stream=stream)
        else:
            outputs = await self._each(rows, columns, passage.count, deadline_ns, stream)
        passage.advanced(stream)
        return outputs

    async def _each(
        self, rows: Rows, columns: dict[str, Array], count: int, deadline_ns: int, stream: StreamCall | None
    ) -> dict[str, Array]:
        latest: list[Started] = []
        left = threading.Event()

        def begun(started: Started) -> None:
            latest[:] = [started]
            if left.is_set():
                rows.model.deadlines.abort(started)

        try:
            return await self.runner.offload(
                lambda: rows.each(columns, count, deadline_ns, stream=stream, begun=begun),
                counters=rows.model.counters,
                lane=rows.model.lane,
                deadline_s=(deadline_ns - monotonic_ns()) / 1e9,
            )
        except (asyncio.CancelledError, OverTime):
            left.set()
            for started in latest:
                rows.model.deadlines.abort(started)
            raise

    async def work(
        self, work: Callable[[Callable[[], None]], T], passage: Passage, *, row_us: float, counters: Counters
    ) -> T:
        left_s = passage.left_s()
        check = _checking(_until_ns(left_s, self.limit_s))
        if row_us * passage.count <= self.inline_us:
            return work(check)
        left = threading.Event()

        def looking() -> None:
            check()
            if left.is_set():
                raise OverTime("nobody waits for the answer any more")

        try:
            return await self.runner.offload(lambda: work(looking), counters=counters, deadline_s=left_s)
        finally:
            left.set()

    async def beside(
        self, champion: Coroutine[Any, Any, T], challengers: Sequence[Challenger[T]], passage: Passage
    ) -> tuple[T, list[T | Problem]]:
        started_ns = monotonic_ns()
        others = [asyncio.ensure_future(challenger(None)) for challenger in challengers]
        try:
            first = await champion
            waited_s = patience_s(passage, monotonic_ns() - started_ns)
            await asyncio.wait(others, timeout=waited_s)
        finally:
            for other in others:
                other.cancel()
            found = await asyncio.gather(*others, return_exceptions=True)
        return first, [_challenged(one, waited_s) for one in found]


def _challenged(found: T | BaseException, waited_s: float) -> T | Problem:
    if isinstance(found, asyncio.CancelledError):
        return OverTime(f"expected an answer within {waited_s:.3g} s of the champion's, found none")
    if isinstance(found, BaseException) and not isinstance(found, Problem):
        raise found
    return found


def at_once(running: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        running.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    running.close()
    raise InternalProblem("a pipeline waited for something on a thread that cannot wait")
