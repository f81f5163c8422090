"""What commands say: errors with their place, answers as text and JSON, exit statuses."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from typing import Any

import pytest

from federation.keys import PrivateKey
from peers.cli.console import DONE, FAILED, PARTIAL, USAGE, Console, UsageProblem, problem_lines, underlined
from peers.rendering import JsonView, TextView, ledger_matters, ledger_text, progress_text
from peers.setting_texts import BadSetting
from query.budgets import Budget
from query.errors import ErrorRecord, Span, UnknownName
from query.frames import Column, EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(*, terminal: bool = False) -> Console:
    return Console(stdout=io.StringIO(), stderr=Terminal() if terminal else io.StringIO(), environment={})


def said(of: Console) -> tuple[str, str]:
    assert isinstance(of.stdout, io.StringIO)
    assert isinstance(of.stderr, io.StringIO)
    return of.stdout.getvalue(), of.stderr.getvalue()


class TestUnderline:
    def test_one_line(self) -> None:
        assert underlined('edge:groups("E9");', Span(1, 13, 1, 17)) == [
            '  edge:groups("E9");',
            "              ^^^^",
        ]

    def test_a_line_of_several_has_its_number(self) -> None:
        assert underlined("//peer: all\n1 + x", Span(2, 5, 2, 6)) == ["  2 | 1 + x", "          ^"]

    def test_tabs_keep_their_width(self) -> None:
        assert underlined("\t\tx", Span(1, 3, 1, 4)) == ["  \t\tx", "  \t\t^"]

    def test_a_place_of_several_lines_is_marked_to_the_end_of_the_first(self) -> None:
        assert underlined("f(1,\n2)", Span(1, 3, 2, 2)) == ["  1 | f(1,", "        ^^"]

    def test_just_past_the_end(self) -> None:
        assert underlined("1 +", Span(1, 4, 1, 4)) == ["  1 +", "     ^"]

    @pytest.mark.parametrize("span", [Span(9, 1, 9, 2), Span(1, 9, 1, 10), Span(0, 0, 0, 0)])
    def test_a_place_that_the_text_does_not_have(self, span: Span) -> None:
        assert underlined("1 + 1", span) == []

    def test_marks_stand_below_wide_signs(self) -> None:
        assert underlined('"日本" + )', Span(1, 8, 1, 9)) == ['  "日本" + )', "           ^"]
        assert underlined("e\u0301 日", Span(1, 4, 1, 5)) == ["  e\u0301 日", "    ^^"]

    def test_a_line_keeps_to_the_terminal(self) -> None:
        text = "select count(a * b) from Integer a, Integer b where a in iota(1, 99999)"
        for start, end in ((1, len(text) + 1), (8, 20), (60, 64), (len(text) + 1, len(text) + 1)):
            lines = underlined(text, Span(1, start, 1, end), width=40)
            assert all(len(line) <= 40 for line in lines), lines
            assert text[start - 1 : start] == lines[0][lines[1].index("^") :][:1]
        assert all(len(line) <= 22 for line in underlined("日" * 50, Span(1, 30, 1, 50), width=20))

    def test_a_long_line_is_cut_around_its_place(self) -> None:
        text = "a" * 5000 + "!" + "b" * 5000
        shown, marks = underlined(text, Span(1, 5001, 1, 5002))
        assert len(shown) < 200
        assert shown[marks.index("^")] == "!"


def test_an_error_for_people() -> None:
    record = ErrorRecord("unknown_name", 'no edge "E9"', Span(1, 3, 1, 5), hint="edge:list() shows all", peer="NS")
    assert problem_lines(record, text="f(E9)") == [
        'NS: error(unknown_name): no edge "E9"',
        "  f(E9)",
        "    ^^",
        "  hint: edge:list() shows all",
    ]


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (UnknownName("no"), FAILED),
        (UsageProblem("no"), USAGE),
        (BadSetting("no"), USAGE),
        (KeyboardInterrupt(), FAILED),
        (RuntimeError("no"), FAILED),
        (ExceptionGroup("some", [RuntimeError("no"), UsageProblem("no")]), FAILED),
        (ExceptionGroup("some", [ExceptionGroup("inner", [UsageProblem("no")])]), USAGE),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_end_has_words_and_a_status(raised: BaseException, status: int, as_json: bool) -> None:
    of = console()
    with of.telling_problems(as_json=as_json):
        raise raised
    assert of.status == status
    out, err = said(of)
    assert out == ""
    assert err


class Full(io.StringIO):
    """A file on a disk that is full."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_no_fault_of_ours() -> None:
    told = io.StringIO()
    of = Console(stdout=Full(), stderr=told, environment={})
    with of.telling_problems(as_json=False):
        of.data("1")
    assert told.getvalue() == "error(output_not_written): cannot write the output: No space left on device\n"
    assert of.status == FAILED


def test_problems_in_a_group_are_told_as_problems() -> None:
    of = console()
    with of.telling_problems(as_json=False):
        raise ExceptionGroup("tasks", [UnknownName("first"), UnknownName("second")])
    assert said(of)[1] == "error(unknown_name): first\nerror(unknown_name): second\n"


def test_our_own_faults_show_no_key() -> None:
    of = console()
    key = PrivateKey(bytes(32))
    with of.telling_problems(as_json=False):
        raise RuntimeError(key.pem)
    assert key.pem.splitlines()[1] not in said(of)[1]


def ledger(*outcomes: Outcome) -> Ledger:
    return Ledger(outcomes)


ROWS = Outcome("E1", State.ROWS, rows=1)
EMPTY = Outcome("E2", State.EMPTY)
GONE = Outcome("E3", State.UNREACHABLE, "never")
BAD = Outcome("E4", State.ERROR, "unknown_name")


def end(*outcomes: Outcome) -> EndFrame:
    return EndFrame(0, ledger(*outcomes), 1, 1.0)


def shown(*frames: Frame, text: str = "f()", terminal: bool = False) -> tuple[int, str, str]:
    of = console(terminal=terminal)
    view = TextView(of, text)
    for frame in frames:
        view.show(frame)
    return (view.status, *said(of))


SCHEMA = SchemaFrame(0, (Column("value", "Object"),))


class TestText:
    def test_values_are_in_the_text_form(self) -> None:
        values: list[Any] = ["a", 1, True, None, ["x", 2], {"k": ["v"]}]
        rows = [RowFrame(0, (value,)) for value in values]
        assert shown(SCHEMA, *rows, end(ROWS)) == (
            DONE,
            "\"a\"\n1\ntrue\nnull\n['x',2]\n{\"k\":['v']}\n",
            "",
        )

    def test_several_columns_share_a_line(self) -> None:
        assert shown(SCHEMA, RowFrame(0, (1, "a")), end(ROWS))[1] == '1, "a"\n'

    def test_rows_of_several_peers_carry_their_peer(self) -> None:
        status, out, err = shown(SCHEMA, RowFrame(0, (1,), "E1"), end(ROWS, EMPTY))
        assert (status, out, err) == (DONE, "E1: 1\n", "2 peers: 1 rows, 1 empty\n")

    def test_a_partial_answer_says_who_is_missing(self) -> None:
        status, out, err = shown(SCHEMA, RowFrame(0, (1,), "E1"), end(ROWS, GONE, BAD))
        assert (status, out) == (PARTIAL, "E1: 1\n")
        assert err == "3 peers: 1 rows, 1 unreachable, 1 error — E3: unreachable(never), E4: error(unknown_name)\n"

    def test_an_error_is_underlined_and_not_told_twice(self) -> None:
        error = ErrorFrame(0, ErrorRecord("unknown_name", 'no function "f"', Span(1, 1, 1, 2), peer="E4"))
        status, out, err = shown(SCHEMA, error, end(BAD))
        assert (status, out) == (FAILED, "")
        assert err == 'E4: error(unknown_name): no function "f"\n  f()\n  ^\n'

    def test_one_peer_that_is_gone_is_told(self) -> None:
        status, _, err = shown(SCHEMA, end(GONE))
        assert (status, err) == (FAILED, "1 peer: 1 unreachable — E3: unreachable(never)\n")

    def test_progress_only_on_a_terminal(self) -> None:
        progress = ProgressFrame(0, "publish", 3, 9, "MB")
        assert shown(SCHEMA, progress, end(ROWS))[2] == ""
        assert re.search(r"\rpublish 3 of 9 MB", shown(SCHEMA, progress, end(ROWS), terminal=True)[2])

    def test_one_failed_statement_fails_the_script(self) -> None:
        assert shown(SCHEMA, end(ROWS, GONE), SCHEMA, end(BAD))[0] == FAILED
        assert shown(SCHEMA, end(ROWS), SCHEMA, end(ROWS, GONE))[0] == PARTIAL

    def test_an_answer_without_end_is_a_failure(self) -> None:
        assert shown(SCHEMA, RowFrame(0, (1,)))[0] == FAILED

    def test_nobody_in_a_group_is_an_answer(self) -> None:
        assert shown(SCHEMA, end()) == (DONE, "", "0 peers: nobody asked\n")


def test_json_is_the_frames() -> None:
    of = console()
    view = JsonView(of)
    for frame in (SCHEMA, RowFrame(0, (1,)), end(ROWS, GONE)):
        view.show(frame)
    lines = [json.loads(line) for line in said(of)[0].splitlines()]
    assert [line["frame"] for line in lines] == ["schema", "row", "end"]
    assert view.status == PARTIAL


def test_a_long_ledger_is_short() -> None:
    many = ledger(*(Outcome(f"E{number}", State.TIMEOUT) for number in range(1000)))
    text = ledger_text(many)
    assert text.startswith("1000 peers: 1000 timeout — E0: timeout, ")
    assert text.endswith("E9: timeout and 990 more")


def test_a_budget_is_told_with_what_was_used_of_it() -> None:
    over = Outcome("E4", State.ERROR, "over_budget_rows", rows=4, allowed=Budget(rows=4))
    within = Outcome("E1", State.ROWS, rows=3, bytes=9, elapsed_ms=1.0, allowed=Budget(rows=4, time_s=5.0))
    assert ledger_text(ledger(within, over, ROWS)) == (
        "3 peers: 2 rows, 1 error — E4: error(over_budget_rows), used 4 of 4 rows, "
        "E1: rows, used 3 of 4 rows, 0.001s of 5s"
    )
    assert ledger_text(ledger(Outcome("E3", State.TIMEOUT, way="direct"))) == "1 peer: 1 timeout — E3: timeout directly"
    assert ledger_matters(ledger(within))
    assert not ledger_matters(ledger(ROWS))


def test_progress_of_unknown_length() -> None:
    assert progress_text(ProgressFrame(0, "fetch", 3, None, "", "E1")) == "E1: fetch 3"
