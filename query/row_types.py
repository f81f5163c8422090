"""What is known of the columns that an expression over a record's fields reads and makes, before it runs.

Owns :class:`Cells`, what is known of one column, and :func:`inferred`, what a step makes of known columns. Pure;
knows numpy's names of types and none of its code.

A field of one element stands in an expression as that element: a number, a text, a truth value. A field of more is a
tensor, or of texts a vector. Numbers that an expression makes are the language's: ``int64`` and ``float64`` here, to
be given another type by whoever takes them; tensors keep their type. What only running tells has ``dtype`` None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from query.errors import WrongArguments
from query.plan import Choose, Constant, Convert, Invoke, Local, Logic, MakeRecord, MakeVector, Member, Operate, Step
from query.types import BOOLEAN, INTEGER, OBJECT, REAL, RECORD, STRING, TENSOR, Type

Shape = tuple[int, ...]
VARIES: Final = -1


@dataclass(frozen=True, slots=True)
class Cells:
    """One column. ``dtype``: numpy's name of its elements' type, ``str``, ``record``, or None when only running tells.

    ``shape``: of one row's value, -1 for a length that varies, () for a single value, None when only running tells.
    ``tensor``: a row's value is a tensor, which keeps its type.
    """

    dtype: str | None = None
    shape: Shape | None = ()
    tensor: bool = False

    @property
    def single(self) -> bool:
        """Whether a row has one element."""
        return self.shape is not None and all(size == 1 for size in self.shape)

    def __str__(self) -> str:
        kind = self.dtype or "Object"
        if self.shape is None:
            return f"{kind} of any shape"
        return f"{kind}[{','.join(map(str, self.shape))}]" if self.shape else kind


UNKNOWN: Final = Cells(None, None)
NUMBER: Final = Cells("float64")
WHOLE: Final = Cells("int64")
TRUTH: Final = Cells("bool")
TEXT: Final = Cells("str")


def kind_of(dtype: str | None) -> str | None:
    """``int64`` for every integer type, ``float64`` for every real one; the others as they are."""
    if dtype is None:
        return None
    if dtype.startswith(("int", "uint")):
        return "int64"
    return "float64" if dtype.startswith("float") else dtype


def as_value(field: Cells) -> Cells:
    """What a field is to an expression."""
    if field.single:
        return Cells(kind_of(field.dtype), ())
    return replace(field, tensor=field.dtype not in ("str", "record", None))


_TYPES: Final = {"bool": BOOLEAN, "int64": INTEGER, "float64": REAL, "str": STRING, "record": RECORD}


def type_of_cells(cells: Cells) -> Type:
    """The type of the language that a value of these cells has."""
    if cells.dtype is None or cells.shape is None:
        return OBJECT
    if cells.tensor:
        return TENSOR
    found = _TYPES.get(kind_of(cells.dtype) or "", OBJECT)
    for _ in cells.shape:
        found = Type("Vector", found)
    return found


def inferred(step: Step, known: Mapping[int, Cells]) -> Cells:
    """The cells of a step's value, given those of variables by slot. Raises WrongArguments for shapes that cannot be
    combined and positions outside of what they count in.
    """
    match step:
        case Constant(value):
            return _of_value(value)
        case Local(slot):
            return known.get(slot, UNKNOWN)
        case Operate(operator, operands):
            return _operated(operator, operands, [inferred(one, known) for one in operands])
        case Logic() | Member():
            return TRUTH
        case Convert(value, wanted):
            return _converted(inferred(value, known), wanted)
        case Choose(branches, otherwise):
            results = [value for _, value in branches] + ([otherwise] if otherwise is not None else [])
            return _joined([inferred(one, known) for one in results if not _is_null(one)])
        case MakeVector(items):
            return _stacked([inferred(one, known) for one in items])
        case MakeRecord():
            return Cells("record")
        case Invoke(overloads, arguments):
            found = [inferred(one, known) for one in arguments]
            rule = _RULES.get(overloads[0].name.casefold())
            return rule(arguments, found) if rule is not None else _of_type(step.type)
        case _:
            return _of_type(step.type)


def _is_null(step: Step) -> bool:
    return type(step) is Constant and step.value is None


def _of_value(value: Any) -> Cells:
    kind = type(value)
    if kind is list:
        return _stacked([_of_value(part) for part in value])
    if kind is dict:
        return Cells("record")
    name = {bool: "bool", int: "int64", float: "float64", str: "str"}.get(kind)
    return Cells(name, ()) if name else UNKNOWN


def _of_type(declared: Type) -> Cells:
    if declared.name == "Number":
        return NUMBER
    if declared.name == "Vector" and declared.element is not None:
        inner = _of_type(declared.element)
        return replace(inner, shape=(VARIES, *inner.shape)) if inner.shape is not None else UNKNOWN
    dtype = next((name for name, found in _TYPES.items() if found.name == declared.name), None)
    return Cells(dtype) if dtype else UNKNOWN


def _joined(found: list[Cells]) -> Cells:
    """What is one or the other: the same, or numbers of both kinds as reals."""
    kinds = set(found)
    if len(kinds) == 1:
        return found[0]
    if not kinds or len({(cells.shape, cells.tensor) for cells in kinds}) > 1:
        return UNKNOWN
    numbers = {cells.dtype for cells in kinds} <= {"int64", "float64"} and not found[0].tensor
    return replace(found[0], dtype="float64" if numbers else None)


def _stacked(found: list[Cells]) -> Cells:
    """A vector of these."""
    if not found:
        return Cells("float64", (0,))
    one = _joined([replace(cells, tensor=False, dtype=kind_of(cells.dtype)) for cells in found])
    if one.shape is None:
        return UNKNOWN
    exact = {cells.dtype for cells in found} if all(cells.tensor for cells in found) else set()
    dtype = exact.pop() if len(exact) == 1 else one.dtype
    return Cells(dtype, (len(found), *one.shape), tensor=False)


_COMPARING: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "like", "not", "between", "is null"})


def _operated(operator: str, operands: tuple[Step, ...], found: list[Cells]) -> Cells:
    if operator in _COMPARING:
        return TRUTH
    if operator == "||":
        return TEXT
    if operator == "[]":
        return _indexed(found[0], operands[1])
    if operator == ".":
        return UNKNOWN
    if operator.startswith("unary"):
        return found[0]
    left, right = found
    if operator == "+" and "str" in (left.dtype, right.dtype):
        return TEXT
    if left.shape is None or right.shape is None or left.dtype is None or right.dtype is None:
        return UNKNOWN
    return Cells(
        _arithmetic_type(operator, left, right, operands[1]),
        broadcast(left.shape, right.shape, operator),
        left.tensor or right.tensor,
    )


def _indexed(value: Cells, key: Step) -> Cells:
    if not value.shape:
        return UNKNOWN
    if type(key) is Constant and type(key.value) is int and value.shape[0] != VARIES:
        at = key.value
        if not 1 <= at <= value.shape[0]:
            raise WrongArguments(f"index {at} is outside of 1 to {value.shape[0]}")
    rest = value.shape[1:]
    return Cells(
        value.dtype if rest and value.tensor else kind_of(value.dtype), rest, tensor=bool(rest) and value.tensor
    )


def _arithmetic_type(operator: str, left: Cells, right: Cells, exponent: Step) -> str | None:
    one, other = left.dtype, right.dtype
    if not left.tensor and not right.tensor:
        if {one, other} == {"int64"} and operator != "/":
            whole = operator != "^" or (
                type(exponent) is Constant and type(exponent.value) is int and exponent.value >= 0
            )
            return "int64" if whole else "float64"
        return "float64" if {one, other} <= {"int64", "float64"} else None
    found = _promoted(left, right)
    if operator == "/" and found is not None and not found.startswith("float"):
        return "float64" if found in ("int32", "int64", "uint32", "uint64") else None
    return found


def _promoted(left: Cells, right: Cells) -> str | None:
    """numpy's type of an operation in which a tensor takes part, where it is plain to see."""
    one, other = left.dtype, right.dtype
    if one == other:
        return one if one != "bool" else None
    for tensor, beside in ((left, right), (right, left)):
        if tensor.tensor and not beside.tensor and beside.shape == ():  # a number takes on the tensor's type
            if beside.dtype == "int64" or kind_of(tensor.dtype) == "float64":
                return tensor.dtype if tensor.dtype != "bool" else None
            return "float64" if kind_of(tensor.dtype) == "int64" else None
    if one is None or other is None:
        return None
    for family in ("float", "int", "uint"):
        if one.startswith(family) and other.startswith(family):
            return max(one, other, key=lambda name: int(name.removeprefix(family)))
    return "float64" if {one, other} <= {"int32", "int64", "float32", "float64"} else None


def broadcast(one: Shape, other: Shape, sign: str) -> Shape:
    """The shape of an operation element by element. Raises WrongArguments when there is none."""
    found: list[int] = []
    longest = max(len(one), len(other))
    for left, right in zip((1,) * (longest - len(one)) + one, (1,) * (longest - len(other)) + other, strict=True):
        if 1 not in (left, right) and VARIES not in (left, right) and left != right:
            raise WrongArguments(f'"{sign}": the shapes {list(one)} and {list(other)} do not fit together')
        known = {left, right} - {1, VARIES}
        found.append(known.pop() if known else min(left, right))
    return tuple(found)


def _converted(value: Cells, wanted: Type) -> Cells:
    if wanted.name == "Tensor":
        return Cells(value.dtype, value.shape, tensor=True) if value.dtype and value.shape else UNKNOWN
    if wanted.name == "Vector":
        element = UNKNOWN if wanted.element is None else _of_type(wanted.element)
        if element.dtype is None:
            return replace(value, tensor=False, dtype=kind_of(value.dtype))
        return Cells(element.dtype, value.shape if value.shape else (VARIES,))
    return _of_type(wanted)


# --- what generic functions make, where their declared result says too little ----------------------------------------

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
    inner = _joined([replace(cells, shape=cells.shape[1:]) for cells in found if cells.shape])
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
    return _joined([cells for step, cells in zip(arguments, found, strict=True) if not _is_null(step)])


_RULES: Final[Mapping[str, Rule]] = {
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
