"""Stateful models in a pipeline: rows of a request are moments of one stream, and a stream goes on over requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from onnx import helper

from engine.engine import Engine, EngineSettings
from engine.errors import StreamUnknown
from engine.pipeline_functions import PipelineInference
from engine.pipelines import LoadedPipeline
from engine.streams import StreamCall
from federation.documents import StateSpec
from federation.packing import PackedRelease
from federation.pipelines import ModelStep, PqlStep, Shadow, Validation
from query.declarations import Call, Caller, Role
from query.operators import BadArithmetic
from tests.models.making import graph_of, packed, spec
from tests.pipelines.defining import ref_of
from tests.pipelines.running import put_pipeline


def counter(*, scaled: bool, name: str = "counter", version: str = "1.0") -> PackedRelease:
    """x[-1,1], total[1,1] → y[-1,1], the sum so far; with ``scaled``, of x times a plain number."""
    inputs = [spec("x", "FP32", -1, 1), spec("total", "FP32", 1, 1)]
    outputs = [spec("y", "FP32", -1, 1), spec("totalN", "FP32", -1, 1)]
    nodes = [helper.make_node("Add", ["x", "total"], ["y"]), helper.make_node("Identity", ["y"], ["totalN"])]
    if scaled:
        inputs.append(spec("scale", "FP32"))
        nodes[0] = helper.make_node("Add", ["z", "total"], ["y"])
        nodes.insert(0, helper.make_node("Mul", ["x", "scale"], ["z"]))
    return packed(
        graph_of(nodes, inputs, outputs).SerializeToString(),
        name=name,
        version=version,
        inputs=inputs,
        outputs=outputs,
        states=(StateSpec("total", "totalN"),),
    )


@pytest.fixture(params=["on the spot", "in the pool"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = Engine(EngineSettings(inline_us=1e6 if request.param == "on the spot" else 0.0))
    yield engine
    engine.close(wait=True)


async def sums(pipeline: LoadedPipeline, *values: float, stream: StreamCall | None = None, **more: Any) -> list[float]:
    columns = {"x": np.array(values, np.float32).reshape(-1, 1)}
    if "scale" in more:
        columns["scale"] = np.array([more["scale"]] * len(values), np.float32)
    found = (await pipeline.infer(columns, stream=stream)).outputs["y"]
    return [float(value) for value in found.reshape(-1)]


@pytest.mark.parametrize("scaled", [False, True])
async def test_a_stream_goes_on_over_requests_and_rows(engine: Engine, scaled: bool) -> None:
    model = counter(scaled=scaled)
    pipeline = await put_pipeline(engine, [model], [ModelStep(ref_of(model))])
    more = {"scale": 2.0} if scaled else {}
    unit = 2 if scaled else 1
    assert await sums(pipeline, 1, 2, 3, **more) == [unit, 3 * unit, 6 * unit]
    assert await sums(pipeline, 1, **more) == [unit]  # without a stream nothing is kept
    going = StreamCall(key="a", start=True)
    assert await sums(pipeline, 1, 2, stream=going, **more) == [unit, 3 * unit]
    assert await sums(pipeline, 1, stream=StreamCall(key="a", start=False), **more) == [4 * unit]
    assert await sums(pipeline, 5, stream=StreamCall(key="b"), **more) == [5 * unit]
    last = StreamCall(key="a", end=True)
    assert await sums(pipeline, 1, stream=last, **more) == [5 * unit]
    assert last.position == 4, "rows"
    with pytest.raises(StreamUnknown):
        await sums(pipeline, 1, stream=StreamCall(key="a", start=False), **more)


@pytest.mark.parametrize("scaled", [False, True])
async def test_a_request_that_fails_at_a_later_step_leaves_its_stream_where_it_was(
    engine: Engine, scaled: bool
) -> None:
    model = counter(scaled=scaled)
    steps = [ModelStep(ref_of(model)), PqlStep('{"y": y, "inverse": 1 / (y - 6)}')]
    pipeline = await put_pipeline(engine, [model], steps)
    more = {"scale": 1.0} if scaled else {}
    with pytest.raises(BadArithmetic):
        await sums(pipeline, 6, stream=StreamCall(key="a"), **more)
    with pytest.raises(StreamUnknown):
        await sums(pipeline, 1, stream=StreamCall(key="a", start=False), **more)
    assert await sums(pipeline, 1, 2, stream=StreamCall(key="a", start=True), **more) == [1, 3]
    for end, start in ((False, None), (True, None), (False, True), (True, True)):
        failing = (6,) if start else (1, 2)
        with pytest.raises(BadArithmetic):
            await sums(pipeline, *failing, stream=StreamCall(key="a", start=start, end=end), **more)
    (shown,) = engine.streams().shown("pipe")
    assert shown.position == 2
    assert engine.open_streams()[0] == 1
    assert await sums(pipeline, 1, stream=StreamCall(key="a", start=False), **more) == [4]


async def test_the_language_says_where_a_stream_is(engine: Engine) -> None:
    model = counter(scaled=False)
    await put_pipeline(engine, [model], [ModelStep(ref_of(model))])
    functions = PipelineInference(engine)
    call = Call(Caller("ada", Role.ADMIN), datetime(2027, 1, 1, tzinfo=UTC), "here")

    async def told(**more: Any) -> list[tuple[Any, Any]]:
        rows = await functions.infer(call, "pipe", [{"x": [1]}, {"x": [1]}], **more)
        return [(row["out"]["y"], row["metadata"].get("stream")) for row in rows]

    assert await told() == [([1.0], None), ([2.0], None)]
    assert (await told(stream="a"))[1] == ([2.0], {"key": "a", "position": 2, "restarted": ""})
    assert (await told(stream="a"))[0] == ([3.0], {"key": "a", "position": 4, "restarted": ""})
    other = counter(scaled=False, version="2.0")
    await put_pipeline(engine, [other], [ModelStep(ref_of(other))])
    ((y, stream), _) = await told(stream="a")
    assert (y, stream["restarted"]) == ([1.0], "its model was replaced by another version")


async def test_each_place_of_a_model_has_a_stream_of_its_own(engine: Engine) -> None:
    one, other = counter(scaled=False), counter(scaled=False, version="2.0")
    steps = [Shadow(ref_of(one), (ref_of(other),)), PqlStep('{"x": y}'), ModelStep(ref_of(one))]
    conditions = [Validation("apart", "out_counter.y != out.y")]
    pipeline = await put_pipeline(engine, [one, other], steps, validations=conditions)
    assert await sums(pipeline, 1, 1, stream=StreamCall(key="a")) == [1, 3]
    inference = await pipeline.infer({"x": np.ones((1, 1), np.float32)}, stream=StreamCall(key="a"))
    assert inference.outputs["y"].tolist() == [[6]]
    assert inference.challengers["counter"]["y"].tolist() == [[3]]
    assert inference.anomalies["apart"].tolist() == [True]
