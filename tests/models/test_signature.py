"""Which inputs fit a signature, and what is said of those that do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputProblem
from engine.signature import NUMPY, Signature, array_of
from query.errors import LimitExceeded
from tests.models.making import spec

ROWS = Signature([spec("x", "FP32", -1, 4)])
PAIR = Signature([spec("age", "INT64", -1, 1), spec("name", "BYTES", -1, 1)])
SCALAR = Signature([spec("t", "FP32")])


def f4(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def test_a_ready_array_is_passed_on_as_it_is() -> None:
    array = f4(3, 4)
    assert ROWS.checked({"x": array})["x"] is array


@pytest.mark.parametrize(
    ("signature", "feed", "message"),
    [
        (ROWS, {"x": f4(4)}, 'input "x": expected FP32[-1,4], found FP32[4]'),
        (ROWS, {"x": f4(2, 5)}, 'input "x": expected FP32[-1,4], found FP32[2,5]'),
        (ROWS, {"x": f4(1, 1, 4)}, 'input "x": expected FP32[-1,4], found FP32[1,1,4]'),
        (ROWS, {"x": np.zeros((1, 4))}, 'input "x": expected FP32[-1,4], found FP64[1,4]'),
        (ROWS, {"x": np.zeros((1, 4), np.int64)}, 'input "x": expected FP32[-1,4], found INT64[1,4]'),
        (ROWS, {"x": np.zeros((1, 4), ">i4")}, 'input "x": expected FP32[-1,4], found INT32[1,4]'),
        (ROWS, {"x": np.zeros((1, 4), np.complex64)}, 'input "x": expected FP32[-1,4], found complex64[1,4]'),
        (ROWS, {"x": f4(0, 4)}, 'input "x": expected FP32[-1,4] with at least one element, found FP32[0,4]'),
        (ROWS, {"x": [1.0]}, 'input "x": expected FP32[-1,4], found a vector of 1 that is no array'),
        (ROWS, {}, 'missing input "x": expected "x", found none'),
        (ROWS, {"X": f4(1, 4)}, 'unknown input "X": expected "x"'),
        (ROWS, {"x": f4(1, 4), "z": f4(1)}, 'unknown input "z": expected "x"'),
        (SCALAR, {"t": f4(1)}, 'input "t": expected FP32[], found FP32[1]'),
        (PAIR, {"age": np.zeros((1, 1), np.int64)}, 'missing input "name": expected "age", "name", found "age"'),
        (
            PAIR,
            {"age": np.zeros((1, 1), np.int64), "name": f4(1, 1)},
            'input "name": expected BYTES[-1,1], found FP32[1,1]',
        ),
        (
            PAIR,
            {"age": np.zeros((1, 1), np.int64), "name": np.array([[7]], object)},
            'input "name", element 1: expected text for BYTES, found the number 7',
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected(signature: Signature, feed: Any, message: str) -> None:
    with pytest.raises(InputProblem) as caught:
        signature.checked(feed)
    assert caught.value.message == message


SHAPE = "-1 stands for any number; two are a vector of rows, as [[1.5, 2.5]]"


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        (np.zeros((1, 4)), "make it float32 before it is sent"),
        (np.zeros((1, 4), np.int64), "make it float32 before it is sent"),
        (np.zeros((1, 4), bool), SHAPE),
        (f4(1, 5), SHAPE),
        (np.zeros((1, 5), ">f4"), SHAPE),
    ],
)
def test_numbers_of_another_kind_are_told_what_to_become(found: Any, hint: str | None) -> None:
    with pytest.raises(InputProblem) as caught:
        ROWS.checked({"x": found})
    assert caught.value.hint == hint


def test_big_endian_arrays_keep_their_values() -> None:
    given = np.array([[1, 2, 3, 4]], ">f4")
    ready = ROWS.checked({"x": given})["x"]
    assert ready.dtype.isnative
    assert ready.tolist() == [[1, 2, 3, 4]]


def test_bytes_in_a_text_tensor_are_decoded() -> None:
    texts = np.array([[b"\xc3\xa9"], ["b"]], object)
    assert PAIR.checked({"age": np.ones((2, 1), np.int64), "name": texts})["name"].tolist() == [["é"], ["b"]]
    assert PAIR.checked({"age": np.ones((1, 1), np.int64), "name": np.array([["b"]])})["name"].dtype == object
    with pytest.raises(InputProblem, match="found bytes that are not UTF-8"):
        PAIR.checked({"age": np.ones((1, 1), np.int64), "name": np.array([[b"\xff"]], object)})


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT64", "UINT8"])
def test_an_integer_beyond_every_number_is_told_in_few_words(datatype: str) -> None:
    signature = Signature([spec("x", datatype, -1)])
    for found in (10**400, -(10**400), 10**10_000):
        with pytest.raises(InputProblem, match=rf"numbers that fit {datatype}, found -?2\^\d+ or more"):
            signature.arrays([0, found])
    with pytest.raises(InputProblem, match=r"expected text for BYTES, found the number 2\^33219 or more"):
        Signature([spec("t", "BYTES", -1)]).arrays([10**10_000])


def test_elements_are_bounded_before_anything_is_made() -> None:
    bounded = Signature([spec("x", "FP32", -1, 4)], elements_max=8)
    assert bounded.checked({"x": f4(2, 4)})
    with pytest.raises(LimitExceeded, match='input "x": expected at most 8 elements, found 12'):
        bounded.checked({"x": f4(3, 4)})
    with pytest.raises(LimitExceeded, match="found 400"):
        bounded.arrays([[0.0] * 4] * 100)


def test_a_value_of_the_language_becomes_arrays() -> None:
    one_row = [[1, 2, 3, 4]]
    assert ROWS.arrays([1, 2, 3, 4])["x"].tolist() == one_row, "a vector is one row"
    assert ROWS.arrays([one_row[0], one_row[0]])["x"].shape == (2, 4), "a batch"
    assert ROWS.arrays({"x": [1, 2.5, 3, 4]})["x"].dtype == np.float32, "a record"
    assert ROWS.arrays(f4(4))["x"].shape == (1, 4), "a tensor"
    assert ROWS.arrays([f4(4), f4(4)])["x"].shape == (2, 4), "a vector of tensors"
    assert ROWS.arrays([{"x": [1, 2, 3, 4]}, {"x": [5, 6, 7, 8]}])["x"].shape == (2, 4), "a vector of records"
    assert SCALAR.arrays(3)["t"].shape == ()
    feed = PAIR.arrays({"age": 3, "name": "ada"})
    assert {name: array.tolist() for name, array in feed.items()} == {"age": [[3]], "name": [["ada"]]}
    feed = PAIR.arrays([{"age": [3], "name": ["ada"]}, {"age": [4.0], "name": ["bob"]}])
    assert {name: array.tolist() for name, array in feed.items()} == {"age": [[3], [4]], "name": [["ada"], ["bob"]]}


@pytest.mark.parametrize(
    ("signature", "value", "message"),
    [
        (
            ROWS,
            [[1, 2, 3, 4], [1, 2]],
            'input "x": expected FP32[-1,4] with parts of one length, found a vector of 2 beside one of 4',
        ),
        (
            ROWS,
            [[1, 2, 3, 4], 5],
            'input "x": expected FP32[-1,4] with parts of one length, found the number 5 where a vector of 4 belongs',
        ),
        (
            ROWS,
            [1, 2, 3, [4]],
            'input "x": expected FP32[-1,4] with parts of one length, found a vector where an element belongs',
        ),
        (ROWS, [1, 2, 3, "4"], 'input "x", element 4: expected a number for FP32, found a string'),
        (ROWS, [1, 2, 3, None], 'input "x", element 4: expected a number for FP32, found null'),
        (ROWS, [1, 2, True, 4], 'input "x", element 3: expected a number for FP32, found a boolean'),
        (ROWS, [1, 2, 3, 1e39], 'input "x": expected numbers that fit FP32, found 1e+39'),
        (ROWS, [[[[[1]]]]], 'input "x": expected FP32[-1,4], found vectors nested 4 deep or more'),
        (PAIR, [1], 'expected a record with the inputs "age", "name", found a vector of 1'),
        (
            PAIR,
            {"age": 1.5, "name": "a"},
            'input "age", element 1: expected an integer for INT64, found the number 1.5',
        ),
        (PAIR, {"age": 2**63, "name": "a"}, f'input "age": expected numbers that fit INT64, found {2**63}'),
        (PAIR, {"age": 1, "nam": "a"}, 'unknown input "nam": expected "age", "name"'),
        (PAIR, {"age": 1, "name": 2}, 'input "name", element 1: expected text for BYTES, found the number 2'),
    ],
)
def test_values_that_cannot_be_read_are_named(signature: Signature, value: Any, message: str) -> None:
    with pytest.raises(InputProblem) as caught:
        signature.checked(signature.arrays(value))
    assert caught.value.message == message


def test_not_a_number_and_infinity_are_numbers() -> None:
    given = [float("nan"), float("inf"), -float("inf"), 0]
    assert np.array_equal(ROWS.arrays(given)["x"], np.array([given], np.float32), equal_nan=True)


@pytest.mark.parametrize("datatype", NUMPY)
def test_every_datatype_takes_its_own_values(datatype: str) -> None:
    value: Any = {"BOOL": True, "BYTES": "é"}.get(datatype, 1)
    signature = Signature([spec("x", datatype, -1)])
    ready = signature.checked(signature.arrays([value, value]))["x"]
    assert ready.dtype == NUMPY[datatype]
    assert ready.tolist() == [value, value]
    assert signature.checked({"x": ready})["x"].tolist() == [value, value]


def test_a_huge_nesting_of_empties_is_not_walked() -> None:
    with pytest.raises(InputProblem):
        array_of(spec("x", "FP32", -1, 4), [[], [1]])


@given(
    st.lists(st.integers(1, 3), min_size=0, max_size=3).flatmap(
        lambda shape: st.tuples(
            st.just(tuple(shape)),
            st.lists(st.integers(-(2**31), 2**31 - 1), min_size=math.prod(shape), max_size=math.prod(shape)),
        )
    )
)
def test_a_nesting_reads_as_numpy_reads_it(drawn: tuple[tuple[int, ...], list[int]]) -> None:
    shape, numbers = drawn
    array = np.array(numbers, np.int32).reshape(shape)
    assert np.array_equal(array_of(spec("x", "INT32", *shape), array.tolist()), array)
