"""What waits to be written to the inference log: requests put together while they come, one batch for each frame.

Owns :class:`Batch`. It is in the path of every request through a pipeline, so what a request costs here is counted in
parts of a microsecond. Of a request whose form is that of the one before only the columns are kept, which join without
being looked at again: of a small one their bytes, since holding on to small arrays costs more, in memory that is not
used again and in the collector's rounds; of a large one the arrays, which are not copied where somebody waits for an
answer. Every other request is held as it is.

Rules: rows have their place in a batch by the order in which they came, whatever they are put together with. Nothing is
half taken.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.inferences import Inference

TAKEN_DOWN_BYTES_MAX: Final = 2 * 1024  # of the columns of one request
REQUEST_BYTES: Final = 64  # what a request takes beside its columns
HELD_BYTES: Final = 2 * 1024  # and one that is held as it is
OBJECT_BYTES: Final = 64  # what a text or record takes beside its characters or fields
_PLAIN: Final = "biuf"
_GROUPS: Final = ("in", "out", "anomaly")


class Filled:
    """Requests of one form. ``columns``: group, name and type of each column, the shape of a row, and the parts of each
    request: bytes that were taken down, or a large array as it is.

    The first request says what the form is; :meth:`take` then says whether another one has it.
    """

    __slots__ = (
        "_count",
        "_expected",
        "_pipeline",
        "_row_bytes",
        "_small",
        "_steps",
        "columns",
        "counts",
        "elapsed",
        "first",
        "models",
        "offsets",
        "times",
    )

    def __init__(self, first: Inference) -> None:
        self.first = first
        self.models = first.models
        self.offsets: list[int] = []
        self.counts: list[int] = []
        self.times: list[int] = []
        self.elapsed: list[int] = []
        groups = zip(_GROUPS, (first.inputs, first.outputs, first.anomalies), strict=True)
        self.columns: list[tuple[str, str, Any, tuple[int, ...], list[Any]]] = [
            (group, name, column.dtype, column.shape[1:], [])
            for group, columns in groups
            for name, column in columns.items()
        ]
        self._row_bytes: int = sum(math.prod(tail) * dtype.itemsize for _, _, dtype, tail, _ in self.columns)
        self._pipeline = first.pipeline
        self._steps = len(first.elapsed_ns)
        self._count = -1
        self._small = True
        self._expected: list[tuple[int, str, Any, tuple[int, ...], Callable[[Any], None]]] = []

    def take(self, inference: Inference, offset: int) -> int:
        """Takes a request; the bytes of its columns, or -1 when it has another form."""
        count = inference.count
        if count != self._count:
            self._expect(count)
        elapsed = inference.elapsed_ns
        if (
            inference.models != self.models
            or inference.answered is not None
            or inference.challengers
            or inference.dropped
            or inference.pipeline is not self._pipeline
            or len(elapsed) != self._steps
        ):
            return -1
        groups = inference.inputs, inference.outputs, inference.anomalies
        if len(groups[0]) + len(groups[1]) + len(groups[2]) != len(self._expected):
            return -1
        small = self._small
        try:
            for group, name, dtype, shape, add in self._expected:
                column = groups[group][name]
                if column.shape != shape or column.dtype is not dtype:
                    return self._forgotten()
                add(column.tobytes() if small else column)
        except KeyError:
            return self._forgotten()
        self.offsets.append(offset)
        self.counts.append(count)
        self.times.append(inference.time_ms)
        self.elapsed += elapsed
        return count * self._row_bytes

    def _expect(self, count: int) -> None:
        """The shapes of a request with so many rows."""
        self._expected = [
            (_GROUPS.index(group), name, dtype, (count, *tail), parts.append)
            for group, name, dtype, tail, parts in self.columns
        ]
        self._count = count
        self._small = count * self._row_bytes <= TAKEN_DOWN_BYTES_MAX

    def _forgotten(self) -> int:
        for _, _, _, _, parts in self.columns:
            del parts[len(self.counts) :]
        return -1


class Batch:
    """Requests for one frame. ``held``: those of many forms, as they came, with their places. ``size``: about the bytes
    of their columns.
    """

    __slots__ = ("filled", "held", "rows", "size")

    def __init__(self) -> None:
        self.filled: dict[str, Filled] = {}
        self.held: list[tuple[int, Inference]] = []
        self.rows = 0
        self.size = 0

    def add(self, inference: Inference) -> None:
        rows = self.rows
        filled = self.filled.get(inference.version)
        size = -1 if filled is None else filled.take(inference, rows)
        if size < 0:
            size = self._add_other(inference)
        self.size += size + REQUEST_BYTES
        self.rows = rows + inference.count

    @property
    def requests(self) -> int:
        return len(self.held) + sum(len(filled.counts) for filled in self.filled.values())

    @property
    def times(self) -> list[int]:
        """When its requests were answered, in no order."""
        found = [inference.time_ms for _, inference in self.held]
        for filled in self.filled.values():
            found += filled.times
        return found

    def _add_other(self, inference: Inference) -> int:
        if inference.version not in self.filled and _is_plain(inference):
            filled = Filled(inference)
            taken = filled.take(inference, self.rows)
            if taken >= 0:
                self.filled[inference.version] = filled
                return taken
        self.held.append((self.rows, inference))
        return size_of(inference) + HELD_BYTES


def _is_plain(inference: Inference) -> bool:
    groups = (inference.inputs, inference.outputs, inference.anomalies)
    return not inference.challengers and all(
        column.dtype.kind in _PLAIN for columns in groups for column in columns.values()
    )


def size_of(inference: Inference) -> int:
    """About what the columns of a request take in memory."""
    size = 0
    for columns in (inference.inputs, inference.outputs, *inference.challengers.values()):
        for column in columns.values():
            size += column.nbytes
            if column.dtype.hasobject:
                size += sum(OBJECT_BYTES + len(one) for one in column.ravel().tolist() if isinstance(one, str | dict))
    return size
