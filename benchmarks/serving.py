"""Inference over HTTP: a peer beside a bare aiohttp handler around the same session, and beside other servers.

Cases against the bare handler (:mod:`benchmarks.bare_inference`) have ``aiohttp`` in their names: digits 2.0, whose
run takes about 10 µs, and Magika, whose takes milliseconds; over 1 connection and 16, in JSON and in binary tensors.
Goal: at least 0.85 of its answers a second, with validation on. MLServer, LitServe and BentoML answer digits 2.0 in
JSON, each as its own documentation sets up a service of one worker (:mod:`benchmarks.serving_others`); goals: at
least 2.5 times MLServer, 5 times the others.

Three more goals of a peer that serves stand with them: a call in the process at most 5 µs over the session's own, less
than 1 % of a core while nobody asks, and less than 100 MiB with a hundred small models in memory.

What is asked is the same for both sides of a pair, held-out rows of the examples. The peer is a real edge process,
AUTONOMOUS, with its default settings. Who is asked may use all cores; who asks has the last one to itself as far as
that goes. Rounds of both sides follow each other in turn; told is the pair whose ratio is the median. ``limit`` is
what the other side reached.

``python -m benchmarks serving`` takes ``--report``, which writes the table and the plot of the documentation.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.footprint import HUNDRED_MIB_MAX, memory_mib, write_tiny
from benchmarks.inference import against_the_runtime
from benchmarks.measurement import Measurement, median_pair
from benchmarks.serving_load import Question, Round, answering, asked, connected, post
from benchmarks.serving_others import OTHERS, oip_json, started
from peers.client import connect
from peers.demo import EXAMPLES
from peers.demo.stage import Stage

CONNECTIONS: Final = (1, 16)
ROUNDS: Final = 9
ROUND_S: Final = 1.0
WARM_UP_S: Final = 0.7
BARE_GOAL: Final = 0.85
GOALS: Final = {"MLServer": 2.5, "LitServe": 5.0, "BentoML": 5.0}
IDLE_S: Final = 10.0
IDLE_PERCENT_MAX: Final = 1.0
EDGE: Final = ("edge", "--mode", "AUTONOMOUS", "--name", "BENCH", "--accept-development", "--application-port", "0")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to ask: its name in the peer and for people, its folder, and one row of its only input."""

    name: str
    title: str
    folder: Path
    tensor: str
    datatype: str
    row: list[Any]

    @property
    def graph(self) -> Path:
        return self.folder / "model.onnx"


@dataclass(frozen=True, slots=True)
class Side:
    """One server, by the name that the case has, and what it is asked."""

    name: str
    question: Question


def run(*, rounds: int = ROUNDS) -> Iterator[Measurement]:
    measured = _measurements(rounds)
    loop = asyncio.new_event_loop()
    try:
        while (found := loop.run_until_complete(anext(measured, None))) is not None:
            yield found
    finally:
        loop.run_until_complete(measured.aclose())  # type: ignore[attr-defined]
        loop.close()


async def _measurements(rounds: int) -> AsyncIterator[Measurement]:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as name:
        folder = Path(name)
        subjects = _subjects(folder)
        stage = Stage(folder, EXAMPLES)
        try:
            port = await asyncio.to_thread(_edge, stage, subjects)
            os.sched_setaffinity(0, {cores[-1]})
            yield await _idle(stage.pid("edge"))
            yield replace(await asyncio.to_thread(against_the_runtime, "2.0", 1), benchmark="serving")
            for subject in subjects:
                with _bare(subject, cores) as bare_port:
                    for binary in (False, True):
                        for connections in CONNECTIONS:
                            sides = [
                                Side(who, _question(subject, at, binary=binary))
                                for who, at in (("peerage", port), ("bare aiohttp", bare_port))
                            ]
                            case = f"{subject.title}, {'binary' if binary else 'JSON'}, {_connections(connections)}"
                            yield await _compared(case, sides, connections, rounds, goal=BARE_GOAL)
            small = subjects[0]
            for other in OTHERS:
                process, other_port = await asyncio.to_thread(started, other, small.graph, folder / other.name)
                os.sched_setaffinity(process.pid, set(cores))
                try:
                    rows = [[float(value) for value in small.row]]
                    sides = [
                        Side("peerage", _question(small, port, binary=False)),
                        Side(other.name, other.question(other_port, rows)),
                    ]
                    for connections in CONNECTIONS:
                        case = f"{small.title}, JSON, {_connections(connections)}"
                        yield await _compared(case, sides, connections, rounds, goal=GOALS[other.name])
                finally:
                    _end(process)
            stage.stop()
            yield await asyncio.to_thread(_hundred, stage)
        finally:
            os.sched_setaffinity(0, set(cores))
            stage.stop()


def _subjects(folder: Path) -> tuple[Subject, Subject]:
    digits, types = folder / "digits", folder / "file-types"
    shutil.copytree(EXAMPLES / "digits" / "2.0", digits)
    subprocess.run(
        [sys.executable, EXAMPLES / "file-types" / "folder.py", types], check=True, stdout=subprocess.DEVNULL
    )
    held_out = json.loads((EXAMPLES / "digits" / "held-out.json").read_text("utf-8"))
    features = [int(value) for value in np.frombuffer((EXAMPLES / "digits" / "train.py").read_bytes()[:2048], np.uint8)]
    return (
        Subject("digits", "digits 2.0", digits, "image", "FP32", [float(value) for value in held_out[0]["image"]]),
        Subject("file-types", "Magika", types, "bytes", "INT32", features),
    )


def _edge(stage: Stage, subjects: Sequence[Subject]) -> int:
    """A device of its own with the models in its memory; the port of its application face."""
    models = stage.home("edge") / "models"
    models.mkdir(parents=True)
    for subject in subjects:
        shutil.copytree(subject.folder, models / subject.name)
    stage.start("edge", *EDGE)
    with connect(stage.home("edge")) as edge:
        for subject in subjects:
            edge.value("models:load(:name)", params={"name": subject.name})
    return int(stage.records["edge"]["application"].rpartition(":")[2])


@contextmanager
def _bare(subject: Subject, cores: Sequence[int]) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.bare_inference", str(subject.graph)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, set(cores))
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """A server with all its workers, some of which lead a process group of their own."""
    family = psutil.Process(process.pid)
    for one in (*family.children(recursive=True), family):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _question(subject: Subject, port: int, *, binary: bool) -> Question:
    path = f"/v2/models/{subject.name}/infer"
    if not binary:
        return post(port, path, oip_json(subject.tensor, [subject.row], subject.datatype))
    raw = np.array(subject.row, {"FP32": np.float32, "INT32": np.int32}[subject.datatype]).tobytes()
    tensor = {
        "name": subject.tensor,
        "shape": [1, len(subject.row)],
        "datatype": subject.datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return post(port, path, head + raw, headers=length, expected=b"binary_data_size")


async def _compared(case: str, sides: Sequence[Side], connections: int, rounds: int, *, goal: float) -> Measurement:
    """The first side against the second."""
    asking = []
    for side in sides:
        await answering(side.question)
        asking.append(await connected(side.question, connections))
    found: list[list[Round]] = [[], []]
    try:
        for one in asking:
            await asked(one, WARM_UP_S)
        for number in range(rounds):
            for at in (0, 1) if number % 2 else (1, 0):
                found[at].append(await asked(asking[at], ROUND_S))
    finally:
        for one in asking:
            for connection in one:
                connection.close()
    ours, theirs = ([one.rate for one in rates] for rates in found)
    mine, limit, ratio = median_pair(ours, theirs)
    return Measurement(
        benchmark="serving",
        case=f"{case} vs {sides[1].name}",
        ours=round(mine),
        limit=round(limit),
        ratio=round(ratio, 3),
        unit="answers/s",
        conditions=(
            f"goal at least {goal:g}x; ms p50/p99 {_percentiles(found[0])}, {sides[1].name} {_percentiles(found[1])}; "
            f"median of {rounds} pairs of {ROUND_S:g} s; {_machine()}"
        ),
    )


def _percentiles(rounds: Sequence[Round]) -> str:
    latencies = sorted(latency for one in rounds for latency in one.latencies)
    return "/".join(f"{latencies[int(len(latencies) * part)] * 1e3:.2f}" for part in (0.5, 0.99))


async def _idle(pid: int) -> Measurement:
    """What a peer with both models takes of a core while nobody asks."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    await asyncio.sleep(IDLE_S)
    after = process.cpu_times()
    percent = max(0.0, after.user + after.system - before.user - before.system) / IDLE_S * 100
    return Measurement(
        benchmark="serving",
        case="idle with both models in memory",
        ours=round(percent, 2),
        limit=IDLE_PERCENT_MAX,
        ratio=round(percent / IDLE_PERCENT_MAX, 3),
        unit="% of a core",
        conditions=f"over {IDLE_S:g} s, AUTONOMOUS",
    )


def _hundred(stage: Stage) -> Measurement:
    """A device of its own with a hundred small models in memory, each asked once."""
    models = stage.home("many") / "models"
    models.mkdir(parents=True)
    names = write_tiny(models)
    stage.start("many", *EDGE)
    with connect(stage.home("many")) as edge:
        for name in names:
            edge.value("models:load(:name)", params={"name": name})
        for name in names:
            edge.value("models:infer(:name, :image)", params={"name": name, "image": np.zeros((1, 64), np.float32)})
    found = memory_mib(stage.pid("many"))
    return Measurement(
        benchmark="serving",
        case="a hundred small models in memory",
        ours=found,
        limit=HUNDRED_MIB_MAX,
        ratio=round(found / HUNDRED_MIB_MAX, 3),
        unit="MiB PSS",
        conditions="the linear classifier of digits under 100 names, each a graph of its own; AUTONOMOUS",
    )


def _connections(count: int) -> str:
    return f"{count} connection{'' if count == 1 else 's'}"


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, CPython {platform.python_version()}, onnxruntime {version('onnxruntime')}, "
        f"aiohttp {version('aiohttp')}"
    )
