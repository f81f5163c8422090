"""Unchanged polls per second of a real nameserver on one core, against a bare aiohttp handler over the same TLS.

Three processes take turns on one core: a nameserver with 100 registered edges, one with 100 000, and an aiohttp
application of one route that answers 304 and looks at nothing. On another core, sixteen edges keep their mutually
authenticated connections and ask as fast as they are answered. Rounds are interleaved; the median pair counts.

Goals: at least 0.8 of the bare handler each, and the two nameservers within 10 % of each other.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from benchmarks.measurement import Measurement, median_pair
from federation.certificates import issue
from federation.documents import Kind
from federation.events import Event, GroupJoined, Joined, Registered
from federation.keys import PrivateKey, read_key
from federation.names import PeerId
from federation.store import FederationStore
from federation.tls import NAMESERVER_HOSTNAME, client_context
from peers.founding import found
from peers.homes import Home
from peers.settings import NameserverSettings

FEW: Final = 100
MANY: Final = 100_000
CONNECTIONS: Final = 16
ROUNDS: Final = 41
ROUND_S: Final = 0.25
WARM_UP_S: Final = 1.0
START_S_MAX: Final = 120.0
GOAL: Final = 0.8
NEAR: Final = 0.9
EVENTS_AT_ONCE: Final = 30_000
STATUS: Final = '{"generation":1,"report":"0000000000000000","clock":0.0,"disk_free":1000000000}'


@dataclass(frozen=True)
class Edge:
    """An edge that asks: its identity, and its key and certificate as PEM."""

    uuid: PeerId
    key: str
    certificate: str


@dataclass(frozen=True)
class Served:
    """A process under load and those who ask it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    home: Home
    edges: tuple[Edge, ...]


def run() -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder, ExitStack() as stack:
        few, many = (_federation(Path(folder) / str(count), count) for count in (FEW, MANY))
        served = (
            _started(stack, "bare", few[0], few[1], [sys.executable, "-m", "benchmarks.poll", str(few[0].path)]),
            _started(stack, "few", few[0], few[1], _nameserver(few[0])),
            _started(stack, "many", many[0], many[1], _nameserver(many[0])),
        )
        rates, busy = asyncio.run(_measured(served))
    conditions = (
        f"{CONNECTIONS} connections, {ROUNDS} interleaved rounds of {ROUND_S} s, server on one core, "
        f"load from {'another' if _cores() else 'the same'} ({busy:.0%} busy)"
    )
    for name, other, case, goal in (
        ("few", "bare", f"unchanged/{FEW} edges vs aiohttp", GOAL),
        ("many", "bare", f"unchanged/{MANY} edges vs aiohttp", GOAL),
        ("many", "few", f"unchanged/{MANY} edges vs {FEW} edges", NEAR),
    ):
        ours, limit, ratio = median_pair(rates[name], rates[other])
        yield Measurement(
            benchmark="poll",
            case=case,
            ours=round(ours, 1),
            limit=round(limit, 1),
            ratio=round(ratio, 3),
            unit="polls/s",
            conditions=f"{conditions}; spread {_spread(rates[name])}; median of pairs; goal at least {goal}",
        )


# --- what is asked --------------------------------------------------------------------------------------------------


def _federation(path: Path, count: int) -> tuple[Home, tuple[Edge, ...]]:
    """A founded nameserver's home with ``count`` edges that have joined, the first of them with keys."""
    home, settings, now = Home(path), NameserverSettings(federation="bench"), time.time()
    foundation = found(home, settings, now=now, host_name=socket.gethostname())
    keys = [PrivateKey.generate() for _ in range(CONNECTIONS)]
    ids = [PeerId(f"00000000-0000-4000-8000-{number:012}") for number in range(count)]
    store = FederationStore.open(home.state_db)
    try:
        events: list[Event] = []
        for number, uuid in enumerate(ids):
            public = keys[number].public if number < CONNECTIONS else secrets.token_bytes(32)
            events += [
                Registered(uuid=uuid, name=f"edge-{number}", kind="edge", role="viewer", token_hash=f"{number:064x}"),
                Joined(uuid, public),
                GroupJoined(uuid, f"group-{number % 10}"),
            ]
            if len(events) >= EVENTS_AT_ONCE or number == count - 1:
                store.append(events, caller="bench", now=now)
                events = []
    finally:
        store.close()
    kind: Kind = "edge"
    pem, authority = home.text(home.ca_crt), read_key(home.ca_key)
    edges = tuple(
        Edge(
            uuid,
            key.pem,
            issue(
                ca_pem=pem,
                ca_key=authority,
                subject_key=key.public,
                federation=foundation.membership.federation,
                kind=kind,
                uuid=uuid,
                now=now,
            ),
        )
        for uuid, key in zip(ids, keys, strict=False)
    )
    return home, edges


def _nameserver(home: Home) -> list[str]:
    local = ["--federation-host", "127.0.0.1", "--federation-port", "0", "--application-port", "0", "--no-zeroconf"]
    return [
        sys.executable,
        "-m",
        "peers.cli",
        "nameserver",
        "--home",
        str(home),
        *local,
        "--log-level",
        "error",
        "--json",
    ]


def _started(stack: ExitStack, name: str, home: Home, edges: tuple[Edge, ...], command: list[str]) -> Served:
    """Start a process on its core and wait for the line that says where it listens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    stack.callback(_stop, process)
    cores = _cores()
    if cores:
        os.sched_setaffinity(process.pid, {cores[0]})
    assert process.stdout is not None
    record: dict[str, Any] = msgspec.json.decode(process.stdout.readline())
    return Served(name, process, int(str(record["federation"]).rpartition(":")[2]), home, edges)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cores() -> tuple[int, int] | None:
    """One core for who is asked and one for who asks, where there are two."""
    cores = sorted(os.sched_getaffinity(os.getppid()))
    return (cores[0], cores[1]) if len(cores) > 1 else None


# --- who asks -------------------------------------------------------------------------------------------------------


class Asking(asyncio.Protocol):
    """One edge's connection: asks again as soon as it is answered, while it runs."""

    def __init__(self) -> None:
        self.answers = 0
        self.running = False
        self._buffer = b""
        self._first: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._question = b""
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def first(self, uuid: PeerId) -> None:
        """The first poll, which is answered in full, for the tag that the next ones show."""
        assert self._transport is not None
        path = f"GET /v1/edges/{uuid}/desired HTTP/1.1\r\nHost: {NAMESERVER_HOSTNAME}\r\nPeerage-Status: {STATUS}\r\n"
        self._first = asyncio.get_running_loop().create_future()
        self._transport.write(f"{path}\r\n".encode())
        head = await self._first
        self._first = None
        tag = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"etag:")).split(b":", 1)[1].strip()
        self._question = f"{path}If-None-Match: ".encode() + tag + b"\r\n\r\n"

    def go(self) -> None:
        self.running = True
        if not self._waiting:
            self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._waiting = True
        self._transport.write(self._question)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if self._first is not None:
            if len(body) >= _length(head):
                self._buffer = b""
                self._first.set_result(head)
            return
        assert head.startswith(b"HTTP/1.1 304"), head
        self._buffer = b""
        self._waiting = False
        self.answers += 1
        if self.running:
            self._ask()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


async def _measured(served: tuple[Served, ...]) -> tuple[dict[str, list[float]], float]:
    """Polls per second of each in each round, and how busy this process was."""
    cores = _cores()
    if cores:
        os.sched_setaffinity(0, {cores[1]})
    asking = {one.name: [await _connected(one, edge) for edge in one.edges] for one in served}
    for connections in asking.values():
        await _rate(connections, WARM_UP_S)
    rates: dict[str, list[float]] = {one.name: [] for one in served}
    began, used = time.perf_counter(), time.process_time()
    for number in range(ROUNDS):
        turn = number % len(served)
        for one in (*served[turn:], *served[:turn]):
            rates[one.name].append(await _rate(asking[one.name], ROUND_S))
    return rates, (time.process_time() - used) / (time.perf_counter() - began)


async def _connected(served: Served, edge: Edge) -> Asking:
    context = client_context(served.home.ca_crt, edge.certificate, edge.key)
    _, asking = await asyncio.get_running_loop().create_connection(
        Asking, "127.0.0.1", served.port, ssl=context, server_hostname=NAMESERVER_HOSTNAME
    )
    await asking.first(edge.uuid)
    return asking


async def _rate(connections: list[Asking], seconds: float) -> float:
    before = sum(one.answers for one in connections)
    began = time.perf_counter()
    for one in connections:
        one.go()
    await asyncio.sleep(seconds)
    for one in connections:
        one.running = False
    elapsed = time.perf_counter() - began
    answers = sum(one.answers for one in connections) - before
    await asyncio.sleep(0.02)  # what is still under way arrives, and does not count for the next
    return answers / elapsed


def _spread(rates: list[float]) -> str:
    low, _, high = statistics.quantiles(rates, n=4)
    return f"{low:.0f} to {high:.0f}"


# --- the bare handler -----------------------------------------------------------------------------------------------


async def _serve_bare(home: Home) -> None:
    """An aiohttp application of one route over the nameserver's own TLS context."""
    from aiohttp import web

    from benchmarks.bare_server import serve_bare

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=304, headers={"ETag": '"1.1.1"', "Poll-After": "60.000"})

    await serve_bare(home, [web.get("/v1/edges/{uuid}/desired", answer)], told="federation")


if __name__ == "__main__":
    asyncio.run(_serve_bare(Home(Path(sys.argv[1]))))
