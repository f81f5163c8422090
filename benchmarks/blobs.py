"""Push and pull of one large release over mutual TLS: against bare aiohttp, and against Debian's docker-registry.

``push`` is :func:`peers.oci_push.push` to a real nameserver, from the first request until the release is registered:
hashed where it arrives, synced, verified. ``pull`` is :func:`peers.fetching.fetch` into an empty layout, until the
release is installed. Each in a process of its own, over one connection with both certificates.

``… vs aiohttp``: the same file between aiohttp's own client and a handler of a few lines, which check nothing and sync
the file at its end, as ours do; with ``unsynced``, ``… vs aiohttp, unsynced`` leaves that out too, to show
what durability costs. ``… vs docker-registry``: the same code of ours pushes to and pulls from docker-registry in place
of the nameserver. The figures are rates: above 1 is faster. Rounds are interleaved; the median pair counts. Goal: at
least 0.8 of bare aiohttp.

``answers beside a push``: how long the nameserver takes to answer somebody else while it receives.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.blob_transfers import Order, Taken
from benchmarks.measurement import Measurement, median_pair
from federation.documents import RELEASE_TYPE, FileEntry, ReleaseRecord, encode
from federation.keys import read_key
from federation.layout import ImageLayout
from federation.manifests import model_config, model_manifest
from federation.names import Digest, digest_of, model_repository
from federation.signing import sign
from federation.tls import client_context
from peers.demo import EXAMPLES
from peers.demo.stage import Stage
from peers.federation_client import FederationClient
from peers.homes import Home

SIZE_BYTES: Final = 500_000_000
ROUNDS: Final = 7
GOAL: Final = 0.8
GROWTH_MIB_MAX: Final = 32.0
WARM_UP_BYTES: Final = 1_000_000
NAME: Final = "bench"
WAYS: Final = ("push", "pull")
START_S_MAX: Final = 20.0
ASK_EVERY_S: Final = 0.002
PIECE_BYTES: Final = 1024 * 1024

NAMESERVER: Final = (
    *("nameserver", "--federation", "bench", "--federation-host", "127.0.0.1", "--federation-port", "0"),
    *("--application-port", "0", "--no-zeroconf"),
)


@dataclass(frozen=True)
class Subject:
    """Somebody to push to and pull from, and the rates and growths that were found, by way."""

    name: str
    pid: int
    address: str
    kept: Path  # the folder of what it was sent, to be emptied after each round
    synced: bool = True
    rates: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    growths_mib: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    client_growths_mib: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def forget(self) -> None:
        """Begin to note anew."""
        for noted in (self.rates, self.growths_mib, self.client_growths_mib):
            for way in WAYS:
                noted[way].clear()

    @property
    def bare(self) -> bool:
        return self.name.startswith("aiohttp")


def run(*, size_bytes: int = SIZE_BYTES, rounds: int = ROUNDS, unsynced: bool = False) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder, ExitStack() as stack:
        stage = Stage(Path(folder), EXAMPLES)
        stack.callback(stage.stop)
        _federation(stage)
        publisher, nameserver = Home(stage.home("publisher")), Home(stage.home("nameserver"))
        subjects = [
            Subject(
                "peerage",
                stage.pid("nameserver"),
                str(stage.records["nameserver"]["federation"]),
                nameserver.releases / "blobs" / "sha256",
            ),
            *_bare(stack, stage.folder / "bare", nameserver, unsynced=unsynced),
            *_docker_registry(stack, stage.folder / "docker-registry", nameserver),
        ]
        bench = _Bench(stage.folder, publisher, _client(stack, publisher))
        bench.round(subjects, "1.0", size_bytes=WARM_UP_BYTES)
        for subject in subjects:
            subject.forget()
        for number in range(1, rounds + 1):
            turn = number % len(subjects)
            bench.round((*subjects[turn:], *subjects[:turn]), f"1.{number}", size_bytes=size_bytes)
        ours, *others = subjects
        for way in WAYS:
            for other in others:
                yield _measurement(way, ours, other, size_bytes)
            if not any(other.name == "docker-registry" for other in others):
                yield _missing(way)
            yield _growth(way, "nameserver", max(ours.growths_mib[way]), size_bytes)
            yield _growth(way, "client", max(ours.client_growths_mib[way]), size_bytes)
        yield bench.answers(ours, "2.0", size_bytes=size_bytes)


def _measurement(way: str, ours: Subject, other: Subject, size_bytes: int) -> Measurement:
    mine, limit, ratio = median_pair(ours.rates[way], other.rates[way])
    low, high = min(ours.rates[way]), max(ours.rates[way])
    goal = f"; goal at least {GOAL}" if other.name == "aiohttp" else ""
    return Measurement(
        benchmark="blobs",
        case=f"{way} vs {other.name}",
        ours=round(mine, 1),
        limit=round(limit, 1),
        ratio=round(ratio, 3),
        unit="MB/s",
        conditions=(
            f"{size_bytes / 1e6:g} MB in one file, mutual TLS 1.3 on loopback, {len(ours.rates[way])} interleaved "
            f"rounds, median of pairs; ours {low:.0f} to {high:.0f}, theirs {min(other.rates[way]):.0f} to "
            f"{max(other.rates[way]):.0f}{goal}"
        ),
    )


def _growth(way: str, who: str, found_mib: float, size_bytes: int) -> Measurement:
    return Measurement(
        benchmark="blobs",
        case=f"{way}, memory of the {who}",
        ours=round(found_mib, 1),
        limit=GROWTH_MIB_MAX,
        ratio=round(found_mib / GROWTH_MIB_MAX, 3),
        unit="MiB",
        conditions=f"the most that its peak was above what it had before, with {size_bytes / 1e6:g} MB in one file",
    )


def _missing(way: str) -> Measurement:
    return Measurement(
        benchmark="blobs",
        case=f"{way} vs docker-registry",
        ours=0.0,
        limit=None,
        ratio=None,
        unit="MB/s",
        conditions="not measured: docker-registry is not on this machine (apt install docker-registry)",
    )


# --- who is asked ---------------------------------------------------------------------------------------------------


def _federation(stage: Stage) -> None:
    stage.start("nameserver", *NAMESERVER)
    admin = str(stage.home("nameserver-admin"))
    bundle = str(stage.folder / "publisher.bundle")
    stage.command("register", "publisher", "--role", "operator", "--publisher", "--home", admin, "--out", bundle)
    stage.command("join", bundle, "--home", str(stage.home("publisher")))
    root = str(stage.home("nameserver-root"))
    stage.command("keys", "endorse", "publisher", "--root-home", root, "--home", admin)


def _bare(stack: ExitStack, folder: Path, home: Home, *, unsynced: bool) -> Iterator[Subject]:
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.blob_transfers", "serve", str(home.path), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    stack.callback(_stop, process)
    assert process.stdout is not None
    address = msgspec.json.decode(process.stdout.readline())["address"]
    yield Subject("aiohttp", process.pid, address, folder)
    if unsynced:
        yield Subject("aiohttp, unsynced", process.pid, address, folder, synced=False)


def _docker_registry(stack: ExitStack, folder: Path, home: Home) -> Iterator[Subject]:
    """Debian's, with the nameserver's own certificate, asking for one of the same authority; none where it is not."""
    program = shutil.which("docker-registry")
    if program is None:
        return
    port, kept = _free_port(), folder / "data"
    kept.mkdir(parents=True)
    configuration = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(kept)}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "secret": "bench",
            "tls": {
                "certificate": str(home.identity_crt),
                "key": str(home.identity_key),
                "clientcas": [str(home.ca_crt)],
            },
        },
    }
    (folder / "config.yml").write_bytes(msgspec.json.encode(configuration))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    stack.callback(_stop, process)
    _await_listening(port)
    yield Subject("docker-registry", process.pid, f"127.0.0.1:{port}", kept)


def _client(stack: ExitStack, home: Home) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.blob_transfers", "transfer", str(home.path)]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stack.callback(_stop, client)
    return client


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _await_listening(port: int) -> None:
    ends = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


# --- what is asked --------------------------------------------------------------------------------------------------


class _Bench:
    """The transfers, of one release after the other."""

    def __init__(self, folder: Path, publisher: Home, client: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._home = publisher
        self._key = read_key(publisher.publisher_key)
        self._client = client
        self._source = ImageLayout(folder / "source")
        self._piece = os.urandom(PIECE_BYTES)

    def round(self, subjects: Sequence[Subject], version: str, *, size_bytes: int) -> None:
        """Push a new release to each, and pull it from each."""
        blob = self._release(version, size_bytes)
        for way in WAYS:
            for subject in subjects:
                self._moved(way, subject, version, blob, size_bytes=size_bytes)
        for path in {subject.kept for subject in subjects}:
            _empty(path, blob)
        self._source.blobs.remove(blob)

    def _moved(self, way: str, subject: Subject, version: str, blob: Digest, *, size_bytes: int) -> None:
        into = self._folder / "pulled"
        act = {"push": "send", "pull": "receive"}[way] if subject.bare else way
        order = Order(
            act=act,
            address=subject.address,
            layout=str(self._source.path),
            name=NAME,
            version=version,
            path=str(self._source.blobs.path(blob)),
            into=str(into),
            synced=subject.synced,
        )
        self._back_memory(size_bytes)
        before = [_reset_peak_mib(pid) for pid in (subject.pid, self._client.pid)]
        seconds = self._ordered(order).seconds
        for found, pid, was in zip(
            (subject.growths_mib, subject.client_growths_mib), (subject.pid, self._client.pid), before, strict=True
        ):
            found[way].append(max(0.0, _memory_mib(pid, "VmHWM") - was))
        subject.rates[way].append(size_bytes / 1e6 / seconds)
        if into.is_dir():
            shutil.rmtree(into)
        else:
            into.unlink(missing_ok=True)

    def _back_memory(self, size_bytes: int) -> None:
        """Write and remove a file of the same size: a virtual machine's host takes free memory away, and the first to
        fill the page cache anew would pay for all of it.
        """
        scratch = self._folder / "scratch"
        with scratch.open("wb") as file:
            for _ in range(-(-size_bytes // PIECE_BYTES)):
                file.write(self._piece)
        scratch.unlink()

    def _ordered(self, order: Order) -> Taken:
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(msgspec.json.encode(order) + b"\n")
        self._client.stdin.flush()
        return msgspec.json.decode(self._client.stdout.readline(), type=Taken)

    def _release(self, version: str, size_bytes: int) -> Digest:
        """A signed release of one large file. The bytes of a version are its own."""
        with self._source.blobs.stage_new(bytes_max=size_bytes) as staged:
            staged.write(version.encode().ljust(16)[:size_bytes])
            while staged.offset < size_bytes:
                staged.write(self._piece[: size_bytes - staged.offset])
            blob = staged.finish()
        files = (FileEntry("model.onnx", "weight", blob, size_bytes),)
        config = model_config(name=NAME, version=version, onnx=True, files=files, description="", licenses=())
        manifest = model_manifest(config=config, files=files, annotations={})
        record = ReleaseRecord(
            name=NAME,
            version=version,
            manifest=digest_of(manifest),
            manifest_size=len(manifest),
            kind="onnx",
            files=files,
        )
        self._source.blobs.put(config)
        self._source.put_manifest(model_repository(NAME), manifest, tag=version)
        self._source.attach(sign(encode(record), RELEASE_TYPE, self._key))
        return blob

    def answers(self, subject: Subject, version: str, *, size_bytes: int) -> Measurement:
        """How long somebody else waits for the nameserver, alone and beside a push."""
        self._release(version, size_bytes)
        order = Order(act="push", address=subject.address, layout=str(self._source.path), name=NAME, version=version)
        alone, beside = asyncio.run(self._asked(subject, order))
        return Measurement(
            benchmark="blobs",
            case="answers beside a push, 99 of 100",
            ours=round(_percentile(beside, 99), 2),
            limit=None,
            ratio=None,
            unit="ms",
            conditions=(
                f"GET /v1/whoami every {ASK_EVERY_S * 1000:g} ms, {len(beside)} answers while {size_bytes / 1e6:g} MB "
                f"arrive: median {statistics.median(beside):.2f}, longest {max(beside):.1f}; "
                f"alone: median {statistics.median(alone):.2f}, 99 of 100 {_percentile(alone, 99):.2f}"
            ),
        )

    async def _asked(self, subject: Subject, order: Order) -> tuple[list[float], list[float]]:
        context = client_context(self._home.ca_crt, self._home.identity_crt, self._home.identity_key)
        async with FederationClient([subject.address], context) as client:
            alone = await _asked_during(asyncio.sleep(1.0), client)
            return alone, await _asked_during(asyncio.to_thread(self._ordered, order), client)


async def _asked_during(work: Awaitable[object], client: FederationClient) -> list[float]:
    """How long each question took while the work went on; the last is answered, so that no connection is cut."""
    taken_ms: list[float] = []
    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_ask(client, taken_ms, done))
        await work
        done.set()
    return taken_ms


async def _ask(client: FederationClient, taken_ms: list[float], done: asyncio.Event) -> None:
    while not done.is_set():
        began = time.perf_counter()
        async with client.request("GET", "/v1/whoami"):
            pass
        taken_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(ASK_EVERY_S)


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _empty(kept: Path, blob: Digest) -> None:
    """Remove a large file and the files of bare aiohttp and docker-registry, which look anew at each request."""
    for path in kept.rglob("*"):
        with suppress(FileNotFoundError):
            if path.name == blob.removeprefix("sha256:"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _reset_peak_mib(pid: int) -> float:
    """Let a process's peak begin anew; what it has in memory now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory_mib(pid, "VmRSS")


def _memory_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(name)
