"""The answer of several peers to one split statement, while it comes in.

    frames of a target ──> Part ── at its end ──> MergedGroups or MergedRows ── final statement ──> rows of the whole

Owns where the frames of each target go (:class:`Part` stands where an answer stands) and the final statement, which
runs on the peer that fans out. Rules: a target counts whole or not at all, when it has come to its end; one whose
partial answer is of another form, or does not go with what is there, has an error and is not in the answer.
:meth:`Merging.rows` may be asked at any time: what has come to its end by then.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from federation.names import shown
from peers.answering import Answering
from peers.shares import Shares
from query.declarations import Call
from query.errors import ErrorRecord, Problem
from query.evaluation import CurrentCatalogue, evaluate
from query.frames import Column, EndFrame, Frame, RowFrame, SchemaFrame
from query.ledger import COMPLETE, Outcome, State
from query.limits import over
from query.merging import FIRST_ROWS_MAX, MergedGroups, MergedRows
from query.part_functions import with_parts
from query.partials import BadPartial
from query.plan import Plan
from query.resolution import resolve
from query.selection import checked_limit
from query.session import Session, Variables
from query.splitting import MERGED_ROWS, Split, Splitting, TopRows, split
from query.syntax import Statement
from query.values import decode_value, encode_value

PART_BYTES_MAX: Final = 64 * 1024 * 1024  # that are put aside of one target's answer, encoded
ASIDE_BYTES_MAX: Final = 256 * 1024 * 1024  # of all targets together, whose answers have not ended
PROGRESS_STEPS: Final = 20  # of a statement, told while its targets come to their ends


class Merging:
    """Make it with :meth:`of`."""

    def __init__(self, splitting: Splitting, *, call: Call, variables: Mapping[str, Any], catalogue: CurrentCatalogue):
        self.splitting = splitting
        self._call = call
        self._variables = variables
        self._catalogue = catalogue
        self._merged: MergedGroups | MergedRows | None = None
        self._final: Plan | None = None
        self._ended = 0
        self.aside = 0  # bytes of the answers that are put aside
        self._any = False  # whether anything was added, be it no group
        self.shares = Shares()  # of the peer where the rows of the whole are made
        self.columns: tuple[Column, ...] | None = None  # of the answer; of first rows, those of the first target

    @staticmethod
    async def of(
        statement: Statement, *, call: Call, variables: Mapping[str, Any], catalogue: CurrentCatalogue
    ) -> Merging | None:
        """What merges the answers of several peers to a statement; None for one that runs whole at each. Raises what
        is wrong with the statement.
        """
        splitting = split(statement, catalogue.current, variables)
        if splitting is None:
            return None
        made = Merging(splitting, call=call, variables=variables, catalogue=catalogue)
        await made._begin()
        return made

    async def _begin(self) -> None:
        match self.splitting:
            case TopRows(limit=limit):
                async with contextlib.aclosing(
                    self._run(resolve(limit, self._catalogue.current, self._variables))
                ) as rows:
                    (value,) = [row[0] async for row in rows]
                self._merged = MergedRows(self.splitting, limit=checked_limit(value))
            case Split(final=final):
                variables = _Lent(self._variables, [])
                self._final = resolve(final, with_parts(self._catalogue.current), variables)
                self.columns = tuple(Column(name, str(kind)) for name, kind in self._final.columns)
                self._merged = MergedGroups(self.splitting)

    def part(self, target: str, answering: Answering) -> Part:
        """Where the answer of one target goes."""
        return Part(self, target, answering)

    def take(self, target: str, frames: Iterable[Frame]) -> Problem | None:
        """A whole answer of one target; gives why it is not in the answer of all, when it had come to its end."""
        schema: tuple[Column, ...] = ()
        rows: list[Sequence[Any]] = []
        complete = False
        for frame in frames:
            match frame:
                case SchemaFrame(columns=columns):
                    schema = columns
                case RowFrame(values=values):
                    rows.append(values)
                case EndFrame(ledger=ledger):
                    complete = ledger.complete
        try:
            if complete:
                self.add(target, schema, [decoded(values) for values in rows])
        except Problem as problem:
            return problem
        return None

    def add(self, target: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
        """What a target gave that came to its end. Raises, and then nothing of it counts."""
        assert self._merged is not None
        if tuple(column.name for column in columns) != self.splitting.columns:
            raise BadPartial(
                f"{shown(target)} gave no partial result of this statement",
                hint="it may run another version: version() tells",
            )
        self._merged.add(target, rows)
        self._any = True

    def tell(self, answering: Answering) -> None:
        """Tell now and then how many targets have come to their ends."""
        self._ended += 1
        total = len(answering.targets)
        if self._ended * PROGRESS_STEPS // total > (self._ended - 1) * PROGRESS_STEPS // total:
            answering.progress("answered", self._ended, total, "peers", peer=None)

    async def rows(self) -> AsyncGenerator[tuple[tuple[Any, ...], str | None]]:
        """The rows of the whole in encoded values, each with its peer when it is one peer's."""
        if isinstance(self._merged, MergedRows):
            for target, values in self._merged.rows():
                yield tuple(encode_value(value) for value in values), target
            return
        assert self._merged is not None
        assert self._final is not None
        if not self._any:
            return
        async with contextlib.aclosing(self._run(self._final, self._merged.rows())) as rows:
            async for row in rows:
                yield tuple(encode_value(value) for value in row), None

    async def give(self, answering: Answering, *, peer: str) -> None:
        """Give the rows of the whole into an answer, and what went wrong in making them as ``peer``'s error."""
        try:
            with self.shares.share() as share:
                self._call = replace(self._call, pause=share.pause)
                if self.columns is not None:
                    await answering.schema(self.columns)
                async with contextlib.aclosing(self.rows()) as rows:
                    async for values, target in rows:
                        await answering.row(values, peer=target)
                        await share.row()
        except Problem as problem:
            await answering.error(problem.record(peer=shown(peer)))

    async def _run(self, plan: Plan, merged: list[list[Any]] | None = None) -> AsyncGenerator[tuple[Any, ...]]:
        session = Session()
        session.variables = _Lent(self._variables, merged or [])
        async with contextlib.aclosing(evaluate(plan, self._call, session=session, catalogue=self._catalogue)) as rows:
            async for row in rows:
                yield row


class Part:
    """The answer of one target, put aside until its end. Stands where an :class:`Answering` stands."""

    def __init__(self, merging: Merging, target: str, answering: Answering) -> None:
        self._merging = merging
        self._target = target
        self._answering = answering
        self._columns: tuple[Column, ...] | None = None
        self._rows: list[list[Any]] = []
        self._bytes = 0
        self._problem: Problem | None = None
        self._settled = False

    async def schema(self, columns: tuple[Column, ...]) -> None:
        if self._columns is None:
            self._columns = columns
        merging = self._merging
        if isinstance(merging.splitting, TopRows) and tuple(one.name for one in columns) == merging.splitting.columns:
            merging.columns = merging.columns or columns[: merging.splitting.items]
            await self._answering.schema(merging.columns)

    async def row(self, values: tuple[Any, ...], *, peer: str | None) -> None:
        """Put a row aside. One that is none, or one too many, makes all of them none."""
        if self._problem is not None:
            return
        try:
            if len(self._rows) >= FIRST_ROWS_MAX:
                raise over("a partial answer", FIRST_ROWS_MAX, "more", "rows")
            size = len(msgspec.json.encode(values))
            self._bytes += size
            self._merging.aside += size
            if self._bytes > PART_BYTES_MAX:
                raise over("a partial answer", PART_BYTES_MAX, "more", "bytes")
            if self._merging.aside > ASIDE_BYTES_MAX:
                raise over("what several peers' answers put aside", ASIDE_BYTES_MAX, "more", "bytes")
            self._rows.append(decoded(values))
        except Problem as problem:
            self._problem = problem
            self._drop()

    def _drop(self) -> None:
        self._rows = []
        self._merging.aside -= self._bytes
        self._bytes = 0

    def progress(self, label: str, done: int, total: int | None, unit: str, *, peer: str) -> None:
        self._answering.progress(label, done, total, unit, peer=peer)

    async def error(self, record: ErrorRecord) -> None:
        await self._answering.error(record)

    def answered_by(self, peer: str) -> Outcome:
        return Outcome(shown(peer), State.ROWS if self._rows else State.EMPTY, rows=len(self._rows))

    def settle(self, outcome: Outcome) -> None:
        """Take up what came when the target ended well; its state is an error when that does not go."""
        if self._settled:
            return
        self._settled = True
        if outcome.state in COMPLETE:
            try:
                if self._problem is not None:
                    raise self._problem
                self._merging.add(self._target, self._columns or (), self._rows)
            except Problem as problem:
                self._problem = problem
                outcome = msgspec.structs.replace(outcome, state=State.ERROR, detail=problem.code)
        self._drop()
        self._answering.settle(outcome)
        self._merging.tell(self._answering)

    async def end(self) -> None:
        """Tell why the target is not in the answer, when that is so."""
        if self._problem is not None:
            await self._answering.error(self._problem.record(peer=shown(self._target)))


def decoded(values: Iterable[Any]) -> list[Any]:
    """The values of a row as it came."""
    return [decode_value(value) for value in values]


class _Lent(Variables):
    """The variables of a statement, and the merged rows, which are no value of anybody's."""

    def __init__(self, variables: Mapping[str, Any], merged: list[list[Any]]) -> None:
        super().__init__()
        self._variables = variables
        self._merged = merged

    def __getitem__(self, name: str) -> Any:
        return self._merged if name == MERGED_ROWS else self._variables[name]

    def __contains__(self, name: object) -> bool:
        return name == MERGED_ROWS or name in self._variables

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)
