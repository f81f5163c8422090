"""Questions about the past: the state is the fold of the log as it was, reports are those that had come."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from federation import commands
from federation.documents import LoadError
from federation.events import Change, PropertySet
from federation.functions import EdgeFunctions
from federation.group_functions import GroupFunctions
from federation.names import PeerId
from federation.past import CHANGES_AT_ONCE, BeforeLog, NotKept, NotYet, Past
from federation.reports import NoReport
from federation.state import FederationState
from federation.store import REPORTS_PER_EDGE_MAX, FederationStore
from query.declarations import Call, declarations
from query.errors import Problem, UnknownName
from tests.membership.small import NOW, Small, identity


class Nobody:
    """No edge is seen."""

    def last_seen(self, uuid: PeerId) -> float | None:
        return NOW

    def connected(self, uuid: PeerId) -> bool:
        return True

    def next_poll_at(self, uuid: PeerId) -> float | None:
        return NOW


class Asking:
    def __init__(self, small: Small) -> None:
        self.small = small
        self.past = Past(small.store)
        self.edges = EdgeFunctions(small.store, self.past, Nobody())
        self.groups = GroupFunctions(small.store, self.past, imports=None)  # type: ignore[arg-type]

    def call(self, as_of: float | None) -> Call:
        moment = None if as_of is None else datetime.fromtimestamp(as_of, UTC)
        return replace(self.small.call(), as_of=moment)


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("m@1.0", "m@2.0")
    return small


async def test_a_federation_s_history_is_read_back(small: Small) -> None:
    asking = Asking(small)
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks[name] = small.now
        small.now = next(small.clock)

    mark("empty")
    small.edge("E1")
    mark("one")
    small.edge("E2", "staging")
    small.join("E1", "staging")
    small.assign("staging", "m@1.0")
    mark("first")
    small.assign("staging", "m@2.0")
    small.leave("E1", "staging")
    small.write(commands.set_mode(small.state, "E1", "ONLINE"))
    mark("second")
    small.write(commands.remove(small.state, "E1"))
    small.write(commands.delete_group(small.state, "staging"))
    mark("last")

    def at(name: str) -> Call:
        return asking.call(marks[name])

    edges, groups = asking.edges, asking.groups
    assert [await edges.list_edges(at(name)) for name in marks] == [[], ["E1"], ["E1", "E2"], ["E1", "E2"], ["E2"]]
    assert await edges.list_edges(asking.call(None)) == ["E2"]
    assert await groups.groups(at("one"), "e1") == []
    assert await groups.groups(at("first"), "e1", True) == ["staging", "all"]
    assert await groups.groups(at("second"), "e1") == []
    assert [one["version"] for one in await groups.group_models(at("first"), "STAGING")] == ["1.0"]
    assert [one["version"] for one in await groups.group_models(at("second"), "STAGING")] == ["2.0"]
    config = await edges.get_config(at("first"), "E1")
    assert (config["mode"], [model["version"] for model in config["models"]]) == ("INTERACTIVE", ["1.0"])
    config = await edges.get_config(at("second"), "E1")
    assert (config["mode"], config["models"]) == ("ONLINE", [])
    with pytest.raises(UnknownName) as caught:
        await groups.group_models(at("last"), "staging")
    assert caught.value.message == 'as of |2027-01-15T08:00:19Z|: no group "staging"'
    with pytest.raises(UnknownName) as caught:
        await groups.groups(at("last"), "E1")
    assert caught.value.message == 'as of |2027-01-15T08:00:19Z|: no edge "E1"'


async def test_what_was_told_then_is_what_the_past_tells(small: Small) -> None:
    """Whatever happens, a question about a moment is answered as it was at that moment, in any order of asking."""
    draw = random.Random(11)
    told: list[tuple[float, list[Any]]] = []
    asking = Asking(small)
    names = [f"E{number}" for number in range(6)]
    for name in names:
        small.edge(name)

    async def answers(as_of: float | None) -> list[Any]:
        call = asking.call(as_of)
        found: list[Any] = [await asking.edges.list_edges(call)]
        for name in found[0]:
            found.append(await asking.groups.groups(call, name))
            config = await asking.edges.get_config(call, name)
            found.append(config)
        return found

    for _ in range(60):
        name, group = draw.choice(names), draw.choice(["a", "b", "c"])
        match draw.randrange(4):
            case 0:
                small.write(commands.add_group(small.state, name, group))
            case 1 if small.state.group(group) is not None:
                small.write(commands.remove_group(small.state, name, group))
            case 2 if small.state.group(group) is not None:
                small.assign(group, draw.choice(["m@1.0", "m@2.0"]))
            case _:
                small.write(commands.set_mode(small.state, name, draw.choice(["ONLINE", "INTERACTIVE"])))
        told.append((small.now, await answers(None)))
    draw.shuffle(told)
    for moment, wanted in told:
        assert await answers(moment) == wanted


@pytest.mark.parametrize(
    ("as_of", "kind", "message"),
    [
        (
            NOW - 1,
            BeforeLog,
            "as of |2027-01-15T07:59:59Z| is before the log of changes begins, |2027-01-15T08:00:01Z|",
        ),
        (NOW + 3600, NotYet, "as of |2027-01-15T09:00:00Z| has not come: it is |2027-01-15T08:00:03Z|"),
    ],
)
async def test_moments_that_cannot_be_asked_about(
    small: Small, as_of: float, kind: type[Problem], message: str
) -> None:
    asking = Asking(small)
    with pytest.raises(kind) as caught:
        await asking.edges.list_edges(asking.call(as_of))
    assert caught.value.message == message


async def test_a_clock_that_was_set_back_and_one_that_was_ahead() -> None:
    small = Small()
    numbered = iter(range(1, 100))

    def change(time: float) -> None:
        event = PropertySet(identity("E1"), "n", next(numbered))
        small.store.append([event], caller="ada", now=time)

    small.edge("E1")
    start = small.now
    change(start + 100)
    change(start + 10)  # counts from + 100
    change(start + 1e6)  # lies ahead: counts from + 100
    change(start + 200)
    small.now = start + 1000
    past = Past(small.store)

    async def number(as_of: float) -> Any:
        call = replace(small.call(), as_of=datetime.fromtimestamp(as_of, UTC))
        async with past.state(call) as state:
            return state.find_edge("E1").properties.get("n")

    assert [await number(start + later) for later in (50, 100, 150, 200, 1000, 50)] == [None, 3, 3, 4, 4, None]


async def test_reports_of_the_past(small: Small) -> None:
    asking = Asking(small)
    small.edge("E1", "staging")
    small.assign("staging", "m@1.0")
    before = small.now
    small.now = next(small.clock)
    small.report("E1")
    first = small.now
    small.now = next(small.clock)
    small.report("E1", "m@1.0", errors=(LoadError("m@2.0", "failed_vectors", "…", int(NOW)),))
    second = small.now
    small.now += 60

    state = await asking.edges.actual_state(asking.call(first), "E1")
    assert state == {"models:loaded": [], "last_load_errors": [], "edge_mode": "INTERACTIVE"}
    state = await asking.edges.actual_state(asking.call(second + 5), "E1")
    assert state["models:loaded"] == ["m@1.0"]
    with pytest.raises(NoReport, match=r'no report from "E1" by \|2027-01-15T08:00:'):
        await asking.edges.actual_state(asking.call(before), "E1")
    status = await asking.edges.status(asking.call(first), "E1")
    assert (status["converged"], status["models:desired"], status["models:loaded"]) == (False, ["m@1.0"], [])
    assert (status["connected"], status["last_seen"], status["next_poll"]) == (None, None, None)
    assert status["reported_at"] == datetime.fromtimestamp(first, UTC)
    assert status["lag"] == 1.0
    assert (await asking.edges.status(asking.call(before), "E1"))["reported_at"] is None
    now = await asking.edges.status(asking.call(None), "E1")
    assert (now["connected"], now["converged"]) == (True, True)


async def test_reports_that_are_not_kept(small: Small) -> None:
    asking = Asking(small)
    small.edge("E1")
    small.edge("E2")
    began = small.now
    for number in range(REPORTS_PER_EDGE_MAX + 5):
        small.now += 1
        small.report("E1", generation=number)
    with pytest.raises(NotKept, match=r"the report of E1 as of .* is not kept: the oldest that is is of"):
        await asking.edges.actual_state(asking.call(began + 3), "E1")
    with pytest.raises(NotKept):
        await asking.edges.status(asking.call(began + 3), "E1")
    assert await asking.edges.actual_state(asking.call(began + 8), "E1")
    small.clock = itertools.count(small.now + 1)
    removed = small.now
    small.write(commands.remove(small.state, "E1"))
    small.store.reports.forget(identity("E1"))
    small.now += 1
    with pytest.raises(NotKept, match="the reports of E1 are not kept: it was removed since"):
        await asking.edges.actual_state(asking.call(removed), "E1")


class Noting:
    """A log that notes from where it is read."""

    def __init__(self, store: FederationStore) -> None:
        self._store = store
        self.read: list[int] = []

    @property
    def state(self) -> FederationState:
        return self._store.state

    def read_from(self, seq: int) -> Iterator[Change]:
        self.read.append(seq)
        return self._store.read_from(seq)


async def test_folding_gives_way_and_goes_on_from_where_it_was() -> None:
    small = Small()
    small.edge("E1")
    start = small.now
    for number in range(3 * CHANGES_AT_ONCE):
        small.store.append([PropertySet(identity("E1"), "n", number)], caller="ada", now=start + number + 1)
    small.now += 10_000
    log = Noting(small.store)
    past = Past(log)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def number_at(as_of: float) -> Any:
        call = replace(small.call(), as_of=datetime.fromtimestamp(as_of, UTC))
        async with past.state(call) as state:
            return state.find_edge("E1").properties.get("n")

    beside = asyncio.create_task(others())
    assert await number_at(start + 2 * CHANGES_AT_ONCE) == 2 * CHANGES_AT_ONCE - 1
    assert turns >= 1
    passed = len(log.read)
    assert await number_at(start + 2 * CHANGES_AT_ONCE + 1) == 2 * CHANGES_AT_ONCE
    assert min(log.read[passed:]) > 2 * CHANGES_AT_ONCE
    assert await number_at(start + 1) == 0
    assert log.read[-1] == 1
    beside.cancel()


async def test_a_large_state_is_not_kept(small: Small) -> None:
    asking = Asking(small)
    small.edge("E1")
    await asking.edges.list_edges(asking.call(small.now))
    assert asking.past.kept_members == 3
    large = Past(small.store, kept_members_max=2)
    async with large.state(asking.call(small.now)) as state:
        assert state.member_count == 3
    assert large.kept_members == 0


async def test_questions_at_once_do_not_mix(small: Small) -> None:
    asking = Asking(small)
    marks = []
    for number in range(5):
        small.edge(f"E{number}")
        marks.append(small.now)
        small.now = next(small.clock)
    found = await asyncio.gather(*(asking.edges.list_edges(asking.call(mark)) for mark in [*marks, *reversed(marks)]))
    assert [len(names) for names in found] == [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]


async def test_a_question_that_is_cancelled_leaves_nothing_half_folded(small: Small) -> None:
    small.edge("E1")
    for number in range(3 * CHANGES_AT_ONCE):
        small.store.append([PropertySet(identity("E1"), "n", number)], caller="ada", now=small.now)
    small.now += 1
    asking = Asking(small)
    task = asyncio.create_task(asking.edges.list_edges(asking.call(small.now)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asking.edges.list_edges(asking.call(small.now)) == ["E1"]


def test_the_functions_with_a_past() -> None:
    found = {
        declared.signature
        for part in (EdgeFunctions, GroupFunctions)
        for declared in declarations(part)
        if declared.past
    }
    assert found == {
        "edge:list() -> Vector of String",
        "edge:status(String edge) -> Record",
        "edge:actual_state(String edge) -> Record",
        "edge:get_config(String edge) -> Record",
        "edge:groups(String edge, Boolean with_all?) -> Vector of String",
        "edge:group_models(String group) -> Vector of Record",
    }
