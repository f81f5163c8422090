"""The edge's side of statements that wait: run once, answered as often as asked for, whatever is brought again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from federation.envelopes import credential, seal
from federation.names import PeerId
from peers.carried import CarriedStatements
from peers.catalogues import PeerCatalogue
from peers.edge_store import EdgeStore
from peers.errand_book import ErrandBook
from peers.errands import Errands
from peers.requests import StatementRequest, encode_request
from peers.running import RunningQueries
from peers.statements import Statements
from peers.uplink_messages import StatementMessage
from peers.whole_frames import errors_in, outcome_in, read_whole
from query.declarations import Call, Effect, function
from query.frames import RowFrame
from query.placement import Placement, Route
from tests.trust.material import DIRECTOR, FEDERATION, NOW, ROOT_RECORD, key, member

pytestmark = pytest.mark.timeout(60)

ANN = PeerId("33333333-3333-4333-8333-333333333333")
ANNS_KEY = key(102)
MEMBER = member(uuid=ANN, name="ann", kind="client", role="operator", key=ANNS_KEY.public)


class Counting:
    """Functions that tell whether they ran."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    @function("test:count() -> Number", effect=Effect.CHANGES, example="test:count()")
    def counted(self, call: Call) -> int:
        """Counts."""
        self.count += 1
        return self.count

    @function("test:hold() -> Number", effect=Effect.CHANGES, example="test:hold()")
    async def held(self, call: Call) -> int:
        """Counts, and ends when it is told to."""
        self.count += 1
        self.begun.set()
        await self.go_on.wait()
        return self.count


class Nowhere:
    """This peer knows no other."""

    def place(self, route: Route) -> Placement:
        return Placement(("e1",), route)

    def way(self, route: Route) -> None: ...

    async def ask(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a statement that was carried here went elsewhere")


@asynccontextmanager
async def edge(
    path: Path | None, counting: Counting, *, now: Callable[[], float] = lambda: NOW, began: float = 0.0
) -> AsyncIterator[tuple[CarriedStatements, Errands, RunningQueries]]:
    """The executor of an edge, from its start to its stop."""
    store = EdgeStore.open(path)
    queries = RunningQueries()
    catalogue = PeerCatalogue()
    catalogue.compose(counting)
    statements = Statements(
        name="e1",
        is_nameserver=False,
        catalogue=catalogue,
        elsewhere=Nowhere(),
        running=queries,
        federation_time=now,
    )
    errands = Errands(ErrandBook(store, began=lambda: began), name="e1", queries=queries, now=now)
    carried = CarriedStatements(
        name="e1",
        federation=FEDERATION,
        root=lambda: ROOT_RECORD,
        statements=statements,
        federation_time=now,
        errands=errands,
    )
    try:
        yield carried, errands, queries
    finally:
        await queries.stop()
        await errands.close()
        store.close()


def message(
    text: str = "test:count()",
    *,
    errand: str = "q-1",
    waits: bool = True,
    signed: bool = True,
    nonce: str = "n1",
) -> StatementMessage:
    body = encode_request(StatementRequest(text=text))
    envelope = seal(
        body, key=ANNS_KEY, federation=FEDERATION, caller=ANN, now=NOW, lifetime_s=3600.0, nonce=nonce, waits=waits
    )
    word = credential(MEMBER, director=DIRECTOR, federation=FEDERATION, now=NOW)
    return StatementMessage(
        id=1,
        body=body,
        index=0,
        time_left_s=60.0,
        envelope=envelope if signed else None,
        credential=word if signed else None,
        errand=errand,
        until=NOW + 3600,
    )


def told(raw: bytes) -> tuple[str, list[Any]]:
    """The state and the rows of a whole answer."""
    frames = read_whole(raw)
    return str(outcome_in(frames)), [frame.values[0] for frame in frames if isinstance(frame, RowFrame)]


async def test_it_runs_once_and_answers_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    counting = Counting()
    async with edge(tmp_path / "state.db", counting) as (carried, errands, _):
        assert told(await carried.errand(message())) == ("rows", [1])
        assert told(await carried.errand(message())) == ("rows", [1])
        assert errands.known() == {"q-1"}
    async with edge(tmp_path / "state.db", counting) as (carried, errands, _):
        assert told(await carried.errand(message())) == ("rows", [1])
        errands.done(["q-1"])
        assert errands.known() == frozenset()
        assert told(await carried.errand(message()))[0] == "error(interrupted)"
    assert counting.count == 1


@pytest.mark.parametrize(
    "stolen",
    [
        message(errand="q-another"),
        message(errand=""),
        replace(message(), until=NOW + 9999),
        replace(message(), variables={"x": 1}),
        message(waits=False),
    ],
)
async def test_what_was_brought_once_is_never_run_again(tmp_path: Path, stolen: StatementMessage) -> None:
    counting = Counting()
    for _ in range(2):
        async with edge(tmp_path / "state.db", counting) as (carried, errands, _queries):
            await carried.errand(message())
            errands.done(["q-1"])
            async for _frame in carried.carried(stolen):
                pass
    assert counting.count == 1


async def test_an_edge_that_stopped_in_the_middle_says_so_and_does_not_run_it_again(tmp_path: Path) -> None:
    counting = Counting()
    async with edge(tmp_path / "state.db", counting) as (carried, _, _queries):
        asking = asyncio.create_task(carried.errand(message("test:hold()")))
        await counting.begun.wait()
    await asyncio.gather(asking, return_exceptions=True)
    async with edge(tmp_path / "state.db", counting) as (carried, _, _queries):
        raw = await carried.errand(message("test:hold()"))
    assert told(raw) == ("error(interrupted)", [])
    assert errors_in(read_whole(raw))[0].message == (
        "E1 stopped while it ran the statement, and does not run it twice: whether it took effect is not known"
    )
    assert counting.count == 1


async def test_who_brought_it_may_be_lost() -> None:
    counting = Counting()
    async with edge(None, counting) as (carried, _, _queries):
        first = asyncio.create_task(carried.errand(message("test:hold()")))
        await counting.begun.wait()
        first.cancel()
        second = asyncio.create_task(carried.errand(message("test:hold()")))
        counting.go_on.set()
        assert told(await second) == ("rows", [1])
        await asyncio.gather(first, return_exceptions=True)


async def test_what_nobody_wants_any_more_is_stopped(tmp_path: Path) -> None:
    counting = Counting()
    async with edge(tmp_path / "state.db", counting) as (carried, errands, queries):
        asking = asyncio.create_task(carried.errand(message("test:hold()")))
        await counting.begun.wait()
        errands.done(["q-2"])
        errands.done(["q-1"])
        assert told(await asking) == ("cancelled", [])
        await queries.quiet(within_s=5.0)
        assert queries.all() == ()


async def test_one_that_nobody_signed_runs_once_as_a_viewer(tmp_path: Path) -> None:
    counting = Counting()
    for _ in range(2):
        async with edge(tmp_path / "state.db", counting) as (carried, _, _queries):
            assert told(await carried.errand(message("1 + 1", signed=False))) == ("rows", [2])
    async with edge(tmp_path / "state.db", counting) as (carried, errands, _queries):
        errands.done(["q-1"])
        assert told(await carried.errand(message("1 + 1", signed=False)))[0] == "error(interrupted)"


async def test_one_callers_long_ones_leave_room_for_others() -> None:
    counting = Counting()
    async with edge(None, counting) as (carried, _, _queries):
        held = [
            asyncio.create_task(carried.errand(message("test:hold()", errand=f"q-{n}", nonce=f"n{n}")))
            for n in range(4)
        ]
        await counting.begun.wait()
        assert told(await carried.errand(message("1 + 1", signed=False, errand="q-x"))) == ("rows", [2])
        assert counting.count == 2
        counting.go_on.set()
        assert {told(raw)[0] for raw in await asyncio.gather(*held)} == {"rows"}
        assert counting.count == 4


async def test_what_is_no_request_uses_nothing_up() -> None:
    counting = Counting()
    async with edge(None, counting) as (carried, errands, _queries):
        raw = await carried.errand(replace(message(), body=b"{}"))
        assert told(raw)[0] == "refused(user)"
        assert len(errands.book) == 0
        assert told(await carried.errand(message())) == ("rows", [1])


async def test_an_executor_without_a_book_takes_none() -> None:
    async with edge(None, Counting()) as (_, _errands, _queries):
        plain = CarriedStatements(
            name="e1",
            federation=FEDERATION,
            root=lambda: ROOT_RECORD,
            statements=None,  # type: ignore[arg-type]  # it is not asked
            federation_time=lambda: NOW,
        )
        assert told(await plain.errand(message()))[0] == "refused(wrong_document)"
