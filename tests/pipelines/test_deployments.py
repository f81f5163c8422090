"""What a deployment says is applied: threads, processes, memory; and told when it was not enough."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest

from engine.deployments import PROCESS_BYTES
from engine.engine import Engine, EngineSettings, Verdict
from engine.errors import EngineBusy, OverMemory, OverTime
from engine.exceeded import LOGGED_EVERY_S, Exceeded, ExceededLimits, together
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.pipelines import Deployment, ModelRef, ModelStep
from tests.models.making import X, Y, endless_when_positive, packed, scaling
from tests.pipelines.running import affine, pipeline_release, put, put_pipeline, rows_of

MIB = 1024 * 1024


def step_of(model: PackedRelease) -> ModelStep:
    return ModelStep(ModelRef(model.record.name, model.record.version, digest_of(model.signed.payload)))


def raw(graph: bytes, name: str) -> PackedRelease:
    return packed(graph, name=name, inputs=(X,), outputs=(Y,))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(EngineSettings(run_s=5.0, queue_max=4))
    yield engine
    engine.close(wait=True)
    gc.collect()


def children() -> set[int]:
    """Processes that are models': a trial's or a server's may stand beside them."""
    found = set()
    for one in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            if "engine.replica" in one.cmdline():
                found.add(one.pid)
    return found


async def left(count: int) -> set[int]:
    """The processes, once so many are left: a thread may hold a model for a moment after its run."""
    while len(children()) != count:
        gc.collect()
        await asyncio.sleep(0.01)
    return children()


async def answered(pipeline: Any, total: float) -> float:
    inference = await pipeline.infer({"x": rows_of(total)})
    return float(inference.outputs["y"][0])


async def test_replicas_answer_and_end_with_their_pipeline(engine: Engine) -> None:
    first, second = affine(2, name="price"), affine(3, name="price", version="2.0")
    pipeline = await put_pipeline(engine, [first], [step_of(first)], deployment=Deployment(replicas=2))
    before = children()
    assert len(before) == 2
    assert await answered(pipeline, 4) == 8
    assert engine.find("pipe").memory_bytes == 2 * (1 + PROCESS_BYTES)
    swapped = await put_pipeline(engine, [second], [step_of(second)], deployment=Deployment(replicas=1))
    assert await answered(swapped, 4) == 12
    assert await answered(pipeline, 4) == 8, "who has begun ends on the version that it began with"
    del pipeline
    assert not await left(1) & before
    engine.unload("pipe")
    del swapped
    assert await left(0) == set()


async def test_swaps_of_replicas_fail_no_request(engine: Engine) -> None:
    models = (affine(2, name="price"), affine(3, name="price", version="2.0"))
    deployment = Deployment(replicas=1)
    releases = [pipeline_release([model], [step_of(model)], deployment=deployment) for model in models]
    await put(engine, releases[0])
    swapped = asyncio.Event()
    found: list[float] = []

    async def asking() -> None:
        while not swapped.is_set():
            found.append(await answered(engine.find("pipe"), 4))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(asking())
        for number in range(1, 7):
            await put(engine, releases[number % 2])
        swapped.set()
    assert set(found) == {8.0, 12.0}
    assert len(await left(1)) == 1


async def test_an_engine_that_closes_ends_its_processes() -> None:
    engine = Engine()
    model = affine(2, name="price")
    pipeline = await put_pipeline(engine, [model], [step_of(model)], deployment=Deployment(replicas=1))
    assert len(children()) == 1
    engine.close(wait=True)
    assert children() == set()
    del pipeline


async def test_many_requests_share_the_processes(engine: Engine) -> None:
    model = affine(2, name="price")
    pipeline = await put_pipeline(engine, [model], [step_of(model)], deployment=Deployment(replicas=2))
    for _ in range(10):
        found = await asyncio.gather(*(answered(pipeline, float(total)) for total in range(4)))
        assert found == [0, 2, 4, 6]


async def test_a_process_over_its_memory_is_told_and_counted(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    model = raw(scaling(), "scaling")
    deployment = Deployment(replicas=1, memory_bytes=16 * MIB)
    pipeline = await put_pipeline(engine, [model], [step_of(model)], deployment=deployment)
    with caplog.at_level(logging.WARNING, "peerage.engine"):
        for _ in range(2):
            with pytest.raises(OverMemory):
                await pipeline.infer({"x": np.ones((4 * MIB, 4), np.float32)})
    assert len((await pipeline.infer({"x": np.ones((2, 4), np.float32)})).outputs["y"]) == 2
    (told,) = [one for one in caplog.records if one.msg == "limit_exceeded"]
    assert (told.__dict__["resource"], told.__dict__["model"]) == ("memory", f"scaling@1.0 in {pipeline.label}")
    (exceeded,) = engine.exceeded("pipe")
    assert (exceeded.resource, exceeded.count) == ("memory", 2)
    assert "memory" in exceeded.message


async def test_without_processes_the_limit_decides_about_loading(engine: Engine) -> None:
    model = affine(2, name="price")
    release = pipeline_release([model], [step_of(model)], deployment=Deployment(memory_bytes=1000))
    member = Verdict(record=release.members[0].record_digest, runtime=engine.runtime_version, peak_bytes=1001)
    verdict = Verdict(record=release.record_digest, runtime=engine.runtime_version, peak_bytes=1001, members=(member,))
    with pytest.raises(OverMemory, match="need 1001 bytes of memory, its deployment allows 1000"):
        await engine.load(release, origin="group", verdict=verdict)
    assert (await put(engine, release)).label == release.record.label


async def test_replicas_count_in_the_budget() -> None:
    engine = Engine(EngineSettings(memory_budget_bytes=2 * PROCESS_BYTES))
    model = affine(2, name="price")
    with pytest.raises(OverMemory, match=rf"needs {3 * (1 + PROCESS_BYTES)} bytes of memory and 0 are in use"):
        await put_pipeline(engine, [model], [step_of(model)], deployment=Deployment(replicas=3))
    assert children() == set()
    engine.close(wait=True)


async def test_cpus_are_threads_and_too_many_requests_are_told(engine: Engine) -> None:
    model = raw(endless_when_positive(), "loop")
    pipeline = await put_pipeline(engine, [model], [step_of(model)], deployment=Deployment(cpus=0.5))
    runs = [asyncio.create_task(pipeline.infer({"x": np.ones((1, 4), np.float32)})) for _ in range(4)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert engine.waiting() == 4
    lanes = [one for one in threading.enumerate() if one.name.startswith("inference")]
    assert len(lanes) == 1
    with pytest.raises(EngineBusy):
        await pipeline.infer({"x": np.ones((1, 4), np.float32)})
    (exceeded,) = engine.exceeded("pipe")
    assert (exceeded.resource, exceeded.count) == ("cpus", 1)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)


async def test_a_run_over_its_time_is_counted() -> None:
    engine = Engine(EngineSettings(run_s=0.2))
    model = raw(endless_when_positive(), "loop")
    for deployment in (Deployment(), Deployment(replicas=1)):
        pipeline = await put_pipeline(engine, [model], [step_of(model)], deployment=deployment)
        with pytest.raises(OverTime):
            await pipeline.infer({"x": np.ones((1, 4), np.float32)})
        (exceeded,) = engine.exceeded("pipe")
        assert exceeded.resource == "time"
        del pipeline
    engine.close(wait=True)


def test_the_log_hears_of_a_limit_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    limits = ExceededLimits("m@1", clock=lambda: now[0])
    with caplog.at_level(logging.WARNING, "peerage.engine"):
        for _ in range(5):
            limits.note("memory", "too much")
        limits.note("time", "too long")
        now[0] += LOGGED_EVERY_S
        limits.note("memory", "far too much")
    assert [(one.__dict__["resource"], one.__dict__["count"]) for one in caplog.records] == [
        ("memory", 1),
        ("time", 1),
        ("memory", 6),
    ]
    assert limits.read() == (
        Exceeded("memory", 6, 1060, "far too much"),
        Exceeded("time", 1, 1000, "too long"),
    )


def test_limits_of_several_parts_are_read_as_one() -> None:
    first = (Exceeded("memory", 2, 10, "old"), Exceeded("time", 1, 5, "slow"))
    assert together([first, (Exceeded("memory", 3, 20, "new"),)]) == (
        Exceeded("memory", 5, 20, "new"),
        Exceeded("time", 1, 5, "slow"),
    )
