"""A thousand swaps between two versions of a pipeline under load: no request fails, no answer mixes versions."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from typing import Any

import numpy as np
import psutil
import pytest

from engine.engine import Engine, EngineSettings
from engine.inferences import Inference
from engine.pipelines import LoadedPipeline
from federation.pipelines import ModelStep, PqlStep, Shadow, Validation
from query.errors import Problem
from tests.pipelines.defining import ref_of
from tests.pipelines.running import affine, pipeline_release, put

SWAPS = 1000
GROWTH_MAX_BYTES = 16 * 1024 * 1024  # of this process, from the hundredth swap to the last
ONE, TWO, OTHER = affine(1, name="one"), affine(2, name="two"), affine(5, name="other")
CONDITIONS = [Validation("even", "out.z % 2 = 0 and out_other.y > 0")]
OLD, NEW = (
    pipeline_release(
        [model, OTHER],
        [Shadow(ref_of(model), (ref_of(OTHER),)), PqlStep('{"z": round(y)}')],
        validations=CONDITIONS,
    )
    for model in (ONE, TWO)
)
SHORT = pipeline_release([ONE], [ModelStep(ref_of(ONE))], name="short")
FACTORS = {OLD.record.version: 1, NEW.record.version: 2}
ROWS = np.ones((8, 4), np.float32)


class Load:
    """Requests until told to stop, on threads and on the event loop, each looked at for what it mixes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = threading.Event()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[BaseException] = []

    def stop(self) -> None:
        self._stop.set()

    def in_a_thread(self) -> None:
        while not self._stop.wait(0.001):
            try:
                answer = self._engine.call("pipe", {"x": ROWS})["z"]
            except Problem as problem:
                self.failures.append(problem)
                return
            if set(answer.tolist()) not in ({4}, {8}):
                self.failures.append(AssertionError(f"two versions in one answer: {answer}"))
            self.answers["thread", str(answer[0])] += 1

    async def on_the_loop(self, *, in_the_pool: bool) -> None:
        while not self._stop.is_set():
            pipeline = self._engine.find("pipe")
            assert isinstance(pipeline, LoadedPipeline)
            try:
                if in_the_pool:
                    inference = await pipeline._inferred({"x": ROWS}, pipeline.awaiting)
                else:
                    inference = await pipeline.infer({"x": ROWS})
            except Problem as problem:
                self.failures.append(problem)
                return
            self._check(inference)
            self.answers["pool" if in_the_pool else "loop", inference.version] += 1
            del pipeline, inference
            await asyncio.sleep(0)

    def _check(self, inference: Inference) -> None:
        factor = FACTORS[inference.version]
        found: list[Any] = [
            set(inference.outputs["z"].tolist()) == {4 * factor},
            set(inference.challengers["other"]["y"].tolist()) == {20},
            [model.name for model in inference.models] == [{1: "one", 2: "two"}[factor]],
            inference.anomalies["even"].all(),
            inference.dropped == (),
        ]
        if not all(found):
            self.failures.append(AssertionError(f"versions are mixed: {found}"))


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.timeout(240)
async def test_a_thousand_swaps_of_a_pipeline_fail_no_request() -> None:
    engine = Engine(EngineSettings(threads=1))
    await put(engine, OLD)
    load = Load(engine)
    thread = threading.Thread(target=load.in_a_thread)
    thread.start()
    callers = [asyncio.create_task(load.on_the_loop(in_the_pool=pooled)) for pooled in (False, True)]
    before = 0
    for turn in range(1, SWAPS + 1):
        await put(engine, NEW if turn % 2 else OLD)
        if turn == SWAPS // 10:
            before = resident_bytes()
    grown = resident_bytes() - before
    load.stop()
    await asyncio.gather(*callers)
    thread.join()
    assert load.failures == []
    assert {where for where, _ in load.answers} == {"thread", "loop", "pool"}
    assert len(load.answers) == 6, "both versions answered everywhere"
    assert grown < GROWTH_MAX_BYTES
    engine.close(wait=True)


async def test_a_request_ends_on_the_version_it_began_with() -> None:
    engine = Engine()
    before = await put(engine, OLD)
    began = engine.find("pipe")
    await put(engine, NEW)
    assert began is before
    assert began.call({"x": ROWS})["z"].tolist() == [4] * 8
    assert engine.call("pipe", {"x": ROWS})["z"].tolist() == [8] * 8
    assert [one.version for one in engine.loaded()] == [NEW.record.version]
    engine.close()


async def test_a_version_that_does_not_load_leaves_the_old_one_answering() -> None:
    from engine.engine import Verdict
    from engine.errors import RefusedByRuntime

    engine = Engine()
    await put(engine, OLD)
    refused = Verdict(
        record=NEW.record_digest, runtime=engine.runtime_version, error=RefusedByRuntime("two@1.0: no").record()
    )
    with pytest.raises(RefusedByRuntime):
        await engine.load(NEW, origin="group", verdict=refused)
    assert engine.call("pipe", {"x": ROWS})["z"].tolist() == [4] * 8
    engine.close()


async def test_equal_graphs_of_two_pipelines_are_one_session() -> None:
    engine = Engine()
    first, second = await put(engine, OLD), await put(engine, SHORT)
    (one,) = second.members.values()
    assert first.members[one.record_digest].session is one.session
    assert first.memory.keys() >= second.memory.keys()
    engine.close()
