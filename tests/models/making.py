"""Small ONNX models and verified releases of them, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from federation.documents import Needs, StateSpec, TensorSpec
from federation.folders import FolderFile, ModelDescription, ModelFolder
from federation.keys import PrivateKey
from federation.packing import Inspection, PackedRelease, pack
from federation.roots import first_root, pin_of, trust_chain
from federation.verification import VerifiedRelease, verify

PUBLISHER = PrivateKey(bytes(range(32)))
DIRECTOR = PrivateKey(bytes(range(1, 33)))
ROOT_KEY = PrivateKey(bytes(range(2, 34)))
NO_NEEDS = Needs()

DATATYPES = {
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT64": TensorProto.INT64,
    "BYTES": TensorProto.STRING,
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
}


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def graph_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    initializers: Sequence[TensorProto] = (),
    opset: Mapping[str, int] = {"": 17},
    ir_version: int = 8,
    functions: Sequence[Any] = (),
) -> ModelProto:
    def info(one: TensorSpec) -> Any:
        return helper.make_tensor_value_info(
            one.name, DATATYPES[one.datatype], [None if size < 0 else size for size in one.shape]
        )

    graph = helper.make_graph(
        nodes, "graph", [info(one) for one in inputs], [info(one) for one in outputs], list(initializers)
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opset.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


X = spec("x", "FP32", -1, 4)
Y = spec("y", "FP32", -1, 4)


def scaling(factor: float = 2.0) -> bytes:
    """x[-1,4] → y = factor * x."""
    weight = numpy_helper.from_array(np.full((4,), factor, np.float32), "w")
    return graph_of([helper.make_node("Mul", ["x", "w"], ["y"])], [X], [Y], initializers=[weight]).SerializeToString()


def endless() -> bytes:
    """A loop whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Sin", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [None, 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_on", TensorProto.FLOAT, [None, 4]),
        ],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
        helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body),
    ]
    return graph_of(nodes, [X], [Y]).SerializeToString()


def endless_when_positive() -> bytes:
    """Goes round as long as the largest element of its input is over zero."""
    value_info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Identity", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            value_info("round", TensorProto.INT64, []),
            value_info("going", TensorProto.BOOL, []),
            value_info("carried", TensorProto.FLOAT, [None, 4]),
        ],
        [value_info("still", TensorProto.BOOL, []), value_info("carried_on", TensorProto.FLOAT, [None, 4])],
    )
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node("Loop", ["", "positive", "x"], ["y"], body=body),
    ]
    return graph_of(nodes, [X], [Y], initializers=[zero]).SerializeToString()


def gathering() -> bytes:
    """Takes the element of its input at an index that the graph holds, which is past the end."""
    index = numpy_helper.from_array(np.array([9], np.int64), "index")
    node = helper.make_node("Gather", ["x", "index"], ["y"], axis=0)
    return graph_of([node], [X], [spec("y", "FP32", 1, 4)], initializers=[index]).SerializeToString()


def hungry_to_run(gigabytes: int = 8) -> bytes:
    """Expands its input to so many gigabytes and sums them."""
    shape = numpy_helper.from_array(np.array([gigabytes * 1024, 65536, 1, 4], np.int64), "shape")
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["big"]),
        helper.make_node("ReduceSum", ["big", "axes"], ["y"], keepdims=0),
    ]
    axes = numpy_helper.from_array(np.array([0, 1], np.int64), "axes")
    return graph_of(nodes, [X], [Y], initializers=[shape, axes]).SerializeToString()


def growing() -> bytes:
    """x[-1,4] → y = x, by way of a kibibyte for each one that its largest element counts."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    width = numpy_helper.from_array(np.array([256], np.int64), "width")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "one"], ["counted"]),
        helper.make_node("Concat", ["counted", "width"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    return graph_of(nodes, [X], [Y], initializers=[one, width]).SerializeToString()


def classifying() -> bytes:
    """x[-1,4] → label INT64[-1], scores RECORD[-1]: the largest of the first three elements, as converters of
    scikit-learn write a classifier.
    """
    classes = [0, 1, 2]
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "probabilities"],
            domain="ai.onnx.ml",
            coefficients=[1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0],
            intercepts=[0.0, 0.0, 0.0],
            classlabels_ints=classes,
            multi_class=0,
            post_transform="SOFTMAX",
        ),
        helper.make_node("ZipMap", ["probabilities"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=classes),
    ]
    graph = graph_of(nodes, [X], [spec("label", "INT64", -1), Y], opset={"": 17, "ai.onnx.ml": 1})
    key_type = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    scores = helper.make_value_info("scores", helper.make_sequence_type_proto(key_type))
    graph.graph.output[1].CopyFrom(scores)
    return graph.SerializeToString()


CLASSES = (spec("label", "INT64", -1), spec("scores", "RECORD", -1))


def vectors_of(*pairs: tuple[dict[str, Any], dict[str, Any]], **more: Any) -> bytes:
    return json.dumps([{"input": given, "output": expected, **more} for given, expected in pairs]).encode()


SCALING_VECTORS = vectors_of(({"x": [[1, 2, 3, 4]]}, {"y": [[2, 4, 6, 8]]}))


def packed(
    model: bytes | None,
    *,
    name: str = "scaling",
    version: str = "1.0",
    inputs: Sequence[TensorSpec] = (X,),
    outputs: Sequence[TensorSpec] = (Y,),
    vectors: bytes | None = None,
    labels: bytes | None = None,
    script: str | None = None,
    needs: Needs = NO_NEEDS,
    states: Sequence[StateSpec] = (),
    publisher: PrivateKey = PUBLISHER,
) -> PackedRelease:
    """``inputs`` and ``outputs`` are the graph's."""
    specs = (tuple(inputs), tuple(outputs)) if model is not None else ((), ())
    description = ModelDescription(
        name=name,
        kind="functions" if model is None else "onnx",
        functions=() if script is None else ("functions.pql",),
        vectors=None if vectors is None else "vectors.json",
        labels=None if labels is None else "labels.json",
        needs=needs,
        states=tuple(states),
    )
    contents = {
        "model.onnx": model,
        "vectors.json": vectors,
        "labels.json": labels,
        "functions.pql": None if script is None else script.encode(),
    }
    files = {}
    for path, kind in description.named_files():
        content = contents[path]
        assert content is not None
        files[path] = FolderFile(path, kind, content)
    return pack(
        ModelFolder(Path("unused"), description, files),
        version=version,
        publisher=publisher,
        inspection=Inspection(*specs, {"ai.onnx": 17} if model is not None else {}),
        now=1_800_000_000,
    )


def release(model: bytes | None, **about: Any) -> VerifiedRelease:
    """What ``verify`` makes of :func:`packed`."""
    return verified(packed(model, **about))


def verified(made: PackedRelease) -> VerifiedRelease:
    """What was packed with ``PUBLISHER``'s key, verified."""
    signed = first_root(
        "test",
        roots=(ROOT_KEY,),
        director=DIRECTOR.public,
        publishers={"ada": PUBLISHER.public},
        now=1_800_000_000,
    )
    root = trust_chain([signed], pin_of(signed))
    return verify(made.signed, root=root, manifest=made.manifest, files=made.files)
