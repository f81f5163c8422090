"""Model folders and repositories as disks and people leave them: each case has its name, and nothing is half-made."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.folders import BadFolder, read_folder
from federation.layout import ImageLayout
from federation.names import Digest, digest_of
from peers.homes import Home
from query.errors import LimitExceeded, Problem
from tests.badinput.test_full_disk import problem_of, small_disk
from tests.turn.processes import COMMAND
from tests.turn.processes import Federation as Processes
from tests.wire.living import Living, living, publisher_in

pytestmark = pytest.mark.timeout(180)

CODE = "create function f() -> Real as 1;\n"
DESCRIPTION = 'name = "thermo"\nkind = "functions"\nfunctions = ["f.pql"]\n'
QUICK_S = 1.0  # an answer, on a machine that does other things; the work itself takes milliseconds
MANY = 100_000
READS = 100
SPARSE_BYTES = 4 << 30


def write(folder: Path, *, docs: str = '["d.txt"]', code: str = CODE) -> Path:
    """A good model folder with one document, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(f"{DESCRIPTION}docs = {docs}\n")
    (folder / "f.pql").write_text(code)
    (folder / "d.txt").write_text("text")
    return folder


def bound_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        pytest.skip("only root may make device nodes")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE_BYTES)


NO_FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a link to outside": (lambda path: path.symlink_to("/etc/hostname"), "bad_folder", "is a link, not an ordinary"),
    "a link to itself": (lambda path: path.symlink_to(path), "bad_folder", "is a link, not an ordinary file"),
    "a link to endless bytes": (lambda path: path.symlink_to("/dev/zero"), "bad_folder", "is a link, not an ordinary"),
    "a link to a folder": (lambda path: path.symlink_to("/tmp"), "bad_folder", "is a link, not an ordinary file"),
    "a folder": (lambda path: path.mkdir(), "bad_folder", "is a folder, not an ordinary file"),
    "a named pipe": (os.mkfifo, "bad_folder", "is a named pipe, not an ordinary file"),
    "a socket": (bound_socket, "bad_folder", "is a socket, not an ordinary file"),
    "a device": (device, "bad_folder", "is a device, not an ordinary file"),
    "4 GB of nothing": (sparse, "limit", f"has {SPARSE_BYTES} bytes, expected at most"),
}


@pytest.mark.parametrize("file", ["d.txt", "f.pql", "model.toml"])
@pytest.mark.parametrize("case", NO_FILES)
def test_only_ordinary_files_are_read_and_others_are_named(tmp_path: Path, case: str, file: str) -> None:
    make, code, message = NO_FILES[case]
    folder = write(tmp_path / "m")
    (folder / file).unlink()
    make(folder / file)
    began = time.monotonic()
    with pytest.raises(Problem, match=message) as refused:
        read_folder(folder)
    assert time.monotonic() - began < QUICK_S
    assert (refused.value.code, str(folder / file) in refused.value.message) == (code, True)


def test_a_folder_on_the_way_is_no_link_and_no_file(tmp_path: Path) -> None:
    for make in (lambda path: path.symlink_to(tmp_path), lambda path: path.write_text("x")):
        folder = write(tmp_path / "m", docs='["texts/d.txt"]')
        make(folder / "texts")
        with pytest.raises(BadFolder, match=r"texts/d\.txt does not lead through folders alone"):
            read_folder(folder)


def test_hard_links_and_case_twins_are_files_like_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", docs='["d.txt", "D.txt", "hard.txt"]')
    (folder / "D.txt").write_text("TEXT")
    os.link(folder / "d.txt", folder / "hard.txt")
    files = read_folder(folder).files
    assert {path: file.content for path, file in files.items()} == {
        "f.pql": CODE.encode(),
        "d.txt": b"text",
        "D.txt": b"TEXT",
        "hard.txt": b"text",
    }


@pytest.mark.parametrize(
    ("docs", "code", "message"),
    [
        (str([f"{n}.txt" for n in range(MANY)]), "limit", r"model\.toml has \d+ bytes, expected at most 65536"),
        (str([f"{n}.txt" for n in range(5000)]), "limit", "names 5001 files, expected at most 64"),
        (f'["{"a/" * 8}d.txt"]', "bad_folder", "expected a relative path of at most 8 parts"),
        (f'["{"a" * 201}"]', "bad_folder", "cannot be a file of a model"),
        ('["d\\u0000.txt"]', "bad_folder", "cannot be a file of a model|not a model's description"),
        ('["ä.txt"]', "bad_folder", "cannot be a file of a model"),
        ('["-d.txt"]', "bad_folder", "cannot be a file of a model"),
        ('["."]', "bad_folder", "cannot be a file of a model"),
    ],
    ids=["100 000 named", "5 000 named", "deep", "long", "nul", "not ASCII", "a flag", "itself"],
)
def test_descriptions_that_name_too_much(tmp_path: Path, docs: str, code: str, message: str) -> None:
    folder = write(tmp_path / "m", docs=docs.replace("'", '"'))
    with pytest.raises(Problem, match=message) as refused:
        read_folder(folder)
    assert refused.value.code == code


def test_a_description_that_is_no_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    (folder / "model.toml").write_bytes(DESCRIPTION.encode() + b'description = "\xff"\n')
    with pytest.raises(BadFolder, match=r"model\.toml is not a model's description: 'utf-8' codec can't decode"):
        read_folder(folder)


def read_often(folder: Path) -> None:
    for _ in range(READS):
        read_folder(folder)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    large = folder / "d.txt"
    large.write_bytes(b"\0" * (64 << 20))
    done = threading.Event()

    def scribble() -> None:
        with large.open("r+b", buffering=0) as file:
            while not done.is_set():
                file.seek(0)
                file.write(b"x" * 4096)

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        with pytest.raises(BadFolder, match=r"d\.txt changed while it was read"):
            read_often(folder)
    finally:
        done.set()
        writer.join()
    assert len(read_folder(folder).files["d.txt"].content) == 64 << 20


def test_a_file_that_grows_beyond_its_bound_while_it_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    done = threading.Event()

    def grow() -> None:
        with (folder / "d.txt").open("ab", buffering=0) as file:
            while not done.is_set() and file.tell() < 256 << 20:
                file.write(b"x" * 65536)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises((BadFolder, LimitExceeded)):
            read_often(folder)
    finally:
        done.set()
        writer.join()


def test_a_large_folder_is_refused_in_little_memory(tmp_path: Path) -> None:
    """In a process that may have 200 MB more than it starts with; a sparse model of 4 GB, 100 000 files beside it."""
    folder = write(tmp_path / "m")
    (folder / "model.toml").write_text('name = "m"\n')
    sparse(folder / "model.onnx")
    for number in range(MANY):
        (folder / f"{number}.bin").touch()
    program = f"""
import resource, time
from pathlib import Path
from federation.folders import read_folder
from query.errors import Problem
used = int(Path("/proc/self/statm").read_text().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
began = time.monotonic()
try:
    read_folder(Path({str(folder)!r}))
except Problem as problem:
    print(problem.code, time.monotonic() - began < 0.1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "limit True\n", done.stderr
    (folder / "model.toml").write_text(DESCRIPTION)
    began = time.monotonic()
    assert list(read_folder(folder).files) == ["f.pql"]  # what is not named is not looked at
    assert time.monotonic() - began < QUICK_S


# --- as a person meets them -----------------------------------------------------------------------------------------


async def refused(federation: Living, text: str, *, home: str = "ada") -> tuple[str, str]:
    began = time.monotonic()
    problem = await problem_of(federation, text, home=home)
    assert time.monotonic() - began < QUICK_S, text
    return problem.code, problem.message


async def test_folders_at_the_command_and_nothing_is_made_of_them(tmp_path: Path) -> None:
    create = 'models:create_release("thermo", "1.0")'
    async with living(tmp_path) as federation:
        await publisher_in(federation)
        models = tmp_path / "ada" / "models"
        folder = models / "thermo"
        for make, code, message in NO_FILES.values():
            write(folder)
            (folder / "d.txt").unlink()
            make(folder / "d.txt")
            found = await refused(federation, create)
            assert (found[0], message in found[1]) == (code, True), found
        shutil.rmtree(folder)
        unreadable = os.fsencode(models) + b"/therm\xff"
        os.mkdir(unreadable)  # noqa: PTH102 — a path that is no text
        (models / "thermos").symlink_to(models / "thermos")
        for number in range(5000):
            (models / f"{number:05}").mkdir()
        assert await refused(federation, create) == ("unknown_name", 'no model folder "thermo"')
        folder.write_text("a file")
        assert await refused(federation, create) == ("unknown_name", 'no model folder "thermo"')
        shutil.rmtree(os.fsencode(models))
        models.symlink_to(models)
        assert await refused(federation, create) == ("unknown_name", 'no model folder "thermo"')
        models.unlink()
        assert await federation.value("models:installed()", home="ada") == []
        blobs = tmp_path / "ada" / "releases" / "blobs" / "sha256"
        assert list(blobs.iterdir()) == []
        write(folder)
        assert (await federation.value(create, home="ada"))["model"] == "thermo@1.0"


# --- a repository that lacks something ------------------------------------------------------------------------------


def parts(layout: ImageLayout) -> dict[str, Digest]:
    """What the one release of a layout is made of, by what it is."""
    (release,) = layout.releases()
    record = layout.packed(release).record
    raw = layout.blobs.read(release.attachment, bytes_max=1 << 20)
    return {
        "file": record.files[-1].digest,
        "manifest": release.manifest,
        "config": digest_of(layout.packed(release).config),
        "attachment": release.attachment,
        "record": Digest(json.loads(raw)["layers"][0]["digest"]),
    }


async def made(federation: Living, *edges: str, bytes_of_text: int = 4) -> None:
    """A release in the publisher's home, whose key the edges know."""
    await publisher_in(federation)
    folder = write(federation.home("ada").models / "thermo")
    (folder / "d.txt").write_text("x" * bytes_of_text)
    await federation.value('models:create_release("thermo", "1.0")', home="ada")
    for edge in edges:
        await federation.value("edge:poll()", home=edge)


def spoil(layout: ImageLayout, digest: Digest, *, how: str) -> bytes:
    path = layout.blobs.path(digest)
    content = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "damaged":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "a folder":
            path.unlink()
            path.mkdir()
    return content


def mend(layout: ImageLayout, digest: Digest, content: bytes) -> None:
    path = layout.blobs.path(digest)
    if path.is_dir():
        path.rmdir()
    path.write_bytes(content)


SPOILT = ("missing", "damaged", "cut", "a folder")
AT_THE_PUBLISHER = {  # else it is "damaged_blob"
    ("attachment", "missing"): "unknown_name",
    ("record", "missing"): "unknown_name",
    ("manifest", "a folder"): "storage_failed",
    ("attachment", "a folder"): "storage_failed",
    ("record", "a folder"): "storage_failed",
}
LOCAL_DAMAGE = ("unknown_name", "damaged_blob", "hash", "size", "storage_failed")
THERE = {  # how an edge tells what its nameserver lacks
    "file": ("blob_unknown", "fetch_altered", "fetch_wrong_length"),
    "manifest": ("damaged_blob",),
    "attachment": ("damaged_blob",),
    "record": ("unknown_name", "fetch_wrong_answer", "fetch_altered"),
}


async def test_publishing_from_a_repository_that_lacks_something(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await made(federation)
        layout = ImageLayout(federation.home("ada").releases)
        for what, digest in parts(layout).items():
            for how in SPOILT:
                content = spoil(layout, digest, how=how)
                problem = await problem_of(federation, 'models:publish("thermo", "1.0")', home="ada")
                expected = AT_THE_PUBLISHER.get((what, how), "damaged_blob")
                assert (problem.code, digest in problem.message) == (expected, True), (what, how, problem.message)
                assert await federation.value("//peer: nameserver\nmodels:installed()") == []
                mend(layout, digest, content)
        assert (await federation.value('models:publish("thermo", "1.0")', home="ada"))["model"] == "thermo@1.0"


async def test_loading_from_a_repository_that_lacks_something(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await made(federation, "e1")
        await federation.value('models:publish("thermo", "1.0")', home="ada")
        await federation.value('models:import("thermo", "1.0")', home="e1")
        await federation.value('models:unload("thermo")', home="e1")
        layout = ImageLayout(federation.home("e1").releases)
        for what, digest in parts(layout).items():
            if what == "config":
                continue  # not read to load
            for how in SPOILT:
                content = spoil(layout, digest, how=how)
                problem = await problem_of(federation, 'models:load("thermo", "1.0")', home="e1")
                assert problem.code in LOCAL_DAMAGE, (what, how, problem.message)
                assert "thermo@1.0" in problem.message or digest in problem.message, (what, how)
                assert await federation.value("models:loaded()", home="e1") == []
                mend(layout, digest, content)
        assert await federation.value('models:load("thermo", "1.0")', home="e1") == "thermo@1.0"


async def test_importing_from_a_nameserver_that_lacks_something(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await made(federation, "e1")
        await federation.value('models:publish("thermo", "1.0")', home="ada")
        layout = ImageLayout(federation.home("ns").releases)
        for what, digest in parts(layout).items():
            if what == "config":
                continue
            for how in ("missing", "damaged", "cut"):
                content = spoil(layout, digest, how=how)
                problem = await problem_of(federation, 'models:import("thermo", "1.0")', home="e1")
                assert problem.code in THERE[what], (what, how, problem.message)
                assert await federation.value("models:loaded()", home="e1") == [], (what, how)
                mend(layout, digest, content)
        assert (await federation.value('models:import("thermo", "1.0")', home="e1"))["model"] == "thermo@1.0"


# --- pushes ---------------------------------------------------------------------------------------------------------


async def test_of_two_pushes_of_one_tag_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        manifests: dict[tuple[str, str], str] = {}
        versions = [f"1.{number}" for number in range(6)]
        for name in ("ada", "bob"):
            await publisher_in(federation, name)
            write(federation.home(name).models / "thermo", code=f"-- by {name}\n{CODE}")
            for version in versions:
                told = await federation.value(f'models:create_release("thermo", "{version}")', home=name)
                manifests[name, version] = told["manifest"]
        for version in versions:
            text = f'models:publish("thermo", "{version}")'
            answers = await asyncio.gather(*(federation.ask(text, home=name) for name in ("ada", "bob")))
            won = [name for name, answer in zip(("ada", "bob"), answers, strict=True) if not answer.errors]
            (problem,) = [problem for answer in answers for problem in answer.errors]
            assert (len(won), problem.code) == (1, "version_taken"), problem.message
            (lost,) = {"ada", "bob"} - set(won)
            assert manifests[won[0], version] in problem.message
            assert manifests[lost, version] in problem.message
            again = await problem_of(federation, text, home=lost)
            assert again.code == "version_taken"
            assert (await federation.value(text, home=won[0]))["manifest"] == manifests[won[0], version]
        listed = await federation.value("//peer: nameserver\nmodels:installed()")
        assert listed == [f"thermo@{version}" for version in versions]
        await federation.value("edge:poll()", home="e1")
        assert (await federation.value('models:import("thermo", "1.5")', home="e1"))["model"] == "thermo@1.5"


async def test_a_disk_that_fills_during_a_push(tmp_path: Path) -> None:
    """On the nameserver's side: there is room when it begins, and none for all of it."""
    text = 'models:publish("thermo", "1.0")'
    with small_disk(tmp_path / "ns", megabytes=24) as disk:
        async with living(tmp_path) as federation:
            await made(federation, bytes_of_text=6_000_000)
            for leave_bytes in (5_000_000, 2_000_000, 100_000):
                disk.fill(leave_bytes=leave_bytes)
                problem = await problem_of(federation, text, home="ada")
                assert (problem.code, problem.hint) == ("storage_full", "free some disk space and try again")
                assert await federation.value("//peer: nameserver\nmodels:installed()") == []
                disk.empty()
            assert (await federation.value(text, home="ada"))["model"] == "thermo@1.0"
            assert await federation.value("//peer: nameserver\nmodels:installed()") == ["thermo@1.0"]
            assert left_over(federation.home("ns")) == []


async def test_a_publishers_disk_that_fills(tmp_path: Path) -> None:
    """On the publisher's side: the release is whole in its repository, or is not there."""
    create, push = 'models:create_release("thermo", "1.0")', 'models:publish("thermo", "1.0")'
    async with living(tmp_path) as federation:
        with small_disk(tmp_path / "ada", megabytes=24) as disk:
            await publisher_in(federation)
            (write(federation.home("ada").models / "thermo") / "d.txt").write_text("x" * 6_000_000)
            for leave_bytes in (5_000_000, 0):
                disk.fill(leave_bytes=leave_bytes)
                problem = await problem_of(federation, create, home="ada")
                assert (problem.code, problem.hint) == ("storage_full", "free some disk space and try again")
                assert await federation.value("models:installed()", home="ada") == []
                disk.empty()
            await federation.value(create, home="ada")
            disk.fill()
            assert (await federation.value(push, home="ada"))["model"] == "thermo@1.0"  # sending needs no room
            disk.empty()
            assert left_over(federation.home("ada")) == []


def left_over(home: Home) -> list[str]:
    """What lies in a home's staging folder."""
    return [path.name for path in (home.releases / "staging").iterdir() if not path.name.startswith(".")]


def test_exporting_from_a_nameserver_that_lacks_something(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    try:
        processes.found()
        processes.write_model("thermo")
        processes.publish("thermo", "1.0")
        processes.assign("thermo", "1.0")
        layout = ImageLayout(tmp_path / "ns" / "releases")
        words = [*COMMAND, "export", "--edge", "E1", "--home", "ns-admin", "e1.tar"]
        needed = parts(layout)
        for what in ("file", "manifest"):  # the record is in the log too
            digest = needed[what]
            for how in ("missing", "damaged"):
                content = spoil(layout, digest, how=how)
                done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
                assert done.returncode == 1, (what, how, done.stdout)
                assert "error(internal)" not in done.stderr, (what, how, done.stderr)
                assert not (tmp_path / "e1.tar").exists(), (what, how)
                assert [path.name for path in tmp_path.iterdir() if "e1.tar" in path.name] == [], (what, how)
                mend(layout, digest, content)
        processes.command(*words[len(COMMAND) :])
        assert (tmp_path / "e1.tar").exists()
    finally:
        processes.close()
