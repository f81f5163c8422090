"""What a person sees of an answer in a terminal."""

import sys
import threading
from pathlib import Path

import pytest

from peers.palettes import LIGHT, NONE
from peers.screens import PAGE_WITHIN_S, pager_of
from query.errors import Span
from query.frames import Frame
from query.ledger import Outcome, State
from tests.repl.paper import Paper, end, progress, row, schema, wrong


def test_one_column_is_a_value_a_line() -> None:
    assert Paper().show([schema("x"), row("a"), row([1, "b"], peer="E2"), end(2)]) == ['"a"', "E2: [1,'b']"]


def test_a_long_value_is_laid_out() -> None:
    value = {"name": "x" * 30, "list": [1, 2], "more": "y" * 20}
    assert Paper(width=50).show([schema("x"), row(value), end(1)]) == [
        "{",
        f"  \"name\":'{'x' * 30}',",
        '  "list":[1,2],',
        f"  \"more\":'{'y' * 20}'",
        "}",
    ]


def test_columns_are_a_table_with_numbers_to_the_right() -> None:
    frames = [schema("name", "n"), row("é", 5, peer="E1"), row("long", 123, peer="LINE-2"), end(2)]
    assert Paper().show(frames) == [
        "peer    name      n",
        "──────  ──────  ───",
        'E1      "é"       5',
        'LINE-2  "long"  123',
    ]


def test_records_of_one_shape_are_a_table_where_that_is_wanted() -> None:
    paper = Paper()
    view = paper.view(tables=True)
    for frame in (schema("r"), row({"a": 1, "b": "x"}), row({"a": 22, "b": [1]}), row({"other": 1}), row(5), end(4)):
        view.show(frame)
    assert paper.lines() == [" a  b", "──  ───", ' 1  "x"', "22  [1]", '{"other":1}', "5"]


def test_a_table_that_is_too_wide_is_tall() -> None:
    wide = [schema("name", "a", "b"), row("x" * 20, "y" * 20, 1, peer="E1"), row("x", "y", 2, peer="E2"), end(2)]
    assert Paper(width=45).show(wide) == [
        "── 1 ───────────────────────────────────",
        "peer  E1",
        f'name  "{"x" * 20}"',
        f'a     "{"y" * 20}"',
        "b     1",
        "── 2 ───────────────────────────────────",
        "peer  E2",
        'name  "x"',
        'a     "y"',
        "b     2",
    ]
    long = [schema("n", "text"), row(1, "z" * 50), end(1)]  # only its last column is: that goes on below
    assert Paper(width=45).show(long)[:2] == ["n  text", f"─  {'─' * 42}"]


def test_rows_of_other_widths_than_the_first_are_rows_all_the_same() -> None:
    shown = Paper().show([schema("a", "b"), row(1, 2), row(1, 2, 3, peer="E1"), row(1, 2), end(3)])
    assert [line.split() for line in shown[2:]] == [["1", "2"], ["E1", "1", "2", "3"], ["1", "2"]]


def test_the_heading_of_a_long_last_column_stays_on_its_line() -> None:
    long = "b" * 50
    assert Paper(width=40).show([schema("n", f'"{long}"'), row(1, long), end(1)])[:3] == [
        "n  " + f'"{long}"'[:36] + "…",
        "─  " + "─" * 37,
        "1  " + f'"{long}"'[:37],
    ]


def test_rows_of_a_table_appear_without_waiting_for_the_next() -> None:
    paper = Paper()
    view = paper.view()
    view.show(schema("a", "b"))
    view.show(row(1, 2))
    assert paper.lines() == []
    for timer in [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
        timer.join()
    assert paper.lines()[-1] == "1  2"
    view.show(row(333, 4))
    assert paper.lines()[-1] == "333  4"  # written at once, however wide
    view.close()


def test_colours_are_the_palettes() -> None:
    paper = Paper()
    paper.show([schema("x"), row({"k": "v", "n": 1}), end(1)])
    assert [paper.colour(0, at) for at in (1, 5, 13)] == ["brightblue", "brightgreen", "brightcyan"]
    light = Paper(palette=LIGHT)
    light.show([schema("x"), row("v"), end(1)])
    assert light.colour(0, 0) == "green"
    plain = Paper(palette=NONE)
    plain.show([schema("x"), row("v"), end(1)])
    assert "\x1b" not in plain.written.getvalue()


def test_an_error_has_its_place_marked_and_a_hint() -> None:
    paper = Paper()
    frames = [
        schema(),
        wrong("unknown_name", 'no "b"', span=Span(1, 5, 1, 6), hint="try a", peer="E1"),
        end(0, Outcome("E1", State.ERROR, "unknown_name")),
    ]
    assert paper.show(frames, "1 + b", footer=True) == [
        'E1: error(unknown_name): no "b"',
        "  1 + b",
        "      ^",
        "  hint: try a",
        "0.0 ms",
    ]
    assert (paper.colour(0, 0), paper.colour(2, 6), paper.colour(3, 4)) == ("brightred", "brightred", "brightbrown")


def test_what_a_value_says_moves_nothing() -> None:
    evil = "\x1b[2J\x1b]0;x\x07\r\u202e"
    paper = Paper(width=100)
    shown = paper.show(
        [
            schema("x"), row([evil]), wrong("c", evil, hint=evil, peer=evil), progress(1, 2, label=evil, unit=evil),
            end(0, Outcome("E1", State.REFUSED, evil)),
        ]
    )  # fmt: skip
    assert len(shown) == 4
    assert "\x07" not in paper.written.getvalue()
    assert "]0;x" not in paper.written.getvalue().replace("\\u001b]0;x", "")


def test_the_ledger_is_told_where_it_matters() -> None:
    away = Outcome("E2", State.UNREACHABLE, "never")
    assert Paper(width=80).show([schema("x"), end(1, Outcome("E1", State.ROWS), away, unmatched=3)], footer=True) == [
        "2 peers: 1 rows, 1 unreachable; 3 not meant — E2: unreachable(never)",
        "1 row · 0.0 ms",
    ]
    assert Paper().show([schema(), end(0)], footer=True) == ["done · 0.0 ms"]


def test_what_is_for_standard_error_goes_there() -> None:
    paper = Paper()
    view = paper.view("nonsense()", whole=False)
    for frame in (schema("x"), row(1), wrong("c", "message"), end(0, Outcome("E1", State.TIMEOUT))):
        view.show(frame)
    view.close()
    assert paper.lines() == ["1"]
    assert paper.other.getvalue().splitlines() == ["error(c): message", "1 peer: 1 timeout — E1: timeout"]


def test_bars_move_and_go() -> None:
    paper = Paper(width=80)
    view = paper.view()
    view.show(progress(512 * 1024, 1024 * 1024, unit="bytes"))
    assert paper.lines() == ["fetch ━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━ 0.5 of 1.0 MiB"]
    paper.clock.now += 1
    view.show(progress(1, 3, label="load", unit="edges", peer="E1"))
    assert [line.split()[0] for line in paper.lines()] == ["fetch", "E1:"]
    view.show(schema("x"))
    view.show(row(1))
    assert paper.lines() == ["1"]
    view.show(end(1))
    assert paper.lines() == ["1"]


def test_bars_are_bounded() -> None:
    paper = Paper(width=80)
    view = paper.view()
    for number in range(12):
        paper.clock.now += 1
        view.show(progress(1, 2, peer=f"E{number}"))
    assert len(paper.lines()) == 9
    assert paper.lines()[-1] == "and 4 more"
    view.close()


def test_a_plot_is_drawn_instead_of_rows() -> None:
    paper = Paper(width=70, height=24)
    shown = paper.show([schema("x", "y", plot="line"), *(row(n, n * n) for n in range(10)), end(10)])
    assert shown[0].strip() == "y"
    assert shown[-1].split() == ["0", "2", "4", "7", "9"]
    assert not any(line.startswith("9  81") for line in shown)


def test_what_cannot_be_drawn_is_text() -> None:
    assert Paper(width=90).show([schema("x", plot="pie"), row(1), end(1)]) == [
        'error(no_plot): no plot "pie" in a terminal',
        "  hint: plots are line, bar, scatter, histogram; the rows are shown as text",
        "1",
    ]
    shown = Paper(width=90).show([schema("x", plot="bar"), row("a"), row("b", peer="E1"), end(2)])
    assert (shown[0], shown[-2:]) == ("error(no_plot): no numbers to plot", ['"a"', 'E1: "b"'])


def many(count: int) -> list[Frame]:
    return [schema("x"), *(row(number) for number in range(count)), end(count)]


def paging(tmp_path: Path, program: str) -> Paper:
    """``program`` has what came in ``text`` and where to leave it in ``out``."""
    source = f"import sys, pathlib; out = pathlib.Path({str(tmp_path / 'paged')!r})\n{program}"
    return Paper(height=10, pager=(sys.executable, "-c", source))


def test_more_than_a_screen_at_once_goes_to_the_pager(tmp_path: Path) -> None:
    paper = paging(tmp_path, "out.write_text(sys.stdin.read())")
    paper.screen.begin(paged=True)
    paper.show(many(50), footer=True)
    paper.screen.end()
    assert (tmp_path / "paged").read_text().replace("\x1b[96m", "").replace("\x1b[0m", "").split()[:50] == [
        str(number) for number in range(50)
    ]
    assert paper.lines()[-1] == "50 rows · 0.0 ms"  # is below the pager too
    assert paper.lines()[-2] == "8"  # the last one before it opened


def test_a_slow_stream_stays_on_the_screen(tmp_path: Path) -> None:
    paper = paging(tmp_path, "out.write_text(sys.stdin.read())")
    paper.screen.begin(paged=True)
    view = paper.view()
    for frame in many(50):
        paper.clock.now += PAGE_WITHIN_S / 5
        view.show(frame)
    paper.screen.end()
    assert not (tmp_path / "paged").exists()
    assert paper.lines()[-1] == "49"


def test_who_leaves_the_pager_has_read_enough(tmp_path: Path) -> None:
    paper = paging(tmp_path, "sys.stdin.readline(); sys.stdin.close()")
    paper.screen.begin(paged=True)
    view = paper.view()
    view.show(schema("x"))
    number = 0
    while not view.left:
        view.show(row(number))
        number += 1
    view.show(end(number, Outcome("E1", State.CANCELLED)))
    paper.screen.end()
    assert paper.lines()[-1] == "1 peer: 1 cancelled — E1: cancelled"


def test_a_pager_that_is_not_there_is_done_without() -> None:
    paper = Paper(height=10, pager=("no-such-pager",))
    paper.screen.begin(paged=True)
    paper.show(many(50))
    paper.screen.end()
    assert paper.lines()[-1] == "49"


def test_which_pager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pager_of({"PAGER": "less -S 'a b'"}) == ("less", "-S", "a b")
    assert pager_of({"PAGER": ""}) == ()
    assert pager_of({"PAGER": "it's"}) == ()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pager_of({}) == ()
