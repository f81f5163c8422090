"""Where statements go, and whom that means."""

from __future__ import annotations

from typing import Any

import pytest

from query import limits
from query.catalogue import Catalogue
from query.declarations import bind, declarations
from query.errors import LimitExceeded, Problem, Span, SyntaxProblem, UnknownName, WrongArguments, unknown
from query.functions import generic_declarations
from query.parsing import parse, parse_statement
from query.placement import Everywhere, Group, Here, Peers, Reason, Route, Where, parse_target, place, route
from tests.language.asking import Elsewhere, Samples

CATALOGUE = Catalogue((*generic_declarations(), *declarations(Elsewhere), *bind(Samples())))


class Federation:
    """A directory of three edges, two in a group."""

    EDGES = ("E1", "e2", "Edge-3")
    GROUPS = {"staging": ("E1", "e2"), "empty": ()}  # noqa: RUF012

    def here(self) -> str:
        return "E1"

    def nameserver(self) -> str:
        return "NS"

    def edges(self) -> tuple[str, ...]:
        return self.EDGES

    def group(self, name: str) -> tuple[str, ...]:
        if name not in self.GROUPS:
            raise unknown("group", name, self.GROUPS)
        return self.GROUPS[name]

    def properties(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        sites = (("E1", "lab"), ("e2", None), ("Edge-3", "lab"))
        return tuple((name, {"name": name.upper(), "site": site}) for name, site in sites)

    def find(self, name: str) -> str:
        for known in (*self.EDGES, "NS"):
            if known.casefold() == name.casefold():
                return known
        raise unknown("peer", name, self.EDGES)


def going(text: str, default: Any = None) -> Route:
    return route(parse_statement(text), CATALOGUE, default=default)


@pytest.mark.parametrize(
    ("text", "default", "target", "reason"),
    [
        ("1 + 1", None, Here(), Reason.HERE),
        ("1 + 1", "e2", Peers(("e2",)), Reason.DEFAULT),
        ("1 + 1", ("e2", "E1"), Peers(("e2", "E1")), Reason.DEFAULT),
        ("1 + 1", "group staging", Group("staging"), Reason.DEFAULT),
        ("far:groups('E')", None, Peers(("nameserver",)), Reason.HOME),
        ("FAR:Groups('E')", "e2", Peers(("nameserver",)), Reason.HOME),
        ("select x from x in far:groups('E')", None, Peers(("nameserver",)), Reason.HOME),
        ("set :v = far:groups('E')", None, Peers(("nameserver",)), Reason.HOME),
        ("far:state()", None, Here(), Reason.HERE),
        ("far:state('E')", None, Peers(("nameserver",)), Reason.HOME),
        ("//peer: E1\nfar:groups('E')", "e2", Peers(("E1",)), Reason.DIRECTIVE),
        ("unknown:function()", "e2", Peers(("e2",)), Reason.DEFAULT),
        ("unknown:function()", None, Here(), Reason.HERE),
        ("set :v = 1", None, Here(), Reason.HERE),
        ("set :v = 1", "e2", Peers(("e2",)), Reason.DEFAULT),
        ("//peer: E1\nset :v = 1", "all", Peers(("E1",)), Reason.DIRECTIVE),
        ("create function f() -> Integer as 1", None, Here(), Reason.HERE),
        ("create function f() -> Integer as 1", "e2", Peers(("e2",)), Reason.DEFAULT),
        ("delete function f", "group staging", Group("staging"), Reason.DEFAULT),
        ("//peer: e2\ncreate function f() -> Integer as 1", None, Peers(("e2",)), Reason.DIRECTIVE),
        ("explain far:groups('E')", "e2", Here(), Reason.HERE),
    ],
)
def test_what_decides(text: str, default: Any, target: Any, reason: Reason) -> None:
    found = going(text, default)
    assert (found.target, found.reason) == (target, reason)
    assert found.is_here == isinstance(target, Here)


@pytest.mark.parametrize(
    ("text", "default", "words", "span"),
    [
        ("//peer: all\nset :v = 1", None, '"all" may mean several', Span(1, 1, 1, 12)),
        ("//peer: e1, e2\nset :v = 1", "e1", '"e1, e2" may mean several', Span(1, 1, 1, 15)),
        ("set :v = 1", "group staging", '"group staging" may mean several', Span(1, 1, 1, 11)),
        ('//peer: where name = "E1"\nset :v = 1', None, '"where name = "E1"" may mean several', Span(1, 1, 1, 26)),
        ("1; set :v = 1", ("e1", "e2"), '"e1, e2" may mean several', Span(1, 4, 1, 14)),
    ],
)
def test_a_variable_takes_the_value_of_one_peer(text: str, default: Any, words: str, span: Span) -> None:
    with pytest.raises(WrongArguments) as caught:
        route(parse(text).statements[-1], CATALOGUE, default=default)
    assert caught.value.message == f"set takes the value of one peer, and {words}"
    assert caught.value.span == span


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("e1", Peers(("e1",))),
        (" NameServer ", Peers(("NameServer",))),
        ("a, b ,c,a", Peers(("a", "b", "c"))),
        ("ALL", Everywhere()),
        ("Group staging-area", Group("staging-area")),
        ("group all", Group("all")),
        ('Where  site = "lab"', Where('site = "lab"')),
        ('where(site = "lab")', Where('(site = "lab")')),
        ("where-1", Peers(("where-1",))),
    ],
)
def test_target_specifications(text: str, target: Any) -> None:
    assert parse_target(text) == target
    assert parse_target(str(parse_target(text))) == target


@pytest.mark.parametrize(
    "text", ["", "a,,b", "a b", "group", "group a b", "a,all", "-x", "é", "x" * 64, "group nameserver"]
)
def test_no_targets(text: str) -> None:
    with pytest.raises(SyntaxProblem):
        parse_target(text)


def test_too_many_targets() -> None:
    with pytest.raises(LimitExceeded, match="a list of targets is over its limit"):
        parse_target(",".join(f"e{number}" for number in range(limits.TARGETS_MAX + 1)))


def test_a_variable_waits_for_nobody() -> None:
    with pytest.raises(WrongArguments, match="set takes a value now") as caught:
        going("//peer: e1\n//wait: 1h\nset :v = 1")
    assert caught.value.span == Span(2, 1, 2, 11)


def test_a_bad_directive_has_a_span() -> None:
    with pytest.raises(SyntaxProblem) as caught:
        going("1;".replace("1;", "//peer: a b\n1"))
    assert caught.value.message.startswith('"a b" is no name of a peer: expected a name, "nameserver"')
    assert caught.value.span == Span(1, 1, 1, 12)


@pytest.mark.parametrize(
    ("spec", "targets"),
    [
        ("e1", ("E1",)),
        ("E2, edge-3, E2", ("e2", "Edge-3")),
        ("nameserver, e1", ("NS", "E1")),
        ("all", ("E1", "e2", "Edge-3")),
        ("group staging", ("E1", "e2")),
        ("group all", ("E1", "e2", "Edge-3")),
        ('where site = "lab"', ("E1", "Edge-3")),
        ("where site is null", ("e2",)),
    ],
)
def test_whom_targets_mean(spec: str, targets: tuple[str, ...]) -> None:
    assert place(going(f"//peer: {spec}\n1"), Federation()).targets == targets


def test_who_does_not_meet_a_condition_is_counted() -> None:
    assert place(going('//peer: where site = "lab"\n1'), Federation()).unmatched == 1
    assert place(going("//peer: all\n1"), Federation()).unmatched == 0


def test_here_means_this_peer() -> None:
    assert place(going("1"), Federation()).targets == ("E1",)
    assert place(Route.here(), Federation()).targets == ("E1",)


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("e3", UnknownName, 'no peer "e3"'),
        ("group stagin", UnknownName, 'no group "stagin" — did you mean "staging"?'),
        ("group empty", WrongArguments, "group empty has no edges"),
        ('where site = "x"', WrongArguments, 'where site = "x" means no peer: none of 3 edges meets it'),
        ('where stie = "x"', UnknownName, 'no property "stie" — did you mean "site"?'),
    ],
)
def test_targets_that_mean_nobody(spec: str, kind: type[Problem], words: str) -> None:
    with pytest.raises(kind) as caught:
        place(going(f"//peer: {spec}\n1"), Federation())
    assert words in caught.value.message


def test_a_route_says_why() -> None:
    assert str(going("far:groups('E')")) == "nameserver, because far:groups is at home on the nameserver"
    assert str(going("//peer: all\n1")) == "all, because the //peer: directive says so"
