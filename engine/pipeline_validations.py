"""The conditions of a pipeline over each row of what went in and what came out: true means anomaly.

Owns their evaluation. A condition that cannot be answered for a row, as a field of it is missing there, is false for
it, is told to ``failed`` and named as ``anomaly.<name>`` among what was left out; one over a challenger that was left
out itself is so for all rows. Nothing of this fails a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import TYPE_CHECKING

import numpy as np

from engine.passages import Columns, Passage, Running
from engine.signature import Array
from federation.pipeline_schemas import PipelineSchema, group_name
from query.errors import Problem

if TYPE_CHECKING:
    from engine.pipeline_steps import Failed
    from engine.statistics import Counters


class Validations:
    """The conditions of one pipeline."""

    def __init__(self, schema: PipelineSchema, *, row_us: float, counters: Counters, failed: Failed) -> None:
        """``row_us``: what all of them together are expected to take for a row."""
        self._conditions = schema.validations
        self._counters = counters
        self._failed = failed
        self.row_us = row_us

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
