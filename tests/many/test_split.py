"""One question to several living peers: merged answers, whole peers, ledgers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from peers.client import Answer
from query.errors import BadStatement, Cancelled, Forbidden, Problem, UnknownName, WrongArguments
from query.frames import ProgressFrame
from query.operators import BadArithmetic
from tests.wire.living import Living, living

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

READINGS = {"one": "[1, 2, 3]", "two": "[10, 20]", "three": "[]"}
ALL = {"ONE": "rows", "TWO": "rows", "THREE": "rows"}
HOMES = ("ns-admin", "ns", "one")  # a client's own process, the nameserver's and an edge's application API


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    folder: Path = tmp_path_factory.mktemp("split")
    async with living(folder, *READINGS) as made:
        for name, values in READINGS.items():
            text = f"//peer: {name}\ncreate function readings() -> Bag of Number as (select x from x in {values})"
            (await made.ask(text)).checked()
        (await made.ask("//peer: two\ncreate function only_here() -> Number as 5")).checked()
        yield made


def rows(answer: Answer) -> list[Any]:
    return [tuple(row.values) for row in answer.checked()]


def states(answer: Answer) -> dict[str, str]:
    return {outcome.peer: str(outcome) for ledger in answer.ledgers for outcome in ledger.outcomes}


@pytest.mark.parametrize("home", HOMES)
async def test_aggregates_are_of_all_peers(federation: Living, home: str) -> None:
    answer = await federation.ask("//peer: all\nselect avg(x), count(x) as n, max(x) from x in readings()", home=home)
    assert rows(answer) == [(7.2, 5, 20)]
    assert answer.rows[0].peer is None
    assert states(answer) == ALL


@pytest.mark.parametrize("home", HOMES)
async def test_groups_having_order_and_limit_are_of_all_peers(federation: Living, home: str) -> None:
    text = (
        "//peer: all\nselect distinct x % 5 as rest, count(x), sum(x * :times) from x in readings() "
        "group by x % 5 having count(x) > 0 order by sum(x) desc, rest limit 2"
    )
    answer = await federation.ask(text, home=home, params={"times": 2})
    assert rows(answer) == [(0, 2, 60), (3, 1, 6)]
    assert states(answer) == ALL | {"THREE": "empty"}


async def test_a_select_without_from_is_over_all_peers_values(federation: Living) -> None:
    assert rows(await federation.ask("//peer: all\nselect count(this_peer())")) == [(3,)]
    answer = await federation.ask("//peer: one, two, nameserver\nselect count_distinct(this_peer()), max(this_peer())")
    assert rows(answer) == [(3, "TWO")]
    assert states(answer) == {"ONE": "rows", "TWO": "rows", "NAMESERVER": "rows"}


async def test_the_first_rows_are_those_of_all_peers(federation: Living) -> None:
    answer = await federation.ask("//peer: all\nselect x as v, x * 2 from x in readings() order by -x limit 3")
    assert rows(answer) == [(20, 40), (10, 20), (3, 6)]
    assert [row.peer for row in answer.rows] == ["TWO", "TWO", "ONE"]
    assert states(answer) == ALL | {"THREE": "empty"}


async def test_peers_grouped_by_themselves(federation: Living) -> None:
    text = "//peer: all\nselect this_peer() as peer, count(x) from x in readings() group by this_peer() order by peer"
    assert rows(await federation.ask(text)) == [("ONE", 3), ("TWO", 2)]


async def test_one_peer_and_bare_calls_run_whole(federation: Living) -> None:
    answer = await federation.ask("//peer: one\nselect this_peer(), avg(x) from x in readings() group by 1")
    assert rows(answer) == [("ONE", 2.0)]
    answer = await federation.ask("//peer: all\ncount(readings())")
    assert sorted((row.peer, row.value) for row in answer.checked()) == [("ONE", 3), ("THREE", 0), ("TWO", 2)]


@pytest.mark.parametrize("home", HOMES)
async def test_what_fails_on_one_peer_is_not_in_the_answer(federation: Living, home: str) -> None:
    """One where the partial result is an error, one where it does not go with that of the others."""
    answer = await federation.ask("//peer: all\nselect sum(x + only_here()) from x in readings()", home=home)
    assert [row.value for row in answer.rows] == [40]
    assert states(answer) == {"ONE": "error(unknown_name)", "TWO": "rows", "THREE": "error(unknown_name)"}
    assert {type(problem) for problem in answer.errors} == {UnknownName}
    assert sorted(str(problem.peer) for problem in answer.errors) == ["ONE", "THREE"]
    text = "//peer: one, two\nselect max(case when this_peer() = 'ONE' then 1 else 'text' end)"
    answer = await federation.ask(text, home=home)
    assert len(answer.rows) == 1
    assert sorted(states(answer).values()) == ["error(wrong_arguments)", "rows"]
    assert [type(problem) for problem in answer.errors] == [WrongArguments]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("//peer: all\nselect this_peer(), avg(x) from x in readings()", BadStatement, (2, 8)),
        ("1;\n//peer: all\nselect x, avg(x) from x in readings()", BadStatement, (3, 8)),
        ("//peer: all\nselect top_k(x, :many) from x in readings()", UnknownName, (2, 17)),
    ],
)
async def test_what_cannot_be_asked_of_all_is_asked_of_none(
    federation: Living, home: str, text: str, kind: type[Problem], place: tuple[int, int]
) -> None:
    answer = await federation.ask(text, home=home)
    (problem,) = answer.errors
    assert isinstance(problem, kind)
    assert problem.span is not None
    assert (problem.span.line, problem.span.column) == place
    assert not set(states(answer)) & {"TWO", "THREE"}


async def test_what_goes_wrong_in_the_end_is_told(federation: Living) -> None:
    answer = await federation.ask("//peer: all\nselect 1 / (count(x) - 5) from x in readings()")
    assert [type(problem) for problem in answer.errors] == [BadArithmetic]
    assert states(answer) == ALL


async def test_roles_hold_in_parts(federation: Living) -> None:
    answer = await federation.ask("//peer: all\nselect count(models:unload('m'))", home="one")
    assert not answer.rows
    assert {type(problem) for problem in answer.errors} == {Forbidden}
    assert states(answer) == dict.fromkeys(ALL, "refused(forbidden)")


SLOW = "count(select a from a in range(1, 30000), b in range(1, 30000) where a = b)"
SOON = f"select sum(case when this_peer() = 'TWO' then {SLOW} else 5 end), count(this_peer())"


@pytest.mark.parametrize("home", HOMES)
async def test_the_time_is_up_and_what_came_counts(federation: Living, home: str) -> None:
    answer = await federation.ask(f"//peer: all\n//timeout: 0.5s\n{SOON}", home=home)
    assert [row.values for row in answer.rows] == [(10, 2)]
    assert states(answer) == ALL | {"TWO": "timeout"}


@pytest.mark.parametrize("home", HOMES)
async def test_a_cancelled_question_ends_with_what_came(federation: Living, home: str) -> None:
    answer = Answer()
    async with federation.connection(home) as peer:
        async for frame in peer.frames(f"//peer: all\n{SOON}"):
            answer.add(frame)
            if isinstance(frame, ProgressFrame) and frame.done == 2:
                await peer.cancel()
    assert [row.values for row in answer.rows] == [(10, 2)]
    assert states(answer) == ALL | {"TWO": "cancelled"}
    assert [type(problem) for problem in answer.errors] == [Cancelled]


async def test_a_budget_bounds_the_part_of_a_peer(federation: Living) -> None:
    text = "//peer: all\n//budget: 2 rows\nselect x, count(x) from x in readings() group by x order by x"
    answer = await federation.ask(text)
    assert [row.values for row in answer.rows] == [(10, 1), (20, 1)]
    assert states(answer) == {"ONE": "error(over_budget_rows)", "TWO": "rows", "THREE": "empty"}


async def test_unreachable_peers_are_in_the_ledger_and_not_in_the_answer(federation: Living) -> None:
    await federation.stop("two")
    try:
        answer = await federation.ask("//peer: all\nselect sum(x) from x in readings()")
        assert [row.value for row in answer.rows] == [6]
        assert states(answer)["TWO"].startswith("unreachable")
        answer = await federation.ask("//peer: two, nameserver\nselect count(x) from x in nothing_there()")
        assert not answer.rows  # nobody counted
    finally:
        await federation.start_edge("two")


async def test_explain_shows_the_split_and_what_travels(federation: Living) -> None:
    async def stages(text: str) -> dict[str, str]:
        return {
            row.values[0]: row.values[1] for row in (await federation.ask(f"//peer: all\nexplain {text}")).checked()
        }

    found = await stages("select k, avg(x), count(x) from x in readings(), k in [1] group by k")
    assert found["split"] == (
        "each gives a part of avg(x), count(x) for each k; the parts are merged, and the rows are of all peers together"
    )
    assert found["travels"] == "estimated: about 106 bytes a peer and group, 0.3 kB in all for each group"
    found = await stages("select median(x) from x in readings()")
    assert found["travels"] == "every value from each of 3 peers: median, vectorof and count_distinct need them"
    found = await stages("select x from x in readings() order by x limit 2")
    assert found["split"].startswith("each gives its first rows")
    assert (await stages("count(readings())"))["split"] == "no: it runs whole at each, and each row carries its peer"
    assert (await stages("select this_peer(), avg(readings())"))["split"].startswith("error bad_statement: this_peer()")
