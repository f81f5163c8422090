"""Tensors: numpy arrays made from values, with bounds. Loads numpy; imported where a tensor is first needed."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from query import limits
from query.errors import WrongArguments
from query.limits import over

DTYPES: Final = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64")},
    **{name: np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64", "bool")},
}
_SHORT: Final = {
    "f2": "float16", "f4": "float32", "f8": "float64", "f16": "float16", "f32": "float32", "f64": "float64",
    "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "i16": "int16", "i32": "int32", "i64": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "float": "float32", "double": "float64", "integer": "int64", "boolean": "bool", "real": "float64",
}  # fmt: skip


def dtype_named(name: str) -> np.dtype[Any]:
    """``float32``, ``f4`` and the like. Raises WrongArguments with the names."""
    folded = name.casefold()
    found = DTYPES.get(_SHORT.get(folded, folded))
    if found is None:
        raise WrongArguments(f'no tensor type "{name[:40]}": expected one of {", ".join(DTYPES)}')
    return found


def tensor(dtype: str, data: Any) -> np.ndarray[Any, Any]:
    """A tensor of nested vectors of numbers. Raises WrongArguments when ragged or when the type cannot hold them."""
    wanted = dtype_named(dtype)
    if isinstance(data, np.ndarray):
        return data.astype(wanted)
    natural = as_array(data)
    if natural.size == 0:
        return natural.astype(wanted)
    if wanted.kind in "iu" and natural.dtype.kind in "iub":
        bounds = np.iinfo(wanted)
        low, high = int(natural.min()), int(natural.max())
        if low < bounds.min or high > bounds.max:
            found = low if low < bounds.min else high
            raise WrongArguments(f"{wanted} holds {bounds.min} to {bounds.max}, found {found}")
    elif wanted.kind in "iu" and natural.dtype.kind == "f" and not np.array_equal(natural, np.trunc(natural)):
        raise WrongArguments(f"{wanted} holds whole numbers, found a fraction or NaN")
    with np.errstate(all="ignore"):
        return natural.astype(wanted)


def as_array(data: Any) -> np.ndarray[Any, Any]:
    """A number, tensor or nested vector of numbers as an array of int64, uint64, float64 or bool."""
    if isinstance(data, np.ndarray):
        return data
    kinds: set[type] = set()
    shape = _shape(data, kinds, 0)
    if math.prod(shape) * 8 > limits.TENSOR_BYTES_MAX:
        raise over("a tensor", limits.TENSOR_BYTES_MAX, math.prod(shape) * 8, "bytes")
    dtype = "float64" if float in kinds or not kinds else "bool" if kinds == {bool} else "int64"
    for wide in (dtype, "uint64"):
        try:
            return np.array(data, dtype=wide).reshape(shape)
        except OverflowError:
            continue
    raise WrongArguments("a tensor holds integers of 64 bits, found a larger one")


def _shape(data: Any, kinds: set[type], depth: int) -> tuple[int, ...]:
    if type(data) in (int, float, bool):
        kinds.add(type(data))
        return ()
    if not isinstance(data, list):
        from query.values import described

        raise WrongArguments(f"a tensor holds numbers, found {described(data)}")
    if depth >= limits.TENSOR_RANK_MAX:
        raise over("a tensor", limits.TENSOR_RANK_MAX, "more", "dimensions")
    if not data:
        return (0,)
    first = _shape(data[0], kinds, depth + 1)
    if not first:
        inner = set(map(type, data))
        if inner <= {int, float, bool}:
            kinds |= inner
            return (len(data),)
    for part in data[1:]:
        other = _shape(part, kinds, depth + 1)
        if other != first:
            raise WrongArguments(f"a tensor's rows have one shape, found {list(first)} and {list(other)}")
    return (len(data), *first)


def reshape(data: Any, shape: Any) -> np.ndarray[Any, Any]:
    """The same elements in another shape; one dimension may be -1. Raises WrongArguments."""
    array = as_array(data)
    if not isinstance(shape, list) or not all(type(size) is int and size >= -1 for size in shape):
        raise WrongArguments("a shape is a vector of whole numbers, of which one may be -1")
    if len(shape) > limits.TENSOR_RANK_MAX:
        raise over("a tensor", limits.TENSOR_RANK_MAX, len(shape), "dimensions")
    try:
        return array.reshape(shape)
    except ValueError:
        raise WrongArguments(f"{array.size} elements do not fit the shape {shape}") from None
