"""The life of releases as people see it: made alike everywhere, listed, told, deprecated, deleted, and back again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from peers.examining import examine
from tests.wire.living import Living, living, publisher_in

ON_NAMESERVER = "//peer: nameserver\n"
FILES = {
    "model.toml": 'name = "m"\nkind = "functions"\nfunctions = ["f.pql", "g.pql"]\ndocs = ["README.md"]\n'
    'licenses = ["MIT"]\n\n[needs]\nmemory_bytes = 1000\n',
    "f.pql": "create function m_answer() -> Number as 42;\n",
    "g.pql": "create function m_question() -> Number as m_answer();\n",
    "README.md": "# A model\n",
}


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "e1") as made:
        await publisher_in(made)
        yield made


def write_model(folder: Path, *, reverse: bool = False, marker: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in reversed(FILES.items()) if reverse else FILES.items():
        (folder / name).write_text(text + (marker if name == "README.md" else ""))


async def released(federation: Living, *versions: str, publish: bool = True, marker: str = "") -> None:
    write_model(federation.home("ada").models / "m", marker=marker)
    for version in versions:
        await federation.value(f'models:create_release("m", "{version}")', home="ada")
        if publish:
            await federation.value(f'models:publish("m", "{version}")', home="ada")


async def assigned(federation: Living, version: str) -> dict[str, Any]:
    answer = await federation.value(
        "edge:set_group_models(:group, :models)",
        params={"group": "all", "models": [{"name": "m", "version": version}]},
    )
    return dict(answer)


async def problem(federation: Living, text: str, *, home: str | None = None) -> tuple[str, str]:
    answer = await federation.ask(text, home=home)
    assert not answer.rows
    return answer.errors[0].code, answer.errors[0].message


# --- the same folder, the same digest --------------------------------------------------------------------------------


def made_by_a_command(home: Path, *, environment: dict[str, str], umask: int) -> dict[str, Any]:
    """``models:create_release`` in a process of its own, under a locale, a time zone and a umask of its own."""
    program = (
        "import os, sys; os.umask(int(sys.argv[2])); from peers.client import connect; import json\n"
        'with connect(sys.argv[1]) as peer: found = peer.value(\'models:create_release("m", "1.0")\')\n'
        "print(json.dumps({key: str(value) for key, value in found.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(home), str(umask)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_the_same_folder_makes_the_same_release_in_any_home(federation: Living) -> None:
    await publisher_in(federation, "bob")
    ada, bob = federation.home("ada"), federation.home("bob")
    write_model(ada.models / "m")
    write_model(bob.models / "m", reverse=True)
    (bob.models / "m" / "notes.txt").write_text("not named, not released")
    for number, path in enumerate((bob.models / "m").iterdir()):
        os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
        path.chmod(0o640)
    first, second = await asyncio.gather(
        asyncio.to_thread(made_by_a_command, ada.path, environment={"LC_ALL": "C", "TZ": "UTC"}, umask=0o077),
        asyncio.to_thread(
            made_by_a_command,
            bob.path,
            environment={"LC_ALL": "C.UTF-8", "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "7"},
            umask=0o022,
        ),
    )
    assert first["manifest"] == second["manifest"]
    ones = {path.name: path.read_bytes() for path in (ada.releases / "blobs" / "sha256").iterdir()}
    others = {path.name: path.read_bytes() for path in (bob.releases / "blobs" / "sha256").iterdir()}
    assert first["manifest"].removeprefix("sha256:") in ones.keys() & others.keys()
    assert len(ones.keys() - others.keys()) == 2  # the record, signed by each with its time, and what attaches it
    again = await federation.value('models:create_release("m", "1.0")', home="ada")
    assert again["digest"] == first["digest"]  # made once, kept as it was


async def test_a_second_publisher_of_the_same_files_changes_nothing(federation: Living) -> None:
    await publisher_in(federation, "bob")
    await released(federation, "1.0")
    write_model(federation.home("bob").models / "m", reverse=True)
    await federation.value('models:create_release("m", "1.0")', home="bob")
    await federation.value('models:publish("m", "1.0")', home="bob")
    (row,) = (await federation.ask(f"{ON_NAMESERVER}models:releases()")).rows
    assert row.value["signer"] == "ada"


# --- telling ---------------------------------------------------------------------------------------------------------


async def test_releases_are_listed_with_all_that_is_known(federation: Living) -> None:
    await released(federation, "1.0", "2.0")
    await assigned(federation, "1.0")
    await federation.until("//peer: e1\nmodels:loaded()", ["m@1.0"])
    await federation.until('edge:status("E1")["models:loaded"]', ["m@1.0"])
    rows = [row.value for row in (await federation.ask(f'{ON_NAMESERVER}models:releases("m")')).rows]
    assert [row["model"] for row in rows] == ["m@1.0", "m@2.0"]
    assert {key: rows[0][key] for key in ("kind", "signer", "by", "deprecated", "edges", "needs")} == {
        "kind": "functions",
        "signer": "ada",
        "by": "ada",
        "deprecated": None,
        "edges": 1,
        "needs": {},
    }
    assert rows[1]["edges"] == 0
    assert rows[0]["published"] >= rows[0]["created"]
    mine = [row.value for row in (await federation.ask("models:releases()", home="ada")).rows]
    assert [(row["model"], row["loaded"]) for row in mine] == [("m@1.0", False), ("m@2.0", False)]
    there = [row.value for row in (await federation.ask("//peer: e1\nmodels:releases()")).rows]
    assert [(row["model"], row["loaded"]) for row in there] == [("m@1.0", True)]
    assert await problem(federation, f'{ON_NAMESERVER}models:releases("mm")') == (
        "unknown_name",
        'no model "mm" — did you mean "m"?',
    )


async def test_info_tells_everything(federation: Living) -> None:
    await released(federation, "1.0")
    await assigned(federation, "1.0")
    await federation.until('edge:status("E1")["models:loaded"]', ["m@1.0"])
    info = await federation.value(f'{ON_NAMESERVER}models:info("m", "1.0")')
    assert [(file["path"], file["kind"]) for file in info["files"]] == [
        ("f.pql", "code"),
        ("g.pql", "code"),
        ("README.md", "doc"),
    ]
    assert (info["licenses"], info["needs_memory_bytes"], info["repository"], info["tag"]) == (
        ["MIT"],
        1000,
        "models/m",
        "1.0",
    )
    assert info["key"]["standing"] == "endorsed"
    assert [(one["kind"], one["name"]) for one in info["held_by"]] == [("group", "all"), ("edge", "E1")]
    here = await federation.value('models:info("m", "1.0")', home="ada")
    assert (here["loaded"], here["signer"], here["attachment"]) == (False, "ada", info["attachment"])
    assert (await federation.value('//peer: e1\nmodels:info("m", "1.0")'))["loaded"] is True
    assert (await problem(federation, f'{ON_NAMESERVER}models:info("m", "3.0")'))[0] == "unknown_name"


# --- deprecating and deleting ----------------------------------------------------------------------------------------


async def test_a_deprecated_release_can_be_assigned_and_that_is_said(federation: Living) -> None:
    await released(federation, "1.0")
    assert await federation.value('models:deprecate("m", "1.0", "leaks")') is True
    assert (await assigned(federation, "1.0"))["deprecated"] == [{"model": "m@1.0", "reason": "leaks"}]
    (row,) = (await federation.ask(f"{ON_NAMESERVER}models:releases()")).rows
    assert row.value["deprecated"] == "leaks"
    assert await federation.value('models:undeprecate("m", "1.0")') is True
    assert "deprecated" not in await assigned(federation, "1.0")
    assert (await problem(federation, 'models:deprecate("m", "1.0", "")'))[0] == "wrong_arguments"
    assert (await problem(federation, 'models:deprecate("m", "9", "x")'))[0] == "unknown_name"


async def test_a_release_that_is_held_is_not_deleted_and_who_holds_it_is_named(federation: Living) -> None:
    await released(federation, "1.0", "2.0", "3.0")
    await assigned(federation, "1.0")
    await federation.until('edge:status("E1")["models:loaded"]', ["m@1.0"])
    delete = f'{ON_NAMESERVER}models:delete("m", "1.0")'
    assert await problem(federation, delete) == (
        "release_held",
        "m@1.0 is held by 2, expected nobody: group all has it; edge E1 runs it",
    )
    await assigned(federation, "2.0")
    await federation.until('edge:status("E1")["models:loaded"]', ["m@2.0"])
    code, message = await problem(federation, delete)
    assert code == "release_held"
    assert "rollback all had it before" in message
    assert "desired states from before" in message
    assert "edge E1 has it installed" in message
    assert await federation.value(f'{ON_NAMESERVER}models:delete("m", "3.0")') is True
    assert await federation.value(f"{ON_NAMESERVER}models:installed()") == ["m@1.0", "m@2.0"]


async def test_a_deleted_version_stays_taken_by_its_bytes(federation: Living) -> None:
    await released(federation, "1.0")
    assert await federation.value(f'{ON_NAMESERVER}models:delete("m", "1.0")') is True
    assert (await federation.ask(f"{ON_NAMESERVER}models:releases()")).rows == []
    assert (await problem(federation, 'edge:set_group_models("all", [{"name": "m", "version": "1.0"}])'))[0] == (
        "unknown_name"
    )
    assert (await problem(federation, f'{ON_NAMESERVER}models:delete("m", "1.0")'))[0] == "unknown_name"
    await federation.value('models:delete("m", "1.0")', home="ada")  # this peer's own copy
    write_model(federation.home("ada").models / "m", marker="other")
    await federation.value('models:create_release("m", "1.0")', home="ada")
    code, message = await problem(federation, 'models:publish("m", "1.0")', home="ada")
    assert code == "version_taken", message
    await federation.value('models:delete("m", "1.0")', home="ada")
    await released(federation, "1.0")
    assert await federation.value(f"{ON_NAMESERVER}models:installed()") == ["m@1.0"]
    await assigned(federation, "1.0")
    await federation.until("//peer: e1\nmodels:loaded()", ["m@1.0"])


async def test_only_this_peers_copy_goes_and_never_what_it_runs(federation: Living) -> None:
    await released(federation, "1.0")
    await federation.value('//peer: e1\nmodels:import("m", "1.0")')
    code, _ = await problem(federation, '//peer: e1\nmodels:delete("m", "1.0")')
    assert code == "release_loaded"
    await federation.value('//peer: e1\nmodels:unload("m")')
    assert await federation.value('//peer: e1\nmodels:delete("m", "1.0")') is True
    assert await federation.value("//peer: e1\nmodels:installed()") == []
    await federation.until('edge:status("E1")["models:loaded"]', [])
    assert await federation.value(f"{ON_NAMESERVER}models:installed()") == ["m@1.0"]
    info = await federation.value(f'{ON_NAMESERVER}models:info("m", "1.0")')
    while info["holders"]:  # until the edge has reported that it let go
        await federation.value("edge:poll()", home="e1")
        info = await federation.value(f'{ON_NAMESERVER}models:info("m", "1.0")')
    assert await federation.value(f'{ON_NAMESERVER}models:delete("m", "1.0")') is True


async def test_roles(federation: Living) -> None:
    await released(federation, "1.0")
    await publisher_in(federation, "eve", role="viewer")
    for text in ('models:delete("m", "1.0")', 'models:deprecate("m", "1.0", "x")', "models:collect_garbage()"):
        assert (await problem(federation, ON_NAMESERVER + text, home="eve"))[0] == "forbidden"


# --- garbage ---------------------------------------------------------------------------------------------------------


async def test_garbage_goes_and_what_is_held_stays(federation: Living) -> None:
    await released(federation, "1.0", "2.0", "3.0")
    await assigned(federation, "1.0")
    await assigned(federation, "2.0")
    for version in ("1.0", "2.0", "3.0"):
        await federation.value(f'models:deprecate("m", "{version}", "old")')
    dry = await federation.value(f'{ON_NAMESERVER}models:collect_garbage({{"deprecated": true, "dry_run": true}})')
    assert (dry["deleted"], dry["deprecated_and_held"], dry["dry_run"]) == (["m@3.0"], 2, True)
    assert len(await federation.value(f"{ON_NAMESERVER}models:installed()")) == 3
    done = await federation.value(f'{ON_NAMESERVER}models:collect_garbage({{"deprecated": true, "unnamed_s": 0}})')
    assert (done["deleted"], done["deprecated_and_held"]) == (["m@3.0"], 2)
    assert done["blobs"] == 4  # manifest, config, signed record, and what attaches it; the files are others' too
    assert done["bytes"] > 0
    assert await federation.value(f"{ON_NAMESERVER}models:installed()") == ["m@1.0", "m@2.0"]
    await federation.until("//peer: e1\nmodels:loaded()", ["m@2.0"])
    assert (await problem(federation, f'{ON_NAMESERVER}models:collect_garbage({{"dry": true}})'))[0] == (
        "wrong_arguments"
    )


async def test_garbage_of_a_client(federation: Living) -> None:
    await released(federation, "1.0", publish=False)
    assert (await problem(federation, 'models:collect_garbage({"deprecated": true})', home="ada"))[0] == (
        "wrong_arguments"
    )
    blobs = federation.home("ada").releases / "blobs" / "sha256"
    before = {path.name for path in blobs.iterdir()}
    (blobs / ("0" * 64)).write_bytes(b"nobody names it")
    done = await federation.value('models:collect_garbage({"unnamed_s": 0})', home="ada")
    assert (done["blobs"], done["bytes"]) == (1, len(b"nobody names it"))
    assert {path.name for path in blobs.iterdir()} == before


async def test_publishing_and_deleting_at_once_leave_log_and_repository_of_one_mind(federation: Living) -> None:
    """Whoever comes first: what the log says is what the repository lists, and every byte of it is there."""
    await released(federation, "1.0", publish=False)

    async def publish() -> None:
        async with federation.connection("ada") as ada:
            for _ in range(12):
                await ada.query('models:publish("m", "1.0")')

    async def delete() -> None:
        async with federation.connection() as admin:
            for _ in range(30):
                await admin.query(f'{ON_NAMESERVER}models:delete("m", "1.0")')

    async def collect() -> None:
        async with federation.connection() as admin:
            for _ in range(10):
                await admin.value(f"{ON_NAMESERVER}models:collect_garbage()")

    await asyncio.gather(publish(), delete(), collect())
    found = await asyncio.to_thread(examine, federation.home("ns"))  # of the nameserver that runs
    assert found.findings == []
    await federation.value('models:publish("m", "1.0")', home="ada")
    assert await federation.value(f"{ON_NAMESERVER}models:installed()") == ["m@1.0"]
    assert (await asyncio.to_thread(examine, federation.home("ns"))).findings == []


async def test_a_running_home_is_whole_while_it_works(federation: Living) -> None:
    """fsck of a nameserver that publishes, assigns and hears reports meanwhile finds nothing, and disturbs nobody."""
    write_model(federation.home("ada").models / "m")

    async def work() -> None:
        for number in range(8):
            await federation.value(f'models:create_release("m", "{number}.0")', home="ada")
            await federation.value(f'models:publish("m", "{number}.0")', home="ada")
            await assigned(federation, f"{number}.0")

    looks = 0
    async with asyncio.TaskGroup() as tasks:  # a finding ends the work as well, before its federation goes
        working = tasks.create_task(work())
        while not working.done() or not looks:
            found = await asyncio.to_thread(examine, federation.home("ns"))
            assert found.findings == []
            looks += 1
    assert looks > 1
    edge = await asyncio.to_thread(examine, federation.home("e1"))
    assert edge.findings == []
    assert any("in use by the edge" in note for note in edge.notes)
