"""A disk without room, for real: a small file system under one home, filled to the last byte.

Every case says so by its name, keeps what it had, and goes on by itself once there is room.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from query.errors import Problem
from tests.wire.living import Living, living, publish, publisher_in

MOUNT = shutil.which("mount")
UNMOUNT = shutil.which("umount")

pytestmark = pytest.mark.timeout(120)


class SmallDisk:
    """A file system of a few megabytes in a folder."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Not one byte is left, or so many."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size):
                        pass
            file.truncate(max(0, file.tell() - leave_bytes))

    def empty(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    if MOUNT is None or UNMOUNT is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder.mkdir(mode=0o700, exist_ok=True)
    options = f"size={megabytes}m,mode=0700"
    mount = [MOUNT, "-t", "tmpfs", "-o", options, "peerage-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()[:100]}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run([UNMOUNT, "-l", str(folder)], check=True)


async def problem_of(federation: Living, text: str, *, home: str | None = None) -> Problem:
    (problem,) = (await federation.ask(text, home=home)).errors
    return problem


async def test_a_nameserver_refuses_the_change_and_keeps_its_log(tmp_path: Path) -> None:
    with small_disk(tmp_path / "ns", megabytes=4) as disk:
        async with living(tmp_path, "e1") as federation:
            await publisher_in(federation)
            await federation.value('models:create("thermo")', home="ada")
            await federation.value('models:create_release("thermo", "1.0")', home="ada")
            await federation.until('edge:listening("e1")', wanted=True)
            disk.fill()
            change = await problem_of(federation, 'edge:add_group("e1", "field")')
            assert (change.code, change.message) == (
                "store_failed",
                f"cannot write a change in {tmp_path / 'ns' / 'state.db'}: database or disk is full; "
                "nothing was changed",
            )
            publishing = await problem_of(federation, 'models:publish("thermo", "1.0")', home="ada")
            assert (publishing.code, publishing.hint) == ("storage_full", "free some disk space and try again")
            assert publishing.message.startswith(f"no space left to write {tmp_path / 'ns' / 'releases'}")
            assert (await problem_of(federation, 'edge:register("e2")')).code == "store_failed"
            assert await federation.value('edge:groups("e1")') == []
            assert await federation.value("//peer: nameserver\nmodels:installed()") == []
            assert (await federation.value("//peer: e1\nedge:poll()"))["models"] == []  # answered without the disk
            disk.empty()
            assert await federation.value('edge:add_group("e1", "field")') is True
            assert (await federation.value('models:publish("thermo", "1.0")', home="ada"))["model"] == "thermo@1.0"
            await federation.stop("ns")
            await federation.start_nameserver()
            assert await federation.value('edge:groups("e1")') == ["field"]
            assert await federation.value("//peer: nameserver\nmodels:installed()") == ["thermo@1.0"]
            staged = [entry.name for entry in (tmp_path / "ns" / "releases" / "staging").iterdir()]
            assert [name for name in staged if not name.startswith(".")] == []


@pytest.mark.parametrize("leave_bytes", [0, 4 << 20], ids=["its state", "what it fetches"])
async def test_an_edge_goes_on_and_takes_up_what_it_missed(tmp_path: Path, leave_bytes: int) -> None:
    with small_disk(tmp_path / "e1", megabytes=96) as disk:
        async with living(tmp_path, "e1") as federation:
            await publisher_in(federation)
            await federation.value('models:create("thermo")', home="ada")
            await publish(federation, "thermo", "1.0")
            await publish(federation, "thermo", "2.0")
            await federation.value('edge:add_group("e1", "field")')
            await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
            await federation.until('edge:actual_state("e1")["models:loaded"]', ["thermo@1.0"])
            disk.fill(leave_bytes=leave_bytes)
            await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "2.0"}])')
            if leave_bytes:  # room for a transaction, none for a release
                errors = 'select e["error"] from e in edge:actual_state("e1")["last_load_errors"]'
                await federation.until(errors, "storage_full")
                (error,) = await federation.value('edge:actual_state("e1")["last_load_errors"]')
                assert error["model"] == "thermo@2.0"
                assert "16777216 in reserve, the disk has " in error["message"]
            else:
                await federation.until('edge:contact()["error"]', "disk_full", home="e1")
                polling = await problem_of(federation, "edge:poll()", home="e1")
                assert (polling.code, polling.message) == (
                    "disk_full",
                    f"no room to keep the edge's state in {tmp_path / 'e1' / 'state.db'}: database or disk is full",
                )
            answered = await federation.value('models:infer("thermo", [100.0])', home="e1")
            assert answered["fahrenheit"].tolist() == [212.0]
            assert await federation.value("models:loaded()", home="e1") == ["thermo@1.0"]
            disk.empty()
            await federation.ask("edge:poll()", home="e1")
            await federation.until("models:loaded()", ["thermo@2.0"], home="e1")
            await federation.until('edge:actual_state("e1")["last_load_errors"]', [])
