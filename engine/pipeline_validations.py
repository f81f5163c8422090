"""The conditions of a pipeline over each row of what went in and what came out: true means anomaly.

Owns their evaluation, and what an expression is expected to take for a row. A condition that cannot be answered for a
row, as a field of it is missing there, is false for it, is told to ``failed`` and named as ``anomaly.<name>`` among
what was left out; one over a challenger that was left out itself is so for all rows. Nothing of this fails a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic_ns, perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.passages import Columns, Passage, Running
from engine.signature import Array
from federation.pipeline_schemas import PipelineSchema, group_name
from query.errors import Problem
from query.row_types import Cells

if TYPE_CHECKING:
    from engine.pipeline_steps import Failed
    from engine.statistics import Counters
    from query.row_expressions import RowExpression

MEASURED_ROWS: Final = 64
MEASURED_RUNS: Final = 3
SLOW_US: Final = 500.0  # of one row: no more of them are tried
UNMEASURED_US: Final = 10.0  # of a row, for an expression that gives no answer on zeros
LENGTH: Final = 4  # of a dimension that varies, while an expression is measured


class Validations:
    """The conditions of one pipeline."""

    def __init__(self, schema: PipelineSchema, *, counters: Counters, failed: Failed) -> None:
        self._conditions = schema.validations
        self._counters = counters
        self._failed = failed
        self.row_us = sum(measured_row_us(condition) for _, condition in schema.validations)

    async def flags(self, passage: Passage, outputs: Columns, running: Running) -> dict[str, Array]:
        """For each condition the rows for which it is true; what has no answer is noted in ``passage.dropped``."""
        groups: dict[str, Columns] = {"in": passage.inputs, "out": outputs}
        for name, columns in passage.challengers.items():
            groups[group_name(name)] = columns
        return await running.work(
            lambda check: self._flags(passage, groups, check), passage, row_us=self.row_us, counters=self._counters
        )

    def _flags(self, passage: Passage, groups: Mapping[str, Columns], check: Callable[[], None]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        started_ns = monotonic_ns()
        for name, condition in self._conditions:
            missing = {reading.group for reading in condition.readings.values()} - groups.keys()
            if missing:
                found[name] = np.zeros(passage.count, np.bool_)
                problem = Problem(f"{', '.join(sorted(missing))} was left out")
                self._leave_out(passage, name, problem, passage.count)
                continue
            found[name], failures = condition.flags(groups, passage.count, check=check)
            if failures is not None and failures.problem is not None:
                self._leave_out(passage, name, failures.problem, failures.count)
        self._counters.ran(passage.count, started_ns, monotonic_ns())
        return found

    def _leave_out(self, passage: Passage, name: str, problem: Problem, rows: int) -> None:
        passage.dropped.append(f"anomaly.{name}")
        self._failed(f"anomaly.{name}", problem, rows)


def measured_row_us(expression: RowExpression) -> float:
    """What a row takes, tried on rows of zeros."""
    groups: dict[str, dict[str, Array]] = {}
    for slot, reading in expression.readings.items():
        if reading.field is None:
            return UNMEASURED_US
        groups.setdefault(reading.group, {})[reading.field] = _resting(expression.known[slot])
    one = {group: {name: column[:1] for name, column in columns.items()} for group, columns in groups.items()}
    try:
        alone_us = min(_run_us(expression, one, 1) for _ in range(MEASURED_RUNS))
        if alone_us > SLOW_US:
            return alone_us
        return min(_run_us(expression, groups, MEASURED_ROWS) for _ in range(MEASURED_RUNS)) / MEASURED_ROWS
    except Problem:
        return UNMEASURED_US


def _run_us(expression: RowExpression, groups: Mapping[str, Columns], rows: int) -> float:
    before = perf_counter()
    expression.column(groups, rows)
    return (perf_counter() - before) * 1e6


def _resting(cells: Cells) -> Array:
    shape = (MEASURED_ROWS, *(LENGTH if size < 0 else size for size in cells.shape or ()))
    if cells.dtype in ("str", "record", None):
        column = np.empty(shape, np.object_)
        column.fill("" if cells.dtype == "str" else {})
        return column
    return np.zeros(shape, np.dtype(cells.dtype))
