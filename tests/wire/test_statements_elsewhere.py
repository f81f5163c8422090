"""Statements about a session and its functions whose peer is another: variables come back, functions stay there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from peers.client import Answer
from peers.joining import join
from query.catalogue import NameTaken
from query.errors import Forbidden, Problem, UnknownName, WrongArguments
from query.ledger import Outcome, State
from tests.wire.living import Living, living

pytestmark = pytest.mark.timeout(120)

EVERYWHERE = ("ns-admin", "ns", "one")  # a client's own process, the nameserver's and an edge's application API

CASES: tuple[tuple[str, Any], ...] = (
    ("//peer: two\nset :v = this_peer(); :v", "TWO"),
    ("//peer: two\nset :v = [this_peer()]; :v", ["TWO"]),
    ("//peer: two\nset :v = [1, 2] * 2; :v", [2, 4]),
    ("//peer: two\nset :v = (1 + 2) * 3; :v", 9),
    ("//peer: two\nset /* = */ :v /* one */ = // peer: one\n  // peer: all\n (1 + 2) * 3; :v", 9),
    ("//peer: two\nset :v = range(1, 3); :v", [1, 2, 3]),
    ("//peer: two\nset :v = range(1, 1); :v", [1]),
    ("//peer: two\nset :v = range(1, 0); :v", []),
    ("//peer: two\nset :v = (select x, x * x from x in [1, 2]); :v", [[1, 1], [2, 4]]),
    ("//peer: two\nset :v = null; :v", None),
    ("//peer: nameserver\nset :v = this_peer(); :v", "NAMESERVER"),
    ('set :v = edge:groups("two"); :v', []),
    ("set :w = 'x';\n//peer: two\n//timeout: 9s\nset :v = :w || this_peer(); :v", "xTWO"),
    ("//peer: two\nset :v = |2026-01-31T12:00:00Z| = null; :v is null", True),
)


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "one", "two") as made:
        yield made


def outcomes(answer: Answer) -> list[Outcome]:
    """How targets ended, without what they used."""
    ended = [outcome for ledger in answer.ledgers for outcome in ledger.outcomes]
    return [Outcome(one.peer, one.state, one.detail, one.rows) for one in ended]


@pytest.mark.parametrize("home", EVERYWHERE)
async def test_values_from_elsewhere_are_kept_where_they_were_asked(federation: Living, home: str) -> None:
    async with federation.connection(home) as peer:
        for text, value in CASES:
            answer = await peer.query(text)
            assert [row.value for row in answer.checked()] == [value], text
            assert {outcome.state for outcome in outcomes(answer)[:-1]} == {State.EMPTY}, text


@pytest.mark.parametrize("home", EVERYWHERE)
async def test_the_default_peer_computes_a_variable_too(federation: Living, home: str) -> None:
    answer = await federation.ask("set :v = this_peer();\n//peer: nameserver\n[:v, this_peer()]", home=home, peer="two")
    assert [row.value for row in answer.checked()] == [["TWO", "NAMESERVER"]]
    assert [(outcome.peer, outcome.state) for outcome in outcomes(answer)] == [
        ("TWO", State.EMPTY),
        ("NAMESERVER", State.ROWS),
    ]


async def test_a_variable_of_a_clients_home_lasts_as_long_as_its_connection(federation: Living) -> None:
    async with federation.connection() as peer:
        await peer.query("//peer: two\nset :v = this_peer()")
        assert await peer.value(":v") == "TWO"


@pytest.mark.parametrize("home", EVERYWHERE)
@pytest.mark.parametrize(
    ("text", "kind", "words", "span"),
    [
        ("1;\n//peer: all\nset :v = 1; :v", WrongArguments, '"all" may mean several', (2, 1)),
        ("//peer: one, two\nset :v = 1; :v", WrongArguments, '"one, two" may mean several', (1, 1)),
        ("1;\n//peer: two\nset :v = 1 +\n nothing(); :v", UnknownName, 'no function "nothing"', (4, 2)),
        ("//peer: two\nset :v = (select sqrt(x) from x in ['a']); :v", WrongArguments, "", (2, 23)),
        ("//peer: three\nset :v = 1; :v", UnknownName, 'no peer "three"', None),
    ],
)
async def test_what_gives_no_value_says_why_and_sets_nothing(
    federation: Living, home: str, text: str, kind: type[Problem], words: str, span: tuple[int, int] | None
) -> None:
    answer = await federation.ask(text, home=home)
    (problem,) = answer.errors
    assert isinstance(problem, kind)
    assert words in problem.message
    assert span is None or (problem.span is not None and (problem.span.line, problem.span.column) == span)
    assert outcomes(answer)[-1].state is State.ERROR
    assert [row.value for row in answer.rows] in ([], [1])


async def test_a_role_is_needed_for_an_expression_too(federation: Living) -> None:
    await guest(federation)
    answer = await federation.ask('//peer: one\nset :v = models:unload("m"); :v', home="guest")
    assert [type(problem) for problem in answer.errors] == [Forbidden]
    assert outcomes(answer) == [Outcome("ONE", State.REFUSED, "forbidden")]


async def test_functions_are_made_and_deleted_at_the_default_peer(federation: Living) -> None:
    async with federation.connection() as peer:
        made = await peer.query("create function where_am_i() -> String as this_peer()", peer="two")
        assert outcomes(made) == [Outcome("TWO", State.EMPTY)]
        assert await peer.value("where_am_i()", peer="two") == "TWO"
        assert [type(problem) for problem in (await peer.query("where_am_i()")).errors] == [UnknownName]
        again = await peer.query("create function where_am_i() -> String as 'x'", peer="two")
        assert [type(problem) for problem in again.errors] == [NameTaken]
        assert (await peer.query("set :v = where_am_i();\n//peer: nameserver\n:v", peer="two")).rows[0].value == "TWO"
        explained = await peer.query("explain create function f() -> Integer as 1", peer="two")
        stages = {row.values[0]: row.values[1] for row in explained.checked()}
        assert (stages["route"], stages["targets"]) == ("two, because it is the session's default peer", "1: TWO")
        assert outcomes(await peer.query("delete function where_am_i", peer="two")) == [Outcome("TWO", State.EMPTY)]
        assert [type(problem) for problem in (await peer.query("where_am_i()", peer="two")).errors] == [UnknownName]


async def test_a_viewer_makes_no_function_at_the_default_peer(federation: Living) -> None:
    await guest(federation)
    await federation.ask("create function f() -> Integer as 1", peer="two")
    for text in ("create or replace function f() -> Integer as 2", "delete function f"):
        answer = await federation.ask(text, home="guest", peer="two")
        assert [type(problem) for problem in answer.errors] == [Forbidden], text
        assert outcomes(answer) == [Outcome("TWO", State.REFUSED, "forbidden")], text
    assert await federation.value("f()", peer="two") == 1


async def guest(federation: Living) -> None:
    """The home of a viewer."""
    await join(federation.home("guest"), await federation.value('peer:register("guest", {"role": "viewer"})'))
