"""Reading an ONNX file's protobuf just far enough to refuse what the runtime would accept.

Owns the walk over the wire format (https://protobuf.dev/programming-guides/encoding/) of the messages of onnx.proto3
that can carry an operator or a weight: models, graphs, nodes, attributes, tensors, local functions. It needs neither
the ``onnx`` package nor the runtime, builds no tree, skips every weight by its length, and calls nothing recursively.

Refuses: what is no ONNX model (:class:`NotOnnx`), the runtime's own format (:class:`OrtFormat`), weights kept outside
the file (:class:`ExternalData`), operators outside ``ai.onnx`` and ``ai.onnx.ml`` that the model does not define
itself (:class:`ForeignOperators`), inputs that are no tensor or have no shape (:class:`UnservableType`). An opset
import that no operator uses is no refusal: exporters write many.

Bounds: ``FIELDS_MAX`` fields, ``DEPTH_MAX`` messages inside each other; past them a file counts as no ONNX model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from engine.errors import ExternalData, ForeignOperators, NotOnnx, OrtFormat, UnservableType
from engine.growth import Node, grows

FIELDS_MAX: Final = 4_000_000
DEPTH_MAX: Final = 64
STANDARD_DOMAINS: Final = frozenset({"ai.onnx", "ai.onnx.ml"})
_ORT_MARK: Final = b"ORTM"  # file identifier of onnxruntime's flatbuffer, at offset 4

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Which fields of a message are messages to walk into, by their numbers in onnx.proto3.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 11: "input", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "subgraph", 10: "tensor", 11: "subgraph", 22: "sparse", 23: "sparse"},
    "subgraph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "opset": {},
    "input": {2: "type"},
    "type": {1: "tensor-type"},
    "tensor-type": {},
}
_LOOPS: Final = frozenset({("ai.onnx", "Loop"), ("ai.onnx", "Scan")})
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says of itself. ``opset``: the standard domains that it imports; ``domains``: those it uses.

    ``loops``: it has an operator that goes round as often as values say; ``grows``: one whose output is as large as
    values say (:mod:`engine.growth`).
    """

    ir_version: int
    opset: dict[str, int]
    domains: frozenset[str]
    nodes: int
    loops: bool
    grows: bool = False

    @property
    def predictable(self) -> bool:
        """Whether what a run takes is decided by the shapes of its input, so that measuring one says something."""
        return not self.loops and not self.grows


@dataclass(slots=True)
class _Findings:
    ir_version: int = 0
    graphs: int = 0
    opset: dict[str, int] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)
    local: set[tuple[str, str]] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)
    constants: set[bytes] = field(default_factory=set)
    fields: int = 0


def read(model: bytes) -> Reading:
    """The findings on ``model``. Raises one of the errors named above."""
    if model[4:8] == _ORT_MARK:
        raise OrtFormat("expected a model in ONNX format, found onnxruntime's own ORT format")
    if not model:
        raise NotOnnx("expected an ONNX model, found an empty file")
    findings = _Findings()
    # Pending messages: kind, start, end, depth. A stack instead of calls, so that depth is ours to bound.
    pending = [("model", 0, len(model), 0)]
    while pending:
        kind, start, end, depth = pending.pop()
        if depth > DEPTH_MAX:
            raise NotOnnx(f"expected at most {DEPTH_MAX} messages inside each other, found more")
        pending.extend(
            (child, first, last, depth + 1) for child, first, last in _walk(model, kind, start, end, findings)
        )
    if not findings.graphs or not findings.opset:
        raise NotOnnx(f"expected an ONNX model, found {len(model)} bytes without a graph and its operator set")
    foreign = sorted(
        f"{domain}:{operator}" for domain, operator in findings.used - findings.local if domain not in STANDARD_DOMAINS
    )
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise ForeignOperators(
            f"expected operators of ai.onnx and ai.onnx.ml only, found {', '.join(foreign[:5])}{more}"
        )
    domains = frozenset(domain for domain, _ in findings.used) & STANDARD_DOMAINS
    opset = {domain: version for domain, version in findings.opset.items() if domain in STANDARD_DOMAINS}
    loops = not findings.used.isdisjoint(_LOOPS)
    growing = grows(findings.nodes, findings.constants)
    return Reading(findings.ir_version, opset, domains, len(findings.nodes), loops, growing)


def _walk(model: bytes, kind: str, start: int, end: int, findings: _Findings) -> Iterator[tuple[str, int, int]]:
    """The children of one message that are to be walked, noting on the way what is found in it."""
    children = _CHILDREN[kind]
    name = domain = ""
    version = 0
    shaped = False
    inputs: list[bytes] = []
    outputs: list[bytes] = []
    for number, wire, value, first, last in _fields(model, start, end, findings):
        if wire == _BYTES and number in children:
            yield children[number], first, last
        match kind, number:
            case "model", 1 if wire == _VARINT:
                findings.ir_version = value
            case "model", 7:
                findings.graphs += 1
            case ("node", 4) | ("function", 1) | ("input", 1) if wire == _BYTES:
                name = _text(model, first, last)
            case ("node", 7) | ("function", 10) | ("opset", 1) if wire == _BYTES:
                domain = _text(model, first, last)
            case "node", 1 if wire == _BYTES:
                inputs.append(model[first:last])
            case "node", 2 if wire == _BYTES:
                outputs.append(model[first:last])
            case "tensor", 8 if wire == _BYTES:
                findings.constants.add(model[first:last])
            case "opset", 2:
                version = value
            case ("tensor-type", 2) | ("input", 2):
                shaped = True
            case "tensor", _ if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
                raise ExternalData("expected all weights inside the model, found a tensor that names external data")
            case "type", _ if wire == _BYTES and number in (4, 5, 8, 9):
                what = {4: "sequence", 5: "map", 8: "sparse tensor", 9: "optional"}[number]
                raise UnservableType(f"expected inputs that are tensors, found a {what}")
    if kind == "node":
        findings.nodes.append(Node(name, tuple(inputs), tuple(outputs)))
        findings.used.add((domain or "ai.onnx", name))
    elif kind == "function":
        findings.local.add((domain or "ai.onnx", name))
    elif kind == "opset":
        findings.opset[domain or "ai.onnx"] = version
    elif kind == "tensor-type" and not shaped:
        raise UnservableType("expected inputs with a shape, found one without")


def _fields(model: bytes, start: int, end: int, findings: _Findings) -> Iterator[tuple[int, int, int, int, int]]:
    """Each field of a message: number, wire type, value of a varint, first and last offset of its bytes."""
    at = start
    while at < end:
        findings.fields += 1
        if findings.fields > FIELDS_MAX:
            raise NotOnnx(f"expected at most {FIELDS_MAX} fields, found more")
        key, at = _varint(model, at, end)
        number, wire = key >> 3, key & 7
        value = 0
        first = last = at
        if wire == _VARINT:
            value, at = _varint(model, at, end)
        elif wire == _BYTES:
            length, first = _varint(model, at, end)
            last = at = first + length
        elif wire == _FIXED64:
            last = at = at + 8
        elif wire == _FIXED32:
            last = at = at + 4
        else:
            raise NotOnnx(f"expected protobuf, found wire type {wire} at byte {at}")
        if number == 0 or at > end:
            raise NotOnnx(f"expected an ONNX model, found a file that is cut off or damaged near byte {first}")
        yield number, wire, value, first, last


def _varint(model: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = model[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotOnnx(f"expected an ONNX model, found a file that is cut off or damaged near byte {at}")


def _text(model: bytes, first: int, last: int) -> str:
    try:
        return model[first : min(last, first + 256)].decode()
    except UnicodeDecodeError as error:
        raise NotOnnx(f"expected UTF-8 names, found other bytes near byte {first}") from error
