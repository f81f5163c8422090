"""Tensors between a peer and the processes that run its models: frames on a local stream socket.

A frame is four bytes, little-endian, the length of its head; the head, a MessagePack :class:`Head`; and the bytes of
its tensors, one after another in the head's order. Numbers travel as they lie in memory, native and row-major; texts
and records as one MessagePack list of their elements. Nothing is executed that is read.

Refuses (:class:`BadFrame`) heads over ``HEAD_BYTES_MAX``, tensors over ``TENSOR_BYTES_MAX``, and sizes that contradict
the shape: the other side runs a stranger's graph. Pure but for :func:`send` and :func:`receive`, which block; on a
socket that does not, they call ``wait`` with the event of ``select.poll`` that they need, and it may raise.
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np

from engine.signature import NUMPY, Array
from query.errors import ErrorRecord

HEAD_BYTES_MAX: Final = 1024 * 1024
TENSOR_BYTES_MAX: Final = 1 << 31
LENGTH_BYTES: Final = 4
JOINED_BYTES_MAX: Final = 64 * 1024  # of a frame that is copied together rather than sent in parts

Wait: TypeAlias = Callable[[int], None]
_NUMBERS: Final = {dtype.str: dtype for name, dtype in NUMPY.items() if name != "BYTES"}
_OBJECTS: Final = "O"


class BadFrame(Exception):
    """The other side does not keep to the form."""


class _Part(msgspec.Struct, frozen=True, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``kind``: a run of the graph at ``graph``, its end, its answer, its failure, or what follows the start."""

    kind: Literal["run", "abort", "answer", "failure", "ready"]
    graph: int = 0
    parts: tuple[_Part, ...] = ()
    error: ErrorRecord | None = None
    about: bytes = b""


def send(
    to: socket.socket, head: Head, tensors: Mapping[str, Array] | None = None, *, wait: Wait | None = None
) -> None:
    """Writes one frame. Raises OSError, and what ``wait`` raises."""
    parts: list[_Part] = []
    bodies: list[memoryview | bytes] = []
    for name, array in (tensors or {}).items():
        body: memoryview | bytes
        if array.dtype.kind == _OBJECTS:
            body, dtype = msgspec.msgpack.encode(array.ravel().tolist()), _OBJECTS
        else:
            body, dtype = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, array.dtype.str
        parts.append(_Part(name, dtype, array.shape, len(body)))
        bodies.append(body)
    encoded = msgspec.msgpack.encode(msgspec.structs.replace(head, parts=tuple(parts)))
    whole = [len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded, *bodies]
    if sum(map(len, whole)) < JOINED_BYTES_MAX:
        whole = [b"".join(whole)]
    for body in whole:
        send_bytes(to, body, wait=wait)


def receive(source: socket.socket, *, wait: Wait | None = None) -> tuple[Head, dict[str, Array]] | None:
    """Reads one frame; None when the other side is gone. Raises OSError, :class:`BadFrame`, what ``wait`` raises."""
    start = _received(source, LENGTH_BYTES, wait)
    if start is None:
        return None
    length = int.from_bytes(start, "little")
    if length > HEAD_BYTES_MAX:
        raise BadFrame(f"expected a head of at most {HEAD_BYTES_MAX} bytes, found {length}")
    raw = _received(source, length, wait)
    if raw is None:
        return None
    try:
        head = msgspec.msgpack.decode(raw, type=Head)
    except msgspec.MsgspecError as error:
        raise BadFrame(f"expected a head: {error}") from error
    tensors: dict[str, Array] = {}
    for part in head.parts:
        body = _received(source, _checked_size(part), wait)
        if body is None:
            return None
        tensors[part.name] = _tensor(part, body)
    return head, tensors


def _checked_size(part: _Part) -> int:
    if not 0 <= part.size <= TENSOR_BYTES_MAX or any(size < 0 for size in part.shape):
        raise BadFrame(f'tensor "{part.name}": expected at most {TENSOR_BYTES_MAX} bytes, found {part.size}')
    if part.dtype != _OBJECTS:
        dtype = _NUMBERS.get(part.dtype)
        if dtype is None or math.prod(part.shape) * dtype.itemsize != part.size:
            raise BadFrame(f'tensor "{part.name}": {part.size} bytes are no {part.dtype} of shape {list(part.shape)}')
    return part.size


def _tensor(part: _Part, body: bytearray) -> Array:
    if part.dtype != _OBJECTS:
        return np.frombuffer(body, dtype=_NUMBERS[part.dtype]).reshape(part.shape)
    try:
        elements: list[Any] = msgspec.msgpack.decode(body, type=list[Any])
    except msgspec.MsgspecError as error:
        raise BadFrame(f'tensor "{part.name}": expected a list of elements: {error}') from error
    if len(elements) != math.prod(part.shape):
        raise BadFrame(f'tensor "{part.name}": {len(elements)} elements are no shape {list(part.shape)}')
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array.reshape(part.shape)


def send_bytes(to: socket.socket, body: memoryview | bytes, *, wait: Wait | None = None) -> None:
    """Writes everything. Raises OSError, and what ``wait`` raises."""
    view = memoryview(body)
    at = 0
    while at < len(view):
        try:
            at += to.send(view[at:])
        except BlockingIOError:
            if wait is None:
                raise
            wait(select.POLLOUT)


def _received(source: socket.socket, size: int, wait: Wait | None) -> bytearray | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    at = 0
    while at < size:
        try:
            count = source.recv_into(view[at:])
        except BlockingIOError:
            if wait is None:
                raise
            wait(select.POLLIN)
            continue
        if count == 0:
            return None
        at += count
    return buffer
