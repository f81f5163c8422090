"""Inferences as the columns of a frame of the inference log, and back.

Owns both directions. Loads numpy; pure. The form of a frame is :mod:`engine.inference_log_frames`.

A frame has one set of columns for each version of a pipeline in it whose requests have one form (names, types, shapes
of a row), so that a thousand small requests become a few arrays, joined once. Beside the groups ``in``, ``out``,
``out_<challenger>`` and ``anomaly`` stand those of group ``#``, which say what belongs to whom:

    count time elapsed    of each request: its rows, ms since the epoch, ns of parsing and of each step
    offset                of each request: its first row's place in the frame; left out where requests follow each other
    answered              of each row: which of the models gave ``out``; left out where the first did
    dropped               of each request: which of the lists of dropped columns; left out where the first is meant

Numbers are little-endian, texts and records are MessagePack. What MessagePack cannot hold (an integer of more than 64
bits, half a surrogate pair) is kept as the nearest text.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

import msgspec
import numpy as np

from engine.decimals import plain
from engine.inference_log_batches import Batch, Filled
from engine.inference_log_frames import (
    BadSegment,
    ColumnHeader,
    Frame,
    FrameHeader,
    Head,
    Refusal,
    RequestsHeader,
    head_bytes,
)
from engine.inferences import AnsweringModel, Inference
from engine.records import EVERYTHING, Selection
from engine.signature import Array

OWN: Final = "#"
ALONE_BYTES: Final = 2048  # a column of a request from here on is written from where it lies
_TEXTS: Final = "texts"
_RECORDS: Final = "records"

Columns = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRows:
    """Rows of one version of a pipeline that have one form, as they were recorded, by ascending number.

    (``edge``, ``epoch``, ``sequences``) identify a row for ever. ``columns``: group, name, array with an entry for each
    row; ``anomaly`` has a boolean for each validation. ``request``: of each row its place in ``elapsed`` and
    ``dropped``; ``answered``: of each row its place in ``models``.
    """

    edge: str
    epoch: int
    sequences: Array
    times: Array
    pipeline: str
    version: str
    partition: str
    models: tuple[AnsweringModel, ...]
    answered: Array
    columns: Columns
    request: Array
    elapsed: Array
    dropped: tuple[tuple[str, ...], ...]
    size: int

    def __len__(self) -> int:
        return len(self.sequences)

    def taken(self, at: Array | slice) -> LoggedRows:
        """Some of the rows."""
        if isinstance(at, slice) and at == slice(None):
            return self
        sequences = self.sequences[at]
        return replace(
            self,
            sequences=sequences,
            times=self.times[at],
            answered=self.answered[at],
            columns={
                group: {name: column[at] for name, column in columns.items()} for group, columns in self.columns.items()
            },
            request=self.request[at],
            size=self.size * len(sequences) // max(len(self), 1),
        )

    def records(self, selection: Selection = EVERYTHING) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and record of each row, in the form of :meth:`engine.inferences.Inference.rows`.

        Only where ``selection`` asks for ``row`` by name is there a record of ``edge``, ``epoch`` and ``sequence``.
        """
        groups = {
            group: {name: plain(column) for name, column in columns.items() if selection.gives(group, name)}
            for group, columns in self.columns.items()
            if selection.gives(group)
        }
        flags = {name: column.tolist() for name, column in self.columns.get("anomaly", {}).items()}
        texts = [model.as_text() for model in self.models]
        identity = selection.wanted is not None and "row" in selection.wanted
        metadata = selection.gives("metadata")
        times, sequences = self.times.tolist(), self.sequences.tolist()
        elapsed, request, answered = self.elapsed.tolist(), self.request.tolist(), self.answered.tolist()
        for at, sequence in enumerate(sequences):
            record: dict[str, Any] = {}
            if identity:
                record["row"] = {"edge": self.edge, "epoch": self.epoch, "sequence": sequence}
            if selection.gives("time"):
                record["time"] = times[at]
            for group, columns in groups.items():
                if group != "anomaly":
                    record[group] = {name: values[at] for name, values in columns.items()}
            found = {name: values[at] for name, values in flags.items()}
            if "count" not in found:
                found = {"count": sum(found.values()), **found}
            record["anomaly"] = found
            if metadata:
                record["metadata"] = {
                    "last_model": texts[answered[at]] if texts else "",
                    "pipeline_version": self.version,
                    "elapsed": elapsed[request[at]],
                    "dropped": list(self.dropped[request[at]]),
                    "partition": self.partition,
                }
            yield sequence, record if selection.everything else selection.of_row(record)


# --- writing ----------------------------------------------------------------------------------------------------------


def frame_of(batch: Batch, *, first: int, refused: Sequence[Refusal] = ()) -> Frame:
    """The frame of some requests. Numbers from ``first`` on: of the rows that were refused before, then of these."""
    sets: list[_Set] = []
    alone = len(batch.filled) + bool(batch.held) == 1
    for filled in batch.filled.values():
        sets.append(_taken_down(filled, alone=alone))
    held = [inference for _, inference in batch.held]
    for members in _alike(held):
        offsets = [batch.held[at][0] for at in members]
        in_a_row = alone and len(members) == len(held)
        sets.append(_joined([held[at] for at in members], None if in_a_row else offsets))
    header = msgspec.msgpack.encode(
        FrameHeader(tuple(one.header for one in sets if one.header is not None), tuple(refused))
    )
    parts = [part for one in sets for part in one.parts]
    checksum, body_size = zlib.crc32(header), 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
        body_size += len(part)
    times = batch.times
    from_ms, to_ms = min(times, default=0), max(times, default=0)
    first += sum(one.rows for one in refused)
    head = head_bytes(
        header, body_size=body_size, first=first, rows=batch.rows, from_ms=from_ms, to_ms=to_ms, checksum=checksum
    )
    return Frame((head, header, *parts), len(head) + len(header) + body_size, first, batch.rows, from_ms, to_ms)


def only_rows(inference: Inference, at: Array) -> Inference:
    """Some of the rows of a request."""

    def taken(columns: Mapping[str, Array]) -> dict[str, Array]:
        return {name: column[at] for name, column in columns.items()}

    return replace(
        inference,
        count=len(at),
        inputs=taken(inference.inputs),
        outputs=taken(inference.outputs),
        challengers={name: taken(outputs) for name, outputs in inference.challengers.items()},
        anomalies=taken(inference.anomalies),
        answered=None if inference.answered is None else inference.answered[at],
    )


@dataclass(slots=True)
class _Set:
    """Columns as they are added, and their bytes."""

    headers: list[ColumnHeader] = field(default_factory=list)
    parts: list[bytes | memoryview] = field(default_factory=list)
    header: RequestsHeader | None = None

    def add(self, group: str, name: str, column: Array) -> None:
        dtype, part = _bytes_of(column)
        self.headers.append(ColumnHeader(group, name, dtype, column.shape, len(part)))
        self.parts.append(part)

    def add_parts(
        self, group: str, name: str, dtype: str, shape: tuple[int, ...], parts: Sequence[bytes | memoryview]
    ) -> None:
        size = sum(map(len, parts))
        if size != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError(f"column {group}.{name}: {size} bytes do not make {shape} of {dtype}")
        self.headers.append(ColumnHeader(group, name, dtype, shape, size))
        self.parts.extend(parts)

    def add_requests(self, counts: list[int], times: list[int], elapsed: list[int], offsets: list[int] | None) -> None:
        requests = len(counts)
        self.add(OWN, "count", np.array(counts, "<u4"))
        self.add(OWN, "time", np.array(times, "<i8"))
        self.add(OWN, "elapsed", np.array(elapsed, "<u8").reshape(requests, len(elapsed) // requests))
        if offsets is not None:
            self.add(OWN, "offset", np.array(offsets, "<u4"))

    def end(self, first: Inference, models: Sequence[AnsweringModel], dropped: Sequence[tuple[str, ...]]) -> _Set:
        told = tuple((model.name, model.version, model.sha) for model in models)
        self.header = RequestsHeader(
            first.pipeline, first.version, first.partition, told, tuple(dropped), tuple(self.headers)
        )
        return self


def _taken_down(filled: Filled, *, alone: bool) -> _Set:
    """The columns of requests whose bytes were taken down."""
    made = _Set()
    made.add_requests(filled.counts, filled.times, filled.elapsed, None if alone else filled.offsets)
    rows = sum(filled.counts)
    for group, name, dtype, tail, parts in filled.columns:
        made.add_parts(group, name, dtype.str, (rows, *tail), _in_a_row(parts))
    return made.end(filled.first, filled.models, ((),))


def _in_a_row(parts: Sequence[bytes | Array]) -> list[bytes | memoryview]:
    """Small parts joined, large ones as they lie."""
    found: list[bytes | memoryview] = []
    for taken, run in groupby(parts, lambda part: part.__class__ is bytes):
        if taken:
            found.append(b"".join(run))  # type: ignore[arg-type]
        else:
            found.extend(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in run)
    return found


def _alike(requests: Sequence[Inference]) -> list[list[int]]:
    """Positions of requests that agree in everything that they must to share columns, in their order."""
    found: dict[Any, list[int]] = {}
    for position, one in enumerate(requests):
        columns = tuple(
            (group, name, column.dtype.str, column.shape[1:])
            for group, columns in _groups(one).items()
            for name, column in columns.items()
        )
        challengers, steps = tuple(one.challengers), len(one.elapsed_ns)
        form = (one.pipeline, one.version, one.partition, challengers, steps, bool(one.models), columns)
        found.setdefault(form, []).append(position)
    return list(found.values())


def _groups(inference: Inference) -> dict[str, Mapping[str, Array]]:
    groups: dict[str, Mapping[str, Array]] = {"in": inference.inputs, "out": inference.outputs}
    for name, outputs in inference.challengers.items():
        groups[f"out_{name}"] = outputs
    groups["anomaly"] = inference.anomalies
    return groups


def _joined(chosen: Sequence[Inference], offsets: list[int] | None) -> _Set:
    """The columns of some requests that have one form."""
    first, made = chosen[0], _Set()
    elapsed = [taken for one in chosen for taken in one.elapsed_ns]
    made.add_requests([one.count for one in chosen], [one.time_ms for one in chosen], elapsed, offsets)
    models, answered = _answering(chosen)
    if answered is not None:
        made.add(OWN, "answered", answered)
    dropped = list(dict.fromkeys([one.dropped for one in chosen]))
    if len(dropped) > 1:
        places = {one: at for at, one in enumerate(dropped)}
        made.add(OWN, "dropped", np.array([places[one.dropped] for one in chosen], "<u2"))
    groups = [_groups(one) for one in chosen]
    for group, columns in groups[0].items():
        for name, column in columns.items():
            each = [one[group][name] for one in groups]
            if len(each) == 1:
                made.add(group, name, column)
            elif column.nbytes < ALONE_BYTES or column.dtype.kind in "OU":
                made.add(group, name, np.concatenate(each, dtype=column.dtype, casting="no"))
            else:
                dtype = column.dtype.newbyteorder("<").str
                rows = sum(len(one) for one in each)
                made.add_parts(group, name, dtype, (rows, *column.shape[1:]), [_bytes_of(one)[1] for one in each])
    return made.end(first, models, dropped)


def _answering(chosen: Sequence[Inference]) -> tuple[tuple[AnsweringModel, ...], Array | None]:
    """The models of some requests, and for each row which of them; None: the first, for all."""
    places: dict[AnsweringModel, int] = {}
    for one in chosen:
        for model in one.models:
            places.setdefault(model, len(places))
    if len(places) <= 1 and all(one.answered is None for one in chosen):
        return tuple(places), None
    found = []
    for one in chosen:
        own = np.array([places[model] for model in one.models] or [0], "<u2")
        found.append(np.full(one.count, own[0], "<u2") if one.answered is None else own[one.answered])
    return tuple(places), np.concatenate(found)


def _bytes_of(column: Array) -> tuple[str, bytes | memoryview]:
    """A column's type and bytes; the bytes of numbers are those of the array."""
    if column.dtype.kind in "OU":
        flat = column.ravel().tolist()
        kind = _TEXTS if all(element.__class__ is str for element in flat) else _RECORDS
        try:
            return kind, msgspec.msgpack.encode(flat, enc_hook=_plain)
        except (OverflowError, UnicodeError, TypeError, ValueError, RecursionError):
            return kind, msgspec.msgpack.encode([_storable(element) for element in flat])
    little = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
    return little.dtype.str, little.reshape(-1).view(np.uint8).data if little.size else b""


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def _storable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case bool() | float() | None:
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case dict():
            return {_storable(str(key)): _storable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_storable(inner) for inner in value]
        case np.ndarray() | np.generic():
            return _storable(value.tolist())
        case _:
            return _storable(str(value))


# --- reading ----------------------------------------------------------------------------------------------------------


def rows_of(header: RequestsHeader, body: memoryview, head: Head, *, edge: str, epoch: int) -> LoggedRows:
    """One set of columns of a frame; ``body`` is its part. Raises :class:`BadSegment`."""
    try:
        return _rows_of(header, body, head, edge, epoch)
    except (ValueError, TypeError, KeyError, IndexError, msgspec.MsgspecError) as error:
        raise BadSegment(f"the frame at {head.at} is damaged: {error}") from error


def _rows_of(header: RequestsHeader, body: memoryview, head: Head, edge: str, epoch: int) -> LoggedRows:
    columns: dict[str, dict[str, Array]] = {OWN: {}, "in": {}, "out": {}}
    at = 0
    for one in header.columns:
        columns.setdefault(one.group, {})[one.name] = _column_of(one, body[at : at + one.size])
        at += one.size
    own = columns.pop(OWN)
    columns.setdefault("anomaly", {})
    counts = own["count"].astype(np.int64)
    request = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    offsets = own["offset"].astype(np.int64) if "offset" in own else starts
    sequences = head.first + (offsets - starts)[request] + np.arange(len(request))
    answered = own.get("answered")
    dropped = own["dropped"].tolist() if "dropped" in own else [0] * len(counts)
    return LoggedRows(
        edge=edge,
        epoch=epoch,
        sequences=sequences,
        times=own["time"].astype(np.int64)[request],
        pipeline=header.pipeline,
        version=header.version,
        partition=header.partition,
        models=tuple(AnsweringModel(*model) for model in header.models),
        answered=np.zeros(len(request), np.int64) if answered is None else answered.astype(np.int64),
        columns=columns,
        request=request,
        elapsed=own["elapsed"],
        dropped=tuple(header.dropped[place] for place in dropped),
        size=at,
    )


def _column_of(header: ColumnHeader, part: memoryview) -> Array:
    if header.dtype in (_TEXTS, _RECORDS):
        elements = msgspec.msgpack.decode(part)
        return np.fromiter(elements, np.object_, len(elements)).reshape(header.shape)
    return np.frombuffer(part, np.dtype(header.dtype)).reshape(header.shape)
