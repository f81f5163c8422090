"""What is refused by reading a file, before the runtime sees it."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import inspection
from engine.errors import ContentProblem, ExternalData, ForeignOperators, NotOnnx, OrtFormat, UnservableType
from tests.models.making import X, Y, endless, graph_of, scaling

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def used_by_onnx(model: onnx.ModelProto) -> tuple[int, set[str]]:
    """Nodes and domains of a model as the onnx package reads them."""

    def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        found = list(graph.node)
        for node in graph.node:
            for attribute in node.attribute:
                for inner in [attribute.g, *attribute.graphs]:
                    found += nodes_of(inner)
        return found

    nodes = nodes_of(model.graph)
    return len(nodes), {node.domain or "ai.onnx" for node in nodes}


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_reads_published_models_as_the_onnx_package_does(path: Path) -> None:
    reading = inspection.read(path.read_bytes())
    model = onnx.load(path)
    assert reading.ir_version == model.ir_version
    assert reading.opset == {one.domain or "ai.onnx": one.version for one in model.opset_import}
    assert (reading.nodes, set(reading.domains)) == used_by_onnx(model)


def test_reads_subgraphs() -> None:
    reading = inspection.read(endless())
    assert (reading.nodes, reading.opset, reading.loops) == (4, {"ai.onnx": 17}, True)


def test_every_truncation_is_refused_or_read_and_nothing_else() -> None:
    whole = scaling()
    refused = 0
    for length in range(len(whole)):
        try:
            inspection.read(whole[:length])
        except NotOnnx:
            refused += 1
    assert refused > len(whole) * 0.9


def test_random_bytes_are_no_model() -> None:
    source = random.Random(7)
    for size in (0, 1, 8, 100, 10_000):
        with pytest.raises(NotOnnx):
            inspection.read(source.randbytes(size))


def test_ort_format_is_named() -> None:
    with pytest.raises(OrtFormat, match="found onnxruntime's own ORT format"):
        inspection.read(b"\x1c\x00\x00\x00ORTM" + bytes(100))


def foreign_node() -> onnx.NodeProto:
    return helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft")


def test_a_foreign_operator_is_named() -> None:
    model = graph_of([foreign_node()], [X], [Y], opset={"": 17, "com.microsoft": 1})
    with pytest.raises(ForeignOperators, match=r"ai\.onnx and ai\.onnx\.ml only, found com\.microsoft:FusedMatMul"):
        inspection.read(model.SerializeToString())


def test_a_foreign_operator_in_a_subgraph_is_found() -> None:
    branch = helper.make_graph([foreign_node()], "branch", [], [helper.make_tensor_value_info("y", 1, None)])
    flag = numpy_helper.from_array(np.array(True), "flag")
    model = graph_of(
        [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)],
        [X],
        [Y],
        initializers=[flag],
    )
    with pytest.raises(ForeignOperators):
        inspection.read(model.SerializeToString())


def test_a_domain_that_is_imported_but_not_used_is_no_refusal() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], [X], [Y], opset={"": 17, "com.microsoft": 1})
    assert inspection.read(model.SerializeToString()).opset == {"ai.onnx": 17}


def own_function(*nodes: onnx.NodeProto) -> bytes:
    function = helper.make_function("own", "Twice", ["a"], ["b"], list(nodes), [helper.make_opsetid("", 17)])
    node = helper.make_node("Twice", ["x"], ["y"], domain="own")
    return graph_of([node], [X], [Y], opset={"": 17, "own": 1}, functions=[function]).SerializeToString()


def test_a_models_own_functions_are_operators_too() -> None:
    assert inspection.read(own_function(helper.make_node("Add", ["a", "a"], ["b"]))).domains == {"ai.onnx"}
    with pytest.raises(ForeignOperators, match="elsewhere:Add"):
        inspection.read(own_function(helper.make_node("Add", ["a", "a"], ["b"], domain="elsewhere")))


@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_external_data_is_refused_wherever_it_hides(place: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    if place == "initializer":
        model = graph_of([helper.make_node("Mul", ["x", "w"], ["y"])], [X], [Y], initializers=[tensor])
    else:
        constant = helper.make_node("Constant", [], ["w"])
        constant.attribute.append(helper.make_attribute("value", tensor))
        model = graph_of([constant, helper.make_node("Mul", ["x", "w"], ["y"])], [X], [Y])
    with pytest.raises(ExternalData, match="expected all weights inside the model"):
        inspection.read(model.SerializeToString())


def test_inputs_without_a_shape_or_that_are_no_tensor_are_refused() -> None:
    model = onnx.load_from_string(scaling())
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnservableType, match="found one without"):
        inspection.read(model.SerializeToString())
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [None, 4]))
    with pytest.raises(UnservableType, match="found a sequence"):
        inspection.read(model.SerializeToString())


def message(number: int, content: bytes) -> bytes:
    """A field that is a message, in protobuf's wire format."""
    length = b""
    left = len(content)
    while left >= 0x80:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + content


def test_depth_and_number_of_fields_are_bounded() -> None:
    graph = b""
    for _ in range(inspection.DEPTH_MAX // 3 + 1):
        graph = message(1, message(5, message(6, graph)))  # node, its attribute, the graph in it
    with pytest.raises(NotOnnx, match=f"at most {inspection.DEPTH_MAX} messages inside each other"):
        inspection.read(message(7, graph))
    with pytest.raises(NotOnnx, match=f"at most {inspection.FIELDS_MAX} fields"):
        inspection.read(b"\x08\x01" * (inspection.FIELDS_MAX + 1))


def test_a_damaged_file_is_read_or_refused_and_nothing_else() -> None:
    source = random.Random(11)
    whole = bytearray(endless())
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        with suppress(ContentProblem):
            inspection.read(bytes(damaged))
