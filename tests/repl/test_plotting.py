"""Rows as plots: what is an axis, what a series, and what cannot be drawn."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.plotting import BARS_MAX, KINDS, ROWS_MAX, SERIES_MAX, Chart, Kind, NoPlot, Plotting, draw, kind_of

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def chart(kind: Kind, columns: list[str], *rows: Any, peers: list[str] | None = None) -> Chart:
    plotting = Plotting(kind, columns)
    for number, one in enumerate(rows):
        plotting.add(one if isinstance(one, tuple) else (one,), peer=peers[number] if peers else None)
    return plotting.chart()


def told(found: Chart) -> dict[str, list[tuple[float, float]]]:
    return {one.label: list(zip(one.xs, one.ys, strict=True)) for one in found.series}


def test_numbers_are_a_series_and_peers_series_each() -> None:
    assert told(chart("line", ["t()"], 3, 4.5, True)) == {"t()": [(1, 3), (2, 4.5), (3, 1)]}
    assert told(chart("line", ["t"], 3, 4, 5, peers=["E1", "E2", "E1"])) == {"E1": [(1, 3), (2, 5)], "E2": [(1, 4)]}


def test_one_vector_lies_along_the_axis_and_many_are_series() -> None:
    assert told(chart("line", ["v"], [1, 2])) == {"v": [(1, 1), (2, 2)]}
    assert told(chart("line", ["v"], np.array([1.0, 2.0]))) == {"v": [(1, 1), (2, 2)]}
    assert told(chart("line", ["v"], [1, 2], [3, 4])) == {"1": [(1, 1), (2, 3)], "2": [(1, 2), (2, 4)]}
    assert told(chart("scatter", ["v"], [[5, 1], [6, 2]])) == {"v": [(5, 1), (6, 2)]}


def test_records_have_a_series_a_key() -> None:
    found = chart("line", ["r"], {"a": 1, "b": "x"}, {"a": 2, "c": 3})
    assert told(found) == {"a": [(1, 1), (2, 2)], "c": [(2, 3)]}
    bars = chart("bar", ["r"], {"name": "x", "n": 1}, {"name": "y", "n": 2})
    assert (told(bars), bars.names) == ({"n": [(1, 1), (2, 2)]}, ["x", "y"])


def test_the_first_of_several_columns_is_the_axis() -> None:
    assert told(chart("scatter", ["x", "y", "z"], (10, 1, 5), (20, 2, None))) == {
        "y": [(10, 1), (20, 2)],
        "z": [(10, 5)],
    }
    timed = chart("line", ["at", "y"], (AT, 1), (AT + timedelta(hours=1), 2))
    assert timed.times
    assert told(timed)["y"][1] == ((AT + timedelta(hours=1)).timestamp(), 2)
    named = chart("bar", ["edge", "n"], ("a", 1), ("b", 2), ("a", 3))
    assert (named.names, told(named)) == (["a", "b"], {"n": [(1, 1), (2, 2), (1, 3)]})
    assert told(chart("histogram", ["x", "y"], (1, 2), (3, 4))) == {"x": [(1, 1), (2, 3)], "y": [(1, 2), (2, 4)]}


def test_one_number_a_peer_is_a_bar_a_peer() -> None:
    found = chart("bar", ["count()"], 3, 4, peers=["E1", "E2"])
    assert (found.names, told(found)) == (["E1", "E2"], {"count()": [(1, 3), (2, 4)]})


def test_what_is_no_number_is_left_out() -> None:
    assert told(chart("line", ["x"], 1, None, float("nan"), float("inf"), "a", 10**400, 2)) == {"x": [(1, 1), (7, 2)]}


@pytest.mark.parametrize("rows", [[], ["a"], [None], [[]], [{}], [[["a", "b"]]], [("a", "b")]])
def test_nothing_to_draw(rows: list[Any]) -> None:
    with pytest.raises(NoPlot):
        chart("line", ["x", "y"], *rows)


def test_kinds_have_the_words_of_people() -> None:
    assert [kind_of(word) for word in ("line", "Line plot", "BAR", "scatter plot", "histogram")] == [
        "line", "line", "bar", "scatter", "histogram",
    ]  # fmt: skip
    assert kind_of("text") is kind_of("Text single") is kind_of("automatic") is None
    with pytest.raises(NoPlot, match='no plot "histgram" in a terminal — did you mean "histogram"'):
        kind_of("histgram")


def test_plots_are_bounded() -> None:
    plotting = Plotting("line", ["x"])
    for number in range(ROWS_MAX + 10):
        plotting.add((number,), peer=None)
    assert len(plotting) == ROWS_MAX
    assert plotting.chart().series[0].ys[-1] == ROWS_MAX + 9
    wide = chart("line", ["v"], list(range(50)), list(range(50)))
    assert len(wide.series) == SERIES_MAX
    bars = chart("bar", ["a", "b"], *((f"n{n}", n) for n in range(BARS_MAX * 3)))
    assert len(draw(bars, width=300, height=300)[0]) <= 160


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn(kind: Kind) -> None:
    lines = draw(chart(kind, ["x", "y"], *((n, n % 4) for n in range(20))), width=60, height=12)
    assert len(lines) == 12
    assert all(len(line) <= 60 for line in lines)
    assert any(sign in "".join(lines) for sign in "█•⠉⣀⡠")
    coloured = "".join(draw(chart(kind, ["x", "y"], (1, 2), (2, 3)), width=60, height=12, colours=("cyan+",)))
    assert "\x1b[38;5;14m" in coloured


@pytest.mark.parametrize("kind", KINDS)
def test_large_small_and_wide_leave_room_for_the_plot(kind: Kind) -> None:
    from rich.cells import cell_len

    for rows in ([(f"日本{n}", 2.0**n) for n in range(0, 200, 20)], [(f"e\u0301{n}", n * 1e-9) for n in range(1, 9)]):
        lines = draw(chart(kind, ["x", "高さ"], *rows), width=60, height=12)
        assert all(cell_len(line) <= 60 for line in lines), lines
        assert max(line.find("┤") for line in lines) <= 12, lines
    lines = draw(chart("line", ["x", "y"], (0, 1), (10**200, 2)), width=60, height=12)
    assert "1e+200" in lines[-1]


NUMBERS = st.floats(allow_nan=True) | st.integers(-(10**30), 10**30) | st.none() | st.text(max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.lists(NUMBERS, min_size=1, max_size=3), min_size=1, max_size=8))
def test_no_rows_break_a_plot(kind: Kind, rows: list[list[Any]]) -> None:
    plotting = Plotting(kind, ["a", "b", "c"])
    for one in rows:
        plotting.add(tuple(one), peer=None)
    try:
        lines = draw(plotting.chart(), width=50, height=10)
    except NoPlot:
        return
    assert lines
