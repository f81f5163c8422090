"""Building the steps of a pipeline from its schema and its models, and what a request is expected to take.

Owns which model stands at which place, and the counts of what was left out of answers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.expression_pace import ExpressionPace
from engine.inferences import AnsweringModel
from engine.passages import Rows
from engine.pipeline_steps import (
    DECIDING_US,
    DrawOne,
    Member,
    ModelTaken,
    PqlTaken,
    ShadowTaken,
    SplitTaken,
    TakenStep,
    choosing,
    step_label,
)
from federation.names import Digest
from federation.pipeline_schemas import StepSchema
from federation.pipelines import KeySplit, PipelineDefinition, PqlStep, RandomSplit, Shadow
from query.errors import Problem

if TYPE_CHECKING:
    from engine.loaded import LoadedModel
    from engine.statistics import Counters

INLINE_ROWS_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Failure:
    """How often something of a pipeline was left out, in rows, and why the last time."""

    rows: int
    message: str


class Failures:
    """What was left out of answers, by the name that ``dropped`` has for it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Failure] = {}

    def add(self, name: str, problem: Problem, rows: int) -> None:
        with self._lock:
            known = self._found.get(name)
            self._found[name] = Failure(rows + (known.rows if known else 0), problem.message)

    def read(self) -> dict[str, Failure]:
        with self._lock:
            return dict(self._found)


class StepMaking:
    """Builds the steps. ``groups``: for each step its models, of which one or all run for each row."""

    def __init__(
        self,
        definition: PipelineDefinition,
        members: Mapping[Digest, LoadedModel],
        counters: Callable[[str], Counters],
        failures: Failures,
        draw: DrawOne,
    ) -> None:
        self._definition = definition
        self._members = members
        self._counters = counters
        self._failures = failures
        self._draw = draw
        self._splits = 0
        self.groups: list[list[Member]] = []
        self.pace = ExpressionPace()
        self.expression_us = 0.0

    def step(self, number: int, schema: StepSchema) -> TakenStep:
        label = step_label(number, schema)
        step = schema.step
        if isinstance(step, PqlStep):
            row_us = sum(map(self.pace.row_us, schema.expressions.values()))
            self.expression_us += row_us
            return PqlTaken(label, self._counters(label), schema.expressions, row_us=row_us)
        members = [self._member(number, at, schema) for at in range(len(schema.models))]
        inputs = {spec.name: spec for one in schema.models for spec in one.inputs}
        intake = tuple(inputs[name] for name in sorted(schema.loose))
        if isinstance(step, RandomSplit | KeySplit):
            salt = f"{self._definition.name}/{self._splits}"
            self._splits += 1
            self.groups.append([max(members, key=_run_us)])
            keyed = isinstance(step, KeySplit) or step.hash_key is not None
            self.expression_us += DECIDING_US if keyed else 0.0
            choose = choosing(step, draw=self._draw, salt=salt)
            return SplitTaken(label, self._counters(label), members, choose, intake=intake, keyed=keyed)
        self.groups.append(members)
        if isinstance(step, Shadow):
            return ShadowTaken(label, members, intake=intake, failed=self._failures.add)
        return ModelTaken(label, members[0], intake=intake)

    def _member(self, number: int, at: int, schema: StepSchema) -> Member:
        described = schema.models[at]
        model = self._members[described.ref.record]
        graph = next((entry.digest for entry in model.record.files if entry.kind == "weight"), "")
        twice = [one.ref.name for one in schema.models].count(model.name) > 1  # two versions of it
        place = f"{self._definition.name}/{number + 1}/{model.name}" + (f"#{at + 1}" if twice else "")
        return Member(
            model=model,
            schema=described,
            rows=Rows(model, described.way, entire=described.entire, scope=place if model.record.states else ""),
            answering=AnsweringModel(model.name, model.version, graph.removeprefix("sha256:")),
            checked=number == 0,
        )


def _elements(member: Member) -> int:
    """Of one row of a model's inputs."""
    return sum(math.prod(max(size, 1) for size in spec.shape[1:]) for spec in member.schema.inputs)


def _run_us(member: Member) -> float:
    return _rows_us(member, 1)


def _rows_us(member: Member, rows: int) -> float:
    model = member.model
    if model.inline_elements < 0:
        return float("inf")
    if member.rows.way == "batch":
        return model.pace.expected_us(_elements(member) * rows)
    return model.pace.expected_us(_elements(member)) * rows


def inline_rows(groups: Sequence[Sequence[Member]], expression_us: float, inline_us: float) -> int:
    """The largest power of two of rows that all steps together are expected to be done with in time, or 0."""
    rows = 0
    trying = 1
    while trying <= INLINE_ROWS_MAX:
        taken_us = expression_us * trying + sum(_rows_us(one, trying) for group in groups for one in group)
        if taken_us > inline_us:
            break
        rows, trying = trying, trying * 2
    return rows
