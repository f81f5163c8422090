"""Statements that wait: for edges that poll, that are away, that come back; kept over restarts, cancelled, refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.errors import WrongRole
from peers.client import AsyncConnection
from peers.errand_polling import ErrandCalls
from peers.joining import join
from peers.local_parts import opened_client
from peers.whole_frames import BadWholeAnswer
from query.errors import Forbidden, LimitExceeded, UnknownName, WrongArguments
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame
from query.ledger import State
from tests.wire.living import Living, living

pytestmark = pytest.mark.timeout(120)

ENDLESS = "count(select a from a in range(1, 30000), b in range(1, 30000) where a = b)"


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "one", "two") as made:
        yield made


class Following:
    """An answer while it comes."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.came = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def _follow(self, frames: AsyncIterator[Frame]) -> None:
        async for frame in frames:
            self.frames.append(frame)
            self.came.set()

    async def until_rows(self, count: int) -> None:
        while len(self.rows) < count:
            self.came.clear()
            await self.came.wait()

    async def id(self) -> str:
        """By which the statement is found again."""
        while not (ids := [f.query for f in self.frames if isinstance(f, ProgressFrame) and f.query]):
            self.came.clear()
            await self.came.wait()
        return ids[0]

    async def ended(self) -> dict[str, str]:
        """The states of the ledger, once there is one."""
        assert self.task is not None
        await self.task
        end = self.frames[-1]
        assert isinstance(end, EndFrame)
        return {outcome.peer: str(outcome) for outcome in end.ledger.outcomes}

    @property
    def rows(self) -> list[Any]:
        return [frame.values[0] for frame in self.frames if isinstance(frame, RowFrame)]

    @property
    def errors(self) -> list[str]:
        return [frame.error.message for frame in self.frames if isinstance(frame, ErrorFrame)]


@asynccontextmanager
async def following(connection: AsyncConnection, text: str, **options: Any) -> AsyncIterator[Following]:
    """Ask, and leave at the end of the block what has not ended: whoever asked is lost then."""
    made = Following()
    made.task = asyncio.create_task(made._follow(connection.frames(text, **options)))
    try:
        yield made
    finally:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)


async def results(federation: Living, query: str, *, home: str | None = None) -> dict[str, Any]:
    answer = (await federation.ask("query:results(:id)", params={"id": query}, home=home)).checked()
    return {row.value["peer"]: row.value for row in answer.rows}


async def settled(federation: Living, query: str, peer: str, state: str) -> dict[str, Any]:
    """The record of a target, once it has a state."""
    async with asyncio.timeout(30):
        while True:
            record = (await results(federation, query))[peer]
            if record["state"] == state:
                return dict(record)
            await asyncio.sleep(0.02)  # a poll, as Living.until does; bounded above


async def guest(federation: Living, name: str = "guest", role: str = "viewer") -> None:
    bundle = await federation.value("peer:register(:name, :options)", params={"name": name, "options": {"role": role}})
    await join(federation.home(name), bundle)


async def online(federation: Living, edge: str) -> None:
    """Have an edge poll, and nothing else."""
    await federation.value(f'edge:set_mode("{edge}", "ONLINE")')
    await federation.until(f'edge:listening("{edge}")', False)


async def test_an_edge_that_was_away_answers_when_it_is_back(federation: Living) -> None:
    await federation.stop("two")
    async with (
        federation.connection() as admin,
        following(admin, "//peer: one, two\n//wait: 1h\nthis_peer()") as answer,
    ):
        await answer.until_rows(1)
        assert answer.rows == ["ONE"]
        await federation.start_edge("two")
        assert await answer.ended() == {"ONE": "rows", "TWO": "rows"}
    assert answer.rows == ["ONE", "TWO"]
    query = await answer.id()
    assert isinstance(answer.frames[-1], EndFrame)
    assert answer.frames[-1].query == query
    assert (await results(federation, query))["TWO"] == {
        "peer": "TWO",
        "state": "rows",
        "detail": None,
        "rows": ["TWO"],
        "errors": [],
        "late": False,
    }


async def test_an_online_edge_answers_at_its_poll(federation: Living) -> None:
    await online(federation, "two")
    now = (await federation.ask("//peer: two\n1")).ledgers[0].outcomes[0]
    assert (now.state, (now.detail or "")[:6]) == (State.REFUSED, "online")
    answer = await federation.ask("//peer: all\n//wait: 1m\nthis_peer()")
    assert {row.value for row in answer.checked()} == {"ONE", "TWO"}
    assert await federation.value("//peer: two\n//wait: 1m\n1 + 1") == 2


async def test_who_asked_may_leave_and_read_it_later(federation: Living) -> None:
    await federation.stop("two")
    async with federation.connection() as admin:
        async with following(admin, "//peer: all\n//wait: 1h\nthis_peer()") as answer:
            query = await answer.id()
            await answer.until_rows(1)
        listed = {row["id"]: row for row in await admin.values("query:list()")}
        assert {name: listed[query][name] for name in ("caller", "state", "settled", "targets")} == {
            "caller": "admin",
            "state": "waiting",
            "settled": 1,
            "targets": 2,
        }
        assert {peer: one["state"] for peer, one in (await results(federation, query)).items()} == {
            "ONE": "rows",
            "TWO": "waiting",
        }
        await federation.start_edge("two")
        assert (await settled(federation, query, "TWO", "rows"))["rows"] == ["TWO"]
        assert [row["state"] for row in await admin.values("query:list()") if row["id"] == query] == ["answered"]


async def test_it_goes_on_when_the_nameserver_was_away(federation: Living) -> None:
    await federation.stop("two")
    run = federation.peers["ns"].record
    assert run.federation is not None
    port = int(run.federation.rpartition(":")[2])
    async with (
        federation.connection() as admin,
        following(admin, "//peer: all\n//wait: 1h\nselect x, this_peer() from x in [1, 2]") as answer,
    ):
        await answer.until_rows(2)
        await federation.stop("ns")
        await federation.start_nameserver(federation_port=port)
        await federation.start_edge("two")
        assert await answer.ended() == {"ONE": "rows", "TWO": "rows"}
    assert [(frame.peer, *frame.values) for frame in answer.frames if isinstance(frame, RowFrame)] == [
        ("ONE", 1, "ONE"),
        ("ONE", 2, "ONE"),
        ("TWO", 1, "TWO"),
        ("TWO", 2, "TWO"),
    ]
    assert answer.errors == []


async def test_cancelling_ends_it_everywhere(federation: Living) -> None:
    await federation.stop("two")
    await guest(federation)
    async with (
        federation.connection() as admin,
        following(admin, "//peer: all\n//wait: 1h\nthis_peer()") as answer,
    ):
        query = await answer.id()
        await answer.until_rows(1)
        with pytest.raises(Forbidden, match='is of "admin"; cancelling it needs the role operator'):
            await federation.value("query:cancel(:id)", params={"id": query}, home="guest")
        assert await federation.value("query:cancel(:id)", params={"id": query}) is True
        assert await answer.ended() == {"ONE": "rows", "TWO": "cancelled"}
    with pytest.raises(UnknownName):
        await federation.value("query:cancel(:id)", params={"id": query})
    await federation.start_edge("two")
    await federation.until('edge:listening("two")', True)
    assert (await results(federation, query))["TWO"]["state"] == "cancelled"


async def test_a_connection_that_cancels_is_told_how_far_it_came(federation: Living) -> None:
    await federation.stop("two")
    for home in (None, "one", "ns"):
        async with (
            federation.connection(home) as peer,
            following(peer, "//peer: all\n//wait: 1h\nthis_peer()") as answer,
        ):
            query = await answer.id()
            await answer.until_rows(1)
            await peer.cancel()
            assert await answer.ended() == {"ONE": "rows", "TWO": "cancelled"}, home
        assert (await results(federation, query))["TWO"]["state"] == "cancelled"


async def test_a_running_statement_is_stopped_on_edges_with_and_without_an_uplink(federation: Living) -> None:
    await online(federation, "two")
    async with (
        federation.connection() as admin,
        following(admin, f"//peer: all\n//wait: 1h\n//timeout: 1h\n{ENDLESS}") as answer,
    ):
        query = await answer.id()
        for edge in ("one", "two"):
            await federation.until("count(query:list())", 2, home=edge)
        await admin.value("query:cancel(:id)", params={"id": query})
        assert await answer.ended() == {"ONE": "cancelled", "TWO": "cancelled"}
        for edge in ("one", "two"):
            await federation.until("count(query:list())", 1, home=edge)


async def test_the_end_of_the_wait_names_what_silence_means(federation: Living) -> None:
    await federation.until('edge:listening("two")', True)
    await federation.stop("two")
    await federation.value('edge:register("three")')
    answer = await federation.ask("//peer: all\n//wait: 300ms\nthis_peer()")
    named = {outcome.peer: str(outcome) for outcome in answer.ledgers[0].outcomes}
    assert (named["ONE"], named["THREE"]) == ("rows", "unreachable(never)")
    assert named["TWO"].startswith("unreachable(20")


async def test_an_edge_that_joins_later_is_waited_for(federation: Living) -> None:
    bundle = await federation.value('edge:register("three")')
    async with (
        federation.connection() as admin,
        following(admin, "//peer: three\n//wait: 1h\nthis_peer()") as answer,
    ):
        await answer.id()
        await join(federation.home("three"), bundle)
        await federation.start_edge("three")
        assert await answer.ended() == {"THREE": "rows"}


async def test_a_caller_who_was_removed_is_refused_by_name(federation: Living) -> None:
    await federation.stop("two")
    await guest(federation, "ann", "operator")
    async with (
        federation.connection("ann") as ann,
        following(ann, "//peer: all\n//wait: 1h\nthis_peer()") as answer,
    ):
        query = await answer.id()
        await answer.until_rows(1)
    await federation.value('peer:remove("ann")')
    record = await settled(federation, query, "TWO", "refused")
    assert record["detail"] == "caller_gone"
    assert record["errors"] == [
        {
            "code": "caller_gone",
            "message": '"ann" was removed from the federation, and its statement waits no more',
        }
    ]
    await federation.start_edge("two")
    await federation.until('edge:listening("two")', True)
    assert (await results(federation, query))["TWO"]["rows"] == []


async def test_it_runs_under_its_callers_role_alone(federation: Living) -> None:
    await guest(federation)
    answer = await federation.ask('//peer: one\n//wait: 1m\nmodels:unload("m")', home="guest")
    assert [str(outcome) for outcome in answer.ledgers[0].outcomes] == ["refused(forbidden)"]
    assert 'and "guest" is viewer here' in answer.errors[0].message
    as_nobody = await federation.ask('//peer: one\n//wait: 1m\nmodels:unload("m")', home="ns")  # carried unsigned
    assert [str(outcome) for outcome in as_nobody.ledgers[0].outcomes] == ["refused(forbidden)"]
    admitted = await federation.ask('//peer: one\n//wait: 1m\nmodels:create("mine")')
    assert [str(outcome) for outcome in admitted.ledgers[0].outcomes] == ["rows"]


async def test_an_edge_that_was_removed_is_waited_for_no_more(federation: Living) -> None:
    await federation.stop("two")
    async with (
        federation.connection() as admin,
        following(admin, "//peer: all\n//wait: 1h\nthis_peer()") as answer,
    ):
        await answer.until_rows(1)
        await federation.value('edge:remove("two")')
        assert await answer.ended() == {"ONE": "rows", "TWO": "refused(removed)"}


async def test_results_are_their_callers_and_an_operators(federation: Living) -> None:
    for name, role in (("vic", "viewer"), ("val", "viewer"), ("olga", "operator")):
        await guest(federation, name, role)
    async with (
        federation.connection("vic") as vic,
        following(vic, "//peer: one\n//wait: 1h\nthis_peer()") as answer,
    ):
        await answer.ended()
        query = await answer.id()
        assert query in [row["id"] for row in await vic.values("query:list()")]
    assert (await results(federation, query, home="vic"))["ONE"]["rows"] == ["ONE"]
    assert (await results(federation, query, home="olga"))["ONE"]["rows"] == ["ONE"]
    with pytest.raises(Forbidden, match=f'query "{query}" is of "vic"; its results need the role operator'):
        await results(federation, query, home="val")
    assert {row.value["caller"] for row in await federation.ask("query:list()", home="val")} == {"val"}
    with pytest.raises(UnknownName, match='no query "q-000000000000"'):
        await results(federation, "q-000000000000", home="vic")


async def test_the_nameserver_answers_for_itself_at_once(federation: Living) -> None:
    await federation.stop("two")
    async with (
        federation.connection() as admin,
        following(admin, "//peer: nameserver, two\n//wait: 1h\nthis_peer()") as answer,
    ):
        await answer.until_rows(1)
        assert answer.rows == ["NAMESERVER"]
        await federation.start_edge("two")
        assert await answer.ended() == {"NAMESERVER": "rows", "TWO": "rows"}


async def test_what_only_the_nameserver_can_answer_does_not_wait(federation: Living) -> None:
    assert await federation.value('//wait: 1h\nedge:groups("one")') == []
    assert [row.value["state"] for row in await federation.ask("query:list()")] == ["running"]
    bundle = await federation.ask('//peer: nameserver, one\n//wait: 1h\nedge:register("four")')
    assert [type(problem) for problem in bundle.errors] == [WrongArguments]
    assert "four" not in str((await federation.ask("peers()")).rows)


async def test_a_set_and_too_long_a_wait_are_refused(federation: Living) -> None:
    for text, words in (
        ("//peer: one\n//wait: 1h\nset :v = 1", "set takes a value now"),
        ("//peer: one\n//wait: 8d\n1", "at most 604800s"),
        ("//peer: nobody\n//wait: 1h\n1", 'no peer "nobody"'),
    ):
        answer = await federation.ask(text)
        assert words in answer.errors[0].message, text


async def test_a_long_request_does_not_wait(federation: Living) -> None:
    answer = await federation.ask("//peer: one\n//wait: 1h\n:long", params={"long": "x" * 140_000})
    assert [type(problem) for problem in answer.errors] == [LimitExceeded]
    assert "bytes of a statement that waits: expected at most 131072" in answer.errors[0].message


async def test_an_answer_that_is_too_long_to_be_kept_is_cut_and_says_so(federation: Living) -> None:
    answer = await federation.ask("//peer: one\n//wait: 1m\nselect [x, zeros(4000)] from x in range(1, 200)")
    assert [str(outcome) for outcome in answer.ledgers[0].outcomes] == ["error(limit)"]
    assert 0 < len(answer.rows) < 200
    assert "an answer that is kept may take 1048576 bytes" in answer.errors[0].message


async def test_a_stolen_statement_is_good_for_nothing(federation: Living) -> None:
    """Whoever has the message can bring it again, and gets the answer that it gave."""
    answer = await federation.ask('//peer: one\n//wait: 1m\nmodels:create("once")')
    assert [str(outcome) for outcome in answer.ledgers[0].outcomes] == ["rows"]
    again = await federation.ask('//peer: one\n//wait: 1m\nmodels:create("once")')  # signed anew: it runs again
    assert [str(outcome) for outcome in again.ledgers[0].outcomes] == ["error(folder_exists)"]


async def test_aggregates_of_those_who_come_later_count(federation: Living) -> None:
    await federation.stop("two")
    text = "//peer: all\n//wait: 1h\nselect sum(x), count(x) from x in range(1, 10)"
    async with federation.connection() as admin, following(admin, text) as answer:
        query = await answer.id()
        await settled(federation, query, "ONE", "rows")
        so_far = await results(federation, query)
        assert (so_far[None]["rows"], so_far[None]["detail"]) == ([[55, 10]], "1 of 2 peers have a state")
        assert (so_far["ONE"]["rows"], so_far["TWO"]["state"]) == ([], "waiting")
        await federation.start_edge("two")
        assert await answer.ended() == {"ONE": "rows", "TWO": "rows"}
    assert [frame.values for frame in answer.frames if isinstance(frame, RowFrame)] == [(110, 20)]
    assert (await results(federation, query))[None]["rows"] == [[110, 20]]


async def test_the_first_of_all_wait_for_everybody(federation: Living) -> None:
    await federation.stop("two")
    text = "//peer: all\n//wait: 1h\nselect x, this_peer() from x in [1, 2] order by x desc limit 2"
    async with federation.connection() as admin, following(admin, text) as answer:
        query = await answer.id()
        await settled(federation, query, "ONE", "rows")
        await federation.start_edge("two")
        assert await answer.ended() == {"ONE": "rows", "TWO": "rows"}
    rows = [(frame.peer, *frame.values) for frame in answer.frames if isinstance(frame, RowFrame)]
    assert sorted(rows) == [("ONE", 2, "ONE"), ("TWO", 2, "TWO")]


async def test_an_edge_speaks_for_itself_alone(federation: Living) -> None:
    await federation.stop("two")
    uuid = {name: federation.home(name).membership().uuid for name in ("one", "two", "ns-admin")}
    async with (
        federation.connection() as admin,
        following(admin, "//peer: two\n//wait: 1h\nthis_peer()") as answer,
        opened_client(federation.home("one"), None, clock=time.time) as one,
        opened_client(federation.home("two"), None, clock=time.time) as two,
        opened_client(federation.admin, None, clock=time.time) as person,
    ):
        query = await answer.id()
        own = ErrandCalls(two, uuid["two"])
        assert (await own.listed()).open == (query,)
        for stranger in (one, person):
            for call in (
                ErrandCalls(stranger, uuid["two"]).listed(),
                ErrandCalls(stranger, uuid["two"]).message(query),
                ErrandCalls(stranger, uuid["two"]).answer(query, b""),
            ):
                with pytest.raises(WrongRole):
                    await call
        assert (await ErrandCalls(one, uuid["one"]).listed()).open == ()
        with pytest.raises(UnknownName):
            await ErrandCalls(one, uuid["one"]).message(query)
        with pytest.raises(BadWholeAnswer):
            await own.answer(query, b"{}")
        assert (await results(federation, query))["TWO"]["state"] == "waiting"


async def test_what_the_nameserver_ran_when_it_stopped_is_not_run_again(federation: Living) -> None:
    run = federation.peers["ns"].record
    assert run.federation is not None
    async with (
        federation.connection() as admin,
        following(admin, f"//peer: nameserver, one\n//wait: 1h\n//timeout: 1h\n{ENDLESS}") as answer,
    ):
        await answer.id()
        await federation.until("count(query:list()) > 1", True, home="one")
        await federation.stop("ns")
        await federation.start_nameserver(federation_port=int(run.federation.rpartition(":")[2]))
        query = await answer.id()
        assert (await settled(federation, query, "NAMESERVER", "error"))["detail"] == "interrupted"
        await admin.cancel()
        assert await answer.ended() == {"NAMESERVER": "error(interrupted)", "ONE": "cancelled"}


async def test_nothing_waits_where_the_nameserver_cannot_be_asked(federation: Living) -> None:
    await federation.stop("ns")
    answer = await federation.ask("//peer: one\n//wait: 1h\n1 + 1")
    assert [problem.code for problem in answer.errors] == ["nameserver_unreachable"]
    assert [outcome.state for outcome in answer.ledgers[0].outcomes] == [State.UNREACHABLE]
