"""An edge that was told to be on its own: it asks nobody, goes on with what it has, and tells of it afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation.documents import HistoryEntry, Mode, RootRecord, SignedDocument, decode
from federation.errors import Replay
from federation.keys import PrivateKey
from federation.names import digest_of
from federation.roots import advance
from peers.agent import Agent
from peers.device_mode import Autonomous
from peers.edge_polling import Poller, RootFollower
from peers.edge_store import EdgeStore
from peers.history import DETAIL_LENGTH_MAX, ENTRIES_MAX, Journal
from query.errors import WorldProblem
from tests.turn.bench import EDGE, START, Bench, HeldTrust

AWAY = WorldProblem("nobody is there")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def settled() -> None:
    """Let everything that can go on go on."""
    for _ in range(200):
        await asyncio.sleep(0)


def events(agent: Agent) -> list[tuple[str, str]]:
    return [(entry.event, entry.detail) for entry in agent.history]


async def carried(bench: Bench, agent: Agent) -> None:
    """What a file does: the director's answer reaches the edge by hand."""
    answer = await Poller(bench.nameserver, bench.trust, federation="f", edge=EDGE).ask(
        agent.cursor, status="", now=bench.clock.now
    )
    records = frozenset(digest_of(document.payload) for document in answer.records)
    for record in records:
        bench.shelf.here[record] = bench.shelf.offered[record]
    await agent.take(answer, carried=records)


async def loaded(bench: Bench, *labels: str) -> None:
    for _ in range(200_000):
        if bench.engine.labels() == sorted(labels):
            return
        await asyncio.sleep(0)
    raise AssertionError(f"in memory is {bench.engine.labels()}, expected {labels}")


async def test_it_neither_polls_nor_reports(bench: Bench) -> None:
    bench.nameserver.assign(bench.published("m", "1.0"))
    async with bench.running(autonomous=True) as agent:
        for _ in range(20):
            bench.clock.advance(60.0)
            await settled()
        agent.nudge()
        await settled()
        assert agent.mode == "AUTONOMOUS"
        assert bench.modes == ["AUTONOMOUS"]
        assert bench.nameserver.polls == []
        assert bench.nameserver.reports.empty()
        assert agent.contact.state == "never"
        with pytest.raises(Autonomous, match="this edge is AUTONOMOUS: it opens no connection"):
            await agent.poll_now()


async def test_what_comes_by_file_is_acted_on_by_the_same_turn(bench: Bench) -> None:
    bench.nameserver.assign(bench.published("m", "1.0"))
    async with bench.running(autonomous=True) as agent:
        await carried(bench, agent)
        await loaded(bench, "m@1.0")
        bench.nameserver.assign(bench.published("m", "2.0"))
        await carried(bench, agent)
        await loaded(bench, "m@2.0")
        assert agent.mode == "AUTONOMOUS"  # whatever the state says
        assert bench.shelf.fetches == []
        assert events(agent) == [("loaded", "m@1.0"), ("loaded", "m@2.0")]
    async with bench.running(autonomous=True):
        await loaded(bench, "m@2.0")
        assert bench.nameserver.reports.empty()


async def test_entering_stops_polls_and_reports_at_once(bench: Bench) -> None:
    bench.nameserver.assign(bench.published("m", "1.0"))
    async with bench.running() as agent:
        await bench.loaded("m@1.0")
        polls = len(bench.nameserver.polls)
        agent.become_autonomous(since=int(START))
        for _ in range(10):
            bench.clock.advance(30.0)
            await settled()
        assert len(bench.nameserver.polls) == polls
        await agent.unload_manual("m")
        await settled()
        assert bench.nameserver.reports.empty()
        assert events(agent) == [("autonomous", ""), ("unloaded", "m")]


async def test_the_first_report_afterwards_tells_what_was_done_and_is_then_forgotten(bench: Bench) -> None:
    release = bench.published("m", "1.0")
    bench.nameserver.assign(release)
    async with bench.running(autonomous=True) as agent:
        await carried(bench, agent)
        await loaded(bench, "m@1.0")
        agent.end_autonomous("INTERACTIVE")
        told = await bench.reported(lambda report: report.mode == "INTERACTIVE")
        assert [(entry.event, entry.detail) for entry in told.history] == [
            ("loaded", "m@1.0"),
            ("left", "INTERACTIVE"),
        ]
        await settled()
        assert agent.history == ()
        assert agent.actual_state().history == ()
        assert bench.nameserver.reports.empty()  # the one report said all
    async with bench.running() as agent:
        assert agent.history == ()


async def test_a_history_that_was_not_acknowledged_is_told_again(bench: Bench) -> None:
    bench.nameserver.assign(bench.published("m", "1.0"))
    bench.nameserver.report_problem = AWAY
    async with bench.running(autonomous=True) as agent:
        await carried(bench, agent)
        await loaded(bench, "m@1.0")
        agent.end_autonomous("ONLINE")
        await settled()
        assert len(agent.history) == 2
    bench.nameserver.report_problem = None
    async with bench.running() as agent:
        bench.clock.advance(1.0)
        told = await bench.reported(lambda report: True)
        assert len(told.history) == 2
        await settled()
        assert agent.history == ()


async def test_a_failing_model_is_noted_once(bench: Bench) -> None:
    release = bench.published("m", "1.0")
    bench.nameserver.assign(release)
    bench.shelf.problem = AWAY
    async with bench.running(autonomous=True) as agent:
        answer = await Poller(bench.nameserver, bench.trust, federation="f", edge=EDGE).ask(
            None, status="", now=bench.clock.now
        )
        await agent.take(answer, carried=frozenset())
        for _ in range(30):
            bench.clock.advance(400.0)
            await settled()
        assert len(bench.shelf.fetches) > 5
        assert events(agent) == [("failed", f"m@1.0: {AWAY.code}")]


@pytest.mark.parametrize("mode", ["INTERACTIVE", "ONLINE"])
async def test_after_leaving_the_nameserver_says_which_mode(bench: Bench, mode: Mode) -> None:
    async with bench.running(autonomous=True) as agent:
        agent.end_autonomous(mode)
        await bench.reported(lambda report: report.mode == "INTERACTIVE" and report.generation > 0)
        assert agent.mode == "INTERACTIVE"


async def test_what_a_file_brought_stays_until_another_takes_its_place(bench: Bench) -> None:
    old = bench.published("m", "1.0")
    new = bench.published("m", "2.0")
    newest = bench.published("m", "3.0")
    bench.nameserver.assign(new)
    async with bench.running(autonomous=True) as agent:
        answer = await Poller(bench.nameserver, bench.trust, federation="f", edge=EDGE).ask(
            None, status="", now=bench.clock.now
        )
        await agent.take(answer, carried=frozenset({old.record, new.record}))
        for release in (old, new):
            bench.shelf.here[release.record] = release
        await agent.look_again()
        await loaded(bench, "m@2.0")
        await settled()
        assert set(bench.shelf.here) == {old.record, new.record}
        await agent.load_manual("m", "1.0", old.record)  # to go back needs no file
        assert bench.engine.labels() == ["m@1.0"]
        bench.nameserver.assign(newest)
        await carried(bench, agent)
        await loaded(bench, "m@3.0")
        while new.record in bench.shelf.here:  # removed on a thread, once nothing is under way
            await settled()
        assert newest.record in bench.shelf.here


async def test_nothing_is_pruned_while_a_file_is_read_and_no_other_file_is(bench: Bench) -> None:
    """The file may hold less than its releases need: what is here already is counted on."""
    for version in ("1.0", "2.0", "3.0"):
        bench.published("m", version)
    offered = {release.label: release for release in bench.shelf.offered.values()}
    bench.nameserver.assign(offered["m@1.0"])
    async with bench.running() as agent:
        await bench.loaded("m@1.0")
        bench.nameserver.assign(offered["m@2.0"])
        await bench.poll(agent)
        await bench.loaded("m@2.0")
        entered = asyncio.Event()

        async def another() -> None:
            async with agent.bringing():
                entered.set()

        async with agent.bringing():
            waiting = asyncio.create_task(another())
            bench.nameserver.assign(offered["m@3.0"])
            await bench.poll(agent)
            await bench.loaded("m@3.0")
            await settled()
            assert (len(bench.shelf.here), entered.is_set()) == (3, False)
        await waiting
        for _ in range(200_000):
            if offered["m@1.0"].record not in bench.shelf.here:
                break
            await asyncio.sleep(0)
        assert offered["m@1.0"].record not in bench.shelf.here


async def test_a_poll_that_a_file_crosses_wins_when_it_is_newer(bench: Bench) -> None:
    bench.nameserver.assign(bench.published("m", "1.0"))
    async with bench.running() as agent:
        await bench.loaded("m@1.0")
        old = await Poller(bench.nameserver, bench.trust, federation="f", edge=EDGE).ask(
            None, status="", now=bench.clock.now
        )
        bench.nameserver.assign(bench.published("m", "2.0"))
        await bench.poll(agent)
        await bench.loaded("m@2.0")
        standing = agent.cursor
        with pytest.raises(Replay, match="was overtaken by"):
            await agent.take(old, carried=frozenset())
        assert agent.cursor == standing
        assert bench.engine.labels() == ["m@2.0"]


class TestJournal:
    def test_it_is_bounded_and_outlives_the_process(self, tmp_path: Path) -> None:
        store = EdgeStore.open(tmp_path / "state.db")
        journal = Journal(store, recording=True)
        for number in range(ENTRIES_MAX + 20):
            journal.note("loaded", f"m@{number} {'x' * 1000}", now=number)
        assert len(journal.entries) == ENTRIES_MAX
        assert len(journal.entries[-1].detail) == DETAIL_LENGTH_MAX
        store.close()
        again = Journal(EdgeStore.open(tmp_path / "state.db"))
        assert again.entries == journal.entries
        assert again.entries[0].time == 20

    def test_only_what_was_told_is_forgotten(self, tmp_path: Path) -> None:
        store = EdgeStore.open(tmp_path / "state.db")
        journal = Journal(store, recording=True)
        journal.note("loaded", "m@1.0", now=1.0)
        told = journal.entries
        journal.note("unloaded", "m", now=2.0)
        journal.acknowledged(told)
        assert journal.entries == (HistoryEntry(2, "unloaded", "m"),)
        journal.acknowledged(told)
        assert len(journal.entries) == 1
        store.close()
        assert len(Journal(EdgeStore.open(tmp_path / "state.db")).entries) == 1

    def test_it_notes_nothing_while_the_edge_is_watched(self) -> None:
        journal = Journal(EdgeStore.open())
        journal.note("loaded", "m@1.0", now=1.0)
        assert journal.entries == ()

    def test_numbers_of_reports_grow_and_begin_at_the_time(self, tmp_path: Path) -> None:
        store = EdgeStore.open(tmp_path / "state.db")
        assert [store.next_sequence(now) for now in (1000.0, 1000.0, 10.0, 5000.0)] == [1000, 1001, 1002, 5000]
        store.close()
        assert EdgeStore.open(tmp_path / "state.db").next_sequence(0.0) == 5001


async def test_a_root_record_that_a_file_brings_while_it_is_asked_for_is_no_alarm(bench: Bench) -> None:
    for name in ("one", "two"):
        bench.nameserver.endorse(name, PrivateKey(name.encode() * 8 + b"12345678"))
    documents = bench.nameserver.store.state.root_documents

    class Crossing:
        async def root(self, version: int) -> SignedDocument:
            if version == 2 and bench.trust.root.version == 1:
                bench.trust.extend(documents[1], advance(bench.trust.root, documents[1]))
            return await bench.nameserver.root(version)

    bench.trust = HeldTrust(decode(documents[0].payload, RootRecord))
    assert await RootFollower(Crossing(), bench.trust).follow()  # type: ignore[arg-type]
    assert bench.trust.root.version == 3
