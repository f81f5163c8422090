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

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np

from engine.decimals import plain
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


def frame_of(requests: Sequence[Inference], *, first: int, refused: Sequence[Refusal] = ()) -> Frame:
    """The frame of some requests. Numbers from ``first`` on: of the rows that were refused before, then of these."""
    counts = [one.count for one in requests]
    times = [one.time_ms for one in requests]
    sets: list[_Set] = []
    if requests:
        labels = {one.pipeline for one in requests}, {one.version for one in requests}
        try:
            if len(labels[0]) > 1 or len(labels[1]) > 1:
                raise _Mixed
            sets.append(_joined(requests, counts, times, None))
        except _Mixed:
            offsets = np.cumsum([0, *counts])
            for members in _alike(requests):
                chosen = [requests[at] for at in members]
                own_counts, own_times = [counts[at] for at in members], [times[at] for at in members]
                sets.append(_joined(chosen, own_counts, own_times, offsets[np.array(members)]))
    header = msgspec.msgpack.encode(FrameHeader(tuple(one.header for one in sets), tuple(refused)))
    parts = [part for one in sets for part in one.parts]
    checksum, body_size = zlib.crc32(header), 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
        body_size += len(part)
    from_ms, to_ms, rows = min(times, default=0), max(times, default=0), sum(counts)
    first += sum(one.rows for one in refused)
    head = head_bytes(
        header, body_size=body_size, first=first, rows=rows, from_ms=from_ms, to_ms=to_ms, checksum=checksum
    )
    return Frame((head, header, *parts), len(head) + len(header) + body_size, first, rows, from_ms, to_ms)


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


class _Mixed(Exception):
    """Requests that have not one form."""


@dataclass(frozen=True, slots=True)
class _Set:
    header: RequestsHeader
    parts: list[bytes | memoryview]


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


def _joined(chosen: Sequence[Inference], counts: list[int], times: list[int], offsets: Array | None) -> _Set:
    """The columns of some requests of one version. Raises :class:`_Mixed` when they have not one form.

    In the path of every request: what is done for each of them is done by list displays and numpy.
    """
    first = chosen[0]
    headers: list[ColumnHeader] = []
    parts: list[bytes | memoryview] = []

    def add(group: str, name: str, column: Array) -> None:
        dtype, part = _bytes_of(column)
        headers.append(ColumnHeader(group, name, dtype, column.shape, len(part)))
        parts.append(part)

    add(OWN, "count", np.array(counts, "<u4"))
    add(OWN, "time", np.array(times, "<i8"))
    elapsed = [one.elapsed_ns for one in chosen]
    steps = len(first.elapsed_ns)
    if {*map(len, elapsed)} != {steps}:
        raise _Mixed
    flat = np.fromiter(chain.from_iterable(elapsed), np.uint64, steps * len(chosen))
    add(OWN, "elapsed", flat.reshape(len(chosen), steps))
    if offsets is not None:
        add(OWN, "offset", offsets.astype("<u4"))
    models, answered = _answering(chosen)
    if answered is not None:
        add(OWN, "answered", answered)
    dropped = list(dict.fromkeys([one.dropped for one in chosen]))
    if len(dropped) > 1:
        places = {one: at for at, one in enumerate(dropped)}
        add(OWN, "dropped", np.array([places[one.dropped] for one in chosen], "<u2"))
    _add_joined("in", [one.inputs for one in chosen], add)
    _add_joined("out", [one.outputs for one in chosen], add)
    challengers = [one.challengers for one in chosen]
    if any(challengers):
        if len({tuple(one) for one in challengers}) > 1:
            raise _Mixed
        for name in first.challengers:
            _add_joined(f"out_{name}", [one[name] for one in challengers], add)
    _add_joined("anomaly", [one.anomalies for one in chosen], add)
    told = tuple((model.name, model.version, model.sha) for model in models)
    header = RequestsHeader(first.pipeline, first.version, first.partition, told, tuple(dropped), tuple(headers))
    return _Set(header, parts)


def _add_joined(group: str, each: list[Mapping[str, Array]], add: Callable[[str, str, Array], None]) -> None:
    names = each[0]
    if len(each) == 1:
        for name, column in names.items():
            add(group, name, column)
        return
    if {*map(len, each)} != {len(names)}:
        raise _Mixed
    for name, first in names.items():
        try:
            joined = np.concatenate([columns[name] for columns in each], dtype=first.dtype, casting="no")
        except (KeyError, ValueError, TypeError):
            raise _Mixed from None
        add(group, name, joined)


def _answering(chosen: Sequence[Inference]) -> tuple[tuple[AnsweringModel, ...], Array | None]:
    """The models of some requests, and for each row which of them; None: the first, for all. Raises :class:`_Mixed`
    where some have none.
    """
    each = list({id(one.models): one.models for one in chosen}.values())
    whole = {one.answered is None for one in chosen} == {True}
    if len(each) == 1 and whole:
        return each[0], None
    if len({bool(models) for models in each}) > 1:
        raise _Mixed
    places: dict[AnsweringModel, int] = {}
    for models in each:
        for model in models:
            places.setdefault(model, len(places))
    if len(places) <= 1 and whole:
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
