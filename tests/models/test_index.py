"""What is in memory, on its way in or out, and why something is not."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest

from engine import errors
from engine.engine import Engine, EngineSettings
from engine.index import FAILURES_KEPT_MAX, Index
from engine.servables import IndexEntry
from tests.models.making import SCALING_VECTORS, endless_when_positive, release, scaling, vectors_of
from tests.models.putting import accepted, put

NOTHING = "create function f(Real x) -> Real as x;"
TWO_ROWS = vectors_of(({"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"y": [[2, 4, 6, 8], [10, 12, 14, 16]]}))
ROW = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(EngineSettings(threads=1))
    yield made
    made.close()


async def test_what_is_loaded_is_ready_and_what_is_not_is_not_listed(engine: Engine) -> None:
    assert engine.index() == ()
    await put(engine, scaling(), version="2.0")
    assert engine.index() == (IndexEntry("scaling", "2.0", "READY", kind="onnx"),)
    engine.unload("scaling")
    await asyncio.sleep(0)
    assert engine.index() == ()


async def test_a_load_is_listed_while_it_goes_on_beside_what_it_replaces(engine: Engine) -> None:
    await put(engine, scaling())
    candidate = release(scaling(3.0), version="2.0")
    load = asyncio.create_task(engine.load(candidate, origin="group", verdict=accepted(candidate, engine)))
    await asyncio.sleep(0)
    assert [(one.version, one.state) for one in engine.index()] == [("1.0", "READY"), ("2.0", "LOADING")]
    await load
    del load
    await asyncio.sleep(0)
    assert engine.index() == (IndexEntry("scaling", "2.0", "READY", kind="onnx"),)


async def test_a_version_that_could_not_be_loaded_says_why_until_another_is(engine: Engine) -> None:
    await put(engine, scaling())
    with pytest.raises(errors.FailedVectors):
        await put(engine, scaling(3.0), version="2.0", vectors=SCALING_VECTORS)
    ready, failed = engine.index()
    assert ready.state == "READY"
    assert (failed.version, failed.state) == ("2.0", "UNAVAILABLE")
    assert failed.reason.startswith("failed_vectors: scaling@2.0: test vector 1")
    await put(engine, scaling(2.0), version="3.0")
    await asyncio.sleep(0)
    assert engine.index() == (IndexEntry("scaling", "3.0", "READY", kind="onnx"),)


async def test_what_still_answers_a_call_is_unloading(engine: Engine) -> None:
    await put(engine, endless_when_positive())
    model = engine.find("scaling")
    call = asyncio.create_task(engine.run(model, {"x": ROW}))
    del model
    await asyncio.sleep(0)
    engine.unload("scaling")
    assert [(one.name, one.version, one.state) for one in engine.index()] == [("scaling", "1.0", "UNLOADING")]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    engine.close(wait=True)
    del call
    await asyncio.sleep(0)
    assert engine.index() == ()


@pytest.mark.parametrize("vectors", [None, TWO_ROWS], ids=["alone", "batched"])
async def test_a_call_that_failed_holds_nothing(vectors: bytes | None) -> None:
    """No cycle of an error and the frames that it went through, which would keep model and input until a collection."""
    engine = Engine(EngineSettings(threads=1, inline_us=0.0, run_s=20.0))
    graph = scaling() if vectors else endless_when_positive()
    await put(engine, graph, vectors=vectors)
    feed = {"x": ROW.copy()}
    model = engine.find_model("scaling")
    assert bool(model.batch_rows_max) == bool(vectors)
    held, sent = weakref.ref(model), weakref.ref(feed["x"])
    gc.disable()
    try:
        for deadline_s in (0.0, 0.01):
            with pytest.raises(errors.OverTime):
                await engine.run(engine.find("scaling"), feed, deadline_s=deadline_s if not vectors else 0.0)
        engine.unload("scaling")
        del model, feed
        engine.close(wait=True)
        await asyncio.sleep(0)
        assert held() is None
        assert sent() is None
    finally:
        gc.enable()


def test_only_the_latest_failures_are_kept() -> None:
    index = Index()
    anything = release(None, script=NOTHING).record
    for number in range(FAILURES_KEPT_MAX + 5):
        record = msgspec.structs.replace(anything, name=f"model{number}")
        with pytest.raises(errors.OverMemory), index.loading(record):
            raise errors.OverMemory("full")
    entries = index.entries([])
    assert len(entries) == FAILURES_KEPT_MAX
    assert "model0" not in {entry.name for entry in entries}
