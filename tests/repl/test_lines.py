"""What was typed: whole or not, a command, a file, statements."""

import pytest

from peers.repl.lines import (
    Command,
    Include,
    Line,
    Nothing,
    Statements,
    changes_functions,
    convergence_of,
    explained,
    is_whole,
    parsed,
    read_line,
)
from peers.repl.shell import scripted

WHOLE = [
    "",
    "1 + 1",
    "select 1",
    "select a from a in [1, 2]",
    "select a\nfrom Integer a\nwhere a in iota(1, 3)",
    "select a;",
    "//peer: all\n1",
    "\\peer",
    "\\explain",
    "\\explain 1",
    "\\watch",
    "\\watch 2s x3 1",
    "quit",
    "1 +* 2",
    "f(1; 2",
    "select a\n",
    '< "story.pql"',
    'set :v = "a"; :v',
    "select count(select x from x in bag())",
]
OPEN = [
    "select a, a * a",
    "select a\nfrom Integer a",
    "explain select a",
    "\\explain select a",
    "\\watch 2s select a",
    "\\watch 300ms x2 //plot: bar",
    "\\explain //peer: all",
    "[1,",
    '"abc',
    "f(",
    "//peer: all",
    "/* what",
    "select a from",
    "1 + 1; select",
    "create function f(Integer a) -> Integer as",
]


@pytest.mark.parametrize("text", WHOLE)
def test_enter_runs(text: str) -> None:
    assert is_whole(text)


@pytest.mark.parametrize("text", OPEN)
def test_enter_goes_on(text: str) -> None:
    assert not is_whole(text)


@pytest.mark.parametrize("text", OPEN)
def test_an_empty_line_ends_anything(text: str) -> None:
    assert is_whole(text + "\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  ", Nothing()),
        ("// only a remark", Nothing()),
        (" \\Peer  line-1 ", Command("peer", "line-1")),
        ("\\?", Command("?", "")),
        ("exit", Command("quit", "")),
        ("quit;", Command("quit", "")),
        ('< "a b.pql";', Include("a b.pql")),
        ("< 'x.pql'", Include("x.pql")),
        ("1 < 2", Statements("1 < 2")),
        ('"not closed', Statements('"not closed')),
    ],
)
def test_what_a_line_is(text: str, line: Line) -> None:
    assert read_line(text) == line


def test_explain_stands_below_directives() -> None:
    assert explained("//peer: all\n1 + 1") == "//peer: all\nexplain 1 + 1"
    assert explained("explain 1") == "explain 1"


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ('edge:set_group_models("g" + :x, [{"name": "m", "version": "1"}])', 'edge:converged("g" + :x, :seconds)'),
        ('1; EDGE:add_group("e1", "g");', 'edge:converged("e1", :seconds)'),
        ('edge:add_group("e1", "g"); 1', None),
        ("edge:list()", None),
        ("set :a = 1", None),
        ("", None),
    ],
)
def test_what_gives_edges_something_to_do(text: str, waits: str | None) -> None:
    script = parsed(text)
    assert script is not None
    assert convergence_of(script) == waits


def test_functions_that_come_and_go() -> None:
    made = parsed("create function f(Integer a) -> Integer as a + 1; f(1)")
    assert made is not None
    assert changes_functions(made)
    asked = parsed("f(1)")
    assert asked is not None
    assert not changes_functions(asked)


def test_a_script_in_parts() -> None:
    text = '\\time off\n//peer: all\nselect a,\n  a;\n\n< "x.pql"\n1; 2;\n\\export csv\n3 +\n4'
    assert scripted(text) == [
        "\\time off",
        "//peer: all\nselect a,\n  a;",
        '< "x.pql"',
        "1; 2;",
        "\\export csv",
        "3 +\n4",
    ]


def test_a_command_ends_the_statement_before_it() -> None:
    assert scripted("select n\nfrom n in [1]\n\\export csv\n2") == ["select n\nfrom n in [1]", "\\export csv", "2"]
    assert scripted("selct 1\n\\time off") == ["selct 1", "\\time off"]
    for held in ('"a\n\\b"', "/* a\n\\b */ 1", "f(1,\n\\x)"):
        assert scripted(held) == [held]
