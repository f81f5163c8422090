"""``call as of time``: its place among the operators, the functions that have a past, and what they are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from query.declarations import function
from query.errors import BadStatement, Problem, SyntaxProblem, UnknownName, WrongArguments
from query.formatting import format_statement
from query.parsing import parse, parse_statement
from query.syntax import AsOf, Binary, Call, Evaluate, Field, Index, Item, Literal, Name, Select, Variable
from tests.language.asking import NOW, Peer

T = "|2026-01-30T00:00:00Z|"
THEN = datetime(2026, 1, 30, tzinfo=UTC)
EXPECTED = "expected a time such as |2026-01-31T12:00:00Z|, a variable or a time in parentheses"
LIST = Call("edge:list", ())


def expression(text: str) -> Any:
    body = parse_statement(text).body
    assert isinstance(body, Evaluate)
    return body.value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"edge:list() as of {T}", AsOf(LIST, Literal(THEN))),
        (f"edge:list() AS\n Of {T}", AsOf(LIST, Literal(THEN))),
        (f"(edge:list()) as of {T}", AsOf(LIST, Literal(THEN))),
        ("edge:list() as of :past", AsOf(LIST, Variable("past"))),
        ("edge:list() as of moment", AsOf(LIST, Name("moment"))),
        ("edge:list() as of (:t - 60)", AsOf(LIST, Binary("-", Variable("t"), Literal(60)))),
        (f"edge:list() as of {T}[1]", Index(AsOf(LIST, Literal(THEN)), Literal(1))),
        (f"edge:list() as of {T}.x", Field(AsOf(LIST, Literal(THEN)), "x")),
        (f"edge:list() as of {T} = 1", Binary("=", AsOf(LIST, Literal(THEN)), Literal(1))),
        (
            f"select edge:list() as of {T} as names",
            Select((Item(AsOf(LIST, Literal(THEN)), "names"),)),
        ),
    ],
)
def test_it_belongs_to_the_call(text: str, found: Any) -> None:
    assert expression(text) == found
    assert expression(format_statement(parse_statement(text))) == found


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            f"3 as of {T}",
            "as of stands directly behind the call of a function",
            "for example edge:list() as of |2026-01-31T12:00:00Z|",
        ),
        (
            "f() as of",
            f"the statement ends too early: {EXPECTED}",
            None,
        ),
        (
            'f() as of "2026-01-31"',
            f'unexpected "2026-01-31": {EXPECTED}',
            None,
        ),
        (
            "f() as of now() - 3600",
            'unexpected "("',
            "behind as of an expression stands in parentheses: as of (now() - 3600)",
        ),
        (
            f"f() as {T}",
            'unexpected "as": expected the end of the statement',
            "as names an item of a select; about the past, a call is followed by as of |2026-01-31T12:00:00Z|",
        ),
        (
            "create function f(Integer x) as x",
            'unexpected "as": expected "->"',
            "a function says what it gives: create function f(Number x) -> Number as …",
        ),
    ],
)
def test_mistakes_are_told(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        parse(text)
    assert (caught.value.message, caught.value.hint) == (message, hint)


async def test_the_function_is_told_of_the_moment() -> None:
    peer = Peer()
    assert await peer.value("sample:as_of('x')") == ["x", None]
    assert await peer.value(f"sample:as_of('x') as of {T}") == ["x", THEN]
    assert await peer.value("sample:as_of() as of (now() - 60)") == ["", NOW.replace(hour=11, minute=59)]
    assert await peer.value("sample:as_of() as of :t", t=THEN) == ["", THEN]
    assert await peer.value("sample:as_of() as of (null)") is None
    assert await peer.value(f"sample:as_of(null) as of {T}") is None


async def test_a_bag_of_moments_is_gone_through() -> None:
    peer = Peer()
    asked = f"select sample:as_of(x) as of t from x in ['a', 'b'], t in [{T}, null]"
    assert await peer.values(asked) == [["a", THEN], None, ["b", THEN], None]


async def test_a_function_of_ones_own_may_ask_about_the_past() -> None:
    peer = Peer()
    await peer.rows("create function past(String x, Timestamp t) -> Vector as sample:as_of(x) as of t")
    assert await peer.value(f"past('x', {T})") == ["x", THEN]


@pytest.mark.parametrize(
    ("text", "kind", "message", "hint"),
    [
        (
            f"sample:later(1) as of {T}",
            BadStatement,
            "sample:later(Integer n) cannot be asked about the past",
            "as of goes with sample:as_of(String x?)",
        ),
        (
            f"no:such() as of {T}",
            UnknownName,
            'no function "no:such"',
            'apropos("no:such") searches the functions of this peer',
        ),
        (
            "sample:as_of() as of yesterday",
            UnknownName,
            'no variable "yesterday"',
            "a time stamp stands between bars: |2026-01-31T12:00:00Z|",
        ),
        ("sample:as_of() as of (1 + 1)", WrongArguments, "as of: expected Timestamp, found Integer", None),
        ("sample:as_of() as of :v", WrongArguments, "as of: expected Timestamp, found String", None),
        ('sample:as_of() as of ({"t": "x"}.t)', WrongArguments, 'as of: expected Timestamp, found String "x"', None),
    ],
)
async def test_what_has_no_past_is_told(text: str, kind: type[Problem], message: str, hint: str | None) -> None:
    with pytest.raises(kind) as caught:
        await Peer().rows(text, v="x")
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.span is not None


def test_a_function_with_a_past_has_one_answer() -> None:
    with pytest.raises(ValueError, match="one answer"):
        function("f() -> Bag of String", example="f()", past=True)
