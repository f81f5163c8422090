"""The signature of a model and whether an input fits it.

Owns the table between Open Inference Protocol datatypes, onnxruntime's and numpy's; the strict check of ready arrays
(:meth:`Signature.checked`, in the path of every call: one pass, no copies for what fits); and the reading of values of
the language into arrays (:meth:`Signature.arrays`). Pure; numpy is imported by whoever imports this module.

Refuses: inputs that are unknown or missing, another datatype (an array is never cast), another rank or a fixed
dimension that differs, a batch of none, more than ``elements_max`` elements, ragged nesting, text or null or a boolean
where a number belongs, a fraction for an integer, a number outside the datatype's range. The runtime itself would take
big-endian arrays and misread them, and take a vector for a scalar: here the first are converted, the second refused.

Reading a value of the language, the shape may leave out a leading dimension that is variable or 1: a vector is one row
of a batch. A number fits a shape whose dimensions are all variable or 1. A vector of records is a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np

from engine.errors import InputProblem
from federation.documents import TensorSpec
from query.errors import LimitExceeded, nearest

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ELEMENTS_MAX: Final = 16 * 1024 * 1024
VARIABLE: Final = -1
DIGITS_SHOWN_BITS: Final = 128  # of an integer that is written out in an error

NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
RUNTIME: Final[dict[str, str]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_DATATYPE: Final = {dtype: name for name, dtype in NUMPY.items()}


def datatype_of(array: Array) -> str:
    """``FP32`` for an array of float32 in any byte order; numpy's own name for what no datatype stands for."""
    if array.dtype.kind == "U":
        return "BYTES"
    return _DATATYPE.get(array.dtype.newbyteorder("="), str(array.dtype))


def shown(datatype: str, shape: Sequence[int]) -> str:
    """``FP32[-1,64]``: a datatype and shape as error messages write them."""
    return f"{datatype}[{','.join(map(str, shape))}]"


class Signature:
    """The inputs of one model, ready to check calls against. Immutable."""

    __slots__ = ("_checks", "_elements_max", "_names", "_size", "inputs")

    def __init__(self, inputs: Sequence[TensorSpec], *, elements_max: int = ELEMENTS_MAX) -> None:
        """Raises KeyError for a datatype that is not in ``NUMPY``."""
        self.inputs = tuple(inputs)
        self._elements_max = elements_max
        self._size = len(self.inputs)
        self._names = frozenset(spec.name for spec in self.inputs)
        self._checks = tuple(
            (
                spec,
                spec.name,
                None if spec.datatype == "BYTES" else NUMPY[spec.datatype],  # every text is looked at
                len(spec.shape),
                tuple((at, size) for at, size in enumerate(spec.shape) if size != VARIABLE),
            )
            for spec in self.inputs
        )

    @property
    def elements_max(self) -> int:
        """Of one input."""
        return self._elements_max

    def checked(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """``feed`` as arrays that the runtime reads as they were meant; :class:`InputProblem` when it does not fit."""
        ready: dict[str, Array] = {}
        for spec, name, dtype, rank, fixed in self._checks:
            array = feed.get(name)
            if array.__class__ is not np.ndarray:
                array = self._array(spec, array, feed)
            if array.dtype is not dtype:
                array = _native(spec, array)
            shape = array.shape
            if len(shape) != rank:
                _misfit(spec, array)
            for at, size in fixed:
                if shape[at] != size:
                    _misfit(spec, array)
            if not 0 < array.size <= self._elements_max:
                self._wrong_size(spec, array)
            ready[name] = array
        if len(feed) != self._size:
            self._unknown(feed)
        return ready

    def arrays(self, value: Any) -> dict[str, Array]:
        """The feed that a value of the language stands for; not yet :meth:`checked` for shape.

        A record names the inputs. Anything else is the only input of a model that has one. A vector of records is a
        batch: each input gets the stacked values. Raises :class:`InputProblem`.
        """
        if isinstance(value, Sequence) and value and all(isinstance(row, Mapping) for row in value):
            value = self._stacked(value)
        if not isinstance(value, Mapping):
            if self._size != 1:
                names = ", ".join(f'"{spec.name}"' for spec in self.inputs)
                raise InputProblem(f"expected a record with the inputs {names}, found {kind_of(value)}")
            value = {self.inputs[0].name: value}
        if value.keys() != self._names:
            self._unknown(value)
        return {spec.name: array_of(spec, value[spec.name], elements_max=self._elements_max) for spec in self.inputs}

    def _stacked(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        for row in rows:
            if row.keys() != self._names:
                self._unknown(row)
        return {spec.name: [row[spec.name] for row in rows] for spec in self.inputs}

    def _array(self, spec: TensorSpec, found: Any, feed: Mapping[str, Any]) -> Array:
        if spec.name not in feed:
            self._unknown(feed)
        if isinstance(found, np.ndarray):  # a subclass: masked arrays would lose their mask, matrices their rank
            return np.asarray(found)
        if isinstance(found, np.generic):
            return np.asarray(found)
        raise InputProblem(
            f'input "{spec.name}": expected {shown(spec.datatype, spec.shape)}, found {kind_of(found)} that is no array'
        )

    def _wrong_size(self, spec: TensorSpec, array: Array) -> NoReturn:
        if array.size == 0:
            raise InputProblem(
                f'input "{spec.name}": expected {shown(spec.datatype, spec.shape)} with at least one element, '
                f"found {shown(datatype_of(array), array.shape)}"
            )
        _too_many(spec, array.size, self._elements_max)

    def _unknown(self, feed: Mapping[str, Any]) -> NoReturn:
        """Names the input that is missing or unknown."""
        expected = ", ".join(f'"{spec.name}"' for spec in self.inputs)
        for name in feed:
            if name not in self._names:
                close = nearest(str(name), self._names)
                hint = f'did you mean "{close}"?' if close else None
                raise InputProblem(f'unknown input "{name}": expected {expected or "no inputs"}', hint=hint)
        missing = ", ".join(f'"{spec.name}"' for spec in self.inputs if spec.name not in feed)
        found = ", ".join(f'"{name}"' for name in feed) or "none"
        raise InputProblem(f"missing input {missing}: expected {expected}, found {found}")


def array_of(spec: TensorSpec, value: Any, *, elements_max: int = ELEMENTS_MAX) -> Array:
    """``value`` (array, number, text, boolean or nested sequence of these) as an array for ``spec``.

    The datatype is the spec's; a ready array keeps its own, to be refused where it differs. A missing leading
    dimension is added where the module's rules allow it. Raises :class:`InputProblem`.
    """
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else _nested(spec, value, elements_max)
    shape = spec.shape
    if array.ndim == len(shape) - 1 and shape[0] in (VARIABLE, 1):
        return array[np.newaxis]
    if array.ndim == 0 and all(size in (VARIABLE, 1) for size in shape):
        return array.reshape((1,) * len(shape))
    return array


def _nested(spec: TensorSpec, value: Any, elements_max: int) -> Array:
    shape = _shape(spec, value, elements_max)
    elements: list[Any] = []
    _flatten(spec, value, shape, elements)
    accepted = _ACCEPTED.get(spec.datatype, _INTEGERS)
    for position, element in enumerate(elements):
        if element.__class__ not in accepted:
            elements[position] = _converted(spec, element, position)
    return _packed(spec, elements).reshape(shape)


_INTEGERS: Final = frozenset({int})
_ACCEPTED: Final = {
    "FP16": frozenset({int, float}),
    "FP32": frozenset({int, float}),
    "FP64": frozenset({int, float}),
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str}),
}


def _shape(spec: TensorSpec, value: Any, elements_max: int) -> tuple[int, ...]:
    """The shape that the first elements of a nesting promise."""
    shape: list[int] = []
    while isinstance(value, list | tuple):
        shape.append(len(value))
        if len(shape) > len(spec.shape) + 1:
            raise InputProblem(
                f'input "{spec.name}": expected {shown(spec.datatype, spec.shape)}, '
                f"found vectors nested {len(shape)} deep or more"
            )
        if not value:
            break
        value = value[0]
    if isinstance(value, np.ndarray) and shape:  # a vector of tensors
        shape.extend(value.shape)
    count = math.prod(shape)
    if count > elements_max:
        _too_many(spec, count, elements_max)
    return tuple(shape)


def _flatten(spec: TensorSpec, value: Any, shape: tuple[int, ...], elements: list[Any]) -> None:
    """Appends the elements in row-major order. Depth is that of ``shape``, which is bounded by the signature's."""
    if not shape:
        if isinstance(value, list | tuple):
            _ragged(spec, "a vector where an element belongs")
        elements.append(value)
        return
    if isinstance(value, np.ndarray):
        if value.shape != shape:
            _ragged(spec, f"a tensor of shape {list(value.shape)} beside one of {list(shape)}")
        elements.extend(value.ravel().tolist())
        return
    if not isinstance(value, list | tuple):
        _ragged(spec, f"{kind_of(value)} where a vector of {shape[0]} belongs")
    if len(value) != shape[0]:
        _ragged(spec, f"a vector of {len(value)} beside one of {shape[0]}")
    if len(shape) == 1:
        if any(isinstance(element, list | tuple | np.ndarray) for element in value):
            _ragged(spec, "a vector where an element belongs")
        elements.extend(value)
        return
    for part in value:
        _flatten(spec, part, shape[1:], elements)


def _packed(spec: TensorSpec, elements: list[Any]) -> Array:
    dtype = NUMPY[spec.datatype]
    if spec.datatype == "BYTES":
        array = np.empty(len(elements), dtype=dtype)
        array[:] = elements
        return array
    try:
        if dtype.kind != "f":
            return np.array(elements, dtype=dtype)
        with np.errstate(over="ignore"):
            array = np.array(elements, dtype=dtype)
    except OverflowError:
        pass
    else:
        if np.isfinite(array).all():
            return array
        infinite = np.flatnonzero(np.isinf(array))
        if all(math.isinf(elements[at]) for at in infinite):
            return array
    for element in elements:
        if not _in_range(dtype, element):
            raise InputProblem(
                f'input "{spec.name}": expected numbers that fit {spec.datatype}, found {_number(element)}'
            )
    raise InputProblem(f'input "{spec.name}": expected numbers that fit {spec.datatype}')


def _in_range(dtype: np.dtype[Any], element: float) -> bool:
    if dtype.kind == "f":
        try:
            return not math.isfinite(element) or abs(element) <= float(np.finfo(dtype).max)
        except OverflowError:  # an integer beyond every real
            return False
    bounds = np.iinfo(dtype)
    return bounds.min <= element <= bounds.max


def _converted(spec: TensorSpec, element: Any, position: int) -> Any:
    """An element of a kind that needs a second look: whole reals for integers, numpy's own numbers, bytes for text."""
    if isinstance(element, np.generic):
        element = element.item()
    kind = element.__class__
    if kind in _ACCEPTED.get(spec.datatype, _INTEGERS):
        return element
    if kind is float and spec.datatype not in ("BOOL", "BYTES") and element.is_integer():
        return int(element)
    if kind is bytes and spec.datatype == "BYTES":
        try:
            return element.decode()
        except UnicodeDecodeError:
            raise InputProblem(
                f'input "{spec.name}", element {position + 1}: expected text, found bytes that are not UTF-8'
            ) from None
    what = {"BYTES": "text", "BOOL": "true or false"}.get(
        spec.datatype, "a number" if spec.datatype in _ACCEPTED else "an integer"
    )
    raise InputProblem(
        f'input "{spec.name}", element {position + 1}: expected {what} for {spec.datatype}, found {kind_of(element)}'
    )


def _native(spec: TensorSpec, array: Array) -> Array:
    """``array`` in native byte order; text decoded. Raises :class:`InputProblem` for another datatype."""
    dtype = NUMPY[spec.datatype]
    if dtype.kind == "O":
        return _texts(spec, array)
    if array.dtype.newbyteorder("=") != dtype:
        _misfit(spec, array)
    return array.astype(dtype)


def _texts(spec: TensorSpec, array: Array) -> Array:
    if array.dtype.kind not in ("U", "S", "O"):
        _misfit(spec, array)
    elements = [_converted(spec, element, at) for at, element in enumerate(array.ravel().tolist())]
    return _packed(spec, elements).reshape(array.shape)


def _about_shape(spec: TensorSpec) -> str | None:
    if VARIABLE not in spec.shape:
        return None
    forms = {1: "; one dimension is a vector, as [1.5, 2.5]", 2: "; two are a vector of rows, as [[1.5, 2.5]]"}
    return f"{VARIABLE} stands for any number{forms.get(len(spec.shape), '')}"


def _misfit(spec: TensorSpec, array: Array) -> NoReturn:
    wanted, found = NUMPY.get(spec.datatype), datatype_of(array)
    castable = wanted is not None and wanted.kind in "iuf" and array.dtype.kind in "iuf" and found != spec.datatype
    raise InputProblem(
        f'input "{spec.name}": expected {shown(spec.datatype, spec.shape)}, found {shown(found, array.shape)}',
        hint=f"make it {wanted} before it is sent" if castable else _about_shape(spec),
    )


def _ragged(spec: TensorSpec, found: str) -> NoReturn:
    raise InputProblem(
        f'input "{spec.name}": expected {shown(spec.datatype, spec.shape)} with parts of one length, found {found}'
    )


def _too_many(spec: TensorSpec, count: int, elements_max: int) -> NoReturn:
    raise LimitExceeded(f'input "{spec.name}": expected at most {elements_max} elements, found {count}')


def _number(value: float) -> str:
    """A foreign number, which may have thousands of digits."""
    if isinstance(value, int) and value.bit_length() > DIGITS_SHOWN_BITS:
        return f"{'-' if value < 0 else ''}2^{value.bit_length() - 1} or more"
    return str(value)


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return f"the number {_number(value)}"
        case str():
            return "a string"
        case np.ndarray():
            return shown(datatype_of(value), value.shape)
        case Mapping():
            return "a record"
        case list() | tuple():
            return f"a vector of {len(value)}"
        case _:
            return f"a {type(value).__name__}"
