"""The validation table as requests: one row for each thing that is refused, for the pure codec and again over a socket.

Three models: ``one`` takes x FP32[-1,4] and gives y; ``kinds`` takes one vector of each datatype, INT8 ``i8`` … BYTES
``s``, and gives them back under the same names with ``_out``; ``scalar`` takes x FP32[] and gives y.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.oip import Protocol
from federation.documents import TensorSpec

KINDS = {
    "b": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
    "s": "BYTES",
}

SIGNATURES: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "one": ((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),)),
    "kinds": (
        tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in KINDS.items()),
        tuple(TensorSpec(f"{name}_out", datatype, (-1,)) for name, datatype in KINDS.items()),
    ),
    "scalar": ((TensorSpec("x", "FP32", ()),), (TensorSpec("y", "FP32", ()),)),
    "image": ((TensorSpec("x", "UINT8", (-1, 2, -1)),), (TensorSpec("y", "UINT8", (-1, 2, -1)),)),
    "text": ((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "BYTES", (-1,)),)),
}
ELEMENTS_MAX = 1000


def protocol(model: str, **more: Any) -> Protocol:
    inputs, outputs = SIGNATURES[model]
    return Protocol(model, "1.0", inputs, outputs, elements_max=ELEMENTS_MAX, **more)


@dataclass(frozen=True)
class Refused:
    """A request, and the code and a part of the message of its refusal. ``header``: the header's text."""

    what: str
    model: str
    body: bytes
    code: str
    says: str
    header: str | None = None
    status: int = 400


def tensor(name: str = "x", shape: Any = (1, 4), datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, **more}


def asking(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def good(**more: Any) -> dict[str, Any]:
    return tensor(data=[1.0, 2.0, 3.0, 4.0], **more)


ZEROS: dict[str, Any] = dict.fromkeys(KINDS, 0) | {"b": False, "s": "", "f32": 0.0, "f64": 0.0}


def kinds_asking(name: str, value: Any) -> bytes:
    """A request to ``kinds`` with one value in place of a zero; FP16, which has no JSON form, comes last in binary."""
    inputs = [
        tensor(kind, [1], datatype, data=[value if kind == name else ZEROS[kind]])
        for kind, datatype in KINDS.items()
        if kind != "f16"
    ]
    half = tensor("f16", [1], "FP16", parameters={"binary_data_size": 2})
    return asking(*inputs, half, parameters={"binary_data_output": True})


def kinds_row(what: str, name: str, value: Any, says: str) -> Refused:
    text = kinds_asking(name, value)
    return Refused(what, "kinds", text + b"\0\0", "bad_input", says, header=str(len(text)))


def binary(
    what: str,
    model: str,
    given: dict[str, Any],
    data: bytes,
    says: str,
    *,
    code: str = "bad_input",
    length: int = 0,
    **more: Any,
) -> Refused:
    text = asking(given, **more)
    return Refused(what, model, text + data, code, says, header=str(len(text) + length))


def _texts(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def _messages() -> Iterator[Refused]:
    yield Refused("nothing", "one", b"", "bad_message", "expected JSON")
    yield Refused("not JSON", "one", b"{inputs}", "bad_message", "expected JSON, found at byte 1")
    yield Refused("not UTF-8", "one", asking(good())[:-1] + b',"id":"\xff"}', "bad_message", "expected JSON in UTF-8")
    yield Refused("not an object", "one", b"[1]", "bad_message", "expected an object with inputs, found a list")
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield Refused("nested too deep", "one", deep, "bad_message", "nested too deep")
    yield Refused(
        "text after the object", "one", asking(good()) + b" {}", "bad_message", "expected JSON, found at byte"
    )
    yield Refused("an endless integer", "one", b'{"id":' + b"9" * 10_000 + b"}", "bad_message", "thousands of digits")
    yield Refused("no inputs", "one", b"{}", "bad_message", "expected inputs to be a list of tensors, found none")
    yield Refused("inputs empty", "one", asking(), "bad_input", 'missing input "x"')
    yield Refused("inputs an object", "one", b'{"inputs":{}}', "bad_message", "inputs to be a list")
    yield Refused("an input a number", "one", b'{"inputs":[1]}', "bad_message", "inputs[0]: expected an object")
    yield Refused("outputs a text", "one", asking(good(), outputs="y"), "bad_message", "outputs to be a list")
    yield Refused(
        "an output without a name", "one", asking(good(), outputs=[{}]), "bad_message", "outputs[0]: expected name"
    )
    yield Refused(
        "an output a text", "one", asking(good(), outputs=["y"]), "bad_message", "outputs[0]: expected an object"
    )
    yield Refused(
        "id a number", "one", asking(good(), id=7), "bad_message", "expected id to be text, found the number 7"
    )
    half = asking(good())[:-1] + b',"id":"\\ud800"}'
    yield Refused("half a character", "one", half, "bad_message", "half a surrogate pair")
    half = asking(good(), parameters={"sequence_id": "\ud800"})
    yield Refused(
        "half a character in a stream's key", "one", half, "bad_message", "sequence_id: expected text that UTF"
    )
    yield Refused(
        "parameters a list", "one", asking(good(), parameters=[]), "bad_message", "parameters to be an object"
    )
    for name in ("name", "shape", "datatype"):
        without = {key: value for key, value in good().items() if key != name}
        yield Refused(f"an input without {name}", "one", asking(without), "bad_message", f"expected {name}, found none")
    yield Refused("a name that is a number", "one", asking(good() | {"name": 1}), "bad_message", "name to be text")
    yield Refused("a datatype null", "one", asking(good() | {"datatype": None}), "bad_message", "datatype to be text")


def _names() -> Iterator[Refused]:
    yield Refused(
        "an unknown input", "one", asking(good() | {"name": "z"}), "bad_input", 'unknown input "z": expected "x"'
    )
    yield Refused("an input twice", "one", asking(good(), good()), "bad_input", 'input "x" is given twice')
    yield Refused(
        "an input missing", "kinds", asking(tensor("i8", [1], "INT8", data=[1])), "bad_input", "missing input"
    )
    yield Refused(
        "an unknown output", "one", asking(good(), outputs=[{"name": "q"}]), "bad_input", 'unknown output "q"'
    )
    twice = [{"name": "y"}, {"name": "y"}]
    yield Refused("an output twice", "one", asking(good(), outputs=twice), "bad_message", "asked for twice")
    for datatype in ("FP64", "BF16", "float", "RECORD", ""):
        given = asking(good() | {"datatype": datatype})
        yield Refused(f"datatype {datatype!r}", "one", given, "bad_input", f'found datatype "{datatype}"')


def _shapes() -> Iterator[Refused]:
    for what, shape, code, says in (
        ("a negative size", [-1, 4], "bad_input", "found a shape of [-1,4]"),
        ("a fraction", [1.5, 4], "bad_message", "expected a shape of whole numbers, found the number 1.5"),
        ("a whole real", [1.0, 4], "bad_message", "expected a shape of whole numbers, found the number 1.0"),
        ("a boolean", [True, 4], "bad_message", "expected a shape of whole numbers, found true"),
        ("a text for a shape", "1,4", "bad_message", "expected shape to be a list"),
        ("another rank", [4], "bad_input", "expected FP32[-1,4], found a shape of [4]"),
        ("a rank too many", [1, 1, 4], "bad_input", "found a shape of [1,1,4]"),
        ("another fixed size", [1, 3], "bad_input", "found a shape of [1,3]"),
        ("a batch of none", [0, 4], "bad_input", "with at least one element, found a shape of [0,4]"),
        ("a huge shape with little data", [200, 4], "bad_input", "expected 800 elements"),
    ):
        yield Refused(what, "one", asking(good() | {"shape": shape}), code, says)
    for what, shape in (("too many elements", [100_000, 4]), ("a size of many digits", [10**60, 4])):
        given = asking(good() | {"shape": shape})
        yield Refused(what, "one", given, "limit", "expected at most 1000 elements", status=413)


def _data() -> Iterator[Refused]:
    def row(what: str, data: Any, says: str, shape: Any = (1, 4), model: str = "one") -> Refused:
        return Refused(what, model, asking(tensor(shape=shape, data=data)), "bad_input", says)

    yield row("too few elements", [1, 2, 3], "expected 4 elements for FP32[1,4], found 3")
    yield row("too many elements in data", [1, 2, 3, 4, 5], "expected 4 elements for FP32[1,4], found 5")
    yield row("no elements", [], "expected 4 elements for FP32[1,4], found")
    yield row("ragged nesting", [[1, 2, 3, 4], [1, 2, 3, 4, 5]], "expected 8 elements", (2, 4))
    yield row("rows of different lengths", [[1, 2, 3], [1, 2, 3, 4, 5]], "found a list of 3 in it", (2, 4))
    yield row("nesting against the shape", [[1, 2], [3, 4]], "expected data to be flat or nested as [1, 4]")
    yield row("a level too many", [[[1, 2, 3, 4]]], "found a list of 1 in it")
    yield row("a list among numbers", [1, 2, 3, [4]], "element 4: expected a number for FP32, found a list")
    yield row("a number among lists", [[1, 2, 3, 4], 5, 6, 7, 8], "found", (2, 4))
    yield row("data a number", 1, "expected", (1, 4))
    yield row("data null", None, "expected", (1, 4))
    yield row("data an object", {"a": 1}, "expected", (1, 4))
    yield row(
        "a text where a number belongs", [1, 2, 3, "4"], 'element 4: expected a number for FP32, found the text "4"'
    )
    yield row("null where a number belongs", [1, 2, 3, None], "element 4: expected a number for FP32, found null")
    yield row("a boolean where a number belongs", [1, 2, 3, True], "element 4: expected a number for FP32, found true")
    yield row("a number over FP32", [1, 2, 3, 1e39], "element 4: expected a number that fits FP32, found 1e+39")
    yield row("an integer over FP32", [1, 2, 3, 10**400], "element 4: expected a number that fits FP32, found 1000")
    yield row("a scalar as a number", 1.0, "expected data to be a list", (), "scalar")
    yield row("a scalar nested", [[1.0]], "expected a number for FP32, found a list", (), "scalar")
    yield Refused("neither data nor size", "one", asking(tensor()), "bad_message", "found neither")
    over = asking(good()).replace(b"4.0", b"-1e400")
    yield Refused("a number over all", "one", over, "bad_input", "found a number over all that are")


def _kinds() -> Iterator[Refused]:
    yield kinds_row(
        "a fraction for an integer", "i64", 1.5, "element 1: expected an integer for INT64, found the number 1.5"
    )
    yield kinds_row("a whole real for an integer", "i64", 1.0, "expected an integer for INT64, found the number 1.0")
    yield kinds_row("a boolean for an integer", "i8", True, "expected an integer for INT8, found true")
    yield kinds_row("a text for an integer", "u8", "1", "expected an integer for UINT8")
    for name, low, high in (
        ("u8", -1, 2**8),
        ("u16", -1, 2**16),
        ("u32", -1, 2**32),
        ("u64", -1, 2**64),
        ("i8", -(2**7) - 1, 2**7),
        ("i16", -(2**15) - 1, 2**15),
        ("i32", -(2**31) - 1, 2**31),
        ("i64", -(2**63) - 1, 2**63),
    ):
        for value in (low, high):
            says = f"expected a number that fits {KINDS[name]}, found {value}"
            yield kinds_row(f"{value} for {KINDS[name]}", name, value, says)
    yield kinds_row("a number for a boolean", "b", 1, "expected true or false for BOOL, found the number 1")
    yield kinds_row("a number for a text", "s", 1, "expected text for BYTES, found the number 1")
    yield kinds_row("null for a text", "s", None, "expected text for BYTES, found null")
    text = kinds_asking("s", "SURROGATE").replace(b"SURROGATE", b"\\udfff")
    yield Refused(
        "half a pair for a text", "kinds", text + b"\0\0", "bad_message", "half a surrogate", header=str(len(text))
    )
    halves = asking(tensor("f16", [1], "FP16", data=[1.0]))
    yield Refused("FP16 as JSON", "kinds", halves, "bad_input", 'input "f16": FP16 has no JSON form')
    text = kinds_asking("i8", 0).replace(b'"binary_data_output": true', b'"binary_data_output": false')
    yield Refused(
        "FP16 asked for as JSON", "kinds", text + b"\0\0", "bad_input", 'output "f16_out": FP16 has no', str(len(text))
    )


def _binary() -> Iterator[Refused]:
    size = {"binary_data_size": 16}
    given = tensor(parameters=size)
    data = struct.pack("<4f", 1, 2, 3, 4)
    both = good(parameters=size)
    yield binary("data and size together", "one", both, data, "found both", code="bad_message")
    for what, found in (("a size too small", 12), ("a size too large", 20)):
        wrong = tensor(parameters={"binary_data_size": found})
        says = f"expected 16 bytes for FP32[1,4], found binary_data_size {found}"
        yield binary(what, "one", wrong, bytes(found), says)
    yield binary(
        "less data than its size",
        "one",
        given,
        data[:-1],
        "expected 16 bytes behind the JSON, found 15",
        code="bad_message",
    )
    yield binary(
        "a negative binary size",
        "one",
        tensor(parameters={"binary_data_size": -1}),
        data,
        "at least 0",
        code="bad_message",
    )
    yield binary(
        "a size as text",
        "one",
        tensor(parameters={"binary_data_size": "16"}),
        data,
        "binary_data_size to be a whole number",
        code="bad_message",
    )
    yield binary("bytes left over", "one", given, data + b"\0", "found 1 bytes behind it", code="bad_message")
    yield Refused(
        "bytes behind JSON data",
        "one",
        asking(good()) + b"\0",
        "bad_message",
        "found 1 bytes behind it",
        str(len(asking(good()))),
    )
    yield Refused(
        "no header though binary", "one", asking(given), "bad_message", "expected 16 bytes behind the JSON, found 0"
    )
    yield Refused("no header, with its bytes", "one", asking(given) + data, "bad_message", "expected JSON")
    for header in ("x", "-1", "1.5", "", "+5", "1_0", "9" * 40):
        says = "expected Inference-Header-Content-Length to be a number of bytes"
        yield Refused(f"header length {header!r}", "one", asking(given) + data, "bad_message", says, header)
    beyond = Refused(
        "a header length beyond the body", "one", asking(given) + data, "bad_message", "within the body", "9999"
    )
    yield beyond
    yield binary("a header length too short", "one", given, data, "expected JSON", code="bad_message", length=-3)
    yield binary("a header length too long", "one", given, data, "expected JSON", code="bad_message", length=3)
    text = kinds_asking("i8", 0)
    booleans = text.replace(b'"data": [false]', b'"parameters": {"binary_data_size": 1}')
    yield Refused(
        "a boolean of 2",
        "kinds",
        booleans + b"\2\0\0",
        "bad_input",
        "expected a byte of 0 or 1 for BOOL, found 2",
        str(len(booleans)),
    )

    def words(what: str, data: bytes, says: str, shape: Any = (2,), size: int | None = None) -> Refused:
        about = tensor(
            shape=shape, datatype="BYTES", parameters={"binary_data_size": len(data) if size is None else size}
        )
        return binary(what, "text", about, data, says)

    yield words(
        "texts that overrun",
        _texts(b"one") + struct.pack("<I", 99) + b"two",
        "element 2: expected 99 bytes, found the end",
    )
    yield words(
        "a text's length cut off", _texts(b"long enough") + b"\1\0", "element 2: expected its length, found the end"
    )
    yield words("too few texts", _texts(b"one"), "expected at least 8 bytes for BYTES[2]")
    yield words(
        "too many texts", _texts(b"one", b"two", b"three"), "expected 2 elements, found 9 bytes behind the last"
    )
    yield words("texts that are not UTF-8", _texts(b"one", b"tw\xff"), "element 2: expected text in UTF-8")


def _raw() -> Iterator[Refused]:
    says = "expected 16 bytes for FP32[1,4], found"
    for what, size in (("half a row", 8), ("two rows", 32), ("an odd size", 15), ("nothing raw", 0)):
        yield Refused(f"raw: {what}", "one", bytes(size), "bad_input", f"{says} {size}", "0")
    yield Refused("raw: several inputs", "kinds", bytes(8), "bad_message", "expected a model with one input", "0")
    yield Refused("raw: not a multiple", "image", bytes(3), "bad_input", "expected a multiple of 2 bytes", "0")
    yield Refused("raw: not UTF-8", "text", b"\xff", "bad_input", "expected text in UTF-8", "0")


def _parameters() -> Iterator[Refused]:
    def row(what: str, says: str, code: str = "unsupported_parameter", **parameters: Any) -> Refused:
        return Refused(what, "one", asking(good(), parameters=parameters), code, says)

    yield row("a stream", "keeps no state between requests", sequence_id=5)
    yield row("the start of a stream", "keeps no state", sequence_id="a", sequence_start=True, sequence_end=False)
    yield row("a stream of no known type", "sequence_id to be a whole number or text", "bad_message", sequence_id=[])
    yield row("a timeout of less than nothing", "expected a timeout of 1 to", "bad_message", timeout=-1)
    yield row("a timeout without end", "expected a timeout of 1 to", "bad_message", timeout=10**30)
    yield row("a timeout as text", "timeout to be a whole number", "bad_message", timeout="5")
    yield row(
        "binary output as a number", "binary_data_output to be true or false", "bad_message", binary_data_output=1
    )
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    shared = asking(tensor(parameters=region))
    yield Refused("shared memory in", "one", shared, "unsupported_parameter", "shared_memory_region is not supported")
    for parameters, says in (
        (region, "shared_memory_region is not supported"),
        ({"classification": 3}, "classification is not supported"),
    ):
        given = asking(good(), outputs=[{"name": "y", "parameters": parameters}])
        yield Refused(f"{next(iter(parameters))} out", "one", given, "unsupported_parameter", says)
    given = asking(good(), outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}])
    yield Refused("binary data as text", "one", given, "bad_message", "binary_data to be true or false")


REFUSED: tuple[Refused, ...] = (
    *_messages(),
    *_names(),
    *_shapes(),
    *_data(),
    *_kinds(),
    *_binary(),
    *_raw(),
    *_parameters(),
)
