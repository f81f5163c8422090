"""What recording every inference costs.

``recorded over HTTP``: requests to a pipeline of one model (digits, about 10 µs) on the whole application face, with
the inference log and without, asked by another process. Compared is what this process computes for a request, the
writer's thread included, which on one core is the throughput. Goal: at most a tenth more.

``recorded in process``: a call of the pipeline alone, with the log and without; the writer's thread apart. Without a
goal: nothing asks a pipeline but through a face.

Medians of interleaved pairs of rounds, in µs a request.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.measurement import Measurement, median_pair
from benchmarks.pipelines import _digits, _images, _loaded, _ref
from engine.engine import Engine
from engine.inference_log import InferenceLog
from engine.inference_log_segments import Segments
from engine.pipelines import LoadedPipeline
from federation.layout import ImageLayout
from federation.pipelines import ModelStep
from peers.faces import application_face
from peers.homes import Home
from peers.requests import Origin
from peers.serving_parts import ServingParts
from peers.settings import EdgeSettings
from query.declarations import Caller, Role
from query.frames import Frame

PAIRS: Final = 9
REQUESTS: Final = 4000
CALLS: Final = 5000
GOAL: Final = 1.1
LOAD: Final = """
import asyncio, sys
from benchmarks.serving_load import connected, post

async def main(port, path, connections, requests, body, headers):
    asking = await connected(post(port, path, open(body, "rb").read(), headers=headers), connections)
    for one in asking:
        one.go()
    while sum(len(one.latencies) for one in asking) < requests:
        assert not any(one.failed for one in asking), [one.failed for one in asking]
        await asyncio.sleep(0.02)
    for one in asking:
        one.running = False
    await asyncio.sleep(0.1)
    print(sum(len(one.latencies) for one in asking))

asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6]))
"""


class _NoStatements:
    async def run(self, body: bytes, *, origin: Origin, query: str) -> AsyncIterator[Frame]:
        raise AssertionError("nobody asks a statement")
        yield

    def new_query(self) -> str:
        return "q"


def run() -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as name:
        yield from asyncio.run(_measurements(Path(name)))


async def _measurements(folder: Path) -> list[Measurement]:
    segments = Segments(folder / "log", edge="bench", quota_bytes=256 << 20, now_ms=_now_ms, free_bytes_min=0)
    log = InferenceLog(segments, now_ms=_now_ms)
    async with AsyncExitStack() as stack:
        stack.callback(log.close)
        sides: list[tuple[Engine, LoadedPipeline]] = []
        for record in (log.append, None):
            engine, pipeline = await _loaded([_digits("1.0")], [ModelStep(_ref(_digits("1.0")))], record=record)
            stack.callback(engine.close)
            sides.append((engine, pipeline))
        ports = [await _face(stack, folder / str(at), engine) for at, (engine, _) in enumerate(sides)]
        found = [await _over_http(log, ports, folder, case, connections) for case in _BODIES for connections in (1, 16)]
        return [*found, await _in_process(log, sides)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _face(stack: AsyncExitStack, folder: Path, engine: Engine) -> int:
    parts = ServingParts(
        engine,
        layout=ImageLayout(folder / "releases"),
        statements=_NoStatements(),
        caller=Caller("bench", Role.ADMIN),
        version="0",
        health=lambda: {"ready": True},
        unready=lambda: None,
    )
    stack.push_async_callback(parts.close)
    home = Home(folder / "home").prepare()
    face = await stack.enter_async_context(application_face(parts.listener, home, EdgeSettings(application_port=0)))
    return int(face.near.rpartition(":")[2])


def _records() -> tuple[str, bytes, str]:
    return "/infer", json.dumps([{"image": _images(1)[0].tolist()}]).encode(), ""


def _binary() -> tuple[str, bytes, str]:
    tensor = {"name": "image", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": 256}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return "/v2/models/pipe/infer", head + _images(1).tobytes(), headers


_BODIES: Final = {"records": _records, "OIP binary": _binary}


async def _over_http(log: InferenceLog, ports: list[int], folder: Path, case: str, connections: int) -> Measurement:
    path, body, headers = _BODIES[case]()
    (folder / "body").write_bytes(body)

    async def round_us(port: int) -> float:
        words = (str(port), path, str(connections), str(REQUESTS), str(folder / "body"), headers)
        started = time.process_time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LOAD, *words, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE
        )
        told, _ = await process.communicate()
        await asyncio.to_thread(log.flush)
        return (time.process_time() - started) / int(told) * 1e6

    for port in ports:
        await round_us(port)
    sides: tuple[list[float], list[float]] = ([], [])
    for number in range(PAIRS):
        for at in (0, 1) if number % 2 else (1, 0):
            sides[at].append(await round_us(ports[at]))
    ours, limit, ratio = median_pair(*sides)
    plural = "connection" if connections == 1 else "connections"
    return _measured(f"recorded over HTTP, {case}, {connections} {plural}", ours, limit, ratio, goal=GOAL)


async def _in_process(log: InferenceLog, sides: list[tuple[Engine, LoadedPipeline]]) -> Measurement:
    feed = {"image": _images(1)}
    medians: tuple[list[float], list[float]] = ([], [])
    for number in range(PAIRS):
        for at in (0, 1) if number % 2 else (1, 0):
            taken = []
            for call in range(CALLS):
                before = time.perf_counter_ns()
                await sides[at][1].infer(feed)
                taken.append(time.perf_counter_ns() - before)
                if call % 100 == 0:
                    await asyncio.sleep(0)
            await asyncio.to_thread(log.flush)
            medians[at].append(statistics.median(taken) / 1000)
    ours, limit, ratio = median_pair(*medians)
    return _measured("recorded in process, one call", ours, limit, ratio, goal=None)


def _measured(case: str, ours: float, limit: float, ratio: float, *, goal: float | None) -> Measurement:
    wanted = "" if goal is None else f", goal {goal:.2f}x"
    return Measurement(
        benchmark="recording",
        case=case,
        ours=round(ours, 2),
        limit=round(limit, 2),
        ratio=round(ratio, 3),
        unit="µs",
        conditions=f"Python {sys.version_info.major}.{sys.version_info.minor}, digits 1.0 in a pipeline, "
        f"median of {PAIRS} pairs against the same unrecorded{wanted}",
    )
