"""What small statements get beside heavy ones, counted in turns of the event loop and slices of work, not in time."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from federation.envelopes import seal
from federation.keys import PrivateKey
from federation.members import Member
from federation.names import PeerId
from peers.answering import Answering
from peers.elsewhere import ASKED_A_TURN, FanOut
from peers.evaluating import Evaluating
from peers.requests import Origin, StatementRequest, encode_request
from peers.shares import HEAVY_MAX, ROWS_A_SLICE, SMALL_SLICES, TURNS_A_SLICE, WAITING_MAX, PeerBusy, Shares
from peers.statements import Errand
from peers.turns import Turns
from peers.uplinks import Uplinks
from query.catalogue import USER, Catalogue
from query.declarations import Call, Caller, Declaration, Role, bind, function
from query.frames import EndFrame, Frame
from query.functions import generic_declarations
from query.ledger import Outcome, State
from query.parsing import parse_statement
from query.placement import Peers, Reason, Route
from query.session import Session
from tests.language.asking import NOW

pytestmark = pytest.mark.timeout(60)

HEAVY = "select a from a in range(1, 4000), b in range(1, 4000) where work:note({number}, b) < 0"
SMALL = "sum(range(1, 3500))"  # some slices


class Work:
    """Notes which statement worked in which turn of the loop."""

    def __init__(self) -> None:
        self.turn = 0
        self.noted: set[tuple[int, int]] = set()  # (turn, statement)
        self.asked: list[Outcome] = []
        self.bench: Bench | None = None

    @function("work:note(Integer number, Integer step) -> Integer", example="work:note(1, 2)")
    def note(self, call: Call, number: int, step: int) -> int:
        """The number; the step is there so that each is looked at."""
        self.noted.add((self.turn, number))
        return number

    @function("work:ask(String text) -> Boolean", example='work:ask("1")')
    async def ask(self, call: Call, text: str) -> bool:
        """Run a statement here from inside another, in a task of its own as a peer does."""
        assert self.bench is not None
        self.asked.append(await asyncio.create_task(self.bench.run(text)))
        return True


class Bench:
    """One peer's evaluation, without a federation."""

    def __init__(self) -> None:
        self.work = Work()
        self.work.bench = self
        self.current = Catalogue((*generic_declarations(), *bind(self.work)))
        self.evaluating = Evaluating(name="here", is_nameserver=False, catalogue=self, federation_time=NOW.timestamp)

    def set_user_functions(self, functions: Iterable[Declaration]) -> None:
        self.current = self.current.with_functions(USER, functions)

    async def run(self, text: str) -> Outcome:
        frames: asyncio.Queue[Frame] = asyncio.Queue()
        answering = Answering(frames, statement=0, targets=("here",), query="q", tagged=False)
        call = Call(Caller("ada", Role.ADMIN), NOW, "here")
        await self.evaluating.run(parse_statement(text), answering, call, Session(), deadline=None)
        await answering.end()
        *_, end = (frames.get_nowait() for _ in range(frames.qsize()))
        (outcome,) = end.ledger.outcomes  # type: ignore[union-attr]
        return outcome

    @asynccontextmanager
    async def beside(self, count: int) -> AsyncIterator[None]:
        """While ``count`` heavy statements run, each already known as one."""

        async def ticking() -> None:
            while True:
                self.work.turn += 1
                await asyncio.sleep(0)

        tasks: list[asyncio.Task[object]] = [asyncio.create_task(ticking())]
        tasks += [asyncio.create_task(self.run(HEAVY.format(number=number))) for number in range(count)]
        try:
            for _ in range((SMALL_SLICES + 2) * 3):
                await asyncio.sleep(0)
            self.work.noted.clear()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("heavy", [1, HEAVY_MAX, 3 * HEAVY_MAX])
async def test_a_small_statement_waits_for_one_heavy_slice_in_some_turns(heavy: int) -> None:
    bench = Bench()
    async with bench.beside(0):
        began = bench.work.turn
        assert (await bench.run(SMALL)).state is State.ROWS
        alone = bench.work.turn - began
    async with bench.beside(heavy):
        began = bench.work.turn
        assert (await bench.run(SMALL)).state is State.ROWS
        turns = bench.work.turn - began
        slices = {(turn, number) for turn, number in bench.work.noted if turn >= began}
    assert turns <= alone + 1
    assert len(slices) <= turns // TURNS_A_SLICE + 2


async def test_heavy_statements_take_turns_and_all_go_on() -> None:
    bench = Bench()
    async with bench.beside(HEAVY_MAX):
        await _turns(60 * TURNS_A_SLICE)
        noted = sorted(bench.work.noted)
    turns = [turn for turn, _ in noted]
    assert len(turns) == len(set(turns))  # never two of them in one turn
    worked = [sum(1 for _, number in noted if number == wanted) for wanted in range(HEAVY_MAX)]
    assert max(worked) - min(worked) <= 1


async def test_places_are_bounded_and_given_in_order() -> None:
    shares = Shares(heavy_max=1, waiting_max=2)
    entered: list[str] = []

    async def heavy(name: str, leave: asyncio.Event) -> None:
        with shares.share() as share:
            for _ in range(SMALL_SLICES):
                await share.pause()
            entered.append(name)
            await leave.wait()

    leaving = {name: asyncio.Event() for name in "abcd"}
    tasks = {}
    for name in "abc":
        tasks[name] = asyncio.create_task(heavy(name, leaving[name]))
        await _turns(2 * SMALL_SLICES)
    assert entered == ["a"]
    with pytest.raises(PeerBusy, match="1 long statements run on this peer and 2 wait"):
        await heavy("d", leaving["d"])
    tasks["b"].cancel()
    leaving["a"].set()
    await _turns(5 * TURNS_A_SLICE)
    assert entered == ["a", "c"]
    leaving["c"].set()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    leaving["d"].set()
    await heavy("d", leaving["d"])  # every place was given back
    assert entered == ["a", "c", "d"]


async def test_who_is_stopped_while_it_is_given_a_place_gives_it_back() -> None:
    shares = Shares(heavy_max=1)
    await shares.enter()
    waiting = asyncio.create_task(shares.enter())
    await _turns(2)
    shares.leave()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(shares.enter(), 1)


async def test_who_is_stopped_while_another_leaves_is_passed_over() -> None:
    shares = Shares(heavy_max=1)
    await shares.enter()
    stopped, waiting = (asyncio.create_task(shares.enter()) for _ in range(2))
    await _turns(2)
    stopped.cancel()
    shares.leave()
    await asyncio.wait_for(waiting, 1)
    with pytest.raises(asyncio.CancelledError):
        await stopped


async def test_a_statement_that_asks_its_own_peer_does_not_wait_for_itself() -> None:
    bench = Bench()
    nested = f"select a from a in range(1, 4000), b in range(1, {10 * SMALL_SLICES}) where a < 0"
    async with bench.beside(HEAVY_MAX - 1):
        first = asyncio.create_task(bench.run(f"[sum(range(1, 4000)), sum(range(1, 4000)), work:ask('{nested}')]"))
        assert (await first).state is State.ROWS
    assert [outcome.state for outcome in bench.work.asked] == [State.EMPTY]


async def test_rows_are_work_too() -> None:
    shares = Shares()
    with shares.share() as share:
        for _ in range(ROWS_A_SLICE * SMALL_SLICES):
            await share.row()
        assert share.heavy


async def test_one_goes_on_in_so_many_turns() -> None:
    turns = Turns(every=3)
    went: list[int] = []
    now = 0

    async def going() -> None:
        await turns.turn()
        went.append(now)

    tasks = [asyncio.create_task(going()) for _ in range(4)]
    for now in range(1, 20):  # noqa: B007 — seen by the tasks
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert {later - earlier for earlier, later in itertools.pairwise(went)} == {3}


async def test_a_turn_is_not_lost_with_who_is_cancelled() -> None:
    turns = Turns()
    waiting = [asyncio.create_task(turns.turn()) for _ in range(5)]
    await _turns(1)
    for task in waiting[:4]:
        task.cancel()
    await asyncio.wait_for(waiting[4], 1)
    await asyncio.wait_for(turns.turn(), 1)


def test_the_bounds_are_of_some_use() -> None:
    assert HEAVY_MAX < WAITING_MAX


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Far(Uplinks):
    """Uplinks on which asking takes its place in a list, and nobody answers."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work
        self.asked: list[int] = []  # the turn of each

    def uplink(self, uuid: PeerId) -> Any:
        self.asked.append(self._work.turn)


class Anywhere:
    """A federation in which every name is an edge."""

    def here(self) -> str:
        return "ns"

    nameserver = here

    def edges(self) -> tuple[str, ...]:
        return tuple(f"e{number}" for number in range(1000))

    def group(self, name: str) -> tuple[str, ...]:
        return self.edges()

    def properties(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        return ()

    def find(self, name: str) -> str:
        return name

    def member_named(self, name: str) -> Member:
        return Member(uuid=PeerId(name), name=name, kind="edge", role="viewer", registered=0.0)

    def mode(self, uuid: PeerId) -> str:
        return "INTERACTIVE"

    def last_seen(self, uuid: PeerId) -> float | None:
        return None

    def next_poll_at(self, uuid: PeerId) -> float | None:
        return None


async def test_a_wide_statement_lets_small_ones_between() -> None:
    """A thousand targets are asked sixteen a turn, by two wide statements no more of them; one target at once."""
    bench = Bench()
    far = Far(bench.work)
    anywhere = Anywhere()
    fan = FanOut(
        name="ns", directory=anywhere, edges=anywhere, uplinks=far, vouch=lambda uuid: None, clock=NOW.timestamp
    )

    async def nowhere() -> None:
        raise AssertionError("the nameserver is no target")

    async def ask(targets: tuple[str, ...]) -> None:
        answering = Answering(asyncio.Queue(), statement=0, targets=targets, query="q", tagged=True)
        await fan.ask(errand(targets), answering, here=nowhere)

    async with bench.beside(0):
        began = bench.work.turn
        wide = [asyncio.create_task(ask(anywhere.edges())) for _ in range(2)]
        await _turns(3)
        small = bench.work.turn
        await ask(("e1",))
        assert bench.work.turn - small <= 6
        assert len(far.asked) < 200  # the wide ones had hardly begun
        await asyncio.gather(*wide)
    turns = Counter(far.asked)
    assert sum(turns.values()) == 2 * 1000 + 1
    assert max(count for turn, count in turns.items() if turn > began + 2) <= ASKED_A_TURN + 1


class Near(Uplinks):
    """Every edge has an uplink, which nothing may be sent down."""

    def uplink(self, uuid: PeerId) -> Any:
        return object()


async def test_a_caller_who_was_removed_meanwhile_is_nobody() -> None:
    """Not the nameserver, as which an edge would run what comes without the director's word on its caller."""
    anywhere, frames = Anywhere(), asyncio.Queue[Frame]()
    fan = FanOut(
        name="ns", directory=anywhere, edges=anywhere, uplinks=Near(), vouch=lambda uuid: None, clock=NOW.timestamp
    )
    asked = errand(("e1", "e2"))
    sealed = seal(asked.body, key=PrivateKey(b"k" * 32), federation="f", caller="c", now=0.0, lifetime_s=9.0)
    answering = Answering(frames, statement=0, targets=asked.targets, query="q", tagged=True)

    async def nowhere() -> None:
        raise AssertionError("the nameserver is no target")

    await fan.ask(replace(asked, origin=replace(asked.origin, envelope=sealed)), answering, here=nowhere)
    await answering.end()
    *_, end = [frames.get_nowait() for _ in range(frames.qsize())]
    assert isinstance(end, EndFrame)
    assert [str(outcome) for outcome in end.ledger.outcomes] == ["error(unknown_peer)"] * 2


def errand(targets: tuple[str, ...]) -> Errand:
    statement = parse_statement("1 + 1")
    request = StatementRequest(text="1 + 1")
    return Errand(
        statement=statement,
        index=0,
        alone=True,
        route=Route(Peers(targets), Reason.DIRECTIVE),
        targets=targets,
        request=request,
        body=encode_request(request),
        origin=Origin(Caller("ada", Role.ADMIN)),
        variables={},
        deadline=None,
    )
