"""Test vectors: the questions that a release brings along, with the answers that its publisher saw.

The file is a JSON list of objects: ``input`` (input name → value), ``output`` (output name → value, any subset of the
outputs), ``tolerance`` (absolute and relative, for real numbers; 1e-4 when left out). A value is a number, text, a
boolean, a nesting of these, or ``{"$tensor": {"dtype": "<f4", "shape": […], "data": base64}}``, little-endian and
row-major. Integers, text and booleans must be equal; not-a-number equals itself. An output of records is a list of
objects with the same keys, whose real numbers may differ by the tolerance.

Refuses more than ``VECTORS_MAX`` vectors, unknown keys, names that the model does not have, and vectors without an
expected output. Pure.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn

import msgspec
import numpy as np

from engine.errors import BadVectors, FailedVectors, InputProblem
from engine.record_outputs import RECORD, record_array
from engine.signature import NUMPY, Array, Signature, array_of, datatype_of, shown
from federation.documents import TensorSpec
from query.errors import Problem

VECTORS_MAX: Final = 1000
TOLERANCE: Final = 1e-4


class _Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: dict[str, Any]
    output: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = TOLERANCE


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Vector:
    """One question, checked against the signature, and the outputs expected of it."""

    feed: dict[str, Array]
    expected: dict[str, Array]
    tolerance: float

    @property
    def elements(self) -> int:
        return sum(array.size for array in self.feed.values())


def read_vectors(raw: bytes, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[Vector, ...]:
    """The vectors of one file. Raises :class:`BadVectors`, naming the vector."""
    try:
        listed = msgspec.json.decode(raw, type=list[_Vector])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadVectors(f"test vectors: {error}") from error
    if len(listed) > VECTORS_MAX:
        raise BadVectors(f"test vectors: expected at most {VECTORS_MAX}, found {len(listed)}")
    signature = Signature(inputs)
    known = {spec.name: spec for spec in outputs}
    return tuple(_vector(position, one, signature, known) for position, one in enumerate(listed, 1))


def _vector(position: int, one: _Vector, signature: Signature, known: Mapping[str, TensorSpec]) -> Vector:
    try:
        feed = signature.checked(signature.arrays({name: _value(value) for name, value in one.input.items()}))
        expected = {}
        for name, value in one.output.items():
            if name not in known:
                raise InputProblem(f'unknown output "{name}": expected {", ".join(known)}')
            expected[name] = _expected(known[name], value)
    except Problem as error:
        raise BadVectors(f"test vector {position}: {error.message}") from error
    return Vector(feed, expected, one.tolerance)


def _expected(spec: TensorSpec, value: Any) -> Array:
    if spec.datatype != RECORD:
        return array_of(spec, _value(value))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise InputProblem(f'output "{spec.name}": expected a list of objects')
    return record_array(value)


def _value(value: Any) -> Any:
    if not (isinstance(value, dict) and value.keys() == {"$tensor"}):
        return value
    try:
        tensor = msgspec.convert(value["$tensor"], _Tensor)
        return np.frombuffer(tensor.data, dtype=np.dtype(tensor.dtype)).reshape(tensor.shape)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InputProblem(f"expected a tensor as dtype, shape and base64 data: {error}") from error


def require_answers(vector: Vector, answers: Mapping[str, Array], *, position: int, label: str) -> None:
    """Raises :class:`FailedVectors`, naming the vector, the output and the first element that differs."""
    for name, expected in vector.expected.items():
        found = answers[name]
        where = f'{label}: test vector {position}, output "{name}"'
        if found.shape != expected.shape:
            raise FailedVectors(f"{where}: expected {_shown(expected)}, found {_shown(found)}")
        same = same_elements(expected, found, vector.tolerance)
        if not same.all():
            _differs(where, expected, found, same, vector.tolerance)


def same_elements(expected: Array, found: Array, tolerance: float) -> Array:
    """Which elements of two arrays of the same shape are equal, real numbers within the tolerance."""
    if found.dtype.kind == "f":
        near = np.isclose(found, expected.astype(found.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)
        return np.asarray(near)
    if found.size and isinstance(found.flat[0], dict):
        pairs = zip(expected, found, strict=True)
        return np.array([_alike(one, other, tolerance) for one, other in pairs], dtype=np.bool_)
    return np.asarray(found == expected)


def _alike(expected: Any, found: Any, tolerance: float) -> bool:
    """Whether two values in records are the same; their depth is that of the runtime's, at most a tensor in a map."""
    match expected, found:
        case dict(), dict():
            return expected.keys() == found.keys() and all(
                _alike(value, found[key], tolerance) for key, value in expected.items()
            )
        case list(), list():
            return len(expected) == len(found) and all(
                _alike(one, other, tolerance) for one, other in zip(expected, found, strict=True)
            )
        case float() | int(), float():
            both_nan = math.isnan(expected) and math.isnan(found)
            return both_nan or math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
        case _:
            return bool(expected == found)


def _shown(array: Array) -> str:
    records = array.dtype.kind == "O" and array.size and isinstance(array.flat[0], dict)
    return shown(RECORD if records else datatype_of(array), array.shape)


def _differs(where: str, expected: Array, found: Array, same: Array, tolerance: float) -> NoReturn:
    first = tuple(int(at) for at in np.argwhere(~np.atleast_1d(same))[0])[: found.ndim]
    within = f" within {tolerance:g}" if found.dtype.kind in "fO" and not isinstance(found.flat[0], str) else ""
    raise FailedVectors(
        f"{where}{list(first) if first else ''}: expected {expected[first]}{within}, found {found[first]}; "
        f"{int(same.size - same.sum())} of {same.size} elements differ"
    )


def resting_feed(inputs: Iterable[TensorSpec]) -> dict[str, Array]:
    """Zeros and empty texts in the smallest shape that fits: to warm a model up that brings no vectors."""
    feed: dict[str, Array] = {}
    for spec in inputs:
        shape = tuple(max(size, 1) for size in spec.shape)
        if spec.datatype == "BYTES":
            feed[spec.name] = np.full(shape, "", dtype=np.object_)
        else:
            feed[spec.name] = np.zeros(shape, dtype=NUMPY[spec.datatype])
    return feed


def tensor_value(array: Array) -> dict[str, Any]:
    """A numeric array as ``$tensor``, for whoever writes vectors."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"$tensor": {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}}


def elements_of(inputs: Iterable[TensorSpec]) -> int:
    """Elements of :func:`resting_feed`."""
    return sum(math.prod(max(size, 1) for size in spec.shape) for spec in inputs)
