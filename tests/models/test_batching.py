"""Requests that wait run together where that was measured to pay, and nobody can tell from an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from engine import errors
from engine.batching import CHECKED_ROWS, BatchQueue, Waiting, even, fit, gain_of, merged, parted
from engine.engine import Engine, EngineSettings
from engine.loaded import LoadedModel
from engine.vectors import Vector
from tests.models.making import graph_of, release, scaling, spec, vectors_of
from tests.models.putting import accepted, put

TWO_ROWS = vectors_of(({"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"y": [[2, 4, 6, 8], [10, 12, 14, 16]]}))
INDEX = spec("index", "INT64", -1, 1)
TAKEN = spec("y", "FP32", -1, 1)


def taking() -> bytes:
    """index[-1,1] → y: the element of a table of three at each index. An index past its end fails the whole run."""
    table = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "table")
    node = helper.make_node("Gather", ["table", "index"], ["y"], axis=0)
    return graph_of([node], [INDEX], [TAKEN], initializers=[table]).SerializeToString()


TAKING: dict[str, Any] = {
    "name": "taking",
    "inputs": [INDEX],
    "outputs": [TAKEN],
    "vectors": vectors_of(({"index": [[0], [2]]}, {"y": [[1], [3]]})),
}


def row(value: float) -> dict[str, Any]:
    return {"x": np.full((1, 4), value, np.float32)}


def vector(*rows: list[float], tolerance: float = 1e-4) -> Vector:
    return Vector({"x": np.array(rows, np.float32)}, {}, tolerance)


def test_feeds_are_merged_and_outputs_parted_in_order() -> None:
    feeds = [{"x": np.full((count, 2), count)} for count in (1, 3, 2)]
    whole = merged(feeds)
    assert whole["x"][:, 0].tolist() == [1, 3, 3, 3, 2, 2]
    parts = list(parted(whole, [1, 3, 2]))
    assert [part["x"].tolist() for part in parts] == [feed["x"].tolist() for feed in feeds]
    assert all(part["x"].base is None for part in parts), "an answer keeps nobody else's in memory"


def test_only_feeds_that_differ_in_their_rows_alone_run_together() -> None:
    assert fit({"x": np.ones((1, 4))}, {"x": np.ones((9, 4))})
    assert not fit({"x": np.ones((1, 4))}, {"x": np.ones((1, 5))})
    assert even({"x": np.ones((2, 4)), "z": np.ones((2,))})
    assert not even({"x": np.ones((2, 4)), "z": np.ones((3,))})


def slowed(run: Callable[[Any], Any]) -> Any:
    """``run``, taking a time that depends on the number of calls alone."""

    def slow(feed: Any) -> Any:
        threading.Event().wait(0.001)
        return run(feed)

    return slow


def test_what_batching_gives_is_measured_on_the_vectors() -> None:
    rows_apart = slowed(lambda feed: [feed["x"].sum(axis=1)])
    assert gain_of(rows_apart, [vector([1, 2], [3, 4])], run_s_max=5.0) > CHECKED_ROWS / 2
    assert gain_of(rows_apart, [vector([1, 2]), vector([3, 4])], run_s_max=5.0) > CHECKED_ROWS / 2


@pytest.mark.parametrize(
    ("run", "vectors"),
    [
        (lambda feed: [feed["x"].sum(axis=1)], []),
        (lambda feed: [feed["x"].sum(axis=1)], [vector([1, 2])]),
        (lambda feed: [feed["x"].sum(axis=1)], [vector([1, 2], [1, 2])]),
        (lambda feed: [feed["x"] - feed["x"].mean(axis=0)], [vector([1, 2], [3, 4])]),
        (lambda feed: [feed["x"].sum(axis=1)[:1]], [vector([1, 2], [3, 4])]),
    ],
    ids=["no vectors", "one row", "equal rows", "rows that mix", "an output without rows"],
)
def test_a_model_of_which_nothing_is_known_or_whose_rows_mix_is_not_batched(run: Any, vectors: list[Vector]) -> None:
    assert gain_of(run, vectors, run_s_max=5.0) == 0


def test_a_model_that_is_slow_to_run_apart_is_not_measured_further() -> None:
    runs = []

    def run(feed: Any) -> Any:
        runs.append(len(feed["x"]))
        return [feed["x"].sum(axis=1)]

    assert gain_of(run, [vector([1, 2], [3, 4])], run_s_max=-1.0) == 0
    assert runs == [1, 1]


async def test_a_model_on_the_loop_or_without_a_gain_has_no_batches() -> None:
    engine = Engine(EngineSettings(inline_us=1e9))
    await put(engine, scaling(), vectors=TWO_ROWS)
    assert engine.find_model("scaling").batch_rows_max == 0, "quick enough for the loop"
    slow = Engine(EngineSettings(inline_us=0.0))
    await put(slow, scaling())
    assert slow.find_model("scaling").batch_rows_max == 0, "nothing shows that its rows do not mix"
    engine.close()
    slow.close()


async def batching(**settings: Any) -> tuple[Engine, LoadedModel]:
    """An engine with one thread, and a model that is batched there."""
    engine = Engine(EngineSettings(threads=1, inline_us=0.0, **settings))
    await put(engine, scaling(), vectors=TWO_ROWS)
    model = engine.find_model("scaling")
    assert model.batch_rows_max == 64
    return engine, model


async def held(engine: Engine, model: LoadedModel) -> Callable[[], None]:
    """Keeps the pool's only thread until what this gives is called."""
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait()

    holding = asyncio.create_task(engine._scheduler.offload(work, counters=model.counters))
    await asyncio.to_thread(begun.wait)

    def release_it() -> None:
        go.set()
        assert not holding.done()

    return release_it


async def queued(engine: Engine, places: int) -> None:
    """A task takes its place in its first step."""
    await asyncio.sleep(0)
    assert engine.waiting() == places


async def test_what_waits_runs_as_one_and_each_gets_its_own_rows() -> None:
    engine, model = await batching()
    let_go = await held(engine, model)
    calls = [asyncio.create_task(engine.run(model, row(number))) for number in range(10)]
    await queued(engine, 11)
    let_go()
    answers = await asyncio.gather(*calls)
    assert [float(answer["y"][0, 0]) for answer in answers] == [2.0 * number for number in range(10)]
    found = engine.statistics("scaling")
    assert (found.execution_count, found.inference_count, found.success.count) == (1, 10, 10)
    assert {rows: one.count for rows, one in found.batches.items()} == {10: 1}
    assert (found.queue.count, sum(found.waits), sum(found.latency)) == (10, 10, 10)
    engine.close(wait=True)
    assert engine.waiting() == 0


async def test_a_lone_request_waits_for_nobody() -> None:
    engine, model = await batching()
    assert (await engine.run(model, row(3)))["y"].tolist() == [[6, 6, 6, 6]]
    assert engine.statistics("scaling").execution_count == 1
    engine.close()


async def test_two_versions_never_meet_in_a_batch() -> None:
    engine, old = await batching()
    candidate = release(
        scaling(3.0),
        version="2.0",
        vectors=vectors_of(({"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"y": [[3, 6, 9, 12], [15, 18, 21, 24]]})),
    )
    let_go = await held(engine, old)
    first = [asyncio.create_task(engine.run(old, row(1))) for _ in range(4)]
    await engine.load(candidate, origin="group", verdict=accepted(candidate, engine))
    new = engine.find_model("scaling")
    second = [asyncio.create_task(engine.run(new, row(1))) for _ in range(4)]
    await queued(engine, 9)
    let_go()
    assert [float(one["y"][0, 0]) for one in await asyncio.gather(*first)] == [2.0] * 4
    assert [float(one["y"][0, 0]) for one in await asyncio.gather(*second)] == [3.0] * 4
    assert old.counters.read().batches.keys() == new.counters.read().batches.keys() == {4}
    engine.close()


async def test_nobody_fails_for_anothers_input() -> None:
    engine = Engine(EngineSettings(threads=1, inline_us=0.0))
    await put(engine, taking(), **TAKING)
    model = engine.find_model("taking")
    assert model.batch_rows_max
    let_go = await held(engine, model)
    calls = [asyncio.create_task(engine.run(model, {"index": np.array([[at]])})) for at in (0, 9, 2)]
    await queued(engine, 4)
    let_go()
    good, bad, other = await asyncio.gather(*calls, return_exceptions=True)
    assert not isinstance(good, BaseException)
    assert not isinstance(other, BaseException)
    assert (good["y"].tolist(), other["y"].tolist()) == ([[1]], [[3]])
    assert isinstance(bad, errors.InputProblem)
    engine.close()


def leaving_out() -> bytes:
    """x[-1,1] → y[-1,1]: the rows above zero."""
    zero, flat = (
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
        numpy_helper.from_array(np.array([-1]), "flat"),
    )
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("Reshape", ["above", "flat"], ["kept"]),
        helper.make_node("Compress", ["x", "kept"], ["y"], axis=0),
    ]
    inputs, outputs = [spec("x", "FP32", -1, 1)], [TAKEN]
    return graph_of(nodes, inputs, outputs, initializers=[zero, flat]).SerializeToString()


async def test_nobody_gets_anothers_rows_where_a_graph_leaves_some_out() -> None:
    """Its vectors do not show that it does."""
    engine = Engine(EngineSettings(threads=1, inline_us=0.0))
    vectors = vectors_of(({"x": [[1], [2]]}, {"y": [[1], [2]]}))
    await put(engine, leaving_out(), name="some", inputs=[spec("x", "FP32", -1, 1)], outputs=[TAKEN], vectors=vectors)
    model = engine.find_model("some")
    assert model.batch_rows_max
    let_go = await held(engine, model)
    asked = [np.array([[value]], np.float32) for value in (1, -2, 3)]
    calls = [asyncio.create_task(engine.run(model, {"x": one})) for one in asked]
    await queued(engine, 4)
    let_go()
    assert [one["y"].tolist() for one in await asyncio.gather(*calls)] == [[[1]], [], [[3]]]
    engine.close()


async def test_a_batch_takes_what_fits_and_leaves_the_rest_in_order() -> None:
    engine, model = await batching()
    queue = BatchQueue(4, wait_ns_max=60_000_000_000)
    waiting = [Waiting({"x": np.full((rows, 4), rows, np.float32)}, rows) for rows in (2, 3, 1, 1, 1)]
    for one in waiting:
        queue.add(one)
    gone = waiting[2]
    gone.leave()
    queue.run_next(model)
    assert [one.future.done() for one in waiting] == [True, False, True, True, True]
    assert gone.future.cancelled()
    assert waiting[4].future.result()["y"].tolist() == [[2, 2, 2, 2]]
    queue.run_next(model)
    assert waiting[1].future.result()["y"].shape == (3, 4)
    queue.run_next(model)  # a turn too many finds nothing
    found = model.counters.read()
    assert {rows: one.count for rows, one in found.batches.items()} == {3: 1, 4: 1}
    engine.close()


async def test_who_waited_for_too_long_is_refused_and_not_run() -> None:
    engine, model = await batching()
    queue = BatchQueue(64, wait_ns_max=-1)
    late = Waiting(row(1), 1)
    queue.add(late)
    queue.run_next(model)
    with pytest.raises(errors.EngineBusy, match="expected a turn within"):
        late.future.result()
    found = engine.statistics("scaling")
    assert (found.execution_count, found.refused) == (0, 1)
    engine.close()


async def test_who_leaves_the_queue_gives_the_place_back() -> None:
    engine, model = await batching(queue_max=3)
    let_go = await held(engine, model)
    calls = [asyncio.create_task(engine.run(model, row(1))) for _ in range(2)]
    await queued(engine, 3)
    with pytest.raises(errors.EngineBusy, match="expected at most 3 calls at once"):
        await engine.run(model, row(1))
    assert engine.statistics("scaling").refused == 1
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert engine.waiting() == 1
    third = asyncio.create_task(engine.run(model, row(2)))
    await queued(engine, 2)
    with pytest.raises(errors.OverTime, match=r"expected an answer within 0\.01 s"):
        await engine.run(model, row(1), deadline_s=0.01)
    let_go()
    assert (await third)["y"].tolist() == [[4, 4, 4, 4]]
    engine.close(wait=True)
    assert engine.waiting() == 0


async def test_closing_leaves_nobody_waiting() -> None:
    engine, model = await batching()
    let_go = await held(engine, model)
    call = asyncio.create_task(engine.run(model, row(1)))
    await queued(engine, 2)
    engine.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    let_go()
