"""``1 + 1`` asked of 500 peers over their uplinks, beside NATS request-many to as many subscribers.

Ours: a real nameserver, 500 edges that joined, each with an uplink of its own under mutual TLS 1.3, held by
:data:`HOLDERS` processes that run the production executor; an admin's client sends a signed statement, every edge
checks the envelope and the director's word, resolves, runs, and the answer ends with a ledger of all.

NATS: Debian's nats-server, 500 nats-py clients held by as many processes, one message out, 500 answers in. Once as it
comes, plain TCP and nobody asked who asks; once as near to ours as it can be: mutual TLS 1.3 with the edges' own
certificates, and every subscriber checks an Ed25519 signature of the caller before it answers. All take turns in one
run; the median pair counts. The first row and the last row are reported, and the processor time of server and holders;
the goal is for the last row. Of Salt, whose minions are a process each, as many as fit are pinged, with ``salt`` (the
folder of an environment in which it is installed): its time a minion stands beside ours a peer.
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
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from benchmarks.federations import LOOPBACK, Founded, Joining, founded, start_nameserver, started, stop
from benchmarks.measurement import Measurement, median_pair
from benchmarks.nats_load import KIND, SUBJECT, Subscribing, connected
from benchmarks.uplink_load import Holding
from federation.keys import PrivateKey
from federation.signing import sign
from peers.client_peer import ClientPeer, open_client
from peers.edge_parts import trusted_root
from peers.settings import ClientSettings
from query.frames import EndFrame, ErrorFrame, RowFrame

PEERS: Final = 500
HOLDERS: Final = 2
ROUNDS: Final = 25
WARM_UPS: Final = 3
MINIONS: Final = 50
GOAL: Final = 2.0
STATEMENT: Final = "//peer: all\n1 + 1"


@dataclass
class Times:
    """Seconds from the question to the first row and to the last, of each round."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    processor: float = 0.0  # of server and holders, a round


def run(rounds: int = ROUNDS, peers: int = PEERS, salt: str | None = None) -> Iterator[Measurement]:
    if shutil.which("nats-server") is None:
        raise SystemExit("fanout needs nats-server: apt install nats-server")
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder, ExitStack() as stack:
        processes: dict[str, list[psutil.Process]] = {}
        federation, port = held_uplinks(stack, Path(folder), peers)
        processes["ours"] = _begun(processes)
        buses = []
        for is_checked in (False, True):
            buses.append(_bus(stack, Path(folder), federation, checked=is_checked))
            processes[buses[-1].name] = _begun(processes)
        found = asyncio.run(_measured(federation, port, tuple(buses), rounds, processes))
    conditions = (
        f"{peers} peers in {HOLDERS} processes, {os.cpu_count()} cores, {rounds} interleaved rounds, median of pairs"
    )
    for bus in buses:
        ours_cpu, theirs_cpu = found["ours"].processor, found[bus.name].processor
        yield Measurement(
            benchmark="fanout",
            case=f"processor time vs {bus.name}",
            ours=round(ours_cpu * 1e3, 2),
            limit=round(theirs_cpu * 1e3, 2),
            ratio=round(ours_cpu / theirs_cpu, 3),
            unit="ms a question",
            conditions=f"{conditions}; of server and holders together, mean of the rounds",
        )
        for row in ("first", "last"):
            ours, theirs = getattr(found["ours"], row), getattr(found[bus.name], row)
            mine, limit, ratio = median_pair(ours, theirs)
            goal = f"; goal at most {GOAL}x" if row == "last" else ""
            yield Measurement(
                benchmark="fanout",
                case=f"{row} row vs {bus.name}",
                ours=round(mine * 1e3, 2),
                limit=round(limit * 1e3, 2),
                ratio=round(ratio, 3),
                unit="ms",
                conditions=f"{conditions}; ours {_spread(ours)} ms, theirs {_spread(theirs)} ms{goal}",
            )

    if salt is not None:
        yield from _salt(Path(salt), rounds, found["ours"], peers)


def _salt(environment: Path, rounds: int, ours: Times, peers: int) -> Iterator[Measurement]:
    """``test.ping``, after the rounds: its processes would take the time of all others."""
    program = Path(__file__).with_name("salt_ping.py")
    with tempfile.TemporaryDirectory(prefix="peerage-salt-") as folder:
        command = [environment / "bin" / "python", program, folder, str(MINIONS), str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    found = [msgspec.json.decode(line, type=dict[str, float]) for line in done.stdout.splitlines()]
    if not found:
        raise SystemExit(f"Salt gave no answer: {done.stderr.strip()[-400:]}")
    for row, mine in (("first", ours.first), ("last", ours.last)):
        each, theirs_each = (peers, MINIONS) if row == "last" else (1, 1)
        limit = statistics.median(times[row] for times in found) / theirs_each
        own = statistics.median(mine) / each
        yield Measurement(
            benchmark="fanout",
            case=f"{row} row vs Salt's test.ping" + (", a peer" if row == "last" else ""),
            ours=round(own * 1e3, 3),
            limit=round(limit * 1e3, 3),
            ratio=round(own / limit, 3),
            unit="ms" if row == "first" else "ms a peer",
            conditions=f"{peers} peers and {MINIONS} minions, {len(found)} rounds of Salt one after the other, medians",
        )


def held_uplinks(stack: ExitStack, folder: Path, peers: int) -> tuple[Founded, int]:
    """A nameserver with the uplinks of ``peers`` edges open, held by :data:`HOLDERS` processes; and its port."""
    federation = founded(folder / "ns", peers)
    port = start_nameserver(stack, federation.home)
    for number, edges in enumerate(_shares(federation.edges)):
        holding = Holding(
            address=f"{LOOPBACK}:{port}",
            federation=federation.federation,
            ca=federation.home.text(federation.home.ca_crt),
            root=trusted_root(federation.admin),
            edges=edges,
        )
        file = folder / f"holding-{number}.json"
        file.write_bytes(msgspec.json.encode(holding))
        started(stack, [sys.executable, "-m", "benchmarks.uplink_load", str(file)])
    return federation, port


async def client_of(federation: Founded, port: int) -> ClientPeer:
    """The admin's client."""
    return await open_client(federation.admin, ClientSettings(nameserver=f"{LOOPBACK}:{port}", zeroconf=False))


@dataclass(frozen=True)
class Bus:
    """A NATS server with its subscribers. ``caller`` signs what is asked, where that is checked."""

    name: str
    subscribing: Subscribing
    caller: PrivateKey | None

    @property
    def question(self) -> bytes:
        asked = msgspec.json.encode({"text": "1 + 1"})
        return asked if self.caller is None else msgspec.json.encode(sign(asked, KIND, self.caller))


def _bus(stack: ExitStack, folder: Path, federation: Founded, *, checked: bool) -> Bus:
    """``checked``: mutual TLS, and a signature on what is asked."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    command = ["nats-server", "-a", LOOPBACK, "-p", str(port)]
    caller = PrivateKey.generate() if checked else None
    home = federation.home
    if checked:
        certificates = ["--tlscert", str(home.identity_crt), "--tlskey", str(home.identity_key)]
        command += ["--tls", *certificates, "--tlscacert", str(home.ca_crt), "--tlsverify"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    stack.callback(stop, server)
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((LOOPBACK, port)).close()
            break
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    ca = home.text(home.ca_crt) if checked else None
    bus = Bus(
        "NATS, TLS and signed" if checked else "NATS",
        Subscribing(port=port, edges=federation.edges, ca=ca, caller=caller.public if caller else b""),
        caller,
    )
    for number, edges in enumerate(_shares(federation.edges)):
        file = folder / f"subscribing-{checked}-{number}.json"
        file.write_bytes(msgspec.json.encode(msgspec.structs.replace(bus.subscribing, edges=edges)))
        started(stack, [sys.executable, "-m", "benchmarks.nats_load", str(file)])
    return bus


def _shares(edges: tuple[Joining, ...]) -> Iterator[tuple[Joining, ...]]:
    """The edges of each holder."""
    share = -(-len(edges) // HOLDERS)
    for number in range(HOLDERS):
        yield edges[number * share : (number + 1) * share]


def _begun(known: Mapping[str, list[psutil.Process]]) -> list[psutil.Process]:
    """The processes that were started since."""
    before = {process.pid for processes in known.values() for process in processes}
    return [process for process in psutil.Process().children() if process.pid not in before]


def _spent(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def _measured(
    federation: Founded, port: int, buses: tuple[Bus, ...], rounds: int, processes: Mapping[str, list[psutil.Process]]
) -> dict[str, Times]:
    """Each in turn, another one first in each round."""
    peers = len(federation.edges)
    peer = await client_of(federation, port)
    clients = {bus.name: await connected(bus.subscribing, federation.edges[0]) for bus in buses}
    asks: dict[str, Callable[[], Awaitable[tuple[float, float]]]] = {"ours": lambda: _asked(peer, peers)}
    for bus in buses:
        asks[bus.name] = partial(_requested, clients[bus.name], bus.question, peers)
    found = {name: Times() for name in asks}
    try:
        for number in range(WARM_UPS + rounds):
            turn = number % len(asks)
            if number == WARM_UPS:
                before = {name: _spent(started) for name, started in processes.items()}
            for name in (*list(asks)[turn:], *list(asks)[:turn]):
                first, last = await asks[name]()
                if number >= WARM_UPS:
                    found[name].first.append(first)
                    found[name].last.append(last)
        for name, times in found.items():
            times.processor = (_spent(processes[name]) - before[name]) / rounds
    finally:
        await peer.close()
        for client in clients.values():
            await client.close()
    return found


async def _asked(peer: ClientPeer, peers: int) -> tuple[float, float]:
    began = time.perf_counter()
    first = last = 0.0
    rows = 0
    async for frame in peer.frames(STATEMENT, params={}, peer=None, timeout_s=30.0):
        match frame:
            case RowFrame(values=(2,)):
                last = time.perf_counter() - began
                first = first or last
                rows += 1
            case ErrorFrame(error=error):
                raise RuntimeError(f"{error.peer}: {error.message}")
            case EndFrame(ledger=ledger):
                if rows != peers or not _full(ledger, peers):
                    raise RuntimeError(f"{rows} rows, {ledger.counts}: expected {peers}")
    return first, last


def _full(ledger: Any, peers: int) -> bool:
    """All edges gave a row; the nameserver, were it asked, would be one more."""
    return bool(ledger.counts.get("rows", 0) >= peers)


async def _requested(bus: Any, question: bytes, peers: int) -> tuple[float, float]:
    """Request-many: one message with an inbox to answer to, until all have."""
    done = asyncio.get_running_loop().create_future()
    began = time.perf_counter()
    first = 0.0
    answers = 0

    async def heard(message: Any) -> None:
        nonlocal first, answers
        assert msgspec.json.decode(message.data)["values"] == [2]
        answers += 1
        if answers == 1:
            first = time.perf_counter() - began
        if answers == peers:
            done.set_result(time.perf_counter() - began)

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, cb=heard)
    await bus.publish(SUBJECT, question, reply=inbox)
    async with asyncio.timeout(30.0):
        last = await done
    await subscription.unsubscribe()
    return first, last


def _spread(seconds: list[float]) -> str:
    low, _, high = statistics.quantiles(seconds, n=4)
    return f"{low * 1e3:.0f} to {high * 1e3:.0f}"
