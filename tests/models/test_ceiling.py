"""A request that makes a graph ask for gigabytes fails alone: the process holds itself to its limit and goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from engine.engine import Engine, EngineSettings
from engine.errors import OverMemory
from tests.models.making import graph_of, spec, vectors_of
from tests.models.putting import put

ROOT = Path(__file__).parents[2]
SIZE = spec("size", "INT64", 2)
TOTAL = spec("total", "FP32")
VECTORS = vectors_of(({"size": [10, 10]}, {"total": 0.0}))


def growing() -> bytes:
    """size[2] → the sum of so many zeros: as large as the values of its input say, of which no trial knows."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["total"], keepdims=0),
    ]
    return graph_of(nodes, [SIZE], [TOTAL]).SerializeToString()


async def asked_for_gigabytes() -> None:
    """What the child of this test does."""
    from engine.ceiling import hold_process

    limit = hold_process(64 * 1024**2, room_bytes=512 * 1024**2)
    assert limit is not None
    assert hold_process(64 * 1024**3) == limit, "a lower limit stays"
    engine = Engine(EngineSettings(threads=1))
    await put(engine, growing(), name="growing", inputs=[SIZE], outputs=[TOTAL], vectors=VECTORS)

    def feed(rows: int) -> dict[str, Any]:
        return {"size": np.array([rows, 1024 * 1024], np.int64)}

    for _ in range(3):
        try:
            await engine.run(engine.find("growing"), feed(8 * 1024))
        except OverMemory as problem:
            print(problem.code)
        print((await engine.run(engine.find("growing"), feed(1)))["total"].tolist())
    engine.close(wait=True)


def test_a_run_that_asks_for_gigabytes_fails_and_the_next_one_answers() -> None:
    program = "import asyncio; from tests.models.test_ceiling import asked_for_gigabytes as f; asyncio.run(f())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["over_memory", "0.0"] * 3
