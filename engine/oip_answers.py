"""Tensors of the Open Inference Protocol as they are written: arrays into JSON or raw bytes.

Owns :class:`OutputTensor`, one output of one model, with what never changes of its text made once. Pure.

Rules: ``data`` is flat and row-major; what is no number is written as the literals ``NaN``, ``Infinity`` and
``-Infinity``; FP16 has no JSON form. An element of a RECORD output is the JSON text of the record, in a BYTES tensor
with the parameter ``content_type``. Long data is written in pieces, so that no other thread waits long for the
interpreter.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

import msgspec
import numpy as np

from engine.oip_messages import told_datatype
from engine.oip_tensors import LITTLE
from engine.record_outputs import RECORD, record_text
from engine.signature import Array
from federation.documents import TensorSpec

WHOLE_ELEMENTS_MAX: Final = 8192  # that are written as JSON at once
RECORD_TYPE: Final = "application/json"

_encode: Final = msgspec.json.Encoder().encode
_LENGTH: Final = struct.Struct("<I")


class OutputTensor:
    """One output of a model. Immutable."""

    __slots__ = ("_binary_open", "_datatype", "_json_close", "_open", "has_json", "name")

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.has_json = spec.datatype != "FP16"
        self._datatype = spec.datatype
        about = {"name": spec.name, "datatype": told_datatype(spec.datatype)}
        self._open = _encode(about)[:-1] + b',"shape":'
        record = spec.datatype == RECORD
        self._json_close = b',"parameters":' + _encode({"content_type": RECORD_TYPE}) + b"}" if record else b"}"
        content_type = b'"content_type":' + _encode(RECORD_TYPE) + b"," if record else b""
        self._binary_open = b',"parameters":{' + content_type + b'"binary_data_size":'

    def as_json(self, array: Array) -> bytes:
        """The object that stands for the tensor in the answer."""
        return b"".join((self._open, _encode(array.shape), b',"data":', self._data(array), self._json_close))

    def as_binary(self, array: Array) -> tuple[bytes, bytes | memoryview]:
        """The object that stands for the tensor in the answer, and its bytes, which follow the JSON."""
        data = self._bytes(array)
        return b"".join((self._open, _encode(array.shape), self._binary_open, b"%d}}" % len(data))), data

    # --- inside ---------------------------------------------------------------------------------------------------

    def _data(self, array: Array) -> bytes:
        if array.size > WHOLE_ELEMENTS_MAX:
            flat = array.ravel()
            pieces = range(0, flat.size, WHOLE_ELEMENTS_MAX)
            inner = (self._values(flat[at : at + WHOLE_ELEMENTS_MAX])[1:-1] for at in pieces)
            return b"[" + b",".join(inner) + b"]"
        return self._values(array if array.ndim == 1 else array.ravel())

    def _values(self, flat: Array) -> bytes:
        """A JSON list of the elements."""
        values = flat.tolist()
        kind = flat.dtype.kind
        if kind == "O":
            return _encode(self._as_texts(values))
        text = _encode(values)
        if kind == "f" and b"null" in text:  # the encoder's word for what is no number
            return json.dumps(values, separators=(",", ":")).encode()
        return text

    def _as_texts(self, values: list[Any]) -> list[str]:
        return [record_text(value) for value in values] if self._datatype == RECORD else values

    def _bytes(self, array: Array) -> bytes | memoryview:
        if array.dtype.kind == "O":
            encoded = [text.encode() for text in self._as_texts(array.ravel().tolist())]
            return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))
        if not LITTLE:
            array = array.astype(array.dtype.newbyteorder("<"))
        if array.size > WHOLE_ELEMENTS_MAX and array.flags.c_contiguous:
            return array.reshape(-1).view(np.uint8).data
        return array.tobytes()
