"""What goes in comes out: every datatype in both forms, scalars, nothing at all, no numbers, the edges of texts."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.oip import InferRequest, Protocol
from engine.signature import NUMPY
from federation.documents import TensorSpec
from query.errors import Problem
from tests.serving.refused import KINDS, asking, good, protocol, tensor

EDGES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-(2**7), 2**7 - 1],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [0.0, -0.0, 65504.0, 6e-8, math.nan, math.inf, -math.inf],
    "FP32": [0.0, -0.0, 3.4028234663852886e38, 1e-45, 0.1, math.nan, math.inf, -math.inf],
    "FP64": [0.0, -0.0, 1.7976931348623157e308, 5e-324, 0.1, math.nan, math.inf, -math.inf],
    "BYTES": ["", "a", "größer", "日本", "\U0001f600", "\0", 'a"b\\c,[]{}', "x" * 300],
}


def one(datatype: str, *shape: int) -> Protocol:
    """A model that takes x and gives y of the same datatype and shape."""
    return Protocol("one", "1.0", [TensorSpec("x", datatype, shape)], [TensorSpec("y", datatype, shape)])


def array_of(datatype: str, values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), NUMPY[datatype])
    array[:] = values
    return array


def binary_of(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind == "O":
        encoded = [text.encode() for text in array.ravel()]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind == "O":
        return one.tolist() == other.tolist()
    return one.tobytes() == other.tobytes() or bool(np.array_equal(one, other, equal_nan=True))


@pytest.mark.parametrize("datatype", EDGES)
def test_binary_goes_in_and_out(datatype: str) -> None:
    given_array = array_of(datatype, EDGES[datatype])
    data = binary_of(given_array)
    text = asking(
        tensor(shape=[len(given_array)], datatype=datatype, parameters={"binary_data_size": len(data)}),
        parameters={"binary_data_output": True},
    )
    for padding in range(9):  # the tensor begins wherever the JSON ends
        body = text + b" " * padding + data
        model = one(datatype, -1)
        request = model.read(body, len(text) + padding)
        found = request.feed["x"]
        assert same(found, given_array)
        assert found.flags.aligned
        assert found.flags.c_contiguous
        answer, length = model.write(request, {"y": found})
        assert length is not None
        about = json.loads(answer[:length])["outputs"][0]
        assert (about["name"], about["datatype"], about["shape"]) == ("y", datatype, [len(given_array)])
        assert about["parameters"] == {"binary_data_size": len(data)}
        assert answer[length:] == data


@pytest.mark.parametrize("datatype", [kind for kind in EDGES if kind != "FP16"])
@pytest.mark.parametrize("nested", [False, True])
def test_json_goes_in_and_out(datatype: str, nested: bool) -> None:
    values = EDGES[datatype] * 2
    data = [EDGES[datatype], EDGES[datatype]] if nested else values
    model = one(datatype, -1, -1)
    body = asking(tensor(shape=[2, len(EDGES[datatype])], datatype=datatype, data=data))
    request = model.read(body, None)
    expected = array_of(datatype, values).reshape(2, -1)
    assert same(request.feed["x"], expected)
    answer, length = model.write(request, {"y": expected})
    assert length is None
    output = json.loads(answer)["outputs"][0]
    assert output["shape"] == [2, len(EDGES[datatype])]
    assert same(array_of(datatype, output["data"]).reshape(2, -1), expected)


def test_no_number_is_written_as_its_literal() -> None:
    model = one("FP32", -1)
    request = InferRequest({}, model.read(asking(tensor(shape=[1], data=[0])), None).wanted)
    answer, _ = model.write(request, {"y": np.array([math.nan, math.inf, -math.inf, 0.5], np.float32)})
    assert answer == (
        b'{"model_name":"one","model_version":"1.0","outputs":[{"name":"y","datatype":"FP32","shape":[4],'
        b'"data":[NaN,Infinity,-Infinity,0.5]}]}'
    )


def test_the_answer_repeats_the_id_only_when_there_was_one() -> None:
    model = protocol("one")
    outputs = {"y": np.zeros((1, 4), np.float32)}
    for text in ("", "a", 'quoted "ü"'):
        answer, _ = model.write(model.read(asking(good(), id=text), None), outputs)
        assert json.loads(answer)["id"] == text
    answer, _ = model.write(model.read(asking(good()), None), outputs)
    assert "id" not in json.loads(answer)


def test_a_scalar_has_no_dimension_and_one_element() -> None:
    model = protocol("scalar")
    data = struct.pack("<f", 2.5)
    text = asking(tensor(shape=[], parameters={"binary_data_size": 4}), parameters={"binary_data_output": True})
    for request in (
        model.read(asking(tensor(shape=[], data=[2.5])), None),
        model.read(text + data, len(text)),
        model.read(data, 0),
    ):
        assert request.feed["x"].shape == ()
        answer, length = model.write(request, {"y": np.array(2.5, np.float32)})
        output = json.loads(answer[:length])["outputs"][0]
        assert output["shape"] == []
        assert output["data"] == [2.5] if length is None else answer[length:] == data


def test_an_output_may_be_empty() -> None:
    model = one("FP32", -1)
    empty = {"y": np.empty(0, np.float32)}
    for binary, expected in ((False, {"data": []}), (True, {"parameters": {"binary_data_size": 0}})):
        body = asking(tensor(shape=[1], data=[1]), parameters={"binary_data_output": binary})
        answer, length = model.write(model.read(body, None), empty)
        assert json.loads(answer[:length])["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0], **expected}]
    texts = one("BYTES", -1)
    asked = asking(tensor(shape=[1], datatype="BYTES", data=["a"]), parameters={"binary_data_output": True})
    answer, length = texts.write(texts.read(asked, None), {"y": np.empty(0, np.object_)})
    assert length == len(answer)


def test_arrays_of_any_layout_are_written_row_by_row() -> None:
    model = one("INT32", -1, -1)
    plain = np.arange(6, dtype=np.int32).reshape(2, 3)
    big = plain.astype(">i4")
    sliced = np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::2] // 2
    body = asking(tensor(shape=[1, 1], datatype="INT32", data=[0]))
    request = model.read(body, None)
    for array in (plain.T, np.asfortranarray(plain), big, sliced):
        answer, _ = model.write(request, {"y": array})
        assert json.loads(answer)["outputs"][0]["data"] == [int(value) for row in array for value in row]
    wanted = model.read(
        asking(tensor(shape=[1, 1], datatype="INT32", data=[0]), parameters={"binary_data_output": True}), None
    )
    for array in (plain.T, np.asfortranarray(plain), sliced):
        answer, length = model.write(wanted, {"y": array})
        assert answer[length:] == b"".join(int(value).to_bytes(4, "little") for row in array for value in row)


def test_json_and_binary_may_be_mixed() -> None:
    specs = [TensorSpec(name, "INT16", (-1,)) for name in ("a", "b", "c")]
    model = Protocol("mixed", "1.0", specs, specs)
    text = asking(
        tensor("c", [2], "INT16", parameters={"binary_data_size": 4}),
        tensor("a", [1], "INT16", data=[7]),
        tensor("b", [1], "INT16", parameters={"binary_data_size": 2}),
        outputs=[{"name": "b", "parameters": {"binary_data": False}}, {"name": "c"}, {"name": "a"}],
        parameters={"binary_data_output": True},
    )
    request = model.read(text + struct.pack("<3h", 1, 2, 3), len(text))
    assert {name: array.tolist() for name, array in request.feed.items()} == {"a": [7], "b": [3], "c": [1, 2]}
    answer, length = model.write(request, request.feed)
    assert length is not None
    outputs = json.loads(answer[:length])["outputs"]
    assert [output["name"] for output in outputs] == ["b", "c", "a"]
    assert outputs[0]["data"] == [3]
    assert [output.get("parameters") for output in outputs[1:]] == [{"binary_data_size": 4}, {"binary_data_size": 2}]
    assert answer[length:] == struct.pack("<3h", 1, 2, 7)


def test_a_body_without_json_is_the_one_row() -> None:
    model = protocol("one")
    request = model.read(struct.pack("<4f", 1, 2, 3, 4), 0)
    assert request.feed["x"].tolist() == [[1, 2, 3, 4]]
    answer, length = model.write(request, {"y": request.feed["x"]})
    assert answer[length:] == struct.pack("<4f", 1, 2, 3, 4)
    assert protocol("image").read(bytes(range(6)), 0).feed["x"].shape == (1, 2, 3)
    assert protocol("text").read("grün".encode(), 0).feed["x"].tolist() == ["grün"]


def test_records_are_texts_of_json() -> None:
    model = Protocol("iris", "1.0", [TensorSpec("x", "FP32", (-1,))], [TensorSpec("y", "RECORD", (-1,))])
    rows = [{"setosa": 0.5, "virginica": 0.25}, {"setosa": math.nan}]
    records = np.empty(2, np.object_)
    records[:] = rows
    asked = tensor(shape=[1], data=[1])
    answer, _ = model.write(model.read(asking(asked), None), {"y": records})
    output = json.loads(answer)["outputs"][0]
    assert output["datatype"] == "BYTES"
    assert output["parameters"] == {"content_type": "application/json"}
    assert output["data"] == ['{"setosa":0.5,"virginica":0.25}', '{"setosa":NaN}']
    request = model.read(asking(asked, parameters={"binary_data_output": True}), None)
    answer, length = model.write(request, {"y": records})
    assert length is not None
    output = json.loads(answer[:length])["outputs"][0]
    assert output["parameters"] == {"content_type": "application/json", "binary_data_size": len(answer) - length}
    assert answer[length:] == binary_of(array_of("BYTES", ['{"setosa":0.5,"virginica":0.25}', '{"setosa":NaN}']))


def test_a_stream_is_named_where_the_model_keeps_state() -> None:
    model = protocol("one", stateful=True)
    request = model.read(asking(good(), parameters={"sequence_id": 7, "sequence_start": True}), None)
    assert request.stream is not None
    assert (request.stream.key, request.stream.start, request.stream.end) == ("7", True, False)
    outputs = {"y": request.feed["x"]}
    assert json.loads(model.write(request, outputs)[0])["parameters"] == {"sequence_id": "7"}
    request.stream.position, request.stream.restarted = 3, "idle"
    told = {"sequence_id": "7", "sequence_position": 3, "sequence_restarted": "idle"}
    assert json.loads(model.write(request, outputs)[0])["parameters"] == told
    request = model.read(asking(good(), parameters={"sequence_id": "a", "sequence_end": True}), None)
    assert request.stream is not None
    assert (request.stream.key, request.stream.start, request.stream.end) == ("a", None, True)
    assert model.read(asking(good()), None).stream is None
    with pytest.raises(Problem, match="expected a sequence_id"):
        model.read(asking(good(), parameters={"sequence_start": True}), None)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "BOOL", "BYTES"])
@pytest.mark.parametrize("nested", [False, True])
def test_long_data_is_read_and_written_in_pieces(datatype: str, nested: bool) -> None:
    count = 60_000
    values: list[Any] = [at % 1000 for at in range(count)]
    if datatype in ("BOOL", "BYTES"):
        values = [bool(at % 2) if datatype == "BOOL" else f"text, {at}" for at in range(count)]
    data = [values[at : at + 100] for at in range(0, count, 100)] if nested else values
    model = one(datatype, -1, -1)
    request = model.read(asking(tensor(shape=[count // 100, 100], datatype=datatype, data=data)), None)
    assert request.feed["x"].ravel().tolist() == values
    answer, _ = model.write(request, {"y": request.feed["x"]})
    assert json.loads(answer)["outputs"][0]["data"] == values


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda values: values[:-1], "expected 60000 elements for FP32[600,100], found 59999"),
        (lambda values: [*values, 1], "expected 60000 elements for FP32[600,100], found 60001"),
        (lambda values: [*values[:50_000], "x", *values[50_001:]], "element 50001: expected a number for FP32"),
        (lambda values: [*values[:50_000], [1], *values[50_001:]], "element 50001: expected a number for FP32"),
        (lambda values: [*values[:50_000], 1e39, *values[50_001:]], "element 50001: expected a number that fits FP32"),
        (lambda values: [*values[:50_000], None, *values[50_001:]], "element 50001: expected a number for FP32"),
    ],
)
def test_what_is_wrong_in_long_data_is_found(spoil: Any, says: str) -> None:
    body = asking(tensor(shape=[600, 100], data=spoil([0.5] * 60_000)))
    with pytest.raises(Problem) as refused:
        one("FP32", -1, -1).read(body, None)
    assert says in refused.value.message


NUMBERS = {
    "FP32": st.floats(width=32),
    "FP64": st.floats(),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "INT8": st.integers(-128, 127),
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(codec="utf-8"), max_size=20),
}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from(sorted(NUMBERS)))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    count = math.prod(shape)
    return datatype, shape, draw(st.lists(NUMBERS[datatype], min_size=count, max_size=count))


@settings(max_examples=150, deadline=None)
@given(tensors())
def test_both_forms_mean_the_same(made: tuple[str, list[int], list[Any]]) -> None:
    datatype, shape, values = made
    model = one(datatype, *[-1] * len(shape))
    array = array_of(datatype, values).reshape(shape)
    data = binary_of(array)
    text = asking(tensor(shape=shape, datatype=datatype, parameters={"binary_data_size": len(data)}))
    flat = model.read(asking(tensor(shape=shape, datatype=datatype, data=values)), None).feed["x"]
    nested = model.read(asking(tensor(shape=shape, datatype=datatype, data=array.tolist())), None).feed["x"]
    raw = model.read(text + data, len(text)).feed["x"]
    assert same(flat, array)
    assert same(nested, array)
    assert same(raw, array)


SAMPLES: dict[str, tuple[bytes, int | None]] = {}


def _samples() -> None:
    """Valid requests of which no byte may be missing: without blanks, where one would be no loss."""
    plain = json.dumps({"inputs": [good()], "id": "i"}, separators=(",", ":")).encode()
    SAMPLES["JSON"] = plain.replace(b"1.0,2.0,3.0,4.0", b"1,2,3,4"), None
    binary = json.dumps({"inputs": [tensor(parameters={"binary_data_size": 16})]}, separators=(",", ":")).encode()
    SAMPLES["binary"] = binary + struct.pack("<4f", 1, 2, 3, 4), len(binary)
    SAMPLES["raw"] = struct.pack("<4f", 1, 2, 3, 4), 0


_samples()


@pytest.mark.parametrize("form", SAMPLES)
def test_a_request_without_one_of_its_bytes_is_refused(form: str) -> None:
    body, length = SAMPLES[form]
    model = protocol("one")
    model.read(body, length)
    harmless = body.find(b'"id":"i"')  # its text and the quotes' content mean nothing to us
    for at in range(len(body)):
        if harmless >= 0 and harmless <= at < harmless + 8:
            continue
        with pytest.raises(Problem):
            model.read(body[:at] + body[at + 1 :], length)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 250)))
def test_noise_is_refused_and_nothing_else_happens(body: bytes, length: int | None) -> None:
    for model in (protocol("one"), protocol("text"), protocol("image")):
        try:
            request = model.read(body, length)
        except Problem:
            continue
        assert length == 0  # a body without JSON may be anything of the right size
        assert request.feed.keys() == {"x"}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_a_changed_request_is_answered_or_refused(at: int, put: bytes) -> None:
    for body, length in SAMPLES.values():
        where = at % len(body)
        changed = body[:where] + put + body[where + 1 :]
        try:
            request = protocol("one").read(changed, length)
        except Problem:
            continue
        assert request.feed["x"].dtype == np.float32
        assert request.feed["x"].ndim == 2


def test_every_kind_is_in_the_table() -> None:
    assert set(KINDS.values()) == set(NUMPY) - {"RECORD"} == set(EDGES) - {"RECORD"}
