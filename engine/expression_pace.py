"""What an expression over records is expected to take for a row, tried when a pipeline is built.

Owns the measurement, on rows of zeros and empty texts, and its bounds: of the rows, of their size, and of the time that
all expressions of a pipeline take together. What goes through elements (a select, a bag) costs as much as there are of
them, of which zeros tell nothing: it is taken for slow. So is everything after the time is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from engine.signature import Array
from query.errors import Problem
from query.plan import Aggregate, Each, Query
from query.row_types import Cells

if TYPE_CHECKING:
    from query.row_expressions import RowExpression

ROWS: Final = 64
RUNS: Final = 3
ELEMENTS_MAX: Final = 1 << 16  # of one field of all rows
MEASURING_S_MAX: Final = 0.5  # of all expressions of a pipeline
UNMEASURED_US: Final = 10.0  # of an expression that gives no answer on zeros
SLOW_US: Final = 1_000.0
FIRST_US: Final = 50_000.0  # a first run that takes longer is not repeated
LENGTH: Final = 4  # of a dimension that varies


class ExpressionPace:
    """The measurement of one pipeline's expressions."""

    def __init__(self) -> None:
        self._left_s = MEASURING_S_MAX

    def row_us(self, expression: RowExpression) -> float:
        """What a row takes."""
        if expression.bare is not None:
            return 0.0
        if self._left_s <= 0 or _goes_through_elements(expression.step):
            return SLOW_US
        groups: dict[str, dict[str, Array]] = {}
        for slot, reading in expression.readings.items():
            if reading.field is None:
                return UNMEASURED_US
            groups.setdefault(reading.group, {})[reading.field] = resting(expression.known[slot])
        rows = min((len(column) for columns in groups.values() for column in columns.values()), default=1)
        try:
            first_us = self._run_us(expression, groups, 1)  # with what is made ready once
            alone_us = first_us if first_us > FIRST_US else self._run_us(expression, groups, 1)
            if alone_us > SLOW_US or rows == 1:
                return alone_us
            return min(self._run_us(expression, groups, rows) for _ in range(RUNS)) / rows
        except Problem:
            return UNMEASURED_US

    def _run_us(self, expression: RowExpression, groups: Mapping[str, Mapping[str, Array]], rows: int) -> float:
        given = {group: {name: column[:rows] for name, column in columns.items()} for group, columns in groups.items()}
        before = perf_counter()
        try:
            expression.column(given, rows)
        finally:
            taken_s = perf_counter() - before
            self._left_s -= taken_s
        return taken_s * 1e6


def _goes_through_elements(step: Any) -> bool:
    waiting = [step]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Query | Each | Aggregate):
            return True
        if isinstance(part, msgspec.Struct):
            waiting.extend(getattr(part, name) for name in part.__struct_fields__)
        elif type(part) is tuple:
            waiting.extend(part)
    return False


def resting(cells: Cells) -> Array:
    """Rows of zeros, as many as are within bounds but at least one."""
    one = tuple(LENGTH if size < 0 else size for size in cells.shape or ())
    shape = (max(1, min(ROWS, ELEMENTS_MAX // max(math.prod(one), 1))), *one)
    if cells.dtype in ("str", "record", None):
        column = np.empty(shape, np.object_)
        column.fill("" if cells.dtype == "str" else {})
        return column
    return np.zeros(shape, np.dtype(cells.dtype))
