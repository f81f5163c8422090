"""Trees of every shape are written and read back."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query.errors import Problem, Span
from query.formatting import format_script, format_statement
from query.parsing import parse, parse_statement
from query.syntax import (
    AsOf,
    Between,
    Binary,
    Call,
    Case,
    Cast,
    CreateFunction,
    DeleteFunction,
    Directives,
    Evaluate,
    Explain,
    Field,
    FormalParameter,
    From,
    Index,
    IsNull,
    Item,
    Literal,
    Name,
    Order,
    RecordOf,
    Script,
    Select,
    SetVariable,
    Source,
    Statement,
    Unary,
    Variable,
    VectorOf,
)
from query.types import Type

NAMES = st.sampled_from(["x", "Edge", "_a1", "price", "selected"])
FUNCTIONS = st.sampled_from(["f", "edge:explain", "models:create", "a:select"])
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
LITERALS = st.builds(
    Literal,
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.datetimes(timezones=st.just(UTC)),
)
TYPES = st.sampled_from([Type("Real"), Type("Vector"), Type("Vector", Type("String")), Type("Object")])
SIGNS = st.sampled_from(
    ["+", "-", "*", "/", "%", "^", "||", "=", "!=", "<", "<=", ">", ">=", "and", "or", "in", "like"]
)


def unfolded(node: Any) -> Any:
    """A sign before a number is read as the number: such a node is none that a text has."""
    folded = node.operator != "not" and isinstance(node.operand, Literal) and type(node.operand.value) in (int, float)
    return node.operand if folded else node


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    item = st.builds(Item, inner, NAMES)
    sources = st.builds(From, NAMES, st.none() | TYPES, inner) | st.builds(From, NAMES, TYPES, st.none())
    some = st.lists(inner, max_size=3).map(tuple)
    return (
        st.builds(Binary, SIGNS, inner, inner)
        | st.builds(Unary, st.sampled_from(["-", "+", "not"]), inner).map(unfolded)
        | st.builds(Between, inner, inner, inner)
        | st.builds(IsNull, inner)
        | st.builds(Index, inner, inner)
        | st.builds(Field, inner, st.sampled_from(["k", "select", "in"]))
        | st.builds(VectorOf, some)
        | st.dictionaries(TEXTS, inner, max_size=3).map(lambda d: RecordOf(tuple(d), tuple(d.values())))
        | st.builds(Call, FUNCTIONS, some)
        | st.builds(AsOf, st.builds(Call, FUNCTIONS, some), inner)
        | st.builds(Case, st.lists(st.tuples(inner, inner), min_size=1, max_size=2).map(tuple), st.none() | inner)
        | st.builds(Cast, inner, TYPES)
        | st.builds(
            Select,
            st.lists(item, min_size=1, max_size=2).map(tuple),
            st.lists(sources, max_size=2).map(tuple),
            st.none() | inner,
            some,
            st.none() | inner,
            st.lists(st.builds(Order, inner, st.booleans()), max_size=2).map(tuple),
            st.none() | inner,
            st.booleans(),
            st.none() | st.just("vector"),
        )
    )


EXPRESSIONS = st.recursive(LITERALS | st.builds(Name, NAMES) | st.builds(Variable, NAMES), compound, max_leaves=12)
PARAMETERS = st.lists(st.builds(FormalParameter, NAMES, TYPES), max_size=2).map(tuple)
PLAIN_BODIES = (
    st.builds(Evaluate, EXPRESSIONS)
    | st.builds(SetVariable, NAMES, EXPRESSIONS)
    | st.builds(CreateFunction, FUNCTIONS, PARAMETERS, TYPES, EXPRESSIONS, st.booleans())
    | st.builds(DeleteFunction, FUNCTIONS)
)
BODIES = PLAIN_BODIES | st.builds(Explain, PLAIN_BODIES)
DIRECTIVES = st.builds(
    Directives,
    peer=st.none() | st.sampled_from(["E1", "a, b", "group staging"]),
    plot=st.none() | st.just("Line plot"),
    timeout_s=st.none() | st.sampled_from([0.5, 5.0, 90.0]),
    wait_s=st.none() | st.sampled_from([0.25, 60.0, 3600.0]),
)
STATEMENTS = st.builds(lambda body, directives: Statement(body, directives, Source("")), BODIES, DIRECTIVES)


@settings(max_examples=300)
@given(STATEMENTS)
def test_what_is_written_reads_the_same(statement: Statement) -> None:
    text = format_statement(statement)
    read = parse_statement(text)
    assert format_statement(read) == text
    assert read.directives == statement.directives
    assert without_places(read.body) == without_places(statement.body)


def without_places(node: Any) -> Any:
    """A tree as nested tuples."""
    if hasattr(node, "__struct_fields__"):
        fields = (name for name in node.__struct_fields__ if name != "place")
        return (type(node).__name__, *(without_places(getattr(node, name)) for name in fields))
    if isinstance(node, tuple) and type(node) is tuple:
        return tuple(map(without_places, node))
    return (type(node).__name__, node)


@given(st.lists(STATEMENTS, max_size=4))
def test_a_script_keeps_its_statements(statements: list[Statement]) -> None:
    text = format_script(Script(Source(""), tuple(statements)))
    read = parse(text)
    assert [statement.directives for statement in read] == [statement.directives for statement in statements]
    assert format_script(read) == text


@given(st.text(max_size=60) | st.text("()[]{}'\"|;:,.-/* \nselctfromwhin=<>12xE", max_size=60))
def test_any_text_is_a_script_or_a_problem_with_a_place(text: str) -> None:
    read, span = parsed(text)
    if read is None:
        assert span is not None
        lines = text.split("\n")
        assert 1 <= span.line <= len(lines)
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1
    else:
        for statement in read:
            assert parse_statement(statement.text).body == statement.body


def parsed(text: str) -> tuple[Script | None, Span | None]:
    try:
        return parse(text), None
    except Problem as problem:
        return None, problem.span


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("select  x ,y AS z\nfrom Real x IN f( 1 )", "select x, y as z from Real x in f(1)"),
        ("(1+2)*-x", "(1 + 2) * -x"),
        ("f((select x from x in y))", "f(select x from x in y)"),
        ("-(-x)", "-(-x)"),
        ("a not in [1]", "not a in [1]"),
        ("[2e400, -3e400, 1e3]", "[1e999, -1e999, 1000.0]"),
    ],
)
def test_one_style(text: str, written: str) -> None:
    assert format_statement(parse_statement(text)) == written
