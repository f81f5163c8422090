"""Test vectors: how they are read, and when an answer counts as the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from engine.errors import BadVectors, FailedVectors
from engine.vectors import VECTORS_MAX, read_vectors, require_answers, resting_feed, tensor_value
from tests.models.making import X, Y, spec, vectors_of

LABEL = spec("label", "INT64", -1)


def read(raw: bytes) -> Any:
    return read_vectors(raw, inputs=[X], outputs=[Y, LABEL])


def test_nested_lists_and_tensors_are_read_alike() -> None:
    array = np.array([[1, 2, 3, 4]], np.float32)
    (plain, encoded) = read(
        vectors_of(({"x": [1, 2, 3, 4]}, {"label": [1]}), ({"x": tensor_value(array)}, {"label": [1]}))
    )
    assert np.array_equal(plain.feed["x"], encoded.feed["x"])
    assert plain.elements == 4


def one(given: str, expected: str = '{"y": [1]}', more: str = "") -> bytes:
    return f'[{{"input": {given}, "output": {expected}{more}}}]'.encode()


def encoded(dtype: str, shape: str, data: str) -> bytes:
    return one(f'{{"x": {{"$tensor": {{"dtype": "{dtype}", "shape": {shape}, "data": "{data}"}}}}}}')


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "test vectors: "),
        (b'[{"input": {}}]', "test vectors: Object missing required field `output`"),
        (one('{"x": [1,2,3,4]}', "{}"), "test vectors: "),
        (one('{"x": [1,2,3]}'), 'test vector 1: input "x": expected FP32[-1,4], found FP32[1,3]'),
        (one('{"x": [1,2,3,4]}', '{"z": [1]}'), 'test vector 1: unknown output "z": expected y, label'),
        (one('{"x": [1,2,3,4]}', more=', "tolerance": -1'), "test vectors: "),
        (one('{"x": [1,2,3,4]}', more=', "remark": 1'), "test vectors: Object contains unknown field `remark`"),
        (encoded("|O", "[1]", "AAAAAAAAAAA="), "test vector 1: expected a tensor"),
        (encoded("<f4", "[9]", ""), "test vector 1: expected a tensor"),
        (encoded("nothing", "[1]", ""), "test vector 1: expected a tensor"),
        (b"[" * 100_000, "test vectors: "),
    ],
)
def test_unreadable_vectors_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(BadVectors) as caught:
        read(raw)
    assert caught.value.message.startswith(message)


def test_their_number_is_bounded() -> None:
    one = {"input": {"x": [1, 2, 3, 4]}, "output": {"label": [1]}}
    with pytest.raises(BadVectors, match=f"at most {VECTORS_MAX}, found {VECTORS_MAX + 1}"):
        read(json.dumps([one] * (VECTORS_MAX + 1)).encode())


def answers(y: Any, label: Any = (1,)) -> dict[str, Any]:
    return {"y": np.array(y, np.float32), "label": np.array(label, np.int64)}


def test_real_numbers_are_compared_within_the_tolerance_and_integers_exactly() -> None:
    (vector,) = read(vectors_of(({"x": [1, 2, 3, 4]}, {"y": [[1, 2, 3, 4]], "label": [1]}), tolerance=0.01))
    require_answers(vector, answers([[1.005, 2, 3, 4]]), position=1, label="m@1")
    with pytest.raises(FailedVectors) as caught:
        require_answers(vector, answers([[1, 2.5, 3, 5]]), position=1, label="m@1")
    assert caught.value.message == (
        'm@1: test vector 1, output "y"[0, 1]: expected 2.0 within 0.01, found 2.5; 2 of 4 elements differ'
    )
    with pytest.raises(FailedVectors, match=r'output "label"\[0\]: expected 1, found 2; 1 of 1 elements differ'):
        require_answers(vector, answers([[1, 2, 3, 4]], [2]), position=1, label="m@1")
    with pytest.raises(FailedVectors, match=r"expected FP32\[1,4\], found FP32\[4\]"):
        require_answers(vector, answers([1, 2, 3, 4]), position=1, label="m@1")
    with pytest.raises(FailedVectors, match="found nan"):
        require_answers(vector, answers([[1, 2, 3, float("nan")]]), position=1, label="m@1")


def test_a_resting_feed_fits_the_signature() -> None:
    feed = resting_feed([spec("x", "FP32", -1, 4), spec("name", "BYTES", -1), spec("t", "INT64")])
    assert {name: array.tolist() for name, array in feed.items()} == {"x": [[0] * 4], "name": [""], "t": 0}
