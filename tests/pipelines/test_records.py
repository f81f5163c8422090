"""Classifiers that give records: their classes in conditions, in PQL steps, in splits and in rows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from onnx import TensorProto, helper

from engine.engine import Engine
from federation.packing import PackedRelease
from federation.pipelines import KeySplit, ModelStep, PqlStep, Validation
from tests.models.making import packed, spec
from tests.pipelines.defining import ref_of
from tests.pipelines.running import affine, put_pipeline

CLASSES = ["setosa", "versicolor"]


def classifier() -> PackedRelease:
    """x[-1,2] → scores: for each row a record of the two classes, as scikit-learn's converters write it."""
    scores = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("ZipMap", ["p"], ["scores"], domain="ai.onnx.ml", classlabels_strings=CLASSES),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_value_info("scores", scores)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    inputs, outputs = (spec("x", "FP32", -1, 2),), (spec("scores", "RECORD", -1),)
    return packed(model.SerializeToString(), name="classifier", inputs=inputs, outputs=outputs)


IRIS = classifier()
ROWS = {"x": np.array([[0, 0], [9, 0], [0, 9]], np.float32)}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.close(wait=True)


async def test_conditions_read_the_entries_of_records(engine: Engine) -> None:
    validations = [
        Validation("unsure", "out.scores.setosa between 0.4 and 0.6"),
        Validation("other", 'out.scores["versicolor"] > 0.9'),
        Validation("unheard", "out.scores.virginica > 0.5"),
    ]
    pipeline = await put_pipeline(engine, [IRIS], [ModelStep(ref_of(IRIS))], validations=validations)
    inference = await pipeline.infer(ROWS)
    assert [row["anomaly"] for row in inference.rows()] == [
        {"count": 1, "unsure": True, "other": False, "unheard": False},
        {"count": 0, "unsure": False, "other": False, "unheard": False},
        {"count": 1, "unsure": False, "other": True, "unheard": False},
    ]
    assert inference.dropped == ("anomaly.unheard",)
    assert pipeline.failures.read()["anomaly.unheard"].message == (
        "row 1: the condition is null: a value in it is missing"
    )
    row = next(inference.rows())
    assert row["out"]["scores"] == {"setosa": 0.5, "versicolor": 0.5}


async def test_steps_make_fields_of_records_and_splits_go_by_them(engine: Engine) -> None:
    one, two = affine(1, name="one"), affine(2, name="two")
    steps = [
        ModelStep(ref_of(IRIS)),
        PqlStep(
            '{"sure": cast(scores.setosa as Real) > 0.9, "x": [1, 1, 1, cast(coalesce(scores.nobody, 1) as Real)],'
            ' "scores": scores}'
        ),
        KeySplit(ref_of(one), "sure", {"true": ref_of(two)}),
    ]
    pipeline = await put_pipeline(engine, [IRIS, one, two], steps)
    inference = await pipeline.infer(ROWS)
    assert inference.outputs["y"].tolist() == [4, 8, 4]
    many = await pipeline.infer({"x": np.repeat(ROWS["x"], 40, axis=0)})
    assert many.outputs["y"].tolist() == [4] * 40 + [8] * 40 + [4] * 40
