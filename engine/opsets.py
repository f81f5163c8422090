"""Which operator sets the model runtime of this machine knows.

It has no function that says so. It does say it of a model from the future, which is made here, byte by byte.
"""

from __future__ import annotations

import re
from typing import Final

from engine.sessions import load_runtime

_TILL: Final = re.compile(r"domain (\S+) is till opset (\d+)")
_FUTURE: Final = 1_000_000  # an operator set that nobody has


def known_opsets() -> tuple[str | None, dict[str, int]]:
    """The runtime's name, and by domain the newest operator set that it knows; nothing where there is no runtime."""
    try:
        runtime = load_runtime()
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail
    except (ImportError, OSError):
        return None, {}
    named = f"onnxruntime {runtime.__version__}"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        runtime.InferenceSession(_future_model(), options, providers=["CPUExecutionProvider"])
    except Fail as error:
        return named, {domain: int(version) for domain, version in _TILL.findall(str(error))}
    return named, {}


def _future_model() -> bytes:
    """The smallest ONNX model, y = x, in an operator set that nobody has."""
    value = _field(2, _field(1, _number_field(1, 1) + _field(2, _field(1, _number_field(1, 1)))))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = (
        _field(1, node) + _field(2, b"g") + _field(11, _field(1, b"x") + value) + _field(12, _field(1, b"y") + value)
    )
    return _number_field(1, 8) + _field(7, graph) + _field(8, _number_field(2, _FUTURE))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)
