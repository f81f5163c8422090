"""``where CONDITION``: what may stand in it, whom it means, and how mistakes are told."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest

from query.catalogue import Catalogue
from query.conditions import ALWAYS, meeting, names_in, read_condition
from query.errors import BadStatement, LimitExceeded, Problem, Span, SyntaxProblem, UnknownName, WrongArguments
from query.functions import generic_declarations
from query.parsing import parse
from query.placement import Reason, Route, Where, parse_target, place, route
from query.row_expressions import IMPURE
from tests.language.texts import NAMES, Texts

EDGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("line-1", {"name": "LINE-1", "arch": "arm64", "cores": 4, "tags": ["lab", "hot"], "site": "lab", "rack-no": 7}),
    ("line-2", {"name": "LINE-2", "arch": "x86_64", "cores": 16, "tags": [], "Owner": "ada", "python": "3.9.2"}),
    ("line-3", {"name": "LINE-3", "arch": "arm64", "cores": 8, "tags": ["lab"], "hot": True, "python": "3.11.4"}),
    ("silent", {"name": "SILENT", "tags": []}),
)


class Federation:
    def here(self) -> str:
        return "NS"

    def nameserver(self) -> str:
        return "NS"

    def edges(self) -> tuple[str, ...]:
        return tuple(name for name, _ in EDGES)

    def group(self, name: str) -> tuple[str, ...]:
        return ()

    def properties(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        return EDGES

    def find(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    ("condition", "meant"),
    [
        ('arch = "arm64"', ["line-1", "line-3"]),
        ('ARCH = "arm64"', ["line-1", "line-3"]),
        ('arch = "arm64" and site = "lab"', ["line-1"]),
        ('arch = "arm64" and not site = "lab"', []),
        ('arch = "arm64" and (site is null or site != "lab")', ["line-3"]),
        ('arch != "arm64"', ["line-2"]),
        ("arch is null", ["silent"]),
        ("arch is not null", ["line-1", "line-2", "line-3"]),
        ('"lab" in tags', ["line-1", "line-3"]),
        ('"lab" in tags and not "hot" in tags', ["line-3"]),
        ("count(tags) = 0", ["line-2", "silent"]),
        ('arch in ["arm64", "riscv64"]', ["line-1", "line-3"]),
        ("cores between 5 and 16", ["line-2", "line-3"]),
        ("cores > 2 * 4", ["line-2"]),
        ('name like "LINE-%"', ["line-1", "line-2", "line-3"]),
        ('lower(name) = "line-2"', ["line-2"]),
        ('owner = "ada"', ["line-2"]),
        ("hot", ["line-3"]),
        ("case when hot then true else cores > 8 end", ["line-2", "line-3"]),
        ('properties["rack-no"] = 7', ["line-1"]),
        ("properties.owner is not null", ["line-2"]),
        ("version_parts(python) >= [3, 11]", ["line-3"]),
        ("true", ["line-1", "line-2", "line-3", "silent"]),
        ("null", []),
        ("cores / 0.5 > nan", []),
        ('arch = "arm64" // those of the first kind', ["line-1", "line-3"]),
    ],
)
def test_whom_a_condition_means(condition: str, meant: list[str]) -> None:
    names, unmatched = meeting(condition, EDGES)
    assert list(names) == meant
    assert len(names) + unmatched == len(EDGES)


@pytest.mark.parametrize("name", ALWAYS)
def test_a_name_that_is_always_there_is_null_where_nobody_told(name: str) -> None:
    assert meeting(f"{name} is null", [("e", {})]) == (("e",), 0)


def statement_of(text: str) -> Route:
    return route(parse(text).statements[-1], Catalogue(generic_declarations()))


@pytest.mark.parametrize(
    ("condition", "kind", "message", "column"),
    [
        (
            "",
            SyntaxProblem,
            'where: expected a condition such as arch = "arm64" and "lab" in tags, found nothing',
            1,
        ),
        ("cores >", SyntaxProblem, "the statement ends too early: expected an expression", 21),
        ('arch = "arm64', SyntaxProblem, "a string is not closed", 22),
        ("cores > 1; true", SyntaxProblem, "where: expected a condition such as", 26),
        ("set :v = 1", SyntaxProblem, "where: expected a condition such as", 15),
        ("cores > :n", BadStatement, "where: expected a condition such as", 23),
        ("cores in (select x from x in [1])", BadStatement, "where: expected a condition such as", 25),
        ("f() as of |2026-01-31T12:00:00Z| > 1", BadStatement, "where: expected a condition such as", 15),
    ],
)
def test_a_wrong_condition_is_told_where_it_stands(
    condition: str, kind: type[Problem], message: str, column: int
) -> None:
    with pytest.raises(kind) as caught:
        statement_of(f"1;\n//peer: where {condition}\n2")
    assert message in caught.value.message
    span = caught.value.span
    assert span is not None
    assert (span.line, span.column) == (2, column)


@pytest.mark.parametrize(
    ("condition", "kind", "message", "hint", "span"),
    [
        ('archh = "x"', UnknownName, 'no property "archh" — did you mean "arch"?', None, Span(1, 15, 1, 20)),
        ('ownr = "x"', UnknownName, 'no property "ownr" — did you mean "Owner"?', None, Span(1, 15, 1, 19)),
        (
            "arch = arm64",
            UnknownName,
            'no property "arm64"',
            'a text stands in quotes: "arm64"',
            Span(1, 22, 1, 27),
        ),
        (
            'zone_of_it = "x"',
            UnknownName,
            'no property "zone_of_it"',
            'edge:set_property(edge, "zone_of_it", value) gives an edge one',
            Span(1, 15, 1, 25),
        ),
        ("this_peer() = 1", UnknownName, 'no function "this_peer"', None, None),
        ("now() > null", UnknownName, 'no function "now"', None, None),
        ("cores", WrongArguments, "where, for LINE-1: expected a condition such as", None, Span(1, 15, 1, 20)),
        ("1 + 1", WrongArguments, "where: expected a condition such as", None, Span(1, 15, 1, 20)),
        (
            'cores > "many"',
            WrongArguments,
            'where, for LINE-1: ">": no meaning for Integer 4 and String "many"',
            None,
            Span(1, 15, 1, 29),
        ),
        ('version > "9"', WrongArguments, "means no peer: none of 4 edges meets it", None, Span(1, 15, 1, 28)),
        (
            'site = "nowhere" and os = "linux"',
            WrongArguments,
            "means no peer: none of 4 edges meets it",
            'no edge has a "os": edge:set_property(edge, "os", value) gives it one',
            None,
        ),
        (
            'name = "line-1"',
            WrongArguments,
            "means no peer: none of 4 edges meets it",
            'names are shown in upper case: name = "LINE-1"',
            None,
        ),
    ],
)
def test_what_only_the_properties_show(
    condition: str, kind: type[Problem], message: str, hint: str | None, span: Span | None
) -> None:
    with pytest.raises(kind) as caught:
        place(statement_of(f"//peer: where {condition}\n1"), Federation())
    assert message in caught.value.message
    assert "did you mean" not in message or caught.value.hint is None
    if hint is not None:
        assert caught.value.hint == hint
    if span is not None:
        assert caught.value.span == span


def test_a_condition_without_a_directive_has_no_place() -> None:
    target = parse_target("where archh = 1")
    with pytest.raises(UnknownName) as caught:
        place(Route(target, Reason.DEFAULT), Federation())
    assert caught.value.span is None
    with pytest.raises(SyntaxProblem) as syntax:
        parse_target("where archh =")
    assert syntax.value.span is None


def test_a_federation_without_edges() -> None:
    class Empty(Federation):
        def properties(self) -> tuple[tuple[str, dict[str, Any]], ...]:
            return ()

    with pytest.raises(WrongArguments, match="the federation has no edges"):
        place(Route(Where('arch = "arm64"'), Reason.DIRECTIVE), Empty())


def test_the_names_of_a_condition() -> None:
    assert names_in('arch = "x" and (cores > 1 or arch is null)') == ("arch", "cores")


def test_a_condition_is_bounded_as_a_directive_is() -> None:
    with pytest.raises(LimitExceeded):
        parse(f"//peer: where {'true and ' * 1000} true\n1")


def test_whatever_is_written_there_means_edges_or_is_told() -> None:
    """No text ends in anything but a decision or a problem."""
    draw = random.Random(29)
    functions = tuple(declared.name for declared in generic_declarations() if declared.name not in IMPURE)
    texts = Texts(draw, depth=3, functions=functions)
    values = (None, True, 1, 2.5, "a", "arm64", ["a", 1], [], "")
    edges = [
        (f"e{number}", {name: draw.choice(values) for name in (*NAMES, "tags") if draw.random() < 0.8})
        for number in range(5)
    ]
    told, meant = 0, 0
    for _ in range(1500):
        text = texts.expression()
        try:
            names, unmatched = meeting(text, edges)
        except Problem:
            told += 1
        else:
            meant += 1
            assert len(names) + unmatched == len(edges)
    assert min(told, meant) > 50


def test_a_target_is_written_as_it_is_read() -> None:
    assert str(parse_target('where site = "a"')) == 'where site = "a"'
    assert parse_target(str(parse_target('where site = "a"'))) == Where('site = "a"')


def test_reading_a_condition_loads_no_numbers() -> None:
    """An edge reads conditions and decides none."""
    import subprocess

    program = "import sys; from query.placement import parse_target; parse_target('where a = 1'); "
    program += "assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_all_edges_together_are_bounded_in_work() -> None:
    heavy = " and ".join(["count(range(1, 9000)) > 0"] * 100)
    many = [(f"e{number}", {"name": f"E{number}"}) for number in range(10_000)]
    with pytest.raises(
        LimitExceeded, match=r"a condition over all edges is over its limit of 0\.05 s of work"
    ) as caught:
        meeting(f'name != "" and {heavy}', many, work_s_max=0.05)
    assert caught.value.hint == "write a simpler one"


def test_ten_thousand_edges_are_decided_at_once() -> None:
    edges = [(f"e{n}", {"name": f"E{n}", "arch": "arm64", "cores": n % 64, "tags": ["lab"]}) for n in range(10_000)]
    began = time.process_time()
    names, unmatched = meeting('arch = "arm64" and cores > 31 and "lab" in tags', edges)
    assert (len(names), unmatched) == (4992, 5008)
    assert time.process_time() - began < 2.0


def test_the_syntax_is_the_language_s() -> None:
    assert read_condition('arch = "arm64"').text == 'arch = "arm64"'
