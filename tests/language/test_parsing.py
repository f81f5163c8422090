"""Text → syntax: statements, directives, words, literals, limits, messages."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from query import limits
from query.build_tables import TABLES, grammar_digest
from query.building import NotSupported
from query.durations import BadDuration, parse_duration
from query.errors import LimitExceeded, Problem, Span, SyntaxProblem, UnknownName
from query.parsing import parse, parse_statement
from query.script import split_script
from query.syntax import (
    Binary,
    Call,
    CreateFunction,
    DeleteFunction,
    Evaluate,
    Explain,
    Field,
    Literal,
    Name,
    RecordOf,
    Select,
    SetVariable,
    Unary,
    Variable,
    VectorOf,
    shifted,
)
from query.types import Type

MISSION = """//peer: nameserver
edge:add_group("MY-EDGE-1", "staging-area-edges");
//peer: nameserver
edge:groups("MY-EDGE-1");
//peer: nameserver
edge:set_group_models("staging-area-edges",
[{"repo": "default",
"name": "my-sa-model",
"version": "5.3"}]);
// nameserver
edge:get_config("edge_name");
edge:actual_state("EDGE_NAME");
//peer: nameserver
edge:remove_group("MY-EDGE-1", "staging-area-edges");
//peer: nameserver
models:installed();
"""


def expression(text: str) -> Any:
    body = parse_statement(text).body
    assert isinstance(body, Evaluate)
    return body.value


def literal(text: str) -> Any:
    found = expression(text)
    assert isinstance(found, Literal)
    return found.value


def problem(text: str, kind: type[Problem] = SyntaxProblem) -> Problem:
    with pytest.raises(kind) as caught:
        parse(text)
    return caught.value


MISSION_CALLS = [
    ("nameserver", "edge:add_group"),
    ("nameserver", "edge:groups"),
    ("nameserver", "edge:set_group_models"),
    (None, "edge:get_config"),
    (None, "edge:actual_state"),
    ("nameserver", "edge:remove_group"),
    ("nameserver", "models:installed"),
]


@pytest.mark.parametrize(
    "text",
    [
        MISSION,
        MISSION.replace('"', "'"),
        MISSION.replace("edge:", "/* between */ edge:").replace(";", " ; -- after"),
        MISSION.replace("//peer: nameserver\n", "//peer: nameserver\n// a word on it\n\n"),
        MISSION.replace("//peer: nameserver", "// PEER:nameserver"),
        MISSION.replace("\n", "\r\n"),
        MISSION.rstrip().rstrip(";"),
    ],
    ids=["verbatim", "raw strings", "comments", "comments below directives", "spelling", "crlf", "no last semicolon"],
)
def test_the_statements_of_the_mission(text: str) -> None:
    script = parse(text)
    found = [(s.directives.peer, s.body.value.name) for s in script]  # type: ignore[union-attr]
    assert found == MISSION_CALLS
    third = script.statements[2].body.value  # type: ignore[union-attr]
    assert third.arguments[1] == VectorOf(
        (RecordOf(("repo", "name", "version"), (Literal("default"), Literal("my-sa-model"), Literal("5.3"))),)
    )


def test_each_statement_parses_alone_from_its_own_text() -> None:
    script = parse(MISSION)
    parts = split_script(MISSION)
    assert [part.text for part in parts] == [statement.text for statement in script]
    for statement, part in zip(script, parts, strict=True):
        alone = parse_statement(part.text)
        assert (alone.body, alone.directives) == (statement.body, statement.directives)
        assert statement.span == part.span


def test_a_span_of_a_part_moves_into_the_script() -> None:
    (_, part) = split_script("1;\n  //peer: e\n  f(?)".replace("?", "x"))
    assert part.span == Span(2, 3, 3, 7)
    assert shifted(Span(1, 3, 1, 4), part.span) == Span(2, 5, 2, 6)
    assert shifted(Span(2, 3, 2, 4), part.span) == Span(3, 3, 3, 4)


# directives


def test_directives_stack_in_any_order_and_case() -> None:
    statement = parse_statement("//Plot: Line plot\n// TIMEOUT : 5s\n//peer:a, B\nf()")
    directives = statement.directives
    assert (directives.plot, directives.timeout_s, directives.peer) == ("Line plot", 5.0, "a, B")
    assert parse("//wait: 1h\n1").statements[0].directives.wait_s == 3600.0


@pytest.mark.parametrize(
    "text",
    [
        "// nameserver\nf()",
        "//other: x\nf()",
        "f() //peer: x",
        "f(//peer: x\n)",
        "-- peer: x\nf()",
        "/* //peer: x */ f()",
        "f();\n//peer: x",
        "1; //peer: x\nf()",
        "//peer nameserver\nf()",
        "// see //peer: x\nf()",
    ],
)
def test_other_comments_are_no_directives(text: str) -> None:
    assert all(statement.directives.peer is None for statement in parse(text))


def test_a_directive_belongs_to_one_statement() -> None:
    assert [s.directives.peer for s in parse("//peer: a\n1; 2; //peer: no\n//peer: b\n3")] == ["a", None, "b"]


def test_directives_that_say_nothing_clear() -> None:
    assert problem("//peer: a\n//peer: b\nf()").message == "two //peer: directives stand above one statement"
    assert problem("//peer: a\n//peer: b\nf()").span == Span(2, 1, 2, 10)
    assert problem("//peer:\nf()").message == "//peer: has no value"
    assert "is not a duration" in problem("//timeout: soon\n1", BadDuration).message
    assert "at most 604800s" in problem("//wait: 8d\n1", BadDuration).message
    assert problem("//timeout: soon\n1", BadDuration).span == Span(1, 1, 1, 16)


def test_a_long_directive_is_refused() -> None:
    parse("//plot: " + "x" * limits.DIRECTIVE_LENGTH_MAX + "\n1")
    assert (
        "//plot: is over its limit"
        in problem("//plot: " + "x" * (limits.DIRECTIVE_LENGTH_MAX + 1) + "\n1", LimitExceeded).message
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("2.5m", 150), ("1h", 3600), ("7 d", 604800), ("3", 3), (".5S", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, longest_s=limits.DURATION_S_MAX) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 weeks", "-5s", "0s", "1e3s", "8d", "9" * 30])
def test_no_durations(text: str) -> None:
    with pytest.raises(BadDuration):
        parse_duration(text, longest_s=limits.DURATION_S_MAX)


# words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("edge:explain('E')", Call("edge:explain", (Literal("E"),))),
        ("models:create()", Call("models:create", ())),
        ("a:select()", Call("a:select", ())),
        ("in.tensor", Field(Name("in"), "tensor")),
        ("IN.x", Field(Name("IN"), "x")),
        ("out.price.select", Field(Field(Name("out"), "price"), "select")),
        ("r . k", Field(Name("r"), "k")),
        ("x in.y", None),
        ("index", Name("index")),
        ("selected", Name("selected")),
        ("SELECT x", Select(items=parse_statement("select x").body.value.items)),  # type: ignore[union-attr]
        ("Null", Literal(None)),
        ("x IN:v", Binary("in", Name("x"), Variable("v"))),
        ("x in [1]", Binary("in", Name("x"), VectorOf((Literal(1),)))),
        ("x In(y)", Binary("in", Name("x"), Name("y"))),
        ('{"k":v}', RecordOf(("k",), (Name("v"),))),
        ('{"k"::v}', RecordOf(("k",), (Variable("v"),))),
        ("{'k':e:f(), \"j\":true}", RecordOf(("k", "j"), (Call("e:f", ()), Literal(True)))),
        ("f(select x from x in y)", Call("f", (expression("(select x from x in y)"),))),
    ],
)
def test_keywords_and_names(text: str, found: Any) -> None:
    if found is None:
        problem(text)
    else:
        assert expression(text) == found


@pytest.mark.parametrize("word", ["select", "from", "in", "end", "null", "set", "of", "limit"])
def test_a_keyword_is_no_name(word: str) -> None:
    assert problem(f"select a as {word} from a in b").hint == f'"{word}" is a keyword and cannot be a name'


# literals


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        (".5", 0.5),
        ("2.3E2", 230.0),
        ("-2.4e-21", -2.4e-21),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ('"a\\"b\\\\c\\n\\u00e9\\ud83d\\ude00"', 'a"b\\c\né😀'),
        (r"'a\n''b'''", "a\\n'b'"),
        ("''", ""),
        ('"two\nlines"', "two\nlines"),
        ("|2026-01-31T12:00:00Z|", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("|2026-01-31T12:00:00.5+02:00|", datetime(2026, 1, 31, 10, 0, 0, 500000, tzinfo=UTC)),
        ("|2026-01-31|", datetime(2026, 1, 31, tzinfo=UTC)),
        ("TRUE", True),
        ("1e400", math.inf),
    ],
)
def test_literals(text: str, value: Any) -> None:
    found = literal(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message", "span"),
    [
        ('"abc', "a string is not closed", Span(1, 1, 1, 2)),
        ("f('abc)", "a string is not closed", Span(1, 3, 1, 4)),
        ("a /* b", "a comment is not closed", Span(1, 3, 1, 5)),
        ("|2026-01-31", "a time stamp is not closed", Span(1, 1, 1, 2)),
        ("|2026-13-01|", "|2026-13-01| is not a time stamp: expected |2026-01-31T12:00:00Z|", Span(1, 1, 1, 13)),
        (r'"a\qb"', r'"\q" is no escape in a string', Span(1, 3, 1, 5)),
        (r'"\ud800"', "is no escape in a string", Span(1, 2, 1, 8)),
        ("x ? y", '"?" has no meaning here', Span(1, 3, 1, 4)),
        ("x \x00", "U+0000 has no meaning here", Span(1, 3, 1, 4)),
        ("'\ud800'", "half a character", Span(1, 2, 1, 3)),
        ("f(1;2", '"(" is not closed: expected ")" before the end of the statement', Span(1, 2, 1, 3)),
        ("[1,\n 2)", '"[" at line 1, column 1 is not closed: expected "]", found ")"', Span(2, 3, 2, 4)),
        (")", '")" closes nothing', Span(1, 1, 1, 2)),
        ("1 +", "the statement ends too early: expected an expression", Span(1, 3, 1, 4)),
        ("select from x", 'unexpected "from": expected an expression', Span(1, 8, 1, 12)),
        ("set x = 3", 'expected a session variable, found "x"', Span(1, 5, 1, 6)),
        ("1;\n1 1", 'unexpected "1"', Span(2, 3, 2, 4)),
        ('{"a":1,"a":2}', 'key "a" stands twice in one record', Span(1, 8, 1, 11)),
        ("select list of x", 'expected "select vector of", found "select list of"', Span(1, 8, 1, 12)),
    ],
)
def test_syntax_errors_say_what_and_where(text: str, message: str, span: Span) -> None:
    found = problem(text)
    assert message in found.message
    assert found.span == span


def test_an_unknown_type_names_the_nearest() -> None:
    found = problem("create function f(Intger x) -> Real as x", UnknownName)
    assert found.message == 'no type "Intger" — did you mean "Integer"?'
    assert found.span == Span(1, 19, 1, 25)


@pytest.mark.parametrize("text", ["select stream of x from x in y", 'validate "t" check 1 => 1'])
def test_what_comes_later_says_so(text: str) -> None:
    assert "is not supported by this version" in problem(text, NotSupported).message


# expressions and statements


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1 + 2 * 3", "1 + (2 * 3)"),
        ("1 - 2 - 3", "(1 - 2) - 3"),
        ("2 ^ 3 ^ 2", "2 ^ (3 ^ 2)"),
        ("-x ^ 2", "-(x ^ 2)"),
        ("2 ^ -1", "2 ^ (-1)"),
        ("not a = b and c or d", "((not (a = b)) and c) or d"),
        ("a or b and c", "a or (b and c)"),
        ("a between 1 and 2 and b", "(a between 1 and 2) and b"),
        ("a <> b", "a != b"),
        ("a not in b", "not (a in b)"),
        ("a not like 'x'", "not (a like 'x')"),
        ("a not between 1 and 2", "not (a between 1 and 2)"),
        ("a is not null", "not (a is null)"),
        ("a || b + c", "(a || b) + c"),
        ("v[1][2].x", "((v[1])[2]).x"),
        ("a --b", "a - (-b)"),
        ("a // b\n+ c", "a + c"),
        ("a -- b\n+ c", "a + c"),
        ("a /* b */ + c", "a+c"),
        ("case when a then b else c end", "CASE WHEN a THEN b ELSE c END"),
        ("cast(a as charstring)", "cast(a as String)"),
    ],
)
def test_expressions_bind_as_said(text: str, same: str) -> None:
    assert expression(text) == expression(same)


def test_signs_belong_to_numbers() -> None:
    assert expression("-(-3)") == Literal(3)
    assert expression("- x") == Unary("-", Name("x"))


def test_statements() -> None:
    assert parse_statement("set :V = 1").body == SetVariable("V", Literal(1))
    assert parse_statement("delete function a:b").body == DeleteFunction("a:b")
    assert parse_statement("explain 1").body == Explain(Evaluate(Literal(1)))
    made = parse_statement(
        "create or replace function m:f(Integer a, vector of charstring b) -> Bag of Real\n"
        "/* What it does.\n * And more. */ as select a from x in b -- end"
    ).body
    assert isinstance(made, CreateFunction)
    assert (made.name, made.replace) == ("m:f", True)
    assert [(p.name, p.type) for p in made.parameters] == [
        ("a", Type("Integer")),
        ("b", Type("Vector", Type("String"))),
    ]
    assert made.result == Type("Bag", Type("Real"))
    assert made.documentation == "What it does.\nAnd more."
    assert isinstance(made.body, Select)


def test_an_empty_text_is_an_empty_script() -> None:
    assert len(parse("")) == len(parse(" ;; // nothing\n;")) == 0
    with pytest.raises(SyntaxProblem, match="expected one statement, found 2"):
        parse_statement("1;2")


# limits


def fast_limit(text: str, words: str, *, limit: int = limits.TEXT_BYTES_LOCAL_MAX) -> None:
    started = time.perf_counter()
    with pytest.raises(LimitExceeded) as caught:
        parse(text, limit=limit)
    assert words in caught.value.message
    assert time.perf_counter() - started < 5


def test_the_length_of_a_text() -> None:
    parse("'" + "x" * (limits.TEXT_BYTES_WIRE_MAX - 2) + "'")
    fast_limit(
        "'" + "x" * limits.TEXT_BYTES_WIRE_MAX + "'",
        "the text is over its limit of 65536 bytes: found 65538",
        limit=limits.TEXT_BYTES_WIRE_MAX,
    )
    fast_limit("'" + "é" * 40_000 + "'", "found 80002", limit=limits.TEXT_BYTES_WIRE_MAX)
    fast_limit("x" * (limits.TEXT_BYTES_LOCAL_MAX + 1), "the text is over its limit of 1048576 bytes")


@pytest.mark.parametrize("bracket", ["(", "[", "{", "f(", '{"a":', "(["])
def test_a_hundred_thousand_brackets(bracket: str) -> None:
    fast_limit(bracket * 100_000, f"nesting is over its limit of {limits.NESTING_DEPTH_MAX} open brackets")
    fast_limit("1;\n" + bracket * 100_000 + ")" * 100_000, f"nesting is over its limit of {limits.NESTING_DEPTH_MAX}")


def test_nesting_up_to_its_limit() -> None:
    deep = limits.NESTING_DEPTH_MAX
    parse("(" * deep + "1" + ")" * deep)
    fast_limit("(" * (deep + 1) + "1" + ")" * (deep + 1), "nesting")


def test_elements_of_a_literal() -> None:
    most = limits.LITERAL_ELEMENTS_MAX
    assert len(expression("[" + "1," * (most - 1) + "1]").items) == most
    fast_limit("[" + "1," * most + "1]", f"a literal is over its limit of {most} elements")


def test_statements_of_a_script() -> None:
    assert len(parse("1;" * limits.STATEMENTS_MAX)) == limits.STATEMENTS_MAX
    fast_limit("1;" * (limits.STATEMENTS_MAX + 1), f"the script is over its limit of {limits.STATEMENTS_MAX}")


def test_words_of_a_text() -> None:
    most = limits.TOKENS_WIRE_MAX
    with pytest.raises(LimitExceeded, match=f"the text is over its limit of {most} words and signs"):
        parse("f(" + "1+" * (most // 2) + "1)")
    fast_limit("1" + "+1" * (limits.TOKENS_LOCAL_MAX // 2 + 1), f"its limit of {limits.TOKENS_LOCAL_MAX}")


def test_the_longest_text_holds_the_loop_but_shortly() -> None:
    vector = "[" + "1," * (limits.LITERAL_ELEMENTS_MAX - 2) + "1]"
    started = time.perf_counter()
    assert len(parse(f"{vector};{vector}")) == 2
    assert time.perf_counter() - started < 1.5  # a sixth of it on an idle machine


def test_digits_of_a_number() -> None:
    assert literal("1" * limits.NUMBER_DIGITS_MAX) == int("1" * limits.NUMBER_DIGITS_MAX)
    fast_limit("1" * (limits.NUMBER_DIGITS_MAX + 1), f"a number is over its limit of {limits.NUMBER_DIGITS_MAX}")


@pytest.mark.parametrize(
    "text",
    ["+1", "||x", "[1]", ".x", " and x", " = 1 or x"],
)
def test_long_chains_are_deep(text: str) -> None:
    parse("x" + text * 50)
    fast_limit("x" + text * 5_000, f"the expression is over its limit of {limits.EXPRESSION_DEPTH_MAX} levels")


@pytest.mark.parametrize("text", ["not ", "- ", "explain ", "2 ^ ", "case when "])
def test_long_prefixes_are_deep(text: str) -> None:
    tail = "x" + " then 1 end" * 200 if "case" in text else "x"
    fast_limit(text * 200 + tail, "the expression is over its limit")


def test_the_shipped_tables_are_those_of_the_grammar() -> None:
    import pickle
    from importlib.resources import files

    shipped = pickle.loads(files("query").joinpath(TABLES).read_bytes())
    assert shipped["grammar"] == grammar_digest(), "run python -m query.build_tables"


@pytest.mark.parametrize("text", ["1;-- c\nf()", "1; /* c */-- d\nf()", "1;--\nf()", "1 /* c */-- d\n;f()"])
def test_a_comment_of_dashes_also_begins_behind_a_statement_and_a_block(text: str) -> None:
    """A statement's own text says the same alone: what begins it there begins it everywhere."""
    assert [statement.text for statement in parse(text)][-1] == "f()"
    assert [parse(statement.text).statements[0].body for statement in parse(text)] == [s.body for s in parse(text)]
