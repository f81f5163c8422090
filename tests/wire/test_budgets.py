"""Budgets of statements in a living federation: enforced by each peer that runs one, told in the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from peers.client import Answer
from query.budgets import BadBudget, Budget, OverBudgetBytes, OverBudgetRows, OverBudgetTime
from query.errors import DeadlinePassed
from query.ledger import Outcome, State
from tests.wire.living import Living, living

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

TEN = "select a from a in range(1, 10)"
ENDLESS = "select a from a in range(1, 4000), b in range(1, 4000) where a + b < 0"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    async with living(Path(tmp_path_factory.mktemp("budgets")), "one") as made:
        await made.add_edge("small", statement_rows_max=7)
        yield made


def outcomes(answer: Answer) -> dict[str, Outcome]:
    ((*ended,),) = (ledger.outcomes for ledger in answer.ledgers)
    return {outcome.peer: outcome for outcome in ended}


@pytest.mark.parametrize("home", ["ns-admin", "ns", "one"])
async def test_rows_are_bounded_and_those_before_are_given(federation: Living, home: str) -> None:
    answer = await federation.ask(f"//peer: one\n//budget: 4 rows\n{TEN}", home=home)
    assert [row.value for row in answer] == [1, 2, 3, 4]
    assert [type(problem) for problem in answer.errors] == [OverBudgetRows]
    assert answer.errors[0].peer == "ONE"
    ended = outcomes(answer)["ONE"]
    assert (ended.state, ended.detail, ended.rows, ended.bytes) == (State.ERROR, "over_budget_rows", 4, 12)
    assert ended.elapsed_ms > 0
    assert ended.allowed == Budget(4, 256 << 20, 3600.0)


async def test_bytes_are_bounded(federation: Living) -> None:
    answer = await federation.ask(f"//peer: one\n{TEN}", budget="10 bytes")
    assert [row.value for row in answer] == [1, 2, 3]
    assert [type(problem) for problem in answer.errors] == [OverBudgetBytes]
    assert outcomes(answer)["ONE"].detail == "over_budget_bytes"


@pytest.mark.parametrize("home", ["ns", "one"])
async def test_time_is_bounded_and_is_not_the_deadline(federation: Living, home: str) -> None:
    async with federation.connection(home) as peer:
        answer = await peer.query(f"//peer: one\n//budget: 200ms\n{ENDLESS}")
        assert [type(problem) for problem in answer.errors] == [OverBudgetTime]
        ended = outcomes(answer)["ONE"]
        assert (ended.state, ended.detail) == (State.ERROR, "over_budget_time")
        assert ended.elapsed_ms >= 200
        assert ended.allowed is not None
        assert ended.allowed.time_s == 0.2
        late = await peer.query(f"//peer: one\n//budget: 10s\n//timeout: 200ms\n{ENDLESS}")
        assert [type(problem) for problem in late.errors] == [DeadlinePassed]
        assert outcomes(late)["ONE"].state is State.TIMEOUT


async def test_the_smaller_of_directive_request_and_peer_holds_on_each_peer(federation: Living) -> None:
    answer = await federation.ask(f"//peer: one, small\n//budget: 9 rows\n{TEN}", budget="8 rows, 1h")
    ended = outcomes(answer)
    assert {peer: outcome.rows for peer, outcome in ended.items()} == {"ONE": 8, "SMALL": 7}
    assert ended["SMALL"].allowed == Budget(7, 256 << 20, 3600.0)
    assert sorted(row.peer or "" for row in answer) == ["ONE"] * 8 + ["SMALL"] * 7


async def test_a_peer_keeps_its_own_bound_and_says_so_only_when_it_is_passed(federation: Living) -> None:
    over = outcomes(await federation.ask(f"//peer: small\n{TEN}"))["SMALL"]
    assert (over.detail, over.allowed) == ("over_budget_rows", Budget(7, 256 << 20, 3600.0))
    within = outcomes(await federation.ask("//peer: small\n1 + 1"))["SMALL"]
    assert (within.state, within.rows, within.bytes, within.allowed) == (State.ROWS, 1, 3, None)


async def test_what_fits_is_whole_and_tells_what_was_used(federation: Living) -> None:
    answer = await federation.ask(f"//peer: one\n//budget: 10 rows, 1MiB, 1min\n{TEN}")
    assert answer.complete
    assert outcomes(answer)["ONE"].used.startswith("10 of 10 rows, 31 bytes of 1MiB, ")


async def test_parts_of_an_answer_have_budgets_too(federation: Living) -> None:
    """Ten groups are more than the small one may give: it is named, and what the other one gave is the answer."""
    groups = "select a, count(a) from a in range(1, 10) group by a"
    answer = await federation.ask(f"//peer: one, small\n{groups}")
    ended = outcomes(answer)
    assert (ended["ONE"].state, ended["SMALL"].detail) == (State.ROWS, "over_budget_rows")
    assert sorted(row.values for row in answer) == [(a, 1) for a in range(1, 11)]
    thirds = await federation.ask("//peer: one, small\nselect a % 3, count(a) from a in range(1, 10) group by a % 3")
    assert sorted(row.values for row in thirds) == [(0, 6), (1, 8), (2, 6)]


async def test_a_value_that_is_kept_counts_too(federation: Living) -> None:
    answer = await federation.ask("//peer: one\n//budget: 9 bytes\nset :v = range(1, 10)")
    assert [type(problem) for problem in answer.errors] == [OverBudgetBytes]


async def test_explain_tells_the_budget(federation: Living) -> None:
    answer = await federation.ask("//budget: 5 rows\nexplain 1 + 1")
    assert ("budget", "5 rows on each peer") in [row.values for row in answer]


async def test_a_budget_that_is_none_is_refused_before_anything_runs(federation: Living) -> None:
    with pytest.raises(BadBudget):
        await federation.ask("1 + 1", budget="lots", home="one")
