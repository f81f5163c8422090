"""A thousand hot swaps under load: no call fails, each answer is one version's, memory stays where it was."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

from engine import errors
from engine.engine import Engine, EngineSettings
from query.errors import Problem
from tests.models.making import SCALING_VECTORS, X, graph_of, release, scaling, spec, vectors_of
from tests.models.putting import accepted

SWAPS = 1000
MIB = 1024 * 1024
GROWTH_MAX = 16 * MIB  # of this process, from the hundredth swap to the last
HIGHEST = spec("y", "FP32", -1, 1)
ROWS = np.ones((16, 4), np.float32)
VERSIONS = (
    release(scaling(2.0), version="1.0", vectors=SCALING_VECTORS),
    release(scaling(3.0), version="2.0", vectors=vectors_of(({"x": [[1, 2, 3, 4]]}, {"y": [[3, 6, 9, 12]]}))),
)


class Load:
    """Calls from everywhere, until told to stop: threads, the event loop, and the pool, batched and not."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self.answers: dict[str, dict[float, int]] = {}
        self.failures: list[BaseException] = []

    def stop(self) -> None:
        self._stop.set()

    def in_a_thread(self) -> None:
        while not self._stop.wait(0.0005):
            self._noted("thread", self._tried(lambda: self._engine.call("scaling", {"x": ROWS})))

    async def on_the_loop(self) -> None:
        while not self._stop.is_set():
            self._noted("loop", self._tried(lambda: self._engine.call("scaling", {"x": ROWS})))
            await asyncio.sleep(0)

    async def in_the_pool(self) -> None:
        while not self._stop.is_set():
            servable = self._engine.find("scaling")
            try:
                found = await self._engine._scheduler.run_in_pool(servable, lambda: {"x": ROWS})  # type: ignore[arg-type]
            except Problem as problem:
                self.failures.append(problem)
                return
            self._noted("pool", found)
            del servable, found

    def _tried(self, call: Any) -> Any:
        try:
            return call()
        except Problem as problem:
            self.failures.append(problem)
            self.stop()
            return None

    def _noted(self, where: str, outputs: Any) -> None:
        if outputs is None:
            return
        answer = outputs["y"]
        if answer.min() != answer.max():
            self.failures.append(AssertionError("two versions in one answer"))
        counted = self.answers.setdefault(where, {})
        factor = float(answer[0, 0])
        counted[factor] = counted.get(factor, 0) + 1


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.timeout(240)
async def test_a_thousand_swaps_under_load_fail_no_call_and_keep_no_memory() -> None:
    engine = Engine(EngineSettings(threads=1))
    verdicts = [accepted(one, engine) for one in VERSIONS]
    await engine.load(VERSIONS[0], origin="group", verdict=verdicts[0])
    load = Load(engine)
    thread = threading.Thread(target=load.in_a_thread)
    thread.start()
    callers = [asyncio.create_task(load.on_the_loop()), asyncio.create_task(load.in_the_pool())]
    before = 0
    for turn in range(1, SWAPS + 1):
        await engine.load(VERSIONS[turn % 2], origin="group", verdict=verdicts[turn % 2])
        if turn == SWAPS // 10:
            before = resident()
    grown = resident() - before
    load.stop()
    await asyncio.gather(*callers)
    thread.join()
    assert load.failures == []
    assert {where: set(counted) for where, counted in load.answers.items()} == {
        "thread": {2.0, 3.0},
        "loop": {2.0, 3.0},
        "pool": {2.0, 3.0},
    }
    assert grown < GROWTH_MAX
    both = [one for one in engine.all_statistics() if one.name == "scaling"]
    answered = sum(sum(counted.values()) for counted in load.answers.values())
    assert sum(one.success.count for one in both) == answered, "no answer is lost to the counts, over all swaps"
    assert sum(one.fail.count for one in both) == 0
    engine.close(wait=True)
    assert [entry.state for entry in engine.index()] == ["READY"]


def heavy(factor: float) -> bytes:
    """x[-1,4] → y[-1,1]: the largest element of a product with 16 MiB of weights."""
    weight = numpy_helper.from_array(np.full((4, MIB), factor, np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], axes=[1]),
    ]
    return graph_of(nodes, [X], [HIGHEST], initializers=[weight]).SerializeToString()


async def test_memory_of_what_was_swapped_goes_back_to_the_system() -> None:
    engine = Engine(EngineSettings(threads=1))
    versions = [
        release(heavy(factor), version=version, name="heavy", outputs=[HIGHEST])
        for factor, version in ((1.0, "1.0"), (2.0, "2.0"))
    ]
    verdicts = [accepted(one, engine) for one in versions]
    await engine.load(versions[0], origin="group", verdict=verdicts[0])
    await given_back(engine)
    with_one = resident()
    for turn in range(1, 11):
        await engine.load(versions[turn % 2], origin="group", verdict=verdicts[turn % 2])
    await given_back(engine)
    assert resident() - with_one < 40 * MIB, "ten of them need 160 MiB of weights, and as much while they are loaded"
    engine.unload("heavy")
    await given_back(engine)
    assert resident() - with_one < 24 * MIB
    engine.close()


async def given_back(engine: Engine) -> None:
    """Until memory was given back once more."""
    times = engine._freed.returned
    engine._freed.loaded()
    async with asyncio.timeout(20):
        while engine._freed.returned == times:  # noqa: ASYNC110 — a count of another thread, bounded above
            await asyncio.sleep(0.01)


async def test_a_version_that_fails_again_and_again_takes_nothing_with_it() -> None:
    engine = Engine()
    await engine.load(VERSIONS[0], origin="group", verdict=accepted(VERSIONS[0], engine))
    broken = release(scaling(9.0), version="9.0", vectors=SCALING_VECTORS)
    for _ in range(20):
        with pytest.raises(errors.FailedVectors):
            await engine.load(broken, origin="group", verdict=accepted(broken, engine))
        assert engine.call("scaling", {"x": ROWS})["y"][0, 0] == 2
    sessions = engine._builder._sessions
    assert sessions is not None
    await asyncio.sleep(0)  # this step of the loop still holds the error that it was woken with
    gc.collect()
    assert len(sessions) == 1, "what failed is not kept"
    engine.close()
