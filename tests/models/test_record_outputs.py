"""Outputs that are sequences of maps or of tensors, as converters of scikit-learn write them: read as records."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from engine.engine import Engine
from engine.errors import BadVectors, FailedVectors, InputProblem, ModelFailed, UnservableType
from engine.record_outputs import record_text, records_of
from engine.sessions import Session
from engine.vectors import read_vectors, require_answers
from tests.models.making import X, Y, graph_of, release, spec

IRIS = Path(onnxruntime.__file__).parent / "datasets/logreg_iris.onnx"
ROWS = [[5.1, 3.5], [6.2, 2.9], [7.7, 3.0]]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


async def iris(engine: Engine, **about: Any) -> Any:
    """The classifier that comes with the runtime, loaded as any release."""
    graph = IRIS.read_bytes()
    described = await engine.describe(graph)
    about = {"name": "iris", "inputs": described.inputs, "outputs": described.outputs, **about}
    return await engine.load(release(graph, **about), origin="manual")


async def test_a_classifiers_scores_are_records(engine: Engine) -> None:
    model = await iris(engine)
    assert model.record.outputs == (spec("label", "INT64", 3), spec("probabilities", "RECORD", -1))
    answer = await engine.infer("iris", ROWS)
    bare = onnxruntime.InferenceSession(IRIS.read_bytes(), providers=["CPUExecutionProvider"])
    (scores,) = bare.run(["probabilities"], {"float_input": np.array(ROWS, np.float32)})
    assert answer["probabilities"].shape == (3,)
    assert answer["probabilities"].tolist() == [{str(key): value for key, value in row.items()} for row in scores]
    assert all(sum(row.values()) == pytest.approx(1.0) for row in answer["probabilities"])


async def test_records_are_compared_with_test_vectors(engine: Engine) -> None:
    expected = [
        {"0": 0.9505, "1": 0.0269, "2": 0.0226},
        {"0": 0.0, "1": 0.0, "2": 0.0},
        {"0": 0.0, "1": 0.0, "2": 0.0},
    ]

    def vectors(rows: Any) -> bytes:
        output = {"probabilities": rows}
        return json.dumps([{"input": {"float_input": ROWS}, "output": output, "tolerance": 1e-3}]).encode()

    with pytest.raises(FailedVectors, match=r'"probabilities"\[\d\]: expected \{.*\} within 0.001, found \{'):
        await iris(engine, vectors=vectors(expected))
    with pytest.raises(FailedVectors, match=r'"probabilities": expected BYTES\[0\], found RECORD\[3\]'):
        await iris(engine, vectors=vectors([]))
    with pytest.raises(BadVectors, match='output "probabilities": expected a list of objects'):
        await iris(engine, vectors=vectors([1, 2, 3]))
    found = (await iris(engine)).call({"float_input": np.array(ROWS, np.float32)})["probabilities"].tolist()
    assert (await iris(engine, vectors=vectors(found))).require_vectors() == 1


def test_records_with_other_keys_or_texts_differ() -> None:
    outputs = [spec("r", "RECORD", -1)]
    raw = json.dumps([{"input": {"x": [1, 2, 3, 4]}, "output": {"r": [{"a": 1.0, "b": ["x", 2.0]}]}}]).encode()
    (vector,) = read_vectors(raw, inputs=[X], outputs=outputs)
    require_answers(vector, {"r": np.array([{"a": 1.00001, "b": ["x", 2.0]}], object)}, position=1, label="m@1")
    for other in (
        {"a": 1.0},
        {"a": 1.0, "b": ["y", 2.0]},
        {"a": 1.0, "b": ["x"]},
        {"a": float("nan"), "b": ["x", 2.0]},
    ):
        with pytest.raises(FailedVectors):
            require_answers(vector, {"r": np.array([other], object)}, position=1, label="m@1")


def sequence(count: int = 2) -> bytes:
    """x[-1,4] → a sequence of x, and of x turned when ``count`` is 2."""
    turned = helper.make_node("Transpose", ["x"], ["t"])
    nodes = [helper.make_node("SequenceConstruct", ["x", "x"] if count != 2 else ["x", "t"], ["s"])]
    graph = graph_of([turned, *nodes], [X], [Y])
    graph.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    return graph.SerializeToString()


def test_a_sequence_of_tensors_is_a_record_a_row() -> None:
    session = Session(sequence(1))
    assert session.outputs == (spec("s", "RECORD", -1),)
    (found,) = session.run({"x": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)})
    assert found.tolist() == [
        {"0": [1.0, 2.0, 3.0, 4.0], "1": [1.0, 2.0, 3.0, 4.0]},
        {"0": [5.0, 6.0, 7.0, 8.0], "1": [5.0, 6.0, 7.0, 8.0]},
    ]


def test_a_sequence_whose_tensors_have_other_rows_is_refused_when_it_comes() -> None:
    session = Session(sequence())
    with pytest.raises(ModelFailed, match=r"one entry a row each, found shapes \[3, 4\], \[4, 3\]"):
        session.run({"x": np.zeros((3, 4), np.float32)})
    assert session.run({"x": np.zeros((4, 4), np.float32)})[0].shape == (4,)


def test_an_empty_sequence_has_no_rows() -> None:
    assert records_of("s", []).shape == (0,)


def test_a_record_as_text() -> None:
    assert record_text({"é": 0.5, "n": float("nan"), "l": [1, 2]}) == '{"é":0.5,"n":NaN,"l":[1,2]}'


def test_an_output_that_is_neither_tensor_nor_record_is_refused() -> None:
    graph = graph_of([helper.make_node("SequenceConstruct", ["f"], ["s"])], [X], [Y])
    graph.graph.node.insert(0, helper.make_node("Cast", ["x"], ["f"], to=TensorProto.BOOL))
    graph.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("s", TensorProto.BOOL, None))
    with pytest.raises(UnservableType, match=r'output "s": expected a tensor of .*found seq\(tensor\(bool\)\)'):
        Session(graph.SerializeToString())


def texts(node: Any) -> Session:
    """A model of texts in and out."""
    name, answer = spec("s", "BYTES", -1), spec("t", "BYTES", -1)
    return Session(graph_of([node], [name], [answer]).SerializeToString())


@pytest.mark.parametrize("text", ["", "é", "a\0b", "🙂", "\U0010ffff", "ﬀ\u0301"])
def test_texts_come_back_as_they_went(text: str) -> None:
    session = texts(helper.make_node("Identity", ["s"], ["t"]))
    assert session.run({"s": np.array([text], object)})[0].tolist() == [text]


def test_texts_that_are_no_utf_8_are_told() -> None:
    session = texts(helper.make_node("Identity", ["s"], ["t"]))
    with pytest.raises(InputProblem, match="half a surrogate pair"):
        session.run({"s": np.array(["\ud800"], object)})
    bad = helper.make_tensor("c", TensorProto.STRING, [1], [b"\xff\xfe"])
    with pytest.raises(ModelFailed, match="answered with text that is not UTF-8"):
        texts(helper.make_node("Constant", [], ["t"], value=bad)).run({"s": np.array(["a"], object)})
