"""The steps of a pipeline, ready to run: each takes the record of a request on to the next.

Owns what each kind of step does with rows: which model answers which of them, what of it feeds on, what is shown
beside. How models run is :mod:`engine.passages`; what fits what was decided by :mod:`federation.pipeline_schemas`.

Rules: a split without a hash key draws one model for a request, in proportion to the weights; with one, each row has
the model that the value of its field falls on, the same on every device, for every version of the pipeline with the
same weights and as many splits before it. Rows of one model stay together in one run. A model that fails fails the
request, but for a challenger, which is left out and told.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np

from engine.decimals import plain
from engine.errors import InputProblem, ModelFailed, OverTime
from engine.inferences import AnsweringModel
from engine.passages import Columns, Passage, Rows, Running
from engine.signature import NUMPY, Array, datatype_of, shown
from federation.documents import TensorSpec
from federation.pipelines import KeySplit, RandomSplit
from query.errors import Problem
from query.operators import as_string

if TYPE_CHECKING:
    from engine.loaded import LoadedModel
    from engine.statistics import Counters
    from federation.pipeline_schemas import ModelSchema, StepSchema
    from query.row_expressions import RowExpression

DrawOne = Callable[[], float]
"""A number from 0 to below 1."""

Failed = Callable[[str, Problem, int], None]
"""Told the name of what was left out, why, and for how many rows."""

HASH_BYTES: Final = 8
DECIDING_US: Final = 2.0  # what it takes to hash a row's value
ROWS_BETWEEN_CHECKS: Final = 256


class TakenStep(Protocol):
    """A step. ``label`` names it to people."""

    label: str

    async def take(self, passage: Passage, running: Running) -> None: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A model at its place in a pipeline. ``checked``: the pipeline's own check has seen its inputs already."""

    model: LoadedModel
    schema: ModelSchema
    rows: Rows
    answering: AnsweringModel
    checked: bool

    async def run(
        self, passage: Passage, running: Running, *, at: Array | None = None, most_s: float | None = None
    ) -> dict[str, Array]:
        """Its outputs for the rows ``at``, or for all. Raises what a run raises."""
        fields = passage.fields
        columns = {spec.name: fields[spec.name] for spec in self.schema.inputs}
        if at is not None:
            columns = {name: column[at] for name, column in columns.items()}
            passage = Passage(len(at), columns, columns, passage.deadline_ns, passage.stream, passage.calls)
        if not self.checked:
            self._check(columns)
        left_s = passage.left_s()
        if most_s is not None:
            left_s = most_s if left_s is None else min(left_s, most_s)
        outputs = await running.model(self.rows, columns, passage, left_s=left_s)
        if self.rows.way == "batch":
            self.check_rows(outputs, passage.count)
        return outputs

    def check_rows(self, outputs: dict[str, Array], count: int) -> None:
        """Raises ``ModelFailed`` when a model does not give a row for each that it got."""
        for name, output in outputs.items():
            if output.ndim == 0 or output.shape[0] != count:
                raise ModelFailed(
                    f'{self.model.label}: output "{name}": expected {count} rows as the input has, found '
                    f"{shown(datatype_of(output), output.shape)}"
                )

    def _check(self, columns: dict[str, Array]) -> None:
        """Columns that another step made, against what the model takes."""
        if self.rows.way == "batch":
            columns.update(self.model.signature.checked(columns))
            return
        checked = self.model.signature.checked(self.rows.feed(columns, 0))
        for name, column in columns.items():
            if column.dtype != checked[name].dtype:
                raise InputProblem(f'input "{name}": expected {checked[name].dtype}, found {column.dtype}')


Intake = tuple[TensorSpec, ...]
"""Inputs of a step for which expressions made numbers, which take on the datatype."""


def take_in(intake: Intake, passage: Passage) -> None:
    """Gives the numbers of the record the datatypes that the models of a step take."""
    if intake:
        passage.fields = {**passage.fields, **{spec.name: taken_on(spec, passage.fields[spec.name]) for spec in intake}}


def taken_on(spec: TensorSpec, column: Array) -> Array:
    """Numbers or texts that an expression made, as an input. Raises ``InputProblem`` for one that does not fit."""
    wanted = NUMPY[spec.datatype]
    if column.dtype != wanted:
        with np.errstate(over="ignore", invalid="ignore"):
            given = column.astype(wanted)
        wrong = None if given.dtype.kind == "f" and np.isfinite(given).all() else _misfits(column, given)
        if wrong is not None:
            row = int(wrong[0])
            raise InputProblem(
                f'row {row + 1}: input "{spec.name}": expected numbers that fit {spec.datatype}, '
                f"found {column[tuple(wrong)].item()}"
            )
        column = given
    if column.ndim == 1 and len(spec.shape) > 1:
        return column.reshape(len(column), *(1 for _ in spec.shape[1:]))
    return column


def _misfits(column: Array, given: Array) -> Array | None:
    """Where the first number stands that became another one; a real may lose digits."""
    if given.dtype.kind == "f":
        wrong = np.isinf(given) & np.isfinite(column)
    else:
        wrong = given.astype(column.dtype) != column
        if given.dtype.kind == "u":
            wrong |= column < 0
    return np.argwhere(wrong)[0] if wrong.any() else None


class ModelTaken:
    """One model for all rows."""

    def __init__(self, label: str, member: Member, *, intake: Intake) -> None:
        self.label = label
        self.member = member
        self._intake = intake
        self._models = (member.answering,)

    async def take(self, passage: Passage, running: Running) -> None:
        take_in(self._intake, passage)
        passage.fields = await self.member.run(passage, running)
        passage.models, passage.answered = self._models, None


class ShadowTaken:
    """The champion's outputs feed on; the challengers' are shown."""

    def __init__(self, label: str, members: Sequence[Member], *, intake: Intake, failed: Failed) -> None:
        self.label = label
        self._intake = intake
        self._champion, *self._challengers = members
        self._failed = failed

    async def take(self, passage: Passage, running: Running) -> None:
        take_in(self._intake, passage)
        outputs, others = await running.beside(
            self._champion.run(passage, running),
            [partial(self._challenge, one, passage, running) for one in self._challengers],
            passage,
        )
        for challenger, found in zip(self._challengers, others, strict=True):
            name = challenger.model.name
            if isinstance(found, Problem):
                passage.dropped.append(f"out_{name}")
                self._failed(f"out_{name}", found, passage.count)
            else:
                passage.challengers[name] = found
        passage.fields = outputs
        passage.models, passage.answered = (self._champion.answering,), None

    async def _challenge(
        self, one: Member, passage: Passage, running: Running, most_s: float | None
    ) -> dict[str, Array]:
        if most_s is not None and most_s <= 0:
            raise OverTime(f"{one.model.label}: the challengers before it took all the time that they had together")
        return await one.run(passage, running, most_s=most_s)


class SplitTaken:
    """One of several models, for the request or, ``keyed``, for each row."""

    def __init__(
        self,
        label: str,
        counters: Counters,
        members: Sequence[Member],
        choose: Choosing,
        *,
        intake: Intake,
        keyed: bool,
    ) -> None:
        self.label = label
        self._counters = counters
        self._intake = intake
        self._members = tuple(members)
        self._choose = choose
        self._row_us = DECIDING_US if keyed else 0.0
        self._models = tuple(member.answering for member in members)
        self._texts = [_named(member) for member in members]

    async def take(self, passage: Passage, running: Running) -> None:
        chosen = await running.work(
            lambda check: self._choose(passage, check), passage, row_us=self._row_us, counters=self._counters
        )
        take_in(self._intake, passage)
        if isinstance(chosen, int):
            await self._one(passage, running, chosen)
            return
        used = np.flatnonzero(np.bincount(chosen, minlength=len(self._members)))
        if len(used) == 1:
            await self._one(passage, running, int(used[0]))
            return
        parts = []
        for position in used.tolist():
            at = np.flatnonzero(chosen == position)
            parts.append((at, await self._members[position].run(passage, running, at=at)))
        texts = np.array(self._texts, np.object_)[chosen]
        passage.fields = _scattered(parts, passage.count, self.label)
        passage.models, passage.answered = self._models, chosen
        passage.splits.append(texts)

    async def _one(self, passage: Passage, running: Running, position: int) -> None:
        passage.fields = await self._members[position].run(passage, running)
        passage.models, passage.answered = (self._models[position],), None
        texts = np.empty(passage.count, np.object_)
        texts[:] = self._texts[position]
        passage.splits.append(texts)


Choosing = Callable[[Passage, Callable[[], None]], "int | Array"]
"""The position of the model that a request gets, or of each row's; what it is given is called now and then, and may
raise.
"""


def choosing(step: RandomSplit | KeySplit, *, draw: DrawOne, salt: str) -> Choosing:
    """How a split decides. ``salt`` keeps the splits of one pipeline independent of each other."""
    if isinstance(step, KeySplit):
        positions = {value: at for at, value in enumerate(sorted(step.choices), 1)}
        return lambda passage, check: _by_value(passage.fields[step.key], lambda one: positions.get(one, 0), check)
    sums = list(accumulate(choice.weight for choice in step.choices))
    last = max(at for at, choice in enumerate(step.choices) if choice.weight > 0)
    key = step.hash_key

    def position(number: float) -> int:
        return min(bisect_right(sums, number * sums[-1]), last)

    if key is None:
        return lambda passage, check: position(draw())

    def hashed(value: str) -> int:
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES, key=salt.encode()[:64])
        return position((int.from_bytes(digest.digest()) >> 11) / 2**53)

    return lambda passage, check: _by_value(passage.fields[key], hashed, check)


def _by_value(column: Array, position: Callable[[str], int], check: Callable[[], None]) -> Array:
    """The position that each row's value has, each value asked for once; a number is the decimal that an answer shows.

    Raises ``InputProblem`` for several values in a row.
    """
    if column.size != len(column):
        raise InputProblem(f"expected one value in each row to decide by, found a shape of {list(column.shape[1:])}")
    values = column.reshape(len(column))
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 is the same value as 0.0
    known: dict[Any, int] = {}
    found = np.empty(len(column), np.intp)
    for at, value in enumerate(plain(values)):
        if at % ROWS_BETWEEN_CHECKS == 0:
            check()
        where = known.get(value)
        if where is None:
            where = known[value] = position(as_string(value))
        found[at] = where
    return found


def _scattered(parts: list[tuple[Array, dict[str, Array]]], count: int, label: str) -> dict[str, Array]:
    """The rows of several answers in their places. Raises ``ModelFailed`` when they have no common shape."""
    made: dict[str, Array] = {}
    for name, first in parts[0][1].items():
        column = np.empty((count, *first.shape[1:]), first.dtype)
        for at, outputs in parts:
            output = outputs[name]
            if output.shape[1:] != first.shape[1:]:
                raise ModelFailed(
                    f'{label}: output "{name}": expected {shown(datatype_of(first), first.shape[1:])} for a row of '
                    f"each model, found {shown(datatype_of(output), output.shape[1:])}"
                )
            column[at] = output
        made[name] = column
    return made


def _named(member: Member) -> str:
    """What ``out._model_split`` says of a model."""
    named = {"name": member.model.name, "version": member.model.version, "sha": member.answering.sha}
    return msgspec.json.encode(named).decode()


class PqlTaken:
    """The record that expressions make."""

    def __init__(
        self, label: str, counters: Counters, expressions: Mapping[str, RowExpression], *, row_us: float
    ) -> None:
        self.label = label
        self._counters = counters
        self._expressions = dict(expressions)
        self._row_us = row_us

    async def take(self, passage: Passage, running: Running) -> None:
        passage.fields = await running.work(
            lambda check: self._made(passage, check), passage, row_us=self._row_us, counters=self._counters
        )

    def _made(self, passage: Passage, check: Callable[[], None]) -> dict[str, Array]:
        groups = {"in": passage.fields}
        made: dict[str, Array] = {}
        started_ns = monotonic_ns()
        for name, expression in self._expressions.items():
            try:
                made[name] = expression.column(groups, passage.count, check=check)
            except Problem as problem:
                problem.message = f'{self.label}, field "{name}": {problem.message}'
                problem.span = None
                self._counters.failed(monotonic_ns() - started_ns)
                raise
        self._counters.ran(passage.count, started_ns, monotonic_ns())
        return made


def step_label(number: int, step: StepSchema) -> str:
    """``step 2 (house-price@1.0)``."""
    what = ", ".join(one.ref.label for one in step.models) or "pql"
    return f"step {number + 1} ({what})"


def fields_of_record(passage: Passage) -> Columns:
    """What clients get: the last record, and which models of splits answered."""
    if not passage.splits:
        return passage.fields
    return {**passage.fields, "_model_split": np.stack(passage.splits, axis=1)}
