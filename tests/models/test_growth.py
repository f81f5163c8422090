"""A graph whose tensors grow with the values of its input is told from one whose tensors grow with its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, helper, numpy_helper

from engine import inspection
from engine.engine import Engine, EngineSettings
from engine.growth import Node, grows
from tests.models.making import X, Y, graph_of
from tests.models.putting import put
from tests.models.test_ceiling import SIZE, TOTAL, VECTORS, growing

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
DATASETS = Path(onnxruntime.__file__).parent / "datasets"


def node(operator: str, inputs: str, outputs: str) -> Node:
    return Node(
        operator,
        tuple(name.encode() if name != "_" else b"" for name in inputs.split()),
        tuple(name.encode() for name in outputs.split()),
    )


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([], False),
        ([node("ConstantOfShape", "x", "y")], True),
        ([node("ConstantOfShape", "c", "y")], False),
        ([node("Constant", "", "k"), node("Expand", "x k", "y")], False),
        ([node("Expand", "x s", "y"), node("Concat", "a c", "s"), node("Shape", "x", "a")], False),
        ([node("Expand", "x s", "y"), node("Concat", "a x", "s"), node("Shape", "x", "a")], True),
        ([node("Range", "c n c", "y"), node("Size", "x", "n")], False),
        ([node("Range", "c n c", "y"), node("ReduceMax", "x", "n")], True),
        ([node("Resize", "x _ c", "y")], False),
        ([node("Resize", "x _ _ x", "y")], True),
        ([node("Tile", "x somewhere", "y")], True),
        ([node("Shape", "x", "a"), node("Add", "a b", "b"), node("Expand", "x b", "y")], True),
    ],
)
def test_sizes_are_followed_to_where_they_come_from(nodes: list[Node], found: bool) -> None:
    assert grows(nodes, {b"c"}) is found


def test_a_long_chain_is_followed_without_depth() -> None:
    nodes = [node("Identity", f"t{at}", f"t{at + 1}") for at in reversed(range(20_000))]
    nodes += [node("Shape", "x", "t0"), node("Expand", "x t20000", "y")]
    assert not grows(nodes, ())


def expanding(size: NodeProto) -> bytes:
    names = numpy_helper.from_array(np.array([1], np.int64), "one")
    nodes = [size, helper.make_node("Expand", ["x", "size"], ["y"])]
    return graph_of(nodes, [X], [Y], initializers=[names]).SerializeToString()


def test_it_is_read_from_files() -> None:
    assert inspection.read(growing()).grows
    assert not inspection.read(expanding(helper.make_node("Shape", ["x"], ["size"]))).grows
    assert inspection.read(expanding(helper.make_node("Cast", ["x"], ["size"], to=7))).grows
    within = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["size"], to=7), helper.make_node("Expand", ["x", "size"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)],
    )
    condition = helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=condition),
        helper.make_node("If", ["yes"], ["y"], then_branch=within, else_branch=within),
    ]
    assert inspection.read(graph_of(nodes, [X], [Y]).SerializeToString()).grows


@pytest.mark.parametrize("path", sorted([*LIGHT.glob("*.onnx"), *DATASETS.glob("*.onnx")]), ids=lambda path: path.stem)
def test_published_networks_do_not_grow_with_values(path: Path) -> None:
    assert not inspection.read(path.read_bytes()).grows


async def test_such_a_graph_never_runs_on_the_loop_nor_in_a_batch() -> None:
    engine = Engine(EngineSettings(threads=1, inline_us=1e9))
    await put(engine, growing(), name="growing", inputs=[SIZE], outputs=[TOTAL], vectors=VECTORS)
    model = engine.find_model("growing")
    feed = {"size": np.array([2, 3], np.int64)}
    assert not engine.runs_inline(model, feed)
    assert model.batch_rows_max == 0
    assert (await engine.run(model, feed))["total"].tolist() == 0.0
    engine.close()
