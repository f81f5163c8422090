"""A living federation and an edge that leaves it, lives on files, and comes back."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from federation.errors import RemovedPeer
from federation.keys import read_key
from federation.layout import ImageLayout
from peers.device_mode import Autonomous, enter, mode_file
from peers.exporting import ClientSource, Exported, LayoutSource, new_file, write_export
from peers.homes import HomeInUse, NotJoined
from peers.joining import AlreadyJoined, join
from peers.local_parts import opened_client
from peers.setting_texts import BadSetting
from query.errors import Forbidden, Problem, WrongArguments
from tests.wire.living import Living, living, publish, publisher_in

DAY_S = 86_400.0


async def with_models(federation: Living, *versions: str, name: str = "m") -> None:
    home = await publisher_in(federation)
    folder = home.models / name
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(f'name = "{name}"\nkind = "functions"\nfunctions = ["f.pql"]\n')
    (folder / "f.pql").write_text(f"create function {name}_answer() -> Number as 42;\n")
    for version in versions:
        await publish(federation, name, version)


async def assigned(federation: Living, version: str, *, name: str = "m") -> None:
    await federation.value(f'edge:set_group_models("all", [{{"name": "{name}", "version": "{version}"}}])')


async def exported(
    federation: Living, path: Path, edge: str = "e1", *, by: str = "ns-admin", groups: bool = False
) -> str:
    """Write a file for an edge as the command does; the fingerprint that is shown."""
    told = await federation.value(
        "//peer: nameserver\nedge:export(:edge, :groups)", home=by, params={"edge": "e1", "groups": False}
    )
    async with opened_client(federation.home(by), None, clock=time.time) as client:
        source = ClientSource(client) if by != "ns" else LayoutSource(ImageLayout(federation.home("ns").releases))
        async with new_file(path) as stream:
            written = await write_export(Exported.of(told), stream, source=source)
    return str(written["fingerprint"])


async def failing(federation: Living, text: str, *, home: str, **params: Any) -> Problem:
    answer = await federation.ask(text, home=home, params=params)
    assert answer.errors, answer.rows
    return answer.errors[0]


async def test_an_edge_leaves_lives_on_files_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="peerage")
    async with living(tmp_path, "e1") as federation:
        await with_models(federation, "1.0", "2.0")
        await assigned(federation, "1.0")
        await federation.until("models:loaded()", ["m@1.0"], home="e1")
        # it leaves: told at once, and gone
        assert (await federation.value('edge:mode("AUTONOMOUS")', home="e1"))["mode"] == "AUTONOMOUS"
        status = await federation.value('edge:status("e1")')
        assert (status["edge_mode"], status["mode"]) == ("AUTONOMOUS", "INTERACTIVE")
        await federation.until('edge:listening("e1")', wanted=False)
        assert await federation.value("m_answer()", home="e1") == 42
        # nothing reaches it, nothing goes out
        answer = await federation.ask("//peer: e1\nmodels:loaded()")
        assert str(answer.ledgers[0].outcomes[0]) == "refused(autonomous)"
        outwards = ("//peer: nameserver\nedge:list()", "//peer: all\nnow()", 'models:import("m", "2.0")')
        for text in ("edge:poll()", *outwards):
            assert isinstance(await failing(federation, text, home="e1"), Autonomous), text
        await assigned(federation, "2.0")
        assert await federation.value("models:loaded()", home="e1") == ["m@1.0"]
        # a file reaches it
        await exported(federation, tmp_path / "e1.tar")
        told = await federation.value("edge:import(:file)", home="e1", params={"file": str(tmp_path / "e1.tar")})
        assert (told["new"], told["models"]) == (True, ["m@2.0"])
        await federation.until("models:loaded()", ["m@2.0"], home="e1")
        # and its word comes back by file
        report = await federation.value("edge:make_report()", home="e1")
        taken = await federation.value("edge:take_report(:document)", params={"document": report})
        assert (taken["new"], taken["models:loaded"]) == (True, ["m@2.0"])
        assert (await federation.value('edge:actual_state("e1")'))["models:loaded"] == ["m@2.0"]
        history = [row.value for row in (await federation.ask('edge:history("e1")')).checked()]
        assert [(entry["event"], entry["carried"]) for entry in history] == [
            ("autonomous", True),
            ("imported", True),
            ("loaded", True),
        ]
        lines = [json.loads(row.value)["event"] for row in (await federation.ask('edge:carried_log("e1")')).checked()]
        assert "loaded" in lines
        # it survives its process
        await federation.stop("e1")
        await federation.start_edge("e1")
        assert (await federation.value("edge:mode()", home="e1"))["mode"] == "AUTONOMOUS"
        assert await federation.value("models:loaded()", home="e1") == ["m@2.0"]
        # and it comes back
        assert (await federation.value('edge:mode("ONLINE")', home="e1"))["since"] is None
        await federation.until('edge:listening("e1")', wanted=True)
        history = [row.value for row in (await federation.ask('edge:history("e1")')).checked()]
        events = [entry["event"] for entry in history]
        assert (events[:4], events[-1]) == (["autonomous", "imported", "loaded", "stopped"], "left")
        assert not mode_file(federation.home("e1")).exists()
        assert not (await federation.ask("edge:history()", home="e1")).rows


async def test_what_only_the_person_on_the_device_may(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.until('edge:listening("e1")', wanted=True)
        for text in ('edge:mode("AUTONOMOUS")', 'edge:import("/x")', 'edge:attach("/x", "y")', "edge:make_report()"):
            problem = await failing(federation, f"//peer: e1\n{text}", home="ns-admin")
            assert isinstance(problem, Forbidden), text
            assert "is for who is on the device, and admin asks from elsewhere" in problem.message
        assert (await federation.value("//peer: e1\nedge:mode()"))["mode"] == "INTERACTIVE"
        problem = await failing(federation, 'edge:mode("ONLINE")', home="e1")
        assert isinstance(problem, WrongArguments)
        assert problem.hint == 'at the nameserver: edge:set_mode("e1", "ONLINE")'
        assert isinstance(await failing(federation, 'edge:mode("sleeping")', home="e1"), WrongArguments)
        assert isinstance(await failing(federation, 'edge:import("e1.tar")', home="e1"), WrongArguments)


async def test_an_import_on_a_connected_edge_is_one_more_answered_poll(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await with_models(federation, "1.0", "2.0")
        await assigned(federation, "1.0")
        await federation.until("models:loaded()", ["m@1.0"], home="e1")
        await exported(federation, tmp_path / "old.tar", by="ns")
        await assigned(federation, "2.0")
        await federation.until("models:loaded()", ["m@2.0"], home="e1")
        problem = await failing(federation, "edge:import(:file)", home="e1", file=str(tmp_path / "old.tar"))
        assert problem.code == "replay"
        await exported(federation, tmp_path / "new.tar")
        told = await federation.value("edge:import(:file)", home="e1", params={"file": str(tmp_path / "new.tar")})
        assert told["new"] is False
        assert await federation.value("models:loaded()", home="e1") == ["m@2.0"]


async def test_a_device_that_never_joined_becomes_an_edge_by_file_and_joins_later(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await with_models(federation, "1.0")
        await assigned(federation, "1.0")
        bundle = await federation.value('edge:register("e1")')
        other = await federation.value('edge:register("e2")')
        fingerprint = await exported(federation, tmp_path / "e1.tar")
        record = await federation.start_edge("e1", mode="AUTONOMOUS")
        assert record.name == "EDGE"
        params = {"file": str(tmp_path / "e1.tar")}
        assert isinstance(await failing(federation, "edge:import(:file)", home="e1", **params), WrongArguments)
        wrong = await failing(federation, "edge:attach(:file, :typed)", home="e1", **params, typed="ab" * 32)
        assert wrong.code == "wrong_root"
        told = await federation.value("edge:attach(:file, :typed)", home="e1", params=params | {"typed": fingerprint})
        assert told == {"edge": "E1", "federation": federation.home("ns").membership().federation}
        await anew(federation, record.started)
        assert (await federation.value("edge:import(:file)", home="e1", params=params))["models"] == ["m@1.0"]
        await federation.until("models:loaded()", ["m@1.0"], home="e1")
        uuid = federation.home("e1").membership().uuid
        # a report of a key that nobody here knows
        report = await federation.value("edge:make_report()", home="e1")
        assert (await failing(federation, "edge:take_report(:doc)", home="ns-admin", doc=report)).code == "unknown_key"
        key = read_key(federation.home("e1").identity_key).keyid
        taken = await federation.value("edge:take_report(:doc, :key)", params={"doc": report, "key": key})
        assert taken["new"] is True
        again = await federation.value("edge:take_report(:doc, :key)", params={"doc": report, "key": key})
        assert again["new"] is False
        # leaving goes through a join
        assert isinstance(await failing(federation, 'edge:mode("ONLINE")', home="e1"), NotJoined)
        with pytest.raises(HomeInUse):
            await join(federation.home("e1"), bundle)
        await federation.stop("e1")
        with pytest.raises(AlreadyJoined, match="by an imported file: the bundle is for edge e2"):
            await join(federation.home("e1"), other)
        membership = await join(federation.home("e1"), bundle)
        assert membership.uuid == uuid
        await federation.start_edge("e1")
        await federation.until('edge:listening("e1")', wanted=True)
        assert await federation.value("//peer: e1\nmodels:loaded()") == ["m@1.0"]
        with pytest.raises(AlreadyJoined, match="is the home of edge e1"):
            await join(federation.home("e1"), bundle)


async def anew(federation: Living, started: float) -> None:
    """Until the device is put together as what it has become."""
    async with asyncio.timeout(20):
        while (run := federation.home("e1").read_run()) is None or run.started == started:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # a file of another task, bounded above


async def test_an_edge_that_was_removed_meanwhile_stays_on_its_own(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await with_models(federation, "1.0")
        await assigned(federation, "1.0")
        await federation.until("models:loaded()", ["m@1.0"], home="e1")
        await federation.value('edge:mode("AUTONOMOUS")', home="e1")
        report = await federation.value("edge:make_report()", home="e1")
        await federation.value('edge:remove("e1")')
        assert isinstance(await failing(federation, 'edge:mode("ONLINE")', home="e1"), RemovedPeer)
        assert (await federation.value("edge:mode()", home="e1"))["mode"] == "AUTONOMOUS"
        assert await federation.value("models:loaded()", home="e1") == ["m@1.0"]
        assert isinstance(await failing(federation, "edge:poll()", home="e1"), Autonomous)
        problem = await failing(federation, "edge:take_report(:doc)", home="ns-admin", doc=report)
        assert "whom nobody here knows" in problem.message


async def test_a_certificate_that_expired_long_ago_is_renewed_on_the_way_back(tmp_path: Path) -> None:
    offset = 0.0
    clocks = {name: lambda: time.time() + offset for name in ("ns", "e1")}
    async with living(tmp_path, "e1", clocks=clocks) as federation:
        await federation.value('edge:mode("AUTONOMOUS")', home="e1")
        before = federation.home("e1").membership().not_after
        offset = 90 * DAY_S
        assert (await federation.value('edge:mode("INTERACTIVE")', home="e1"))["mode"] == "INTERACTIVE"
        assert federation.home("e1").membership().not_after > before
        await federation.until('edge:listening("e1")', wanted=True, home="ns")


async def test_a_nameserver_that_is_gone_keeps_the_mode_as_it_is(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.value('edge:mode("AUTONOMOUS")', home="e1")
        await federation.stop("ns")
        problem = await failing(federation, 'edge:mode("ONLINE")', home="e1")
        assert problem.code == "nameserver_unreachable"
        assert (await federation.value("edge:mode()", home="e1"))["mode"] == "AUTONOMOUS"
        assert mode_file(federation.home("e1")).exists()


async def test_a_listener_beyond_the_device_is_refused_with_its_setting(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        with pytest.raises(BadSetting, match=r'application_host is "0\.0\.0\.0": an AUTONOMOUS edge listens'):
            await federation.start_edge("e1", mode="AUTONOMOUS", application_host="0.0.0.0")
        assert not mode_file(federation.home("e1")).exists()
        enter(federation.home("e1"), now=1.0)
        with pytest.raises(BadSetting):
            await federation.start_edge("e1", application_host="192.0.2.1")
        await federation.start_edge("e1", application_host="127.0.0.1")
