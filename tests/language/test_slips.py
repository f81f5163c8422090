"""What people bring from other languages, or leave out: the message, the place that is marked, and the hint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query.errors import EndsTooEarly, Problem, SyntaxProblem
from query.parsing import parse
from query.slips import COMMENTS_MAX, doubtful_comments
from query.syntax import Source


def slip(text: str) -> tuple[str, str, str | None]:
    """Message, the text that is marked, and hint."""
    with pytest.raises(SyntaxProblem) as caught:
        parse(text)
    span = caught.value.span
    assert span is not None
    assert span.line == span.end_line
    marked = text.split("\n")[span.line - 1][span.column - 1 : span.end_column - 1]
    return caught.value.message, marked, caught.value.hint


PARTS = "the parts come in this order: select … from … where … group by … having … order by … limit …"
ELEMENTS = "name each element and give it: select x from x in […]; a member of a record is x.name"
DEFINING = "a function is made with: create function f(Number x) -> Number as x + 1"


@pytest.mark.parametrize(
    ("text", "message", "marked", "hint"),
    [
        ("1 + 1\n2", 'expected ";" before "2"', "2", "a statement ends with a semicolon: 1 + 1;"),
        ("f(1)\n edge:g();", 'expected ";" before "edge:g"', "edge:g", "a statement ends with a semicolon: f(1);"),
        ("x == 1", '"==" has no meaning here: expected "="', "==", None),
        ("x => 1", '"=>" has no meaning here: expected ">="', "=>", None),
        ("x =< 1", '"=<" has no meaning here: expected "<="', "=<", None),
        ("x =! 1", '"=!" has no meaning here: expected "!="', "!", None),
        ("x > 1 && y", '"&&" has no meaning here: expected "and"', "&&", None),
        ("x & y", '"&" has no meaning here: expected "and"', "&", None),
        ("!x", '"!" has no meaning here: expected "not", or "!=" for unequal', "!", None),
        ("x = 1 || x = 2", '"||" joins strings: expected "or" between conditions', "||", None),
        ("1 < x < 3", 'unexpected "<"', "<", "conditions are joined by and: 1 < x and x < 3"),
        ("f(“a”)", '"“" has no meaning here: expected a quote', "“", "quotes are straight: \"…\" or '…'"),
        ("# x\n1", '"#" has no meaning here: expected "//" before a comment', "#", None),
        ("$x", '"$" has no meaning here: expected a name', "$", "a session variable is written :x"),
        ("selct x from x in [1]", 'no statement begins with "selct" — did you mean "select"?', "selct", None),
        ("let x = 1", 'no statement begins with "let"', "let", "a session variable is set with: set :x = 5"),
        ("def f(x): x", 'no statement begins with "def"', "def", DEFINING),
        ("set x = 1", 'expected a session variable, found "x"', "x", "it has a colon: set :x = …"),
        ("x := 1", '":" has no meaning here', ":", "a session variable is set with: set :x = 5"),
        ("select x form x in [1]", 'unexpected "form" — did you mean "from"?', "form", None),
        ("select x from x in [1] were x", 'unexpected "were" — did you mean "where"?', "were", None),
        ("select * from x in [1]", '"*" stands for nothing here: expected an expression', "*", ELEMENTS),
        (
            "count(*)",
            '"*" stands for nothing here: expected an expression',
            "*",
            "name what is counted: count(x), as in select count(x) from x in […]",
        ),
        (
            "select x from edge:list()",
            'unexpected "edge:list": expected a name and "in"',
            "edge:list",
            "name each element: from x in edge:list()",
        ),
        ("select x from f(1)", 'unexpected "f": expected a name and "in"', "f", "name each element: from x in f(…)"),
        (
            "select x from edges",
            'expected "in" behind "edges"',
            "edges",
            "name each element: from x in edges, or in edges() when it is a function",
        ),
        ("edge:list", 'expected "(" behind "edge:list"', "edge:list", "a call has parentheses: edge:list()"),
        (
            "edge.list()",
            '"edge.list" is a field, and a field is not called',
            "edge.list",
            "a function of a namespace is written with a colon: edge:list(…)",
        ),
        ('{name: "a"}', 'unexpected "name": expected a key in quotes', "name", 'keys stand in quotes: {"name": …}'),
        ("1 = = 2", 'unexpected "=": expected an expression', "=", None),
        ('{"a": 1,}', 'unexpected "}": expected a key in quotes', "}", "no comma stands behind the last member"),
        ('{"a": 1, of: 2}', 'unexpected "of": expected a key in quotes', "of", 'keys stand in quotes: {"of": …}'),
        ('{"a": 1 "b": 2}', 'expected "," before "b"', '"b"', None),
        ("[1 2]", 'expected "," before "2"', "2", None),
        ("f(1\n2)", 'expected "," before "2"', "2", None),
        ("select x limit 1 from x in [1]", '"from" stands behind "limit"', "from", PARTS),
        ("select x from x in [1] where x where x", '"where" stands twice', "where", PARTS),
        ("select from from x in [1]", 'unexpected "from": expected an expression or "distinct"', "from", None),
    ],
)
def test_a_slip_is_said_by_its_name(text: str, message: str, marked: str, hint: str | None) -> None:
    found = slip(text)
    if hint is None and found[2] is not None:
        assert found[2] == f'"{marked}" is a keyword and cannot be a name'
        found = (*found[:2], None)
    assert found == (message, marked, hint)


LONG = "a" * 10_000


@pytest.mark.parametrize(
    "text",
    [
        f"{{{LONG}: 1}}",
        f'select x from "{LONG}"',
        f"set {LONG} = 1",
        f"{LONG}:list",
        f"select x from {LONG}",
        f"1\n{LONG}",
        f"{LONG}.x()",
        f'[1 "{LONG}"]',
        f"select x from {LONG}(1)",
    ],
)
def test_what_is_long_is_told_in_short(text: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        parse(text)
    assert len(caught.value.message) + len(caught.value.hint or "") < 300


def test_a_text_that_may_go_on_is_told_as_such() -> None:
    for text in ("select x from edges", "edge:list", "1 +"):
        with pytest.raises(EndsTooEarly):
            parse(text)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("//per: E1\n1", ['"//per:" is a comment — did you mean "//peer:"?']),
        ("// timout: 5s\n1", ['"//timout:" is a comment — did you mean "//timeout:"?']),
        ("//peer E1\n1", ['"//peer E1" is a comment — did you mean "//peer: E1"?']),
        (
            "1 //peer: E1",
            ['"//peer:" is a remark here: as a directive it stands on a line of its own, above the statement'],
        ),
        ("//peer: E1\n1", []),
        ("// peer is a word\n// see: below\n'a //peer: b' // and so on", []),
        ("// note: per se\n// todo: x", []),
    ],
)
def test_comments_that_look_like_directives(text: str, messages: list[str]) -> None:
    found = doubtful_comments(text)
    assert [doubt.message for doubt in found] == messages
    assert all(Source(text).text.split("\n")[doubt.span.line - 1] for doubt in found)


def test_such_comments_are_told_a_few_times_and_no_more() -> None:
    assert len(doubtful_comments("//per: E1\n" * 1000)) == COMMENTS_MAX


SIGNS = """select set let from where x y 1 'a' "b" ( ) [ ] { } , ; : := = == => =< < > || && ! # * + - . in group by
order limit having edge:list count //per: //peer: “ @ $ \\ ? validate case when"""
WORDS = st.sampled_from([*SIGNS.split(), "\n"])


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_whatever_is_written_is_taken_or_refused_with_a_place(text: str) -> None:
    doubtful_comments(text)
    problem = refusal(text)
    if problem is not None:
        assert problem.message
        assert not problem.message[0].isupper()
        assert problem.span is not None


def refusal(text: str) -> Problem | None:
    try:
        parse(text)
    except Problem as problem:
        return problem
    return None
