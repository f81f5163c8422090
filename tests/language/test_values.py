"""Values: their types, wire form and text form."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from query import limits
from query.errors import LimitExceeded, Problem, SyntaxProblem, WrongArguments
from query.operators import same
from query.text_form import from_text, to_text
from query.types import Type, parse_type
from query.values import NotAValue, checked, decode_value, encode_value, matches, measured, normal, type_of

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
TIMES = st.datetimes(timezones=st.just(UTC))
INTEGERS = st.integers(-(2**limits.INTEGER_BITS_MAX) // 2, 2**limits.INTEGER_BITS_MAX // 2)
WIRE_KEYS = st.sampled_from(["$time", "$tensor", "$number", "$record", "dtype", "shape", "data", "a"])
DTYPES = st.sampled_from(["float32", "float64", "float16", "int8", "int64", "uint64", "uint8", "bool"])


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = np.dtype(draw(DTYPES))
    size = math.prod(shape)
    content = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    if dtype.kind == "b":
        return np.array([byte % 2 == 1 for byte in content], dtype=dtype).reshape(shape)
    return np.frombuffer(content, dtype=dtype).reshape(shape)


SCALARS = st.none() | st.booleans() | INTEGERS | st.floats() | TEXTS | TIMES
VALUES = st.recursive(
    SCALARS | tensors(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def identical(one: Any, other: Any) -> bool:
    """The same value of the same type, NaN included."""
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        signs = math.copysign(1, one), math.copysign(1, other)
        return (math.isnan(one) and math.isnan(other)) or (one == other and signs[0] == signs[1])
    if isinstance(one, list):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    return bool(one == other)


@given(VALUES)
def test_the_text_form_parses_back(value: Any) -> None:
    assert identical(from_text(to_text(value)), value)


@given(VALUES)
def test_the_wire_form_reads_back(value: Any) -> None:
    encoded = msgspec.json.encode(encode_value(value))
    assert identical(decode_value(msgspec.json.decode(encoded)), value)
    assert identical(decode_value(json.loads(encoded)), value)


@given(VALUES)
def test_every_value_has_a_type_that_accepts_it(value: Any) -> None:
    kind = type_of(value)
    assert matches(value, kind)
    assert parse_type(str(kind)) == kind
    assert normal(value) is value
    assert measured(value) >= 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                WIRE_KEYS,
                inner,
                max_size=3,
            )
        ),
        max_leaves=10,
    )
)
def test_any_json_is_a_value_or_a_problem(encoded: Any) -> None:
    try:
        value = decode_value(encoded)
    except Problem:
        return
    assert identical(decode_value(encode_value(value)), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        ('a"b\\c\n', '"a\\"b\\\\c\\n"'),
        ("it's", '"it\'s"'),
        (["it's", 'a"b'], "['it''s','a\"b']"),
        (["staging-area-edges"], "['staging-area-edges']"),
        (
            {"models:loaded": ["my-sa-model@5.3"], "last_load_errors": [], "edge_mode": "INTERACTIVE"},
            """{"models:loaded":['my-sa-model@5.3'],"last_load_errors":[],"edge_mode":'INTERACTIVE'}""",
        ),
        ([1, -2, 2.5, 1e100, True, None], "[1,-2,2.5,1e+100,true,null]"),
        ([math.nan, math.inf, -math.inf], "[NaN,Infinity,-Infinity]"),
        (datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))), "|2026-01-31T12:00:00Z|"),
        ({'k"': {}}, '{"k\\"":{}}'),
        (np.array([[1.5, 2]], dtype="float32"), "tensor('float32',[[1.5,2.0]])"),
        (
            np.array([37.4, 0.1, 1e20, 1e-45, 16777216, np.inf, np.nan], dtype="float32"),
            "tensor('float32',[37.4,0.1,1e+20,1e-45,16777216.0,Infinity,NaN])",
        ),
        (np.asfortranarray(np.array([[37.4, 1], [2.2, 3]], dtype="f4")), "tensor('float32',[[37.4,1.0],[2.2,3.0]])"),
        (np.array(0.1, dtype="float16"), "tensor('float16',0.1)"),
        (np.array(0.1, dtype="float64"), "tensor('float64',0.1)"),
        (np.zeros((2, 0), dtype="int64"), "reshape(tensor('int64',[]),[2,0])"),
    ],
)
def test_the_text_form_is_exactly_so(value: Any, text: str) -> None:
    assert to_text(value) == text


@pytest.mark.parametrize("text", ["f(1)", "1 + 1", "set :v = 1", "x", "[1,x]", "select 1", "1;2"])
def test_a_value_is_not_evaluated(text: str) -> None:
    with pytest.raises(SyntaxProblem):
        from_text(text)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, {"$number": "9223372036854775808"}),
        (math.inf, {"$number": "Infinity"}),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), {"$time": "2026-01-31T12:00:00+00:00"}),
        ({"$a": 1}, {"$record": {"$a": 1}}),
        ([1, 2**63], [1, {"$number": "9223372036854775808"}]),
        ([1.0, math.inf], [1.0, {"$number": "Infinity"}]),
        ([1, 2.5], [1, 2.5]),
        (np.array([1, 2], dtype=">f4"), {"$tensor": {"dtype": "<f4", "shape": [2], "data": "AACAPwAAAEA="}}),
        ((1, np.float64(2.5), np.int32(3)), [1, 2.5, 3]),
    ],
)
def test_the_wire_form_is_exactly_so(value: Any, encoded: Any) -> None:
    assert encode_value(value) == encoded


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), {1: 2}, 1j, [object()], np.array(["a"])])
def test_what_is_no_value(value: Any) -> None:
    with pytest.raises(NotAValue):
        encode_value(value)


@pytest.mark.parametrize(
    "encoded",
    [
        {"$time": "soon"},
        {"$number": "1e5"},
        {"$number": "9" * 5000},
        {"$tensor": {"dtype": "|O", "shape": [1], "data": ""}},
        {"$tensor": {"dtype": ">f4", "shape": [1], "data": "AAAAAA=="}},
        {"$tensor": {"dtype": "<f4", "shape": [2], "data": "AAAAAA=="}},
        {"$tensor": {"dtype": "<f4", "shape": [-1], "data": ""}},
        {"$tensor": {"dtype": "<f4", "shape": [10**9, 10**9], "data": ""}},
        {"$tensor": {"dtype": "<f4", "shape": [0] * 40, "data": ""}},
        {"$tensor": {"dtype": "<f4", "shape": [1], "data": "****"}},
        {"$what": 1},
    ],
)
def test_what_is_no_wire_form(encoded: Any) -> None:
    with pytest.raises(NotAValue):
        decode_value(encoded)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_the_depth_of_a_value() -> None:
    assert decode_value(encode_value(nested(limits.VALUE_DEPTH_MAX))) == nested(limits.VALUE_DEPTH_MAX)
    for use in (encode_value, decode_value, measured, to_text, normal):
        with pytest.raises(LimitExceeded, match=f"a value is over its limit of {limits.VALUE_DEPTH_MAX} levels"):
            use(nested(500))


def test_the_size_of_a_value() -> None:
    shared: Any = [1, 1]
    for _ in range(40):  # 2 ** 41 elements in 82 places
        shared = [shared, shared]
    for use in (encode_value, measured):
        with pytest.raises(LimitExceeded, match=f"a value is over its limit of {limits.VALUE_ELEMENTS_MAX} elements"):
            use(shared)


def test_the_size_of_a_tensor() -> None:
    with pytest.raises(LimitExceeded, match="a tensor is over its limit"):
        encode_value(np.zeros(limits.TENSOR_BYTES_MAX + 1, dtype="uint8"))


def test_a_value_of_the_wrong_type_is_named() -> None:
    assert checked(3, Type("Number"), "x") == 3
    with pytest.raises(WrongArguments, match=r'x: expected Integer, found String "a"'):
        checked("a", Type("Integer"), "x")


def test_equality() -> None:
    assert same(1, 1.0)
    assert not same(True, 1)
    assert same([1, None], [1.0, None])
    assert not same({"a": 1}, {"a": 1, "b": 2})
    assert same(np.array([1, 2]), np.array([1.0, 2.0]))
