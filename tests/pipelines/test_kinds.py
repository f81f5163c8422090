"""Models of other kinds in pipelines: records that a classifier gives, texts, and both in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from onnx import helper

from engine.engine import Engine
from engine.errors import InputProblem
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.pipelines import Deployment, ModelRef, ModelStep, PqlStep, Validation
from tests.models.making import CLASSES, X, classifying, graph_of, packed, spec
from tests.pipelines.running import put_pipeline

EYE = np.eye(4, dtype=np.float32)[:3] * 9
PLACES = [Deployment(), Deployment(replicas=1)]


def step_of(model: PackedRelease) -> ModelStep:
    return ModelStep(ModelRef(model.record.name, model.record.version, digest_of(model.signed.payload)))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.close(wait=True)


@pytest.mark.parametrize("deployment", PLACES, ids=["here", "apart"])
async def test_records_are_fields_of_rows(engine: Engine, deployment: Deployment) -> None:
    model = packed(classifying(), name="classes", inputs=(X,), outputs=CLASSES)
    pipeline = await put_pipeline(
        engine,
        [model],
        [step_of(model), PqlStep('{"second": cast(scores["1"] as Real), "all": scores, "label": label}')],
        validations=[Validation("second", 'out.all["1"] > 0.9')],
        deployment=deployment,
    )
    assert [(one.name, one.datatype) for one in pipeline.record.outputs] == [
        ("second", "FP64"),
        ("all", "RECORD"),
        ("label", "INT64"),
    ]
    rows = list((await pipeline.infer({"x": EYE})).rows())
    assert [row["anomaly"] for row in rows] == [
        {"count": 0, "second": False},
        {"count": 1, "second": True},
        {"count": 0, "second": False},
    ]
    assert [row["out"]["label"] for row in rows] == [0, 1, 2]
    assert all(row["out"]["all"].keys() == {"0", "1", "2"} for row in rows)
    assert rows[1]["out"]["second"] == pytest.approx(rows[1]["out"]["all"]["1"])


def joining() -> PackedRelease:
    """words BYTES[-1], tag BYTES[-1] → both BYTES[-1], same BOOL[-1]: two inputs of texts, two outputs."""
    nodes = [
        helper.make_node("StringConcat", ["words", "tag"], ["both"]),
        helper.make_node("Equal", ["words", "tag"], ["same"]),
    ]
    inputs = (spec("words", "BYTES", -1), spec("tag", "BYTES", -1))
    outputs = (spec("both", "BYTES", -1), spec("same", "BOOL", -1))
    graph = graph_of(nodes, inputs, outputs, opset={"": 20}, ir_version=9)
    return packed(graph.SerializeToString(), name="texts", inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("deployment", PLACES, ids=["here", "apart"])
async def test_texts_go_through_pipelines_whole(engine: Engine, deployment: Deployment) -> None:
    model = joining()
    pipeline = await put_pipeline(engine, [model], [step_of(model)], deployment=deployment)
    columns = pipeline.columns_of([{"words": "straße 🙂", "tag": "\0é"}, {"words": "e\u0301", "tag": "e\u0301"}])
    rows: list[Any] = [row["out"] for row in (await pipeline.infer(columns)).rows()]
    assert rows == [{"both": "straße 🙂\0é", "same": False}, {"both": "e\u0301" * 2, "same": True}]
    with pytest.raises(InputProblem, match="half a surrogate pair"):
        await pipeline.infer(pipeline.columns_of([{"words": "\ud800", "tag": "é"}]))
