"""What an expression is expected to take for a row: measured, bounded, and slow for what goes through elements."""

from __future__ import annotations

import numpy as np

from engine.expression_pace import ELEMENTS_MAX, ROWS, SLOW_US, UNMEASURED_US, ExpressionPace, resting
from query.row_expressions import RowExpression, record
from query.row_types import Cells

FIELDS = {"a": Cells("float64", ()), "v": Cells("float32", (-1,)), "t": Cells("str", ())}


def expression(text: str) -> RowExpression:
    return record(f'{{"y": {text}}}', FIELDS)["y"]


def test_plain_arithmetic_is_quick_and_handing_on_costs_nothing() -> None:
    pace = ExpressionPace()
    assert pace.row_us(expression("a * 2 + 1")) < SLOW_US
    assert pace.row_us(expression("a")) == 0
    assert pace.row_us(expression('t || "!"')) < SLOW_US


def test_what_goes_through_elements_is_slow() -> None:
    assert ExpressionPace().row_us(expression("count(select x from x in v where x > a)")) == SLOW_US
    assert ExpressionPace().row_us(expression("sum(v)")) < SLOW_US


def test_what_gives_no_answer_on_zeros_is_taken_for_usual() -> None:
    assert ExpressionPace().row_us(expression("1 / a")) == UNMEASURED_US
    assert ExpressionPace().row_us(expression("count(keys(in)) + a")) == UNMEASURED_US


def test_measuring_ends_when_its_time_is_over() -> None:
    pace = ExpressionPace()
    heavy = expression("sum(zeros(200000)) + a")
    found = [pace.row_us(heavy) for _ in range(200)]
    assert found[0] > 100
    assert found[-1] == SLOW_US


def test_the_rows_that_are_tried_are_bounded_in_size() -> None:
    assert resting(Cells("float32", ())).shape == (ROWS,)
    assert resting(Cells("float32", (-1, 2))).shape == (ROWS, 4, 2)
    assert resting(Cells("uint8", (1024, 1024))).shape == (1, 1024, 1024)
    assert resting(Cells("float32", (300,))).size <= ELEMENTS_MAX
    assert resting(Cells("str", ())).tolist() == [""] * ROWS
    assert resting(Cells("bool", ())).dtype == np.bool_
