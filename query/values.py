"""The values of the language in Python, their types, and their form on the wire.

    null          None                    Vector     list (a tuple is taken as one)
    Boolean       bool                    Record     dict with str keys
    Integer       int, of any size        Tensor     numpy.ndarray
    Real          float                   Timestamp  datetime with a time zone, shown in UTC
    String        str

The wire form is written out in :mod:`query.frames`; an integer beyond 64 bits is ``{"$number": "…"}`` as well.
Depth and number of elements are bounded in both directions.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from query import limits
from query.errors import UserProblem, WrongArguments
from query.limits import over
from query.types import (
    BOOLEAN,
    INTEGER,
    OBJECT,
    REAL,
    RECORD,
    STRING,
    TENSOR,
    TIMESTAMP,
    VECTOR,
    Type,
)


class NotAValue(UserProblem):
    """Something that is no value of the language, or no wire form of one."""

    code = "not_a_value"


_SCALAR_TYPES: Final = {bool: BOOLEAN, int: INTEGER, float: REAL, str: STRING, datetime: TIMESTAMP, type(None): OBJECT}


_AS_THEY_ARE: Final = frozenset({bool, str, type(None)})
_JSON_LIKE: Final = _AS_THEY_ARE | {int, float}


def is_tensor(value: object) -> TypeGuard[Any]:
    """Whether a value is a numpy array; loads numpy only if somebody else has."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def type_of(value: object) -> Type:
    """The type of a value: ``Vector of T`` when all elements have type T, ``Object`` for null."""
    found = _SCALAR_TYPES.get(type(value))
    if found is not None:
        return found
    if isinstance(value, list | tuple):
        plain = set(map(type, value))
        if plain <= _SCALAR_TYPES.keys():
            kinds = {_SCALAR_TYPES[kind] for kind in plain}
        else:
            kinds = {type_of(element) for element in value}
        return Type("Vector", kinds.pop()) if len(kinds) == 1 else VECTOR
    if isinstance(value, dict):
        return RECORD
    if is_tensor(value):
        return TENSOR
    raise NotAValue(f"{type(value).__name__} is no value of the language")


def matches(value: object, wanted: Type) -> bool:
    """Whether a value may stand where a type is declared. Null may stand everywhere."""
    if value is None:
        return True
    name = wanted.name
    kind = type(value)
    if name == "Object":
        return True
    if name in ("Number", "Real"):
        return kind is int or kind is float
    if name == "Integer":
        return kind is int
    if name == "String":
        return kind is str
    if name == "Boolean":
        return kind is bool
    if name == "Timestamp":
        return kind is datetime
    if name == "Record":
        return kind is dict
    if name == "Tensor":
        return is_tensor(value)
    if name == "Vector":
        if kind is not list:
            return False
        element = wanted.element
        return element is None or _all_match(value, element)  # type: ignore[arg-type]
    return False


def _all_match(values: list[Any], wanted: Type) -> bool:
    plain = set(map(type, values))
    if plain <= _SCALAR_TYPES.keys():
        return all(_SCALAR_TYPES[kind] is OBJECT or wanted.accepts(_SCALAR_TYPES[kind]) for kind in plain)
    return all(matches(part, wanted) for part in values)


def normal(value: Any, *, depth: int = 0) -> Any:
    """What an implementation returned as a value of the language: tuples become lists, numpy scalars numbers.

    Raises :class:`NotAValue` for anything else. Lists and records that are values already are returned as they are.
    """
    kind = type(value)
    if kind in _SCALAR_TYPES:
        if kind is datetime and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value
    if depth > limits.VALUE_DEPTH_MAX:
        raise over("a value", limits.VALUE_DEPTH_MAX, "more", "levels")
    if kind in (list, tuple):
        if set(map(type, value)) <= _JSON_LIKE:
            return value if kind is list else list(value)
        parts = [normal(part, depth=depth + 1) for part in value]
        return value if kind is list and all(map(_same, parts, value)) else parts
    if isinstance(value, Mapping):
        _check_keys(value)
        record = {key: normal(part, depth=depth + 1) for key, part in value.items()}
        return value if kind is dict and all(map(_same, record.values(), value.values())) else record
    if is_tensor(value):
        return value
    if isinstance(value, bool | int | float | str):
        return _plain(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return item()
    if isinstance(value, set | frozenset):
        raise NotAValue("a set is no value of the language: sort it into a list")
    raise NotAValue(f"{kind.__name__} is no value of the language")


def _check_keys(record: Mapping[Any, Any]) -> None:
    for key in record:
        if type(key) is not str:
            raise NotAValue(f"a record's keys are strings, found {type(key).__name__}")


def _same(one: object, other: object) -> bool:
    return one is other


def _plain(value: bool | int | float | str) -> Any:
    """A subclass's instance (an enumeration, numpy's float64) as the plain type."""
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return value


def measured(value: Any, *, what: str = "a value") -> int:
    """The number of elements in a value, at least 1. Raises when it is too big or too deep to be kept or sent."""
    count = 0
    level = [value]
    for _ in range(limits.VALUE_DEPTH_MAX + 1):
        count += len(level)
        if count > limits.VALUE_ELEMENTS_MAX:
            raise over(what, limits.VALUE_ELEMENTS_MAX, "more", "elements")
        deeper: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is list:
                deeper.extend(part)
            elif kind is dict:
                deeper.extend(part.values())
            if len(deeper) > limits.VALUE_ELEMENTS_MAX:
                raise over(what, limits.VALUE_ELEMENTS_MAX, "more", "elements")
        if not deeper:
            return count
        level = deeper
    raise over(what, limits.VALUE_DEPTH_MAX, "more", "levels")


_INT64: Final = 2**63


def encode_value(value: Any, *, depth: int = 0) -> Any:
    """A value as JSON types. Raises :class:`NotAValue` or LimitExceeded."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else {"$number": str(value)}
    if kind is float:
        if math.isfinite(value):
            return value
        return {"$number": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if kind is datetime:
        return {"$time": value.astimezone(UTC).isoformat()}
    if depth == 0:
        measured(value)
    elif depth > limits.VALUE_DEPTH_MAX:
        raise over("a value", limits.VALUE_DEPTH_MAX, "more", "levels")
    if kind is list or kind is tuple:
        if _travels_as_it_is(value):
            return list(value)
        return [encode_value(part, depth=depth + 1) for part in value]
    if kind is dict:
        _check_keys(value)
        encoded = {key: encode_value(part, depth=depth + 1) for key, part in value.items()}
        return {"$record": encoded} if any(key.startswith("$") for key in encoded) else encoded
    if is_tensor(value):
        return {"$tensor": _encode_tensor(value)}
    return encode_value(normal(value), depth=depth + 1)


def _travels_as_it_is(values: list[Any] | tuple[Any, ...]) -> bool:
    """Whether all elements are plain JSON: found out for all at once, as vectors may be long."""
    plain = set(map(type, values))
    if plain <= _AS_THEY_ARE:
        return True
    if plain == {int}:
        return bool(min(values) >= -_INT64 and max(values) < _INT64)
    return plain == {float} and all(map(math.isfinite, values))


def _encode_tensor(value: Any) -> dict[str, Any]:
    import numpy as np

    if value.dtype.kind not in "biuf":
        raise NotAValue(f"a tensor of {value.dtype} cannot travel: expected booleans, integers or floats")
    if value.nbytes > limits.TENSOR_BYTES_MAX:
        raise over("a tensor", limits.TENSOR_BYTES_MAX, value.nbytes, "bytes")
    little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    return {
        "dtype": little.dtype.str,
        "shape": list(value.shape),
        "data": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def decode_value(encoded: Any, *, depth: int = 0) -> Any:
    """The value of a wire form. Raises :class:`NotAValue` or LimitExceeded, never anything else, on any JSON."""
    kind = type(encoded)
    if kind in (type(None), bool, int, float, str):
        return encoded
    if depth > limits.VALUE_DEPTH_MAX:
        raise over("a value", limits.VALUE_DEPTH_MAX, "more", "levels")
    if depth == 0:
        measured(encoded)
    if kind is list or kind is tuple:
        return [decode_value(part, depth=depth + 1) for part in encoded]
    if kind is not dict:
        raise NotAValue(f"{kind.__name__} is no wire form of a value")
    if len(encoded) == 1:
        (key,) = encoded
        if key.startswith("$"):
            return _decode_special(key, encoded[key], depth)
    return {str(key): decode_value(part, depth=depth + 1) for key, part in encoded.items()}


def _decode_special(key: str, inner: Any, depth: int) -> Any:
    if key == "$time" and isinstance(inner, str):
        try:
            found = datetime.fromisoformat(inner)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            raise NotAValue(f'"{inner[:60]}" is not a time stamp') from None
    if key == "$number" and isinstance(inner, str):
        if inner in ("NaN", "Infinity", "-Infinity"):
            return float(inner)
        digits = inner.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) * 3 < limits.INTEGER_BITS_MAX:
            return int(inner)
        raise NotAValue(f'"{inner[:60]}" is not a number')
    if key == "$record" and isinstance(inner, dict):
        return {str(name): decode_value(part, depth=depth + 1) for name, part in inner.items()}
    if key == "$tensor" and isinstance(inner, dict):
        return _decode_tensor(inner)
    raise NotAValue(f'"{key[:60]}" is no wire form of a value')


def _decode_tensor(inner: dict[str, Any]) -> Any:
    import numpy as np

    dtype, shape, data = inner.get("dtype"), inner.get("shape"), inner.get("data")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(data, str):
        raise NotAValue("a tensor needs dtype, shape and data")
    if dtype[:1] not in "<|" or dtype[1:] not in _DTYPES:
        raise NotAValue(f'"{dtype[:20]}" is no tensor\'s dtype: expected one of <f4, <f8, <i8, |u1, |b1 and the like')
    if len(shape) > limits.TENSOR_RANK_MAX or not all(type(size) is int and size >= 0 for size in shape):
        raise NotAValue(f"a tensor's shape is up to {limits.TENSOR_RANK_MAX} numbers from 0")
    if len(data) > limits.TENSOR_BYTES_MAX * 4 // 3 + 4:
        raise over("a tensor", limits.TENSOR_BYTES_MAX, len(data) * 3 // 4, "bytes")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise NotAValue("a tensor's data is not base64") from None
    found = np.dtype(dtype)
    if math.prod(shape) * found.itemsize != len(content):
        raise NotAValue(f"a tensor of {found} and shape {shape} has {len(content)} bytes of data")
    return np.frombuffer(content, dtype=found).reshape(shape).copy()


_DTYPES: Final = frozenset({"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"})


def checked(value: Any, wanted: Type, what: str) -> Any:
    """A value that must have a type. Raises WrongArguments naming what, expected and found."""
    if matches(value, wanted):
        return value
    raise WrongArguments(f"{what}: expected {wanted}, found {described(value)}")


def described(value: Any) -> str:
    """A value's type for a message, with the value when it is short."""
    kind = "null" if value is None else str(type_of(value))
    if type(value) in (int, float, bool) or (type(value) is str and len(value) <= 40):
        from query.text_form import to_text

        return f"{kind} {to_text(value)}" if not (type(value) is int and value.bit_length() > 128) else kind
    return kind
