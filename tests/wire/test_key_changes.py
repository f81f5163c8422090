"""Keys that change while a federation lives: rotations without a failure, revocations that hold at the next poll."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from federation.errors import KeyRetired, KeyRevoked
from federation.keys import read_key
from peers.cli import main
from tests.wire.living import Living, living, publish, publisher_in, publisher_of_thermo

pytestmark = pytest.mark.timeout(120)

LOADED = "//peer: e1\nmodels:loaded()"


async def command(federation: Living, *arguments: str | Path, home: str = "ns-admin") -> int:
    """A command of the program, on a thread: exit status."""
    given = [str(argument) for argument in (*arguments, "--home", federation.home(home).path)]
    return await asyncio.to_thread(main, given)


async def change(federation: Living, *arguments: str | Path, root: str = "ns-root") -> None:
    assert await command(federation, "keys", *arguments, "--yes", "--root-home", federation.home(root).path) == 0


async def assign(federation: Living, version: str) -> None:
    await federation.value(f'edge:set_group_models("field", [{{"name": "thermo", "version": "{version}"}}])')


async def running_thermo(federation: Living) -> None:
    await publisher_of_thermo(federation)
    await federation.value('edge:add_group("e1", "field")')
    await assign(federation, "1.0")
    await federation.until(LOADED, ["thermo@1.0"])


async def errors(federation: Living, home: str | None = None) -> list[tuple[str, str]]:
    state = await federation.value('edge:actual_state("e1")', home=home)
    return [(error["model"], error["error"]) for error in state["last_load_errors"]]


async def until_errors(federation: Living, wanted: list[tuple[str, str]]) -> None:
    seen: Any = None
    try:
        async with asyncio.timeout(20):
            while True:
                seen = await errors(federation)
                if seen == wanted:
                    return
                await asyncio.sleep(0.05)  # a look at a live federation, bounded above
    except TimeoutError:
        raise AssertionError(f"wanted {wanted}, last {seen}") from None


async def test_what_is_kept_goes_on_and_nothing_else_of_the_key_runs(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await running_thermo(federation)
        await publish(federation, "thermo", "2.0")
        await change(federation, "revoke", "ada", "--running", "keep")
        await until_errors(federation, [("thermo@1.0", "revoked_key")])
        assert await federation.value(LOADED) == ["thermo@1.0"]
        told = (await federation.value('edge:actual_state("e1")'))["last_load_errors"][0]
        assert 'publisher "ada", which signed thermo@1.0, was revoked: it keeps answering' in told["message"]

        for text in ('edge:set_group_models("field", [{"name": "thermo", "version": "2.0"}])',):
            with pytest.raises(KeyRevoked):
                await federation.value(text)
        with pytest.raises(KeyRevoked):
            await federation.value('//peer: e1\nmodels:import("thermo", "2.0")')
        await federation.value('models:create_release("thermo", "3.0")', home="ada")
        refused = await federation.ask('models:publish("thermo", "3.0")', home="ada")
        assert "was revoked" in str(refused.errors[0])

        await federation.stop("e1")  # over a restart too
        await federation.start_edge("e1")
        assert await federation.value("models:loaded()", home="e1") == ["thermo@1.0"]
        assert await errors(federation) == [("thermo@1.0", "revoked_key")]


async def test_a_newer_one_that_was_assigned_is_refused_while_the_old_one_answers(tmp_path: Path) -> None:
    """The assignment came first, and the edge heard of both at once."""
    async with living(tmp_path, "e1") as federation:
        await running_thermo(federation)
        await publish(federation, "thermo", "2.0")
        await federation.stop("e1")
        await assign(federation, "2.0")
        await change(federation, "revoke", "ada", "--running", "keep")
        await federation.start_edge("e1")
        await until_errors(federation, [("thermo@1.0", "revoked_key"), ("thermo@2.0", "revoked_key")])
        assert await federation.value(LOADED) == ["thermo@1.0"]

        await publisher_in(federation, "bob")
        await federation.value('models:create("thermo")', home="bob")
        await publish(federation, "thermo", "3.0", home="bob")
        await assign(federation, "3.0")
        await federation.until(LOADED, ["thermo@3.0"])
        await until_errors(federation, [])


async def test_what_is_to_stop_stops_and_stays_away(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await running_thermo(federation)
        await change(federation, "revoke", "ada", "--running", "stop")
        await federation.until(LOADED, [])
        await until_errors(federation, [("thermo@1.0", "revoked_key")])
        await federation.stop("e1")
        await federation.start_edge("e1")
        assert await federation.value("models:loaded()", home="e1") == []
        assert await errors(federation) == [("thermo@1.0", "revoked_key")]
        await federation.value('edge:remove_group_models("field", ["thermo"])')
        await until_errors(federation, [])


async def test_manual_loads_and_other_peers_obey_the_same(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await publisher_in(federation)
        await federation.value('models:create("thermo")', home="ada")
        await publish(federation, "thermo", "1.0")
        await federation.until('edge:listening("e1")', wanted=True)
        await federation.value('//peer: e1\nmodels:import("thermo", "1.0")')
        await federation.value('//peer: nameserver\nmodels:load("thermo", "1.0")')
        assert await federation.value("//peer: nameserver\nmodels:loaded()") == ["thermo@1.0"]
        await change(federation, "revoke", "ada", "--running", "stop")
        assert await federation.value("//peer: nameserver\nmodels:loaded()") == []
        await federation.until(LOADED, [])
        await until_errors(federation, [("thermo@1.0", "revoked_key")])
        for peer in ("e1", "nameserver"):
            with pytest.raises(KeyRevoked):
                await federation.value(f'//peer: {peer}\nmodels:load("thermo", "1.0")')


async def test_directors_rotate_under_load_without_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Statements of an admin to every edge and polls of every edge go on while the director's key changes thrice."""
    caplog.set_level(logging.WARNING)
    edges = ("e1", "e2", "e3")
    async with living(tmp_path, *edges) as federation:
        for name in edges:
            await federation.until(f'edge:listening("{name}")', wanted=True)
        asked: asyncio.Queue[None] = asyncio.Queue()
        stop = asyncio.Event()

        async def load() -> None:
            async with federation.connection() as admin:
                while not stop.is_set():
                    answer = await admin.query("//peer: all\nthis_peer()")
                    assert answer.complete, (answer.errors, answer.ledgers)
                    assert sorted(row.value for row in answer) == ["E1", "E2", "E3"]
                    polled = await admin.query("//peer: all\nedge:poll()")
                    assert polled.complete, (polled.errors, polled.ledgers)
                    asked.put_nowait(None)

        caplog.clear()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(load())
            for version in (2, 3, 4):
                old = read_key(federation.home("ns").director_key)
                await change(federation, "rotate", "director")
                assert read_key(federation.home("ns").director_key) != old
                while not asked.empty():
                    asked.get_nowait()
                async with asyncio.timeout(30):
                    for _ in range(8):  # the load goes on under this key
                        await asked.get()
                for name in edges:
                    assert len(federation.home(name).roots()) == version
            stop.set()
        assert [r.getMessage() for r in caplog.records if r.getMessage() in ("poll_failed", "uplink_lost")] == []


async def test_a_publishers_key_rotates_and_the_home_switches(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await running_thermo(federation)
        home = federation.home("ada")
        old = read_key(home.publisher_key)
        assert await command(federation, "keys", "rotate", "publisher", "--yes", home="ada") == 0
        new = read_key(home.publisher_next_key)
        await publish(federation, "thermo", "1.1")  # the present key signs until the new one is endorsed
        await federation.value('models:create_release("thermo", "1.2")', home="ada")
        await change(federation, "endorse", "ada")
        with pytest.raises(KeyRetired):
            raise (await federation.ask('models:publish("thermo", "1.2")', home="ada")).errors[0]
        await publish(federation, "thermo", "1.3")
        assert read_key(home.publisher_key) == new != old
        assert not home.publisher_next_key.exists()
        await assign(federation, "1.3")
        await federation.until(LOADED, ["thermo@1.3"])
        await assign(federation, "1.1")  # what the old key signed stays good
        await federation.until(LOADED, ["thermo@1.1"])
        assert await errors(federation) == []


async def test_root_keys_rotate_and_old_bundles_still_pin(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        bundle = await federation.value('edge:register("e2")')
        new = federation.home("new-root")
        await change(federation, "rotate", "root", "--new-root-home", new.path)
        await change(federation, "rotate", "director", root="new-root")
        await federation.until('edge:listening("e1")', wanted=True)
        from peers.joining import join

        await join(federation.home("e2"), bundle)
        await federation.start_edge("e2")
        await federation.until('edge:listening("e2")', wanted=True)
        await federation.until('//peer: e1\nedge:poll()["models"]', [])
        assert len(federation.home("e2").roots()) == len(federation.home("ns-root").roots()) + 1 == 3
        status = await command(
            federation, "keys", "rotate", "director", "--yes", "--root-home", federation.home("ns-root").path
        )
        assert status == 1  # the old root key signs none
