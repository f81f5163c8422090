"""``//peer: where CONDITION`` in a living federation, from every kind of peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from query.errors import Problem, SyntaxProblem, UnknownName, WrongArguments
from query.ledger import Outcome, State
from tests.wire.living import Living, living

pytestmark = pytest.mark.timeout(120)

EVERYWHERE = ("ns-admin", "ns", "one")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    folder: Path = tmp_path_factory.mktemp("where")
    async with living(folder, "one", "two") as made:
        await made.add_edge("three", site="lab")
        await made.value('edge:register("away", ["lab"])')
        await made.value('edge:set_property("one", "site", "lab")')
        await made.value('edge:set_property("two", "rack", 7)')
        for name in ("one", "two", "three"):
            await made.until(f'edge:properties("{name}").os is not null', True)
        yield made


@pytest.mark.parametrize("home", EVERYWHERE)
@pytest.mark.parametrize(
    ("condition", "meant"),
    [
        ('site = "lab"', {"ONE", "THREE"}),
        ('site = "lab" and os = "linux" and cores > 0', {"ONE", "THREE"}),
        ('name in ["ONE", "TWO"] and mode = "INTERACTIVE"', {"ONE", "TWO"}),
        ("rack between 5 and 9", {"TWO"}),
        ("memory > 1e6 and site is null", {"TWO"}),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_those_who_meet_it_answer(federation: Living, home: str, condition: str, meant: set[str]) -> None:
    answer = await federation.ask(f"//peer: where {condition}\nthis_peer()", home=home)
    assert {row.value for row in answer.checked()} == meant
    (ledger,) = answer.ledgers
    assert {outcome.peer for outcome in ledger.outcomes} == meant
    assert {outcome.state for outcome in ledger.outcomes} == {State.ROWS}
    assert ledger.unmatched == 4 - len(meant)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_edge_that_is_away_is_a_target_when_it_meets_it(federation: Living) -> None:
    answer = await federation.ask('//peer: where "lab" in tags or site = "lab"\n1')
    (ledger,) = answer.ledgers
    assert ledger.unmatched == 1
    assert Outcome("AWAY", State.UNREACHABLE, "never") in ledger.outcomes


@pytest.mark.parametrize("home", EVERYWHERE)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_aggregate_over_those_who_meet_it_is_one(federation: Living, home: str) -> None:
    answer = await federation.ask('//peer: where site = "lab"\nselect count(this_peer()), max(this_peer())', home=home)
    assert [row.values for row in answer.checked()] == [(2, "THREE")]
    assert answer.ledgers[0].unmatched == 2


@pytest.mark.asyncio(loop_scope="module")
async def test_who_was_meant_when_it_began_is_waited_for(federation: Living) -> None:
    await federation.stop("three")
    asked = '//peer: where site = "lab"\n//wait: 60s\nthis_peer()'
    answering = asyncio.create_task(federation.ask(asked))
    await federation.until("count(select q from q in query:list() where q.text like '//peer: where%') > 0", True)
    await federation.value('edge:set_property("three", "site", "attic")')
    await federation.value('edge:set_property("two", "site", "lab")')
    await federation.start_edge("three", site="lab")
    answer = await answering
    assert {row.value for row in answer.checked()} == {"ONE", "THREE"}
    assert answer.ledgers[0].unmatched == 2
    await federation.value('edge:set_property("three", "site", null)')
    await federation.value('edge:set_property("two", "site", null)')


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_s_default_peer_may_be_a_condition(federation: Living) -> None:
    answer = await federation.ask("this_peer()", peer='where site = "lab"')
    assert {row.value for row in answer.checked()} == {"ONE", "THREE"}
    assert answer.ledgers[0].unmatched == 2


@pytest.mark.parametrize("home", EVERYWHERE)
@pytest.mark.asyncio(loop_scope="module")
async def test_explain_tells_whom_it_means(federation: Living, home: str) -> None:
    answer = await federation.ask('//peer: where site = "lab"\nexplain 1 + 1', home=home)
    shown = {row.values[0]: row.values[1] for row in answer.checked()}
    assert shown["route"] == 'where site = "lab", because the //peer: directive says so'
    assert shown["targets"] == "2: ONE, THREE; 2 do not meet the condition"
    answer = await federation.ask("//peer: where name <> 'ONE'\nexplain 1 + 1", home=home)
    shown = {row.values[0]: row.values[1] for row in answer.checked()}
    assert shown["targets"].endswith("; 1 does not meet the condition")


@pytest.mark.parametrize("home", EVERYWHERE)
@pytest.mark.parametrize(
    ("condition", "kind", "message", "hint", "column"),
    [
        ('stie = "lab"', UnknownName, 'no property "stie" — did you mean "site"?', None, 15),
        ('rakc = "lab"', UnknownName, 'no property "rakc" — did you mean "rack"?', None, 15),
        ("site = lab", UnknownName, 'no property "lab"', 'a text stands in quotes: "lab"', 22),
        ('site = "lab', SyntaxProblem, "a string is not closed", None, 22),
        ('rack > "a"', WrongArguments, 'where, for TWO: ">": no meaning for Integer 7 and String "a"', None, 15),
        (
            'site = "attic"',
            WrongArguments,
            'where site = "attic" means no peer: none of 4 edges meets it',
            None,
            15,
        ),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_mistakes_are_told_where_they_stand(
    federation: Living, home: str, condition: str, kind: type[Problem], message: str, hint: str | None, column: int
) -> None:
    answer = await federation.ask(f"1;\n//peer: where {condition}\nthis_peer()", home=home)
    with pytest.raises(kind) as caught:
        answer.checked()
    problem = caught.value
    assert message in problem.message
    assert hint is None or problem.hint == hint
    assert problem.span is not None
    assert (problem.span.line, problem.span.column) == (2, column)
    assert {outcome.state for outcome in answer.ledgers[-1].outcomes} == {State.ERROR}
