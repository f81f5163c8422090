"""Expressions over records: what they mean, what is known of them before, and that whole columns come to the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from query.errors import BadStatement, LimitExceeded, Problem, SyntaxProblem, UnknownName, WrongArguments
from query.operators import BadArithmetic
from query.row_evaluation import FEW_ROWS
from query.row_expressions import FIELDS_MAX, ROW_STEPS_MAX, RowExpression, condition, record
from query.row_inputs import inputs_of
from query.row_packing import COLUMN_ELEMENTS_MAX
from query.row_types import Cells

FIELDS = {
    "price": Cells("float32", ()),
    "rooms": Cells("int64", (1,)),
    "scores": Cells("float32", (3,)),
    "town": Cells("str", ()),
    "new": Cells("bool", ()),
    "classes": Cells("record", ()),
}
GROUPS = {"in": FIELDS, "out": {"price": Cells("float32", (1,))}}
COUNT = 8
COLUMNS = {
    "in": {
        "price": np.array([-1.5, 0, 1, 2, 3, 4, 5, 1e6], np.float32),
        "rooms": np.array([[0], [1], [2], [3], [4], [5], [6], [7]], np.int64),
        "scores": np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3),
        "town": np.array(["a", "b", "", "Ä", "e", "f", "a", "x"], np.object_),
        "new": np.array([True, False] * 4),
        "classes": np.array([{"yes": at / 8, "no": 1 - at / 8} for at in range(COUNT)], np.object_),
    },
    "out": {"price": np.arange(COUNT, dtype=np.float32).reshape(COUNT, 1)},
}


def flags(text: str, count: int = COUNT) -> list[bool]:
    columns = {group: {name: column[:count] for name, column in one.items()} for group, one in COLUMNS.items()}
    found, failures = condition(text, GROUPS).flags(columns, count)
    assert failures is None
    assert found.dtype == np.bool_
    return found.tolist()


def made(expression: str) -> np.ndarray[Any, Any]:
    return record(f'{{"y": {expression}}}', FIELDS)["y"].column({"in": COLUMNS["in"]}, COUNT)


@pytest.mark.parametrize(
    ("text", "true_at"),
    [
        ("in.price < 0", [0]),
        ("out.price > 5 and in.rooms = 7", [7]),
        ("out.price > 5 or in.price < 0", [0, 6, 7]),
        ("not in.new", [1, 3, 5, 7]),
        ("in.new", [0, 2, 4, 6]),
        ("in.scores[1] = 0", [0]),
        ("in.scores[3] > 20 and in.town != 'x'", []),
        ("in.town in ['a', 'x']", [0, 6, 7]),
        ("in.rooms in [2, 3.0]", [2, 3]),
        ("in.rooms not between 1 and 6", [0, 7]),
        ("in.town like '%e%'", [4]),
        ("length(in.town) = 0", [2]),
        ("max(in.scores) >= 20", [6, 7]),
        ("sum(in.scores) = 3", [0]),
        ("in.rooms % 4 = 3", [3, 7]),
        ("(case when in.new then in.price else 0 end) > 4.5", [6]),
        ('in.classes.yes > 0.8 or in.classes["no"] = 1', [0, 7]),
        ("in.classes.perhaps is null", list(range(COUNT))),
        ("count(select s from s in in.scores where s > 20) = 2", []),
        ("count(select s from s in in.scores where s > 20) = 3", [7]),
        ("IN.Price < 0", [0]),
        ('in["rooms"] = 7 and in.town not in in.town', []),
        ("count(keys(in)) = 6 and in.rooms = 1", [1]),
        ("in.price = 1e6", [7]),
    ],
)
def test_a_condition_is_true_where_it_says(text: str, true_at: list[int]) -> None:
    assert [at for at, found in enumerate(flags(text)) if found] == true_at
    assert flags(text, 1) == flags(text)[:1]


def test_a_single_real_is_compared_as_the_real_that_it_is_also_in_columns() -> None:
    """0.1 as a 32-bit real is more than 0.1."""
    fields = {"in": {"x": Cells("float32", ())}}
    expression = condition("in.x > 0.1", fields)
    for count in (1, FEW_ROWS + 1):
        found, _ = expression.flags({"in": {"x": np.full(count, 0.1, np.float32)}}, count)
        assert found.all()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("in.pric < 0", UnknownName, 'no field "pric" in "in": expected "price", "rooms"'),
        ("price < 0", UnknownName, 'no variable "price"'),
        ("out_x.price < 0", UnknownName, 'no variable "out_x"'),
        ("in.price", WrongArguments, "expected a condition, which is true or false, found float64"),
        ("in.scores[4] > 0", WrongArguments, "index 4 is outside of 1 to 3"),
        ("in.scores + [1, 2] = 3", WrongArguments, "the shapes [3] and [2] do not fit together"),
        ("now() > 3", UnknownName, 'no function "now"'),
        ("models:infer('m', 1) = 1", UnknownName, 'no function "models:infer"'),
        (":a < 0", BadStatement, "an expression over a record has no session variables, found :a"),
        ("set :a = 1", BadStatement, "expected an expression, found SetVariable"),
        ("in.price <", SyntaxProblem, "the statement ends too early"),
        ("in.price < 0; in.price > 0", SyntaxProblem, "expected one statement, found 2"),
        ("extract(in.scores) > 1", WrongArguments, "expected one value, found a bag"),
        ("sqrt(in.town) > 1", WrongArguments, "sqrt: x: expected"),
    ],
)
def test_what_can_be_known_is_refused_before_it_runs(text: str, kind: type[Problem], message: str) -> None:
    with pytest.raises(kind) as caught:
        condition(text, GROUPS)
    assert message in caught.value.message
    assert caught.value.span is not None or kind is SyntaxProblem


def test_a_field_is_named_through_its_group_and_an_error_says_so() -> None:
    with pytest.raises(UnknownName) as caught:
        condition("price < 0", GROUPS)
    assert caught.value.hint == "a field is named through its group: in.field, out.field"
    with pytest.raises(UnknownName) as caught:
        condition("now() > in.price", GROUPS)
    assert caught.value.hint is not None
    assert "nothing but their arguments" in caught.value.hint


def test_a_row_without_an_answer_is_told_and_ends_no_other() -> None:
    expression = condition("1 / in.rooms > 0.4", GROUPS)
    found, failures = expression.flags(COLUMNS, COUNT)
    assert found.tolist() == [False, True, True, False, False, False, False, False]
    assert failures is not None
    assert (failures.count, failures.row) == (1, 0)
    assert failures.problem is not None
    assert failures.problem.message == "row 1: division by zero: 1 / 0"


def test_a_condition_over_something_missing_is_null_and_told() -> None:
    expression = condition("in.classes.perhaps > 0.5", GROUPS)
    found, failures = expression.flags(COLUMNS, COUNT)
    assert not found.any()
    assert failures is not None
    assert failures.count == COUNT
    assert failures.problem is not None
    assert failures.problem.message == "row 1: the condition is null: a value in it is missing"


@pytest.mark.parametrize(
    ("expression", "cells", "first"),
    [
        ("rooms", Cells("int64"), [0]),
        ("rooms + 1", Cells("int64"), 1),
        ("rooms / 2", Cells("float64"), 0.0),
        ("price * 2", Cells("float64"), -3.0),
        ("[rooms, price]", Cells("float64", (2,)), [0.0, -1.5]),
        ("[[rooms, 1], [2, 3]]", Cells("int64", (2, 2)), [[0, 1], [2, 3]]),
        ("scores", Cells("float32", (3,), tensor=True), [0, 1, 2]),
        ("scores * 2", Cells("float32", (3,), tensor=True), [0, 2, 4]),
        ("(scores - 1) / 2", Cells("float32", (3,), tensor=True), [-0.5, 0, 0.5]),
        ("tensor('int64', scores)", Cells("int64", (3,), tensor=True), [0, 1, 2]),
        ("reshape(scores, [3, 1])", Cells("float32", (3, 1), tensor=True), [[0], [1], [2]]),
        ("scores[2]", Cells("float64"), 1.0),
        ("argmax(scores)", Cells("int64"), 3),
        ("vector(scores)", Cells("float64", (3,)), [0, 1, 2]),
        ("softmax([0, 0])", Cells("float64", (2,), tensor=True), [0.5, 0.5]),
        ("town || '!'", Cells("str"), "a!"),
        ("[town, 'b']", Cells("str", (2,)), ["a", "b"]),
        ("case when new then 1 else 2.5 end", Cells("float64"), 1.0),
        ("new", Cells("bool"), True),
        ("round(price)", Cells("int64"), -2),
        ("coalesce(null, rooms)", Cells("int64"), 0),
        ("cast(rooms as Real)", Cells("float64"), 0.0),
        ("in", Cells("record"), None),
        ("classes", Cells("record"), {"yes": 0.0, "no": 1.0}),
        ("{'a': rooms}", Cells("record"), {"a": 0}),
        ("concat([rooms], [1, 2])", Cells("int64", (3,)), [0, 1, 2]),
        ("(select vector of s * 2 from s in scores)", Cells(None, None), None),
    ],
)
def test_what_an_expression_makes_is_known_before_and_is_what_it_makes(
    expression: str, cells: Cells, first: Any
) -> None:
    found = record(f'{{"y": {expression}}}', FIELDS)["y"]
    assert found.cells == cells
    if first is None:
        return
    column = found.column({"in": COLUMNS["in"]}, COUNT)
    assert len(column) == COUNT
    assert column[0].tolist() == first if isinstance(column[0], np.ndarray) else column[0] == first
    if found.bare is None:
        assert column.dtype == np.dtype(object if cells.dtype in ("str", "record") else cells.dtype)


def test_a_field_that_is_handed_on_is_the_same_array() -> None:
    found = record('{"y": scores, "z": in.rooms}', FIELDS)
    columns = {"in": COLUMNS["in"]}
    assert found["y"].column(columns, COUNT) is COLUMNS["in"]["scores"]
    assert found["z"].column(columns, COUNT) is COLUMNS["in"]["rooms"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 / rooms", "row 1: division by zero: 1 / 0"),
        ("ln(price)", "row 1: ln: no result for Real -1.5"),
        ("case when new then 1 end", "row 2: expected an integer, found null"),
        ("rooms ^ 99", "row 3: expected a number that fits int64, found a larger one"),
        ("cast(town as Integer)", "row 1: cast: no Integer in String"),
    ],
)
def test_a_row_that_cannot_be_made_is_named(expression: str, message: str) -> None:
    with pytest.raises(Problem) as caught:
        made(expression)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "text", ["1", "rooms", "{}", "[1]", 'case when new then {"a": 1} else {"a": 2} end', "select rooms"]
)
def test_a_record_is_written_out(text: str) -> None:
    with pytest.raises(BadStatement, match="expected a record written out with at least one field"):
        record(text, FIELDS)


def test_a_record_has_a_bounded_number_of_fields() -> None:
    text = "{" + ",".join(f'"f{at}": 1' for at in range(FIELDS_MAX + 1)) + "}"
    with pytest.raises(LimitExceeded, match=f"a record is over its limit of {FIELDS_MAX} fields"):
        record(text, FIELDS)


def test_names_that_differ_in_case_alone_are_told_apart_through_the_group() -> None:
    fields = {"A": Cells("int64", ()), "a": Cells("int64", ())}
    columns = {"in": {"A": np.array([1]), "a": np.array([2])}}
    assert record('{"y": in.A * 10 + in.a}', fields)["y"].column(columns, 1).tolist() == [12]
    with pytest.raises(UnknownName):
        record('{"y": a}', fields)


def test_work_for_a_row_is_bounded() -> None:
    text = '{"y": count(select a from a in range(1, 1000), b in range(1, 1000) where a + b > 0) + rooms}'
    with pytest.raises(LimitExceeded) as caught:
        record(text, FIELDS)["y"].column({"in": COLUMNS["in"]}, COUNT)
    assert caught.value.message == f"row 1: the evaluation is over its limit of {ROW_STEPS_MAX} steps: found more"


@pytest.mark.parametrize(
    "expression",
    ["zeros(200000)", "[" + "rooms," * 800 + "1]", "substitute('aaaaaaaa', 'a', '" + "b" * 3000 + "') || town"],
)
def test_the_room_of_a_column_is_bounded(expression: str) -> None:
    count = COLUMN_ELEMENTS_MAX // 800
    found = record(f'{{"y": {expression}}}', FIELDS)["y"]
    columns = {"in": {"rooms": np.ones((count, 1), np.int64), "town": np.full(count, "", np.object_)}}
    with pytest.raises(LimitExceeded) as caught:
        found.column(columns, count)
    assert "a column is over its limit of 16777216 elements" in caught.value.message


def test_whoever_evaluates_looks_at_the_time_between_rows() -> None:
    class OverError(Exception):
        pass

    def check() -> None:
        raise OverError

    with pytest.raises(OverError):
        record('{"y": town || "!"}', FIELDS)["y"].column({"in": COLUMNS["in"]}, COUNT, check=check)


# --- columns and rows come to the same ------------------------------------------------------------------------------

NUMBERS = some.sampled_from(
    ["in.i", "in.j", "in.f", "in.g", "in.t[1]", "in.t[2]", "0", "1", "2", "3.5", "-1", "1e300", "9007199254740993"]
)
ELEMENTARY = ("abs", "floor", "ceil", "round", "sqrt")


def arithmetic(inner: some.SearchStrategy[str]) -> some.SearchStrategy[str]:
    return some.one_of(
        some.builds("({} {} {})".format, inner, some.sampled_from("+-*/%"), inner),
        some.builds("{}({})".format, some.sampled_from(ELEMENTARY), inner),
        some.builds("(-{})".format, inner),
        some.builds("case when {} < {} then {} else {} end".format, inner, inner, inner, inner),
    )


NUMERIC = some.recursive(NUMBERS, arithmetic, max_leaves=5)
COMPARISON = some.builds("{} {} {}".format, NUMERIC, some.sampled_from(["<", "<=", "=", "!=", ">", ">="]), NUMERIC)
TEXTUAL = some.sampled_from(["in.s = 'a'", "in.s in ['a', 'b']", "in.b", "not in.b", "argmax(in.t) = 2"])
CONDITIONS = some.recursive(
    some.one_of(COMPARISON, TEXTUAL),
    lambda inner: some.builds("({} {} {})".format, inner, some.sampled_from(["and", "or"]), inner),
    max_leaves=4,
)
PLAIN = {
    "i": Cells("int64", ()),
    "j": Cells("int8", (1,)),
    "f": Cells("float64", ()),
    "g": Cells("float32", (1,)),
    "t": Cells("float32", (3,)),
    "s": Cells("str", ()),
    "b": Cells("bool", ()),
}


def columns_from(seed: int, count: int) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    random = np.random.default_rng(seed)
    special = np.array([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 0.1, 1e308, 5e-324])
    return {
        "in": {
            "i": random.choice(np.array([0, 1, -1, 7, 2**53 + 1, -(2**62), 2**63 - 1]), count),
            "j": random.integers(-128, 128, (count, 1)).astype(np.int8),
            "f": random.choice(special, count),
            "g": random.choice(special[:8], (count, 1)).astype(np.float32),
            "t": random.choice(special[:8], (count, 3)).astype(np.float32),
            "s": random.choice(np.array(["a", "b", ""], np.object_), count),
            "b": random.integers(0, 2, count).astype(np.bool_),
        }
    }


def by_rows(
    expression: RowExpression, columns: Mapping[str, Mapping[str, np.ndarray[Any, Any]]], count: int
) -> tuple[list[bool], int]:
    """Row by row, which numpy has no part in."""
    found, failed = [], 0
    for at in range(count):
        one = {
            group: {name: column[at : at + 1] for name, column in fields.items()} for group, fields in columns.items()
        }
        flag, failures = expression.flags(one, 1)
        found.append(bool(flag[0]))
        failed += failures is not None
    return found, failed


@given(text=CONDITIONS, seed=some.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_all_rows_at_once_come_to_the_same_as_one_by_one(text: str, seed: int) -> None:
    count = FEW_ROWS + 6
    columns = columns_from(seed, count)
    try:
        expression = condition(text, {"in": PLAIN})
    except Problem:
        return
    found, failures = expression.flags(columns, count)
    expected, failed = by_rows(expression, columns, count)
    assert found.tolist() == expected
    assert (failures.count if failures else 0) == failed


MADE = some.one_of(
    NUMERIC,
    some.builds("[{}, {}]".format, NUMERIC, NUMERIC),
    some.sampled_from(
        ["in.t * 2", "(in.t - 1) / 3", "in.t + in.t", "in.t % 2", "in.t * in.f", "argmin(in.t)", "max(in.t)"]
    ),
    CONDITIONS,
)


@example(text="case when 0 < 0 then 0 else 1 end", seed=0)
@given(text=MADE, seed=some.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_a_column_is_made_of_the_values_of_its_rows(text: str, seed: int) -> None:
    count = FEW_ROWS + 6
    columns = columns_from(seed, count)
    try:
        expression = record(f'{{"y": {text}}}', PLAIN)["y"]
    except Problem:
        return
    parts: list[np.ndarray[Any, Any]] = []
    problems: list[type[Problem]] = []
    for at in range(count):
        one = {"in": {name: column[at : at + 1] for name, column in columns["in"].items()}}
        try:
            parts.append(expression.column(one, 1))
        except Problem as found:
            problems.append(type(found))
    if problems:
        with pytest.raises(tuple(problems)):
            expression.column(columns, count)
        return
    made = expression.column(columns, count)
    expected = np.concatenate(parts)
    assert made.dtype == expected.dtype
    assert made.shape == expected.shape
    assert np.array_equal(made, expected, equal_nan=made.dtype.kind == "f")


def test_usual_expressions_are_done_for_all_rows_at_once() -> None:
    """So that their speed is not lost unnoticed."""
    for text in (
        "in.i > 3 and in.f < 0.5",
        "in.t[2] > 0.5 or in.s = 'a'",
        "in.f / 2 + in.g * 3 between 0 and 1",
        "max(in.t) > 0.9",
        "ln(abs(in.f) + 1) > 2",
        "case when in.b then in.i else 0 end = 3",
    ):
        expression = condition(text, {"in": PLAIN})
        columns = {name: np.ones((FEW_ROWS + 1, *(cells.shape or ()))) for name, cells in PLAIN.items()}
        typed = {"in": {name: column.astype(PLAIN[name].dtype or "f8") for name, column in columns.items()}}
        typed["in"]["s"] = np.array(["a"] * (FEW_ROWS + 1), np.object_)
        expression.flags(typed, FEW_ROWS + 1)
        assert expression.derived["columns"] is not None, text


# --- fields that nothing declares -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        ('{"x": rooms * 2}', {}, {"rooms": Cells("float64")}),
        ('{"x": in.rooms + ROOMS}', {}, {"rooms": Cells("float64")}),
        ('{"x": features}', {"x": Cells("float32", (64,))}, {"features": Cells("float32", (64,))}),
        ('{"y": features}', {"x": Cells("float32", (64,))}, {"features": Cells("float64")}),
        ('{"x": case when town = "a" then 1 else 0 end}', {}, {"town": Cells("str")}),
        ('{"x": case when new then 1 else 0 end}', {}, {"new": Cells("bool")}),
        ('{"x": length(town), "y": town like "a%"}', {}, {"town": Cells("str")}),
        ('{"x": v[2]}', {}, {"v": Cells("float64", (-1,), tensor=True)}),
        ('{"x": sum(v)}', {}, {"v": Cells("float64", (-1,), tensor=True)}),
        ('{"x": [a, ln(b), c between 1 and 2]}', {}, dict.fromkeys("abc", Cells("float64"))),
        ('{"x": town in ["a", "b"], "y": n in [1, 2]}', {}, {"town": Cells("str"), "n": Cells("float64")}),
        ('{"x": count(select s from s in v where s > t)}', {}, {"v": Cells("float64"), "t": Cells("float64")}),
        ('{"x": 1 + NaN}', {}, {}),
    ],
)
def test_what_a_first_step_reads_is_found_in_what_it_does(
    text: str, wanted: dict[str, Cells], found: dict[str, Cells]
) -> None:
    assert inputs_of(text, wanted) == found


def test_arithmetic_that_has_no_result_is_an_error_of_the_user() -> None:
    with pytest.raises(BadArithmetic):
        made("rooms / 0")
