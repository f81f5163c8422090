"""Makes the graph of the model template: fahrenheit = 1.8 * celsius + 32.

    python examples/template/make.py [FILE]

Needs the ``onnx`` package (extra ``publish``). The file it writes is ``engine/template/model.onnx``, byte for byte.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

TEMPLATE = Path(__file__).parents[2] / "engine" / "template" / "model.onnx"


def graph() -> bytes:
    celsius = helper.make_tensor_value_info("celsius", TensorProto.FLOAT, ["n"])
    fahrenheit = helper.make_tensor_value_info("fahrenheit", TensorProto.FLOAT, ["n"])
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Mul", ["celsius", "scale"], ["scaled"]),
                helper.make_node("Add", ["scaled", "offset"], ["fahrenheit"]),
            ],
            "fahrenheit",
            [celsius],
            [fahrenheit],
            [
                numpy_helper.from_array(np.array(1.8, np.float32), "scale"),
                numpy_helper.from_array(np.array(32, np.float32), "offset"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="peerage-template",
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATE).write_bytes(graph())
