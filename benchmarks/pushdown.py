"""An average over 500 peers, asked as one question whose parts are merged, against shipping the rows to average them.

Both ask the same nameserver over the same uplinks as a client; 500 edges are held by processes that run the production
executor (:mod:`benchmarks.uplink_load`). Each edge has 1000 readings. Time is from asking to the answer; bytes are what
the nameserver received from all of them, as TCP counts it, and what came to the client as frames. Rounds are
interleaved; the median pair counts.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.fanout import client_of, held_uplinks
from benchmarks.federations import Founded
from benchmarks.measurement import Measurement, median_pair
from peers.client_peer import ClientPeer
from query.frames import EndFrame, ErrorFrame, RowFrame, encode_frame
from query.values import decode_value

PEERS: Final = 500
READINGS: Final = 1000
PAIRS: Final = 5
ASKED: Final = f"//peer: all\n//timeout: 120s\nselect avg(x), count(x) from x in range(1, {READINGS})"
SHIPPED: Final = f"//peer: all\n//timeout: 120s\nselect x from x in range(1, {READINGS})"
AVERAGE: Final = (READINGS + 1) / 2


@dataclass(frozen=True)
class Round:
    seconds: float
    up: int
    to_client: int


def run(peers: int = PEERS, pairs: int = PAIRS) -> Iterator[Measurement]:
    if shutil.which("ss") is None:
        raise SystemExit("pushdown needs ss: apt install iproute2")
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder, ExitStack() as stack:
        federation, port = held_uplinks(stack, Path(folder), peers)
        asked, shipped = asyncio.run(_measured(federation, port, peers, pairs))
    cores = len(os.sched_getaffinity(0))
    conditions = (
        f"{peers} uplinks, {READINGS} readings each, all peers on {cores} cores, {pairs} interleaved pairs, median pair"
    )
    for case, unit, ours, theirs in (
        ("time", "s", [one.seconds for one in asked], [one.seconds for one in shipped]),
        ("bytes up the uplinks", "B", [float(one.up) for one in asked], [float(one.up) for one in shipped]),
        (
            "bytes to the client",
            "B",
            [float(one.to_client) for one in asked],
            [float(one.to_client) for one in shipped],
        ),
    ):
        mine, other, ratio = median_pair(ours, theirs)
        yield Measurement(
            benchmark="pushdown",
            case=f"average over {peers} peers vs shipping rows/{case}",
            ours=round(mine, 4),
            limit=round(other, 4),
            ratio=round(ratio, 5),
            unit=unit,
            conditions=conditions,
        )
    per_peer = sorted(one.up for one in asked)[len(asked) // 2] / peers
    yield Measurement("pushdown", "bytes a peer sends for its part", round(per_peer), None, None, "B", conditions)


async def _measured(federation: Founded, port: int, peers: int, pairs: int) -> tuple[list[Round], list[Round]]:
    asked: list[Round] = []
    shipped: list[Round] = []
    client = await client_of(federation, port)
    try:
        await _asked(client, port, ASKED, peers)  # everything is imported and connected
        for number in range(pairs):
            for text, rounds in ((ASKED, asked), (SHIPPED, shipped))[:: 1 if number % 2 else -1]:
                rounds.append(await _asked(client, port, text, peers))
    finally:
        await client.close()
    return asked, shipped


async def _received(port: int) -> int:
    """Bytes that the nameserver has received over all connections that are open to it."""
    ss = await asyncio.create_subprocess_exec("ss", "-tinH", f"sport = :{port}", stdout=asyncio.subprocess.PIPE)
    told, _ = await ss.communicate()
    return sum(int(count) for count in re.findall(rb"bytes_received:(\d+)", told))


async def _asked(client: ClientPeer, port: int, text: str, peers: int) -> Round:
    """One answer, checked: who answered, and what the average is."""
    before = await _received(port)
    to_client = 0
    values: list[float] = []
    count = 0
    began = time.perf_counter()
    async for frame in client.frames(text, params={}, peer=None, timeout_s=None):
        to_client += len(encode_frame(frame))
        match frame:
            case RowFrame(values=(average, number)):
                values, count = [decode_value(average)], number
            case RowFrame(values=(value,)):
                values.append(value)
                count += 1
            case ErrorFrame(error=error):
                raise RuntimeError(f"{error.peer}: {error.message}")
            case EndFrame(ledger=ledger):
                assert ledger.counts == {"rows": peers}, ledger.counts
    average = math.fsum(values) / len(values)
    seconds = time.perf_counter() - began
    assert (count, average) == (peers * READINGS, AVERAGE), (count, average)
    return Round(seconds, await _received(port) - before, to_client)
