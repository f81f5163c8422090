"""Tensors of the Open Inference Protocol as they are read: JSON values or raw bytes into arrays.

Owns :class:`InputTensor`, one input of one model, ready to read what a request says of it. Pure.

    BOOL                 JSON true / false              one byte, 0 or 1
    UINT8 … INT64        JSON integer                   little-endian
    FP16                 none: binary only              little-endian
    FP32, FP64           JSON number, or NaN …          little-endian
    BYTES                JSON text                      each element a 4-byte length and UTF-8

Rules: cheap checks come first, and nothing is made in a size that a stranger names before that size was compared with
the model's shape, with ``elements_max`` and with the data that is there. ``data`` is row-major, flat or nested exactly
as ``shape`` says. A number is never cast: a fraction is no integer, a boolean is no number, and what does not fit the
datatype is refused. Large flat data is read in pieces, so that no other thread waits long for the interpreter.

Arrays are in native byte order, contiguous and aligned; those of binary tensors share the body's memory where they can.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any, Final, NoReturn

import msgspec
import numpy as np

from engine.errors import InputProblem
from engine.oip_messages import checked_text, is_overflow, json_value, kind_of
from engine.signature import ELEMENTS_MAX, NUMPY, VARIABLE, Array, shown
from federation.documents import TensorSpec
from query.errors import LimitExceeded

WHOLE_BYTES_MAX: Final = 64 * 1024  # of JSON data that is read at once
LITTLE: Final = sys.byteorder == "little"

_JSON_TYPES: Final[dict[str, type]] = {"BOOL": bool, "FP32": float, "FP64": float, "BYTES": str}
_ELEMENTS: Final = {
    "BOOL": "true or false",
    "FP32": "a number",
    "FP64": "a number",
    "BYTES": "text",
}
_CLASSES: Final[dict[str, frozenset[type]]] = {
    "BOOL": frozenset({bool}),
    "FP32": frozenset({int, float}),
    "FP64": frozenset({int, float}),
    "BYTES": frozenset({str}),
}
_INTEGERS: Final = frozenset({int})
_CODES: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
_LENGTH: Final = struct.Struct("<I")


class InputTensor:
    """One input of a model. Immutable.

    Every method raises :class:`~engine.errors.InputProblem` for data that does not fit, and
    :class:`~query.errors.LimitExceeded` for more elements than ``elements_max``.
    """

    __slots__ = (
        "_classes",
        "_code",
        "_decode",
        "_dtype",
        "_elements_max",
        "_fixed",
        "_item",
        "_little",
        "_nested",
        "_rank",
        "datatype",
        "name",
        "spec",
    )

    def __init__(self, spec: TensorSpec, *, elements_max: int = ELEMENTS_MAX) -> None:
        """Raises KeyError for a datatype that has no array."""
        self.spec = spec
        self.name = spec.name
        self.datatype = spec.datatype
        self._elements_max = elements_max
        self._rank = len(spec.shape)
        self._fixed = tuple((at, size) for at, size in enumerate(spec.shape) if size != VARIABLE)
        self._dtype = NUMPY[spec.datatype]
        self._item = 0 if spec.datatype == "BYTES" else self._dtype.itemsize
        self._little = self._dtype if LITTLE or not self._item else self._dtype.newbyteorder("<")
        self._code = _CODES.get(spec.datatype)
        self._classes = _CLASSES.get(spec.datatype, _INTEGERS)
        element = _JSON_TYPES.get(spec.datatype, int)
        self._decode: Callable[[Any], list[Any]] = msgspec.json.Decoder(list[element]).decode  # type: ignore[valid-type]
        self._nested: Callable[[Any], list[Any]] = msgspec.json.Decoder(_nested_type(element, self._rank)).decode

    def count(self, shape: tuple[int, ...]) -> int:
        """The elements of a tensor of this shape, when the model takes it."""
        if len(shape) != self._rank:
            self._misfit(shape)
        for at, size in self._fixed:
            if shape[at] != size:
                self._misfit(shape)
        count = 1
        for size in shape:
            if size <= 0:
                self._misfit(shape)
            count *= size
        if count > self._elements_max:
            raise LimitExceeded(
                f'input "{self.name}": expected at most {self._elements_max} elements, found {_exact(count)}'
            )
        return count

    def from_text(self, text: Any, shape: tuple[int, ...], count: int) -> Array:
        """From the JSON text of ``data``: an object with the buffer protocol."""
        if self.datatype == "FP16":
            self._refuse_half()
        if len(memoryview(text)) > WHOLE_BYTES_MAX:
            return self._from_long_text(bytes(text), shape, count)
        try:
            values = self._decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._from_nested_text(bytes(text), shape, count)
        if len(values) != count:
            self._miscounted(shape, count, len(values))
        return self._packed(values, 0).reshape(shape)

    def from_values(self, data: Any, shape: tuple[int, ...], count: int) -> Array:
        """From ``data`` as Python's JSON reader gave it."""
        if self.datatype == "FP16":
            self._refuse_half()
        if not isinstance(data, list):
            raise InputProblem(f'input "{self.name}": expected data to be a list, found {kind_of(data)}')
        values = self._flat(data, shape, count)
        for at, value in enumerate(values):
            if value.__class__ not in self._classes:
                self._wrong_element(at, value)
            if value.__class__ is float and is_overflow(value):
                self._out_of_range(at, "a number over all that are")
            if value.__class__ is str:
                checked_text(value, f'input "{self.name}", element {at + 1}')
        return self._packed(values, 0).reshape(shape)

    def from_bytes(self, body: bytes, at: int, size: int, shape: tuple[int, ...], count: int) -> Array:
        """From ``size`` bytes of the body, beginning at ``at``; they must be there."""
        item = self._item
        if not item:
            return self._texts(body[at : at + size], shape, count)
        if size != count * item:
            raise InputProblem(
                f'input "{self.name}": expected {count * item} bytes for {shown(self.datatype, shape)}, '
                f"found binary_data_size {_exact(size)}"
            )
        array: Array = np.frombuffer(body, self._little, count, at)
        if self._dtype.kind == "b":
            self._require_booleans(np.frombuffer(body, np.uint8, count, at))
        if at % item:  # a kernel may take its input to be aligned
            array = array.copy()
        if not LITTLE:
            array = array.astype(self._dtype)
        return array.reshape(shape)

    def raw_shape(self, size: int) -> tuple[int, ...]:
        """The shape that a body of ``size`` bytes stands for which is this tensor and nothing else: one row."""
        shape = list(self.spec.shape)
        if not self._item:
            if any(length not in (VARIABLE, 1) for length in shape) or len(shape) != 1:
                raise InputProblem(
                    f'input "{self.name}": expected BYTES[1] for a body without JSON, '
                    f"found a model with {shown(self.datatype, shape)}"
                )
            return (1,)
        if shape and shape[0] == VARIABLE:
            shape[0] = 1
        unknown = [at for at, length in enumerate(shape) if length == VARIABLE]
        if len(unknown) > 1:
            raise InputProblem(
                f'input "{self.name}": expected at most one variable dimension beside rows for a body without JSON, '
                f"found a model with {shown(self.datatype, self.spec.shape)}"
            )
        row = math.prod(length for length in shape if length != VARIABLE) * self._item
        if size == 0 or size % row or (not unknown and size != row):
            wanted = f"a multiple of {row}" if unknown else str(row)
            raise InputProblem(
                f'input "{self.name}": expected {wanted} bytes for {shown(self.datatype, shape)}, found {size}'
            )
        for at in unknown:
            shape[at] = size // row
        return tuple(shape)

    def from_raw(self, body: bytes) -> Array:
        """From a body that is this tensor and nothing else; a text has no length before it."""
        shape = self.raw_shape(len(body))
        count = self.count(shape)
        if not self._item:
            return self._packed([self._decoded(body, 0)], 0).reshape(shape)
        return self.from_bytes(body, 0, len(body), shape, count)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _from_long_text(self, text: bytes, shape: tuple[int, ...], count: int) -> Array:
        """Flat numbers piece by piece. A text may hold what looks like the end of an element, so texts come whole."""
        if self.datatype == "BYTES" or text[1:2] == b"[" or text[-1:] != b"]":
            return self._from_nested_text(text, shape, count)
        found = text.count(b",") + 1
        if found != count:
            self._miscounted(shape, count, found)
        array = np.empty(count, self._dtype)
        begin, filled = 1, 0
        while filled < count:
            end = text.find(b",", begin + WHOLE_BYTES_MAX)
            piece = text[begin : end if end >= 0 else len(text) - 1]
            try:
                values = self._decode(b"[" + piece + b"]")
            except (msgspec.MsgspecError, RecursionError):
                return self._from_nested_text(text, shape, count)
            if not values or filled + len(values) > count:
                return self._from_nested_text(text, shape, count)
            array[filled : filled + len(values)] = self._packed(values, filled)
            filled += len(values)
            begin = end + 1
        return array.reshape(shape)

    def _from_nested_text(self, text: bytes, shape: tuple[int, ...], count: int) -> Array:
        """Data that is not flat, or wrong. Commas tell how much there can be before any of it is read."""
        if (most := text.count(b",") + 1) < count:
            self._miscounted(shape, count, most)
        if self.datatype != "BYTES" and most > max(count, 1):
            self._miscounted(shape, count, most)
        try:
            values = self._flat(self._nested(text), shape, count)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self.from_values(json_value(text), shape, count)
        return self._packed(values, 0).reshape(shape)

    def _flat(self, data: list[Any], shape: tuple[int, ...], count: int) -> list[Any]:
        """The elements of a nesting in row-major order; ``data`` itself when it is flat."""
        if self._rank <= 1 or not data or not isinstance(data[0], list):
            if len(data) != count:
                self._miscounted(shape, count, len(data))
            return data
        level = data
        for depth, size in enumerate(shape):
            if depth:
                for part in level:
                    if not isinstance(part, list):
                        self._contradicting(shape, kind_of(part))
                    if len(part) != size:
                        self._contradicting(shape, f"a list of {len(part)}")
                level = list(chain.from_iterable(level))
            elif len(level) != size:
                self._contradicting(shape, f"a list of {len(level)}")
        return level

    def _packed(self, values: list[Any], first: int) -> Array:
        """Checked elements as a vector. ``first`` is the position of the first of them, for errors."""
        if self._code is None:
            texts = np.empty(len(values), self._dtype)
            texts[:] = values
            return texts
        try:
            # Twice as fast as numpy on a list, and it tells of a number that does not fit.
            return np.frombuffer(struct.pack(f"={len(values)}{self._code}", *values), self._dtype)
        except (struct.error, OverflowError):
            return self._refuse_range(values, first)

    def _refuse_range(self, values: list[Any], first: int) -> NoReturn:
        one = struct.Struct(f"={self._code}")
        for at, value in enumerate(values):
            try:
                one.pack(value)
            except (struct.error, OverflowError):
                self._out_of_range(first + at, value)
        raise AssertionError("each element fits, and all of them do not")

    def _texts(self, data: bytes, shape: tuple[int, ...], count: int) -> Array:
        if len(data) < count * _LENGTH.size:
            raise InputProblem(
                f'input "{self.name}": expected at least {count * _LENGTH.size} bytes for '
                f"{shown(self.datatype, shape)}, found {len(data)}"
            )
        values: list[str] = []
        at = 0
        for position in range(count):
            end = at + _LENGTH.size
            if end > len(data):
                self._cut(position, "its length")
            length = _LENGTH.unpack_from(data, at)[0]
            at = end + length
            if at > len(data):
                self._cut(position, f"{length} bytes")
            values.append(self._decoded(data[end:at], position))
        if at != len(data):
            raise InputProblem(
                f'input "{self.name}": expected {count} elements, found {len(data) - at} bytes behind the last'
            )
        return self._packed(values, 0).reshape(shape)

    def _decoded(self, data: bytes, position: int) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InputProblem(
                f'input "{self.name}", element {position + 1}: expected text in UTF-8, '
                f"found a byte that is not at {error.start}"
            ) from error

    def _require_booleans(self, found: Array) -> None:
        if found.max() > 1:
            at = int(np.argmax(found > 1))
            raise InputProblem(
                f'input "{self.name}", element {at + 1}: expected a byte of 0 or 1 for BOOL, found {int(found[at])}'
            )

    # --- what is told ---------------------------------------------------------------------------------------------

    def _misfit(self, shape: tuple[int, ...]) -> NoReturn:
        found = ",".join(_exact(size) for size in shape[:32])
        least = " with at least one element" if any(size < 1 for size in shape) else ""
        raise InputProblem(
            f'input "{self.name}": expected {shown(self.datatype, self.spec.shape)}{least}, found a shape of [{found}]'
        )

    def _miscounted(self, shape: tuple[int, ...], count: int, found: int) -> NoReturn:
        raise InputProblem(
            f'input "{self.name}": expected {count} elements for {shown(self.datatype, shape)}, found {found}'
        )

    def _contradicting(self, shape: tuple[int, ...], found: str) -> NoReturn:
        raise InputProblem(
            f'input "{self.name}": expected data to be flat or nested as {list(shape)}, found {found} in it'
        )

    def _wrong_element(self, at: int, value: Any) -> NoReturn:
        expected = _ELEMENTS.get(self.datatype, "an integer")
        raise InputProblem(
            f'input "{self.name}", element {at + 1}: expected {expected} for {self.datatype}, found {kind_of(value)}'
        )

    def _out_of_range(self, at: int, value: Any) -> NoReturn:
        raise InputProblem(
            f'input "{self.name}", element {at + 1}: expected a number that fits {self.datatype}, '
            f"found {str(value)[:40]}"
        )

    def _cut(self, position: int, what: str) -> NoReturn:
        raise InputProblem(f'input "{self.name}", element {position + 1}: expected {what}, found the end of the tensor')

    def _refuse_half(self) -> NoReturn:
        raise InputProblem(
            f'input "{self.name}": FP16 has no JSON form',
            hint="send it in binary form: binary_data_size, Inference-Header-Content-Length",
        )


def _nested_type(element: type, rank: int) -> Any:
    kind: Any = element
    for _ in range(max(rank, 1)):
        kind = list[kind]
    return kind


def _exact(number: int) -> str:
    """A foreign number, which may have thousands of digits."""
    return str(number) if number.bit_length() < 128 else "more than 10^38"
