"""What generic functions make of known columns, where their declared result says too little.

Owns a rule for each of them: given the arguments of a call and their cells, the cells of the result. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from query.plan import Constant, Step
from query.row_types import NUMBER, UNKNOWN, VARIES, WHOLE, Cells, joined, kind_of


def is_null(step: Step) -> bool:
    return type(step) is Constant and step.value is None


Rule = Callable[[tuple[Step, ...], list[Cells]], Cells]


def _same(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return found[0]


def _real(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value = found[0]
    if not value.tensor:
        return replace(value, dtype="float64") if value.dtype is not None else UNKNOWN
    wide = value.dtype in ("int32", "int64", "uint32", "uint64")
    return replace(value, dtype="float64" if wide else value.dtype if kind_of(value.dtype) == "float64" else None)


def _whole(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value = found[0]
    return value if value.tensor or value.dtype is None else replace(value, dtype="int64")


def _rounded(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return WHOLE if len(arguments) == 1 or found[0].dtype == "int64" else NUMBER


def _remainder(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return WHOLE if {cells.dtype for cells in found} == {"int64"} else NUMBER


def _element(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    """One of the elements, or their sum."""
    if len(arguments) > 1 or found[0].shape is None or len(found[0].shape) > 1:
        return UNKNOWN
    return Cells(kind_of(found[0].dtype))


def _reduced(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return Cells(kind_of(found[0].dtype)) if len(arguments) == 1 else UNKNOWN


def _position(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return WHOLE if len(arguments) == 1 else UNKNOWN


def _mean(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return NUMBER if len(arguments) == 1 else UNKNOWN


def _softmax(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value = found[0]
    floats = value.tensor and kind_of(value.dtype) == "float64"
    return Cells(value.dtype if floats else "float64", value.shape, tensor=True)


def _tensor(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    """``tensor("float32", data)``."""
    named = arguments[0]
    if type(named) is not Constant or type(named.value) is not str:
        return UNKNOWN
    from query.tensors import dtype_named

    return Cells(dtype_named(named.value).name, found[1].shape, tensor=True)


def _reshaped(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value, shape = found[0], arguments[1]
    if type(shape) is not Constant or not isinstance(shape.value, list):
        return Cells(value.dtype, None, tensor=True)
    wanted = list(shape.value)
    if VARIES in wanted and value.shape is not None and VARIES not in value.shape:
        rest = math.prod(size for size in wanted if size != VARIES)
        wanted[wanted.index(VARIES)] = math.prod(value.shape) // rest if rest else VARIES
    return Cells(value.dtype, tuple(wanted), tensor=True)


def _transposed(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value = found[0]
    return Cells(value.dtype, None if value.shape is None else value.shape[::-1], tensor=True)


def _listed(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value = found[0]
    return Cells(kind_of(value.dtype), value.shape or (1,) if value.shape is not None else None)


def _filled(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    size = arguments[0].value if type(arguments[0]) is Constant else None
    return Cells("int64", (size if isinstance(size, int) and size >= 0 else VARIES,))


def _concatenated(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    if any(not cells.shape for cells in found):
        return UNKNOWN
    lengths = [cells.shape[0] for cells in found if cells.shape]
    inner = joined([replace(cells, shape=cells.shape[1:]) for cells in found if cells.shape])
    if inner.shape is None:
        return UNKNOWN
    return replace(inner, shape=(VARIES if VARIES in lengths else sum(lengths), *inner.shape))


def _part(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    value = found[0]
    return replace(value, shape=(VARIES, *value.shape[1:])) if value.shape else UNKNOWN


def _product(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    plain = all(not cells.tensor and cells.shape is not None and len(cells.shape) == 1 for cells in found)
    numbers = {cells.dtype for cells in found} <= {"int64", "float64"}
    if not plain or not numbers:
        return UNKNOWN
    return WHOLE if {cells.dtype for cells in found} == {"int64"} else NUMBER


def _chosen(arguments: tuple[Step, ...], found: list[Cells]) -> Cells:
    return joined([cells for step, cells in zip(arguments, found, strict=True) if not is_null(step)])


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("abs", "reverse"), _same),
    **dict.fromkeys(("exp", "ln", "log10", "sin", "cos", "tan", "sqrt"), _real),
    **dict.fromkeys(("floor", "ceil"), _whole),
    "round": _rounded,
    "mod": _remainder,
    **dict.fromkeys(("min", "max", "sum"), _element),
    **dict.fromkeys(("tensor_sum", "tensor_max"), _reduced),
    **dict.fromkeys(("argmax", "argmin"), _position),
    "tensor_mean": _mean,
    "softmax": _softmax,
    "tensor": _tensor,
    "array": _tensor,
    "reshape": _reshaped,
    "transpose": _transposed,
    "vector": _listed,
    **dict.fromkeys(("zeros", "ones"), _filled),
    "concat": _concatenated,
    "section": _part,
    "dot": _product,
    "coalesce": _chosen,
}
