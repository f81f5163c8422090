"""What is wrong with a script before it runs: places, what is certain, and that one mistake hides no other."""

from dataclasses import replace

from peers.knowledge import offline
from query import limits
from query.catalogue import Catalogue
from query.diagnosis import DIAGNOSES_MAX, diagnose, read_statements
from query.knowledge import Kind

KNOWN = replace(offline(), names={Kind.PEER: ("E1", "E22"), Kind.GROUP: ("lab",)}, peer="")


def told(text: str, default: str | None = None) -> list[tuple[str, str, bool]]:
    """What each problem marks, its message and whether it is certain."""
    found = diagnose(text, KNOWN, default=default)
    return [(text[one.start : one.end], one.problem.message, one.certain) for one in found]


def test_nothing_is_wrong_with_what_would_run() -> None:
    assert told("") == []
    assert told("// a remark\n\n;;") == []
    assert told("//peer: e1\n1 + 1; set :a = 2; :a * :A; // a remark\nselect x from x in [1];") == []
    assert told("create function f(Integer x) -> Integer as x + 1; f(1); delete function f") == []
    assert told("create function f(Integer n) -> Integer as case when n < 1 then 1 else n * f(n - 1) end; f(3)") == []


def test_each_statement_is_looked_at_for_itself() -> None:
    text = 'edge:lst();\nselect x frm y;\n1 + 1;\nedge:groups("E1";\nnosuch_at_all(2)'
    marked = [(what, sure) for what, _, sure in told(text)]
    assert [what for what, _ in marked] == ["edge:lst", "frm", "(", "nosuch_at_all"]
    assert all(sure for _, sure in marked)


def test_a_string_that_is_not_closed() -> None:
    text = 'edge:list();\nedge:groups("E1);\nedge:list()'
    what, message, _ = told(text)[0]
    assert (what, message[:24]) == ('"', "a string is not closed: ")


def test_a_script_sees_what_it_made_above() -> None:
    problems = told(
        "f(1); create function f(Integer x) -> Integer as x; f(2); create function f(Integer x) -> Integer as x;"
        "create or replace function f(Integer x) -> Integer as x; delete function f; f(3)"
    )
    assert [message.partition(" — ")[0] for _, message, _ in problems] == [
        'no function "f"',
        'a function "f" exists',
        'no function "f"',
    ]


def test_variables_that_the_script_does_not_set_may_be_the_session_s() -> None:
    assert told(":a") == [(":a", "nothing above sets :a", False)]
    assert told("set :b = :a; :b") == [(":a", "nothing above sets :a", False)]
    session = KNOWN.with_variables({"a": 1})
    assert diagnose(":a", session) == []


def test_peers_and_groups_that_nobody_told_of() -> None:
    problems = told("//peer: E2\n1;\n//peer: group laab\n2;\n//peer: e22, NAMESERVER\n3")
    assert [(what, sure) for what, _, sure in problems] == [("//peer: E2", False), ("//peer: group laab", False)]
    assert problems[0][1].startswith('no peer "E2" — did you mean "E')
    unheard = replace(KNOWN, names={})
    assert diagnose("//peer: E9\n1", unheard) == []


def test_directives_that_cannot_be_honoured() -> None:
    ((what, message, sure),) = told("1;\n//timeout: soon\n2")
    assert (what, sure) == ("//timeout: soon", True)
    assert "soon" in message
    assert len(told("//peer: all, E1\n1")) == 1


def test_a_function_of_another_peer_is_uncertain_until_that_peer_told() -> None:
    text = "//peer: E1\ntheirs(1)"
    assert [(one.certain, one.problem.code) for one in diagnose(text, KNOWN)] == [(False, "unknown_name")]
    there = KNOWN.catalogue
    assert [one.certain for one in diagnose(text, KNOWN, at={"e1": there}.get)] == [True]
    # Without a peer nothing is known for certain of a peer's own functions.
    assert [one.certain for one in diagnose("theirs(1)", replace(KNOWN, peer=None))] == [False]
    assert [one.certain for one in diagnose("theirs(1)", KNOWN)] == [True]


def test_a_comment_that_was_meant_to_be_a_directive() -> None:
    assert [(what, sure) for what, _, sure in told("1; //peer: E1\n//pear: E1\n2")] == [
        ("//peer: E1", False),
        ("//pear: E1", False),
    ]


def test_what_is_explained_is_looked_at() -> None:
    assert told("explain nosuch_at_all(1)")[0][0] == "nosuch_at_all"
    assert told("explain create function f(Integer x) -> Integer as x; f(1)")[0][0] == "f"


def test_bounds_are_told_once() -> None:
    ((_, message, _),) = told("1;" * (limits.STATEMENTS_MAX + 1))[:1]
    assert message.startswith("the script is over its limit")
    assert len(diagnose("nosuch_at_all();" * 300, KNOWN)) == DIAGNOSES_MAX
    assert len(read_statements("1;" * (3 * limits.STATEMENTS_MAX))) == limits.STATEMENTS_MAX + 1
    long = " " * (limits.TEXT_BYTES_LOCAL_MAX + 1)
    assert [one.problem.code for one in diagnose(long, KNOWN)] == ["limit"]


def test_places_count_in_the_text_whatever_its_lines_end_with() -> None:
    text = "1;\r\n\u2028 'ä\n😀';\n nosuch_at_all(1);\n)"
    assert [what for what, _, _ in told(text)] == ["nosuch_at_all", ")"]


def test_statements_are_read_as_a_whole_when_they_can_be() -> None:
    assert [one.offset for one in read_statements("1; 2")] == [0, 0]
    assert [one.offset for one in read_statements("1; 2; )")] == [0, 3, 6]


def test_an_empty_catalogue_is_no_reason_to_fail() -> None:
    assert diagnose("f(1)", replace(KNOWN, catalogue=Catalogue())) != []
