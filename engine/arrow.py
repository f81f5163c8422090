"""Requests and answers as Arrow IPC: columns in, and an inference out with the columns that the client asked for.

Owns the mapping between Arrow's types and columns (``name → array`` whose first dimension is the rows). pyarrow is the
extra ``arrow``: it is imported at the first request that needs it, and without it such a request is refused
(:class:`ArrowUnavailable`).

Reading: the file format, whose stream is read and whose footer is not believed, or the stream format alone. A column is
numbers, booleans, or texts; or lists of these, of one length (``fixed_size_list`` and ``list``, also nested), or a
``fixed_shape_tensor``. Refused, with the column's name: nulls, the type null, lists of several lengths, dictionaries,
structs, dates; a name twice; more than ``COLUMNS_MAX`` columns or ``ROWS_MAX`` rows; and, before it is decompressed,
what would take more than ``bytes_max``. Types are never cast: a column of doubles is not one of floats.

Writing, one row each:

    time       int64, ms since the epoch
    in out out_<challenger>   structs; a field is a number, text or boolean, or nested lists where a row has more than
                              one element; its metadata ``tensor_type`` is datatype and shape, as ``FP32[4]``;
                              records are their JSON text
    anomaly    struct of count (uint32) and a boolean for each validation
    metadata   struct of last_model, pipeline_version (utf8), elapsed (list<uint64>), dropped (list<utf8>),
               partition (utf8)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np

from engine.arrow_messages import batch_size
from engine.errors import InputProblem
from engine.inferences import Inference
from engine.records import EVERYTHING, ROWS_MAX, Selection, worded
from engine.signature import Array, datatype_of, shown
from query.errors import LimitExceeded, PeerProblem

MAGIC: Final = b"ARROW1"
FILE_TYPE: Final = "application/vnd.apache.arrow.file"
STREAM_TYPE: Final = "application/vnd.apache.arrow.stream"
COLUMNS_MAX: Final = 256
NESTED_MAX: Final = 8  # lists in lists
BATCHES_MAX: Final = 4096
TEXT_BYTES_MAX: Final = 2**31 - 1  # of one column of an answer, whose offsets have 32 bits


class ArrowUnavailable(PeerProblem):
    """A request in Arrow's format to a peer that is installed without the extra ``arrow``."""

    code = "arrow_unavailable"


def load_arrow() -> Any:
    """The pyarrow package. Takes long the first time, so it is called in a thread then."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise ArrowUnavailable(
            "this peer does not read or write Arrow", hint='install "peerage[arrow]", or send JSON records'
        ) from None
    return pa


def columns_of_arrow(body: bytes, *, bytes_max: int) -> dict[str, Array]:
    """The columns of an IPC file or stream. Raises ``InputProblem``, ``LimitExceeded``, ``ArrowUnavailable``."""
    pa = load_arrow()
    stream = pa.py_buffer(body[8:] if body.startswith(MAGIC) else body)  # without the magic and its padding
    try:
        _check_size(pa, stream, bytes_max)
        with pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            _check_schema(pa, reader.schema)
            batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
        table = pa.Table.from_batches(batches, schema=reader.schema)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise InputProblem(f"the body is not Arrow IPC: {str(error)[:300]}") from error
    if not table.num_rows:
        raise InputProblem("expected at least one row, found a table without rows")
    return {field.name: _column(pa, field.name, table.column(at)) for at, field in enumerate(table.schema)}


def _check_size(pa: Any, stream: Any, bytes_max: int) -> None:
    """By the metadata of every batch, without decompressing any."""
    rows = size = 0
    for message in _batches(pa, stream):
        more, inflated = batch_size(message.metadata, message.body or b"")
        rows, size = rows + more, size + inflated
        if more < 0:
            raise InputProblem("the Arrow data is damaged: a batch of fewer than no rows")
        if rows > ROWS_MAX:
            raise LimitExceeded(f"expected at most {ROWS_MAX} rows, found {rows}", hint="send several requests")
        if size > bytes_max:
            raise LimitExceeded(f"expected at most {bytes_max} bytes when decompressed, found {size}")


def _batches(pa: Any, stream: Any) -> Iterator[Any]:
    reader = pa.ipc.MessageReader.open_stream(stream)
    for _ in range(BATCHES_MAX + 1):
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if message.type == "record batch":
            yield message
        elif message.type == "dictionary":
            raise InputProblem(
                "expected plain columns, found a dictionary", hint="decode it: column.dictionary_decode()"
            )
        elif message.type != "schema":
            raise InputProblem(f"expected a schema and batches, found a {message.type}")
    raise LimitExceeded(f"expected at most {BATCHES_MAX} batches, found more")


def _check_schema(pa: Any, schema: Any) -> None:
    if len(schema) > COLUMNS_MAX:
        raise LimitExceeded(f"expected at most {COLUMNS_MAX} columns, found {len(schema)}")
    if not len(schema):
        raise InputProblem("expected at least one column, found none")
    for field in schema:
        if schema.names.count(field.name) > 1:
            raise InputProblem(
                f'column "{field.name[:80]}": expected once, found {schema.names.count(field.name)} times'
            )
        kind, depth = field.type, 0
        while _is_list(pa, kind) or isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
            depth += 1
        types = pa.types
        floating = types.is_floating(kind)
        if depth > NESTED_MAX or not (
            floating or types.is_integer(kind) or types.is_boolean(kind) or _is_text(pa, kind)
        ):
            _refuse(field.name, field.type)


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refuse(name: str, kind: Any) -> NoReturn:
    raise InputProblem(
        f'column "{name[:80]}": expected numbers, booleans, texts, or lists of these, found {str(kind)[:120]}'
    )


def _column(pa: Any, name: str, column: Any) -> Array:
    """One column in native memory of its own, so that nothing keeps the body."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    return _array(pa, name, whole)


def _array(pa: Any, name: str, values: Any) -> Array:
    if values.null_count:
        raise InputProblem(f'column "{name[:80]}": expected a value in every row, found {values.null_count} null')
    kind = values.type
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise InputProblem(f'column "{name[:80]}": expected a row-major tensor, found a permuted one')
        flat = _array(pa, name, values.storage)
        return flat.reshape(len(values), *kind.shape)
    if isinstance(kind, pa.BaseExtensionType):
        return _array(pa, name, values.storage)
    if _is_list(pa, kind):
        return _nested(pa, name, values)
    if _is_text(pa, kind):
        texts = np.empty(len(values), np.object_)
        texts[:] = values.to_pylist()
        return texts
    return _numbers(pa, values)


def _numbers(pa: Any, values: Any) -> Array:
    """A copy of an array without nulls. pyarrow's own way would import pandas where that is installed."""
    buffer, start, count = values.buffers()[1], values.offset, len(values)
    dtype = np.dtype(values.type.to_pandas_dtype())
    if buffer is None:
        return np.empty(0, dtype)
    if dtype.kind == "b":
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8), count=start + count, bitorder="little")
        return bits[start:].astype(np.bool_)
    return np.frombuffer(buffer, dtype, count=count, offset=start * dtype.itemsize).copy()


def _nested(pa: Any, name: str, values: Any) -> Array:
    if pa.types.is_fixed_size_list(values.type):
        length, first = values.type.list_size, values.offset * values.type.list_size
    else:
        offsets = _numbers(pa, values.offsets)
        lengths = np.diff(offsets)
        first = int(offsets[0]) if len(offsets) else 0
        length = int(lengths[0]) if len(lengths) else 0
        odd = np.flatnonzero(lengths != length)
        if len(odd):
            raise InputProblem(
                f'column "{name[:80]}": expected lists of one length, '
                f"found {length} elements in row 1 and {lengths[odd[0]]} in row {odd[0] + 1}"
            )
    inner = _array(pa, name, values.values.slice(first, len(values) * length))
    return inner.reshape(len(values), length, *inner.shape[1:])


# --- answers ---------------------------------------------------------------------------------------------------------


def arrow_of(inference: Inference, selection: Selection = EVERYTHING, *, stream: bool = False) -> bytes:
    """An answer as an IPC file, or with ``stream`` as a stream. Raises ``ArrowUnavailable``."""
    pa = load_arrow()
    batch = batch_of(inference, selection)
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch_of(inference: Inference, selection: Selection = EVERYTHING) -> Any:
    """An inference as a ``pyarrow.RecordBatch``."""
    pa = load_arrow()
    count = inference.count
    groups: dict[str, Mapping[str, Array]] = {"in": inference.inputs, "out": inference.outputs}
    groups |= {f"out_{name}": outputs for name, outputs in inference.challengers.items()}
    columns: dict[str, Any] = {}
    if selection.gives("time"):
        columns["time"] = _of_numbers(pa, np.full(count, inference.time_ms, np.int64))
    for group, arrays in groups.items():
        if selection.gives(group):
            fields = [_field(pa, name, array) for name, array in arrays.items() if selection.gives(group, name)]
            columns[group] = _struct(pa, fields, count)
    for group, more in (("anomaly", _anomaly), ("metadata", _metadata)):
        if selection.gives(group):
            given = {name: values for name, values in more(pa, inference).items() if selection.gives(group, name)}
            columns[group] = _struct(
                pa, [(pa.field(name, values.type), values) for name, values in given.items()], count
            )
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _anomaly(pa: Any, inference: Inference) -> dict[str, Any]:
    counts = np.zeros(inference.count, np.uint32)
    flags = {name: found.astype(np.bool_) for name, found in inference.anomalies.items()}
    for found in flags.values():
        counts += found
    return {name: _of_numbers(pa, found) for name, found in {"count": counts, **flags}.items()}


def _metadata(pa: Any, inference: Inference) -> dict[str, Any]:
    count = inference.count
    texts = [model.as_text() for model in inference.models] or [""]
    answered = [0] * count if inference.answered is None else inference.answered.tolist()
    elapsed, dropped = np.array(inference.elapsed_ns, np.uint64), list(inference.dropped)
    return {
        "last_model": _of_texts(pa, [texts[at] for at in answered]),
        "pipeline_version": _of_texts(pa, [inference.version] * count),
        "elapsed": _lists(pa, _of_numbers(pa, np.tile(elapsed, count)), count, len(elapsed)),
        "dropped": _lists(pa, _of_texts(pa, dropped * count), count, len(dropped)),
        "partition": _of_texts(pa, [inference.partition] * count),
    }


def _struct(pa: Any, fields: list[tuple[Any, Any]], count: int) -> Any:
    if not fields:  # a struct without fields would not know its length
        return pa.Array.from_buffers(pa.struct([]), count, [None], children=[])
    return pa.StructArray.from_arrays([values for _, values in fields], fields=[field for field, _ in fields])


def _field(pa: Any, name: str, array: Array) -> tuple[Any, Any]:
    flat = array.ravel()
    datatype = datatype_of(array)
    if array.dtype.kind in "OU":
        elements = flat.tolist()
        if any(element.__class__ is not str for element in elements):
            datatype = "RECORD"
            elements = [json.dumps(worded(element), separators=(",", ":"), ensure_ascii=False) for element in elements]
        values = _of_texts(pa, elements)
    else:
        values = _of_numbers(pa, flat)
    for axis in range(array.ndim - 1, 0, -1):
        values = _lists(pa, values, math.prod(array.shape[:axis]), array.shape[axis])
    return pa.field(name, values.type, metadata={"tensor_type": shown(datatype, array.shape[1:])}), values


def _lists(pa: Any, values: Any, count: int, size: int) -> Any:
    """``count`` lists of ``size`` values."""
    return pa.ListArray.from_arrays(_of_numbers(pa, np.arange(count + 1, dtype=np.int32) * np.int32(size)), values)


def _of_numbers(pa: Any, flat: Array) -> Any:
    """Numbers or booleans as Arrow has them. pyarrow's own way would import pandas where that is installed."""
    kind = pa.from_numpy_dtype(flat.dtype.newbyteorder("="))
    flat = np.ascontiguousarray(flat, flat.dtype.newbyteorder("="))
    data = np.packbits(flat, bitorder="little") if flat.dtype.kind == "b" else flat
    return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(data)])


def _of_texts(pa: Any, texts: Sequence[str]) -> Any:
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    if offsets[-1] > TEXT_BYTES_MAX:
        raise LimitExceeded(f"expected at most {TEXT_BYTES_MAX} bytes of text in a column, found {offsets[-1]}")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.utf8(), len(encoded), buffers)
