"""``1 + 1`` asked of 500 peers over their uplinks, beside NATS request-many to as many subscribers.

Ours: a real nameserver, 500 edges that joined, each with an uplink of its own under mutual TLS 1.3, held by
:data:`HOLDERS` processes that run the production executor; an admin's client sends a signed statement, every edge checks
the envelope and the director's word, resolves, runs, and the answer ends with a ledger of all. NATS: Debian's
nats-server, plain TCP, 500 nats-py clients held by as many processes, one message out, 500 answers in. Both take turns
in one run; the median pair counts.

The first row and the last row are reported; the last one has the goal: at most twice NATS.
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
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.federations import LOOPBACK, Founded, founded, start_nameserver, started, stop
from benchmarks.measurement import Measurement, median_pair
from benchmarks.uplink_load import Holding
from peers.client_peer import ClientPeer, open_client
from peers.edge_parts import trusted_root
from peers.settings import ClientSettings
from query.frames import EndFrame, ErrorFrame, RowFrame

PEERS: Final = 500
HOLDERS: Final = 2
ROUNDS: Final = 25
WARM_UPS: Final = 3
GOAL: Final = 2.0
STATEMENT: Final = "//peer: all\n1 + 1"
SUBJECT: Final = "peers.all"


@dataclass
class Times:
    """Seconds from the question to the first row and to the last, of each round."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)


def run(rounds: int = ROUNDS, peers: int = PEERS) -> Iterator[Measurement]:
    if shutil.which("nats-server") is None:
        raise SystemExit("fanout needs nats-server: apt install nats-server")
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder, ExitStack() as stack:
        federation, port = held_uplinks(stack, Path(folder), peers)
        nats_port = _nats(stack, peers)
        ours, theirs = asyncio.run(_measured(federation, port, nats_port, rounds, peers))
    conditions = (
        f"{peers} peers in {HOLDERS} processes, {os.cpu_count()} cores, {rounds} interleaved rounds, median of pairs"
    )
    for row in ("first", "last"):
        mine, limit, ratio = median_pair(getattr(ours, row), getattr(theirs, row))
        goal = f"; goal at most {GOAL}x" if row == "last" else ""
        yield Measurement(
            benchmark="fanout",
            case=f"{row} row vs NATS",
            ours=round(mine * 1e3, 2),
            limit=round(limit * 1e3, 2),
            ratio=round(ratio, 3),
            unit="ms",
            conditions=f"{conditions}; ours {_spread(getattr(ours, row))} ms{goal}",
        )


def held_uplinks(stack: ExitStack, folder: Path, peers: int) -> tuple[Founded, int]:
    """A nameserver with the uplinks of ``peers`` edges open, held by :data:`HOLDERS` processes; and its port."""
    federation = founded(folder / "ns", peers)
    port = start_nameserver(stack, federation.home)
    share = -(-peers // HOLDERS)
    for number in range(HOLDERS):
        holding = Holding(
            address=f"{LOOPBACK}:{port}",
            federation=federation.federation,
            ca=federation.home.text(federation.home.ca_crt),
            root=trusted_root(federation.admin),
            edges=federation.edges[number * share : (number + 1) * share],
        )
        file = folder / f"holding-{number}.json"
        file.write_bytes(msgspec.json.encode(holding))
        started(stack, [sys.executable, "-m", "benchmarks.uplink_load", str(file)])
    return federation, port


async def client_of(federation: Founded, port: int) -> ClientPeer:
    """The admin's client."""
    return await open_client(federation.admin, ClientSettings(nameserver=f"{LOOPBACK}:{port}", zeroconf=False))


def _nats(stack: ExitStack, peers: int) -> int:
    with socket.create_server((LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    server = subprocess.Popen(["nats-server", "-a", LOOPBACK, "-p", str(port)], stderr=subprocess.DEVNULL)
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
    share = -(-peers // HOLDERS)
    for number in range(HOLDERS):
        count = min(share, peers - number * share)
        started(stack, [sys.executable, "-m", "benchmarks.nats_load", str(port), str(count)])
    return port


async def _measured(federation: Founded, port: int, nats_port: int, rounds: int, peers: int) -> tuple[Times, Times]:
    import nats

    ours, theirs = Times(), Times()
    peer = await client_of(federation, port)
    bus = await nats.connect(f"nats://{LOOPBACK}:{nats_port}")
    try:
        for number in range(WARM_UPS + rounds):
            pair = [_asked(peer, peers), _requested(bus, peers)]
            first, second = pair if number % 2 else pair[::-1]
            found = [await first, await second]
            mine, limit = found if number % 2 else found[::-1]
            if number >= WARM_UPS:
                for times, (one, all_) in ((ours, mine), (theirs, limit)):
                    times.first.append(one)
                    times.last.append(all_)
    finally:
        await peer.close()
        await bus.close()
    return ours, theirs


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


async def _requested(bus: Any, peers: int) -> tuple[float, float]:
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
    await bus.publish(SUBJECT, msgspec.json.encode({"text": "1 + 1"}), reply=inbox)
    async with asyncio.timeout(30.0):
        last = await done
    await subscription.unsubscribe()
    return first, last


def _spread(seconds: list[float]) -> str:
    low, _, high = statistics.quantiles(seconds, n=4)
    return f"{low * 1e3:.0f} to {high * 1e3:.0f}"
