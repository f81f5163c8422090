"""What is known of the columns that an expression over a record's fields reads and makes, before it runs.

Owns :class:`Cells`, what is known of one column. Pure; knows numpy's names of types and none of its code. What a step
of an expression makes of known columns is said in :mod:`query.row_inference`.

A field of one element stands in an expression as that element: a number, a text, a truth value. A field of more is a
tensor, or of texts a vector. Numbers that an expression makes are the language's: ``int64`` and ``float64`` here, to
be given another type by whoever takes them; tensors keep their type. What only running tells has ``dtype`` None.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from query.errors import WrongArguments
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


def of_type(declared: Type) -> Cells:
    if declared.name == "Number":
        return NUMBER
    if declared.name == "Vector" and declared.element is not None:
        inner = of_type(declared.element)
        return replace(inner, shape=(VARIES, *inner.shape)) if inner.shape is not None else UNKNOWN
    dtype = next((name for name, found in _TYPES.items() if found.name == declared.name), None)
    return Cells(dtype) if dtype else UNKNOWN


def joined(found: list[Cells]) -> Cells:
    """What is one or the other: the same, or numbers of both kinds as reals."""
    kinds = set(found)
    if len(kinds) == 1:
        return found[0]
    if not kinds or len({(cells.shape, cells.tensor) for cells in kinds}) > 1:
        return UNKNOWN
    numbers = {cells.dtype for cells in kinds} <= {"int64", "float64"} and not found[0].tensor
    return replace(found[0], dtype="float64" if numbers else None)


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
