"""Releases that need each other on an agent over parts in memory: order, restarts, requests that come in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation import commands
from federation.keys import PrivateKey
from federation.needs import NeedsUnmet, StillNeeded
from federation.reconciliation import dismissed
from federation.revocation import revoke
from federation.roots import sign_root
from federation.verification import VerifiedRelease
from query.errors import Problem
from tests.turn.bench import ROOT, Bench
from tests.world.releases import FAILS, made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_what_is_needed_is_loaded_first_and_restored_first_and_goes_last(bench: Bench) -> None:
    bench.published("z", "1.0")
    m = bench.published("m", "1.0", needs={"z": ">=1"})
    bench.nameserver.assign(bench.published("a", "1.0", needs={"m": ">=1"}))
    async with bench.running():
        await bench.loaded("a@1.0", "m@1.0", "z@1.0")
        assert bench.engine.history == ["load z@1.0", "load m@1.0", "load a@1.0"]
    assert m.record in bench.shelf.here
    bench.nameserver.problem = Problem("down")
    async with bench.running() as agent:
        assert bench.engine.history == ["load z@1.0", "load m@1.0", "load a@1.0"]
        bench.nameserver.problem = None
        bench.nameserver.unassign("a")
        await bench.poll(agent)
        await bench.loaded()
        assert bench.engine.history[3:] == ["unload a", "unload m", "unload z"]


async def test_a_need_that_fails_is_reported_with_the_chain_until_it_is_mended(bench: Bench) -> None:
    bench.published("z", "1.0", content=FAILS)
    bench.nameserver.assign(bench.published("a", "1.0", needs={"z": ">=1"}))
    async with bench.running() as agent:
        report = await bench.reported(lambda report: len(report.errors) == 2)
        assert {error.model: error.error for error in report.errors} == {
            "a@1.0": "needs_unmet",
            "z@1.0": "failed_vectors",
        }
        assert report.errors[0].message.startswith("a@1.0 needs z>=1: z@1.0 does not run: z@1.0 answers vector 1")
        bench.nameserver.assign(bench.published("z", "1.1"))
        await bench.poll(agent)
        report = await bench.loaded("a@1.0", "z@1.1")
        assert report.errors == ()
        assert bench.engine.trials.count("z@1.0") == 1


async def test_versions_that_only_go_together_change_together(bench: Bench) -> None:
    bench.published("z", "1.0")
    bench.nameserver.assign(bench.published("a", "1.0", needs={"z": "<2"}))
    async with bench.running() as agent:
        await bench.loaded("a@1.0", "z@1.0")
        bench.published("z", "2.0")
        bench.nameserver.assign(bench.published("a", "2.0", needs={"z": ">=2"}))
        await bench.poll(agent)
        await bench.loaded("a@2.0", "z@2.0")
        assert bench.engine.history[2:] == ["unload a", "load z@2.0", "load a@2.0"]


async def test_a_request_is_refused_at_once_when_it_would_break_a_need(bench: Bench) -> None:
    z, other = bench.published("z", "1.0"), bench.published("z", "2.0")
    a = bench.published("a", "1.0", needs={"z": "<2"})
    for release in (z, other, a):
        bench.shelf.here[release.record] = release
    async with bench.running() as agent:
        with pytest.raises(NeedsUnmet, match=r"a@1.0 needs z<2: no z is loaded here"):
            await agent.load_manual("a", "1.0", a.record)
        await agent.load_manual("z", "1.0", z.record)
        await agent.load_manual("a", "1.0", a.record)
        with pytest.raises(StillNeeded, match=r"a@1.0 needs z<2, so z@2.0 cannot take its place"):
            await agent.load_manual("z", "2.0", other.record)
        with pytest.raises(StillNeeded, match=r"a@1.0 needs z<2, so it stays"):
            await agent.unload_manual("z")
        await agent.unload_manual("a")
        await agent.unload_manual("z")
        assert bench.engine.labels() == []


async def test_a_request_under_way_keeps_what_it_needs_and_the_group_is_told(bench: Bench) -> None:
    z, newer = bench.published("z", "1.0"), bench.published("z", "2.0")
    a = bench.published("a", "1.0", needs={"z": "<2"})
    for release in (z, a, newer):
        bench.shelf.here[release.record] = release
    async with bench.running() as agent:
        await agent.load_manual("z", "1.0", z.record)
        bench.engine.trying, bench.engine.begun = asyncio.Event(), asyncio.Event()
        request = asyncio.create_task(agent.load_manual("a", "1.0", a.record))
        await bench.engine.begun.wait()
        bench.nameserver.assign(newer)
        await bench.poll(agent)
        bench.engine.trying.set()
        assert (await request).label == "a@1.0"
        report = await bench.reported(lambda report: bool(report.errors))
        assert [(error.model, error.error, error.message) for error in report.errors] == [
            ("z@2.0", "still_needed", "z@2.0 waits: a@1.0, which is loaded, needs z<2")
        ]
        assert bench.engine.labels() == ["a@1.0", "z@1.0"]
        await agent.unload_manual("a")
        await bench.loaded("z@2.0")


async def test_a_request_whose_need_is_taken_away_meanwhile_is_told_and_forgotten(bench: Bench) -> None:
    other = PrivateKey(b"o" * 32)
    bench.nameserver.endorse("other", other)
    z = made("z", "1.0", other)
    a = bench.published("a", "1.0", needs={"z": ">=1"})
    for release in (z, a):
        bench.shelf.here[release.record] = release
    async with bench.running() as agent:
        await bench.poll(agent)
        await agent.load_manual("z", "1.0", z.record)
        bench.engine.trying, bench.engine.begun = asyncio.Event(), asyncio.Event()
        request = asyncio.create_task(agent.load_manual("a", "1.0", a.record))
        await bench.engine.begun.wait()
        root = revoke(bench.nameserver.store.state.root, [other.keyid], running="stop", now=bench.clock.now())
        bench.nameserver.change(commands.set_root(bench.nameserver.store.state, sign_root(root, ROOT)))
        await bench.poll(agent)
        bench.engine.trying.set()
        with pytest.raises(NeedsUnmet, match=r"a@1.0 needs z>=1"):
            await request
        report = await bench.reported(lambda report: bool(report.errors) and not report.loaded)
        assert [error.model for error in report.errors] == ["z@1.0"]
        assert bench.engine.labels() == []


async def test_a_revoked_release_makes_way_for_what_the_same_answer_wants(bench: Bench) -> None:
    """No other poll is needed for it; and where the edge is killed before it could stop it, it is not there again."""
    other = PrivateKey(b"o" * 32)
    bench.nameserver.endorse("other", other)
    z = made("z", "1.0", other)
    bench.nameserver.publish(z)
    bench.shelf.offered[z.record] = z
    bench.nameserver.assign(z)
    async with bench.running() as agent:
        await bench.loaded("z@1.0")
        root = revoke(bench.nameserver.store.state.root, [other.keyid], running="stop", now=bench.clock.now())
        bench.nameserver.change(commands.set_root(bench.nameserver.store.state, sign_root(root, ROOT)))
        bench.nameserver.assign(bench.published("z", "2.0"))
        await bench.poll(agent)
        await bench.loaded("z@2.0")
        assert bench.engine.history[1:] == ["unload z", "load z@2.0"]


async def test_what_could_not_be_restored_needs_no_unloading(bench: Bench) -> None:
    """Killed after a person's word was kept and before it was done; meanwhile its files were damaged."""
    z = bench.published("z", "1.0")
    bench.shelf.here[z.record] = z
    async with bench.running() as agent:
        await bench.poll(agent)
        await agent.load_manual("z", "1.0", z.record)
        known = agent._state.actual
        agent._state.keep(dismissed(known, "z"))
    del bench.shelf.here[z.record], bench.shelf.offered[z.record]
    async with bench.running() as agent:
        await bench.reported(lambda report: not report.loaded)
        assert (bench.engine.history.count("unload z"), agent._state.actual.goals) == (1, {})
        assert agent._state.actual.restoring == {}


async def test_what_is_revoked_takes_along_what_needs_it(bench: Bench) -> None:
    other = PrivateKey(b"o" * 32)
    bench.nameserver.endorse("other", other)
    z = made("z", "1.0", other)
    bench.nameserver.publish(z)
    bench.shelf.offered[z.record] = z
    bench.nameserver.assign(bench.published("a", "1.0", needs={"z": ">=1"}))
    async with bench.running() as agent:
        await bench.loaded("a@1.0", "z@1.0")
        root = revoke(bench.nameserver.store.state.root, [other.keyid], running="stop", now=bench.clock.now())
        bench.nameserver.change(commands.set_root(bench.nameserver.store.state, sign_root(root, ROOT)))
        await bench.poll(agent)
        report = await bench.reported(lambda report: bool(report.errors) and not report.loaded)
        assert bench.engine.history[2:] == ["unload a", "unload z"]
        assert {error.model: error.error for error in report.errors} == {"a@1.0": "needs_unmet", "z@1.0": "revoked_key"}
        bench.nameserver.assign(bench.published("z", "1.1"))
        await bench.poll(agent)
        await bench.loaded("a@1.0", "z@1.1")


async def test_memory_holds_at_every_moment(bench: Bench) -> None:
    """Whatever the engine is told, in whatever order: what a release needs is beside it."""
    seen: list[str] = []
    versions = {}
    for number in (1, 2, 3):
        bench.published("z", f"{number}.0")
        versions[number] = bench.published("a", f"{number}.0", needs={"z": f"=={number}.0"})

    def broken(memory: dict[str, VerifiedRelease]) -> bool:
        return "a" in memory and ("z" not in memory or memory["z"].record.version != memory["a"].record.version)

    async with bench.running() as agent:
        for number in (1, 3, 2, 1):
            bench.nameserver.assign(versions[number])
            await bench.poll(agent)
            await bench.loaded(f"a@{number}.0", f"z@{number}.0")
            if broken(bench.engine.memory):
                seen.append(f"{number}: {bench.engine.labels()}")
        memory: dict[str, str] = {}
        for step in bench.engine.history:
            verb, _, what = step.partition(" ")
            name, _, version = what.partition("@")
            memory = memory | {name: version} if verb == "load" else {k: v for k, v in memory.items() if k != name}
            assert "a" not in memory or memory.get("z") == memory["a"], bench.engine.history
    assert seen == []
