"""Budgets: their words, which of several holds, and what is counted."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from query.budgets import (
    BYTES_MAX,
    ROWS_MAX,
    UNBOUNDED,
    BadBudget,
    Budget,
    OverBudgetBytes,
    OverBudgetRows,
    Spending,
    format_budget,
    parse_budget,
    tightest,
)
from query.errors import Span
from query.formatting import format_statement
from query.ledger import Outcome, State
from query.parsing import parse_statement

BUDGETS = st.builds(
    Budget,
    rows=st.none() | st.integers(1, ROWS_MAX),
    bytes=st.none() | st.integers(1, BYTES_MAX) | st.integers(1, 64).map(lambda n: n << 20),
    time_s=st.none() | st.sampled_from([0.001, 0.25, 5.0, 90.0, 604_800.0]),
).filter(lambda budget: budget != UNBOUNDED)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1000 rows, 4MiB, 5s", Budget(1000, 4 << 20, 5.0)),
        ("5 s,1 Row", Budget(1, None, 5.0)),
        ("512 bytes", Budget(bytes=512)),
        ("1.5kB", Budget(bytes=1500)),
        ("2 mb", Budget(bytes=2_000_000)),
        ("5m", Budget(time_s=300.0)),
        ("500ms", Budget(time_s=0.5)),
    ],
)
def test_the_words_of_a_budget(text: str, meant: Budget) -> None:
    assert parse_budget(text) == meant


@pytest.mark.parametrize(
    "text", ["", "5", "5M", "4Mi", "rows", "-3 rows", "1e9 rows", "0B", "1..2MB", "5s,,", "0s", "8d", "2000000000TB"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(BadBudget, match="expected rows, bytes and time"):
        parse_budget(text)


def test_each_part_is_said_once_and_in_bounds() -> None:
    with pytest.raises(BadBudget, match="bounds rows twice"):
        parse_budget("1 rows, 2 rows")
    for count in (0, ROWS_MAX + 1):
        with pytest.raises(BadBudget, match="no usable budget of rows"):
            parse_budget(f"{count} rows")


@given(BUDGETS)
def test_a_budget_is_read_as_it_is_written(budget: Budget) -> None:
    assert parse_budget(format_budget(budget)) == budget


@given(BUDGETS)
def test_it_is_a_directive_of_a_statement(budget: Budget) -> None:
    statement = parse_statement(f"// BUDGET: {budget}\n1 + 1")
    assert statement.directives.budget == budget
    assert parse_statement(format_statement(statement)).directives == statement.directives


def test_a_wrong_directive_is_shown_where_it_stands() -> None:
    with pytest.raises(BadBudget) as caught:
        parse_statement("//budget: plenty\n1 + 1")
    assert caught.value.span == Span(1, 1, 1, 17)


def test_of_several_the_smaller_of_each_part_holds() -> None:
    assert tightest(Budget(10, None, 5.0), None, Budget(20, 100, 1.0)) == Budget(10, 100, 1.0)
    assert tightest() == UNBOUNDED


def test_the_row_that_would_pass_a_bound_is_not_counted() -> None:
    rows = Spending(Budget(rows=2))
    rows.row((1,))
    rows.row((2,))
    with pytest.raises(OverBudgetRows, match="more rows than its budget of 2 rows"):
        rows.row((3,))
    assert rows.rows == 2


def test_the_hint_tells_whose_bound_it_was() -> None:
    mine = Spending(Budget(rows=1), own=Budget(rows=9))
    peers = Spending(UNBOUNDED, own=Budget(rows=1))
    hints = []
    for spending in (mine, peers):
        spending.row((1,))
        with pytest.raises(OverBudgetRows) as caught:
            spending.row((2,))
        hints.append(caught.value.hint)
    assert hints == [
        "ask for less, as with limit, or allow more: //budget: 1000 rows",
        "ask for less, as with limit: this peer allows no statement more",
    ]


@given(st.lists(st.text(max_size=20) | st.integers(-(2**53), 2**53), max_size=20), st.integers(1, 200))
def test_bytes_are_those_of_the_encoded_values(values: list[object], bound: int) -> None:
    spending = Spending(Budget(bytes=bound))
    given_: list[int] = []
    over = False
    for value in values:
        size = len(msgspec.json.encode((value,)))
        over = sum(given_) + size > bound
        if over:
            with pytest.raises(OverBudgetBytes):
                spending.row((value,))
            break
        spending.row((value,))
        given_.append(size)
    assert (spending.rows, spending.bytes) == (len(given_), sum(given_))


def test_the_ledger_says_what_was_used_of_what() -> None:
    used = Outcome("E1", State.ROWS, rows=12, bytes=512, elapsed_ms=250.0, allowed=Budget(1000, 4 << 20, 5.0))
    assert used.used == "12 of 1000 rows, 512 bytes of 4MiB, 0.25s of 5s"
    assert Outcome("E1", State.ROWS, rows=12).used == ""
    nothing = Outcome("E1", State.EMPTY, allowed=Budget(1, 1, 1.0))
    assert nothing.used == "0 of 1 row, 0 bytes of 1 byte, 0s of 1s"
