"""An average over 500 peers, asked as one question whose parts are merged, against shipping the rows to average them.

Both ask the same nameserver over the same uplinks as a client; 500 edges are held by a few processes that run the
production executor (:mod:`benchmarks.held_uplinks`). Each edge has 1000 readings. Time is from asking to the answer;
bytes are what went up all uplinks, as TCP counts them, and what came to the client as frames. Rounds are interleaved;
the median pair counts.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.held_uplinks import Held, held
from benchmarks.measurement import Measurement, median_pair
from peers.client import connect_async
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
    average: float


def run(peers: int = PEERS, pairs: int = PAIRS) -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder, held(Path(folder), peers) as there:
        asked, shipped = asyncio.run(_measured(there, peers, pairs))
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


async def _measured(there: Held, peers: int, pairs: int) -> tuple[list[Round], list[Round]]:
    asked: list[Round] = []
    shipped: list[Round] = []
    await _asked(there, ASKED, peers)  # everything is imported and connected
    for number in range(pairs):
        for text, rounds in ((ASKED, asked), (SHIPPED, shipped))[:: 1 if number % 2 else -1]:
            rounds.append(await _asked(there, text, peers))
    return asked, shipped


async def _asked(there: Held, text: str, peers: int) -> Round:
    """One answer, checked: who answered, and what the average is."""
    before = await asyncio.to_thread(there.bytes)
    to_client = 0
    values: list[float] = []
    count = 0
    async with connect_async(there.admin) as client:
        await client.value("1")
        began = time.perf_counter()
        async for frame in client.frames(text):
            to_client += len(encode_frame(frame))
            match frame:
                case RowFrame(values=(average, number)):
                    values, count = [decode_value(average)], number
                case RowFrame(values=(value,)):
                    values.append(value)
                    count += 1
                case ErrorFrame(error=error):
                    raise AssertionError(error)
                case EndFrame(ledger=ledger):
                    assert ledger.counts == {"rows": peers}, ledger.counts
        average = math.fsum(values) / len(values)
        seconds = time.perf_counter() - began
    assert count == peers * READINGS, count
    assert math.isclose(average, AVERAGE, rel_tol=1e-12), average
    after = await asyncio.to_thread(there.bytes)
    return Round(seconds, (after - before).up, to_client, average)
