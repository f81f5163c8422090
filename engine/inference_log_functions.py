"""The functions of the language that read a peer's inference log: its rows, what is missing of them, how it stands.

Reading works without any network and goes on beside the event loop. ``log`` is None on a peer that keeps none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from query.declarations import Call, Example, function
from query.errors import PeerProblem, WrongArguments, suggestion

if TYPE_CHECKING:
    from engine.inference_log import InferenceLog
    from engine.inference_log_reading import Filter, LogReader
    from engine.records import Selection

ROWS: Final = 100
ROWS_MAX: Final = 10_000
COLUMNS_MAX: Final = 64
_GROUPS: Final = ("time", "in", "out", "anomaly", "metadata", "row")
_OPTIONS: Final = ("pipeline", "start", "end", "limit", "order", "columns")
_ORDERS: Final = ("newest", "oldest")


class LogOff(PeerProblem):
    """A question about the inference log of a peer that keeps none."""

    code = "log_off"


@dataclass(frozen=True, slots=True)
class Asked:
    """What ``logs:local`` was asked for. Times in ms since the epoch."""

    pipeline: str | None
    start_ms: int | None
    end_ms: int | None
    limit: int
    newest_first: bool
    columns: tuple[str, ...]

    @property
    def wanted(self) -> Filter:
        from engine.inference_log_reading import Filter

        return Filter(pipeline=self.pipeline, start_ms=self.start_ms, end_ms=self.end_ms)


def read_asked(options: Mapping[str, Any]) -> Asked:
    """Raises :class:`WrongArguments`."""
    for key in options:
        if key not in _OPTIONS:
            tail = suggestion(key, _OPTIONS, otherwise=f": expected one of {', '.join(_OPTIONS)}")
            raise WrongArguments(f'no option "{key[:40]}"{tail}')
    pipeline = options.get("pipeline")
    if pipeline is not None and not isinstance(pipeline, str):
        raise WrongArguments(f'expected the name of a pipeline in "pipeline", found {pipeline!r:.60}')
    start_ms, end_ms = _time("start", options.get("start")), _time("end", options.get("end"))
    if (start_ms is None) != (end_ms is None):
        raise WrongArguments('expected "start" and "end" together, found one of them')
    limit = options.get("limit", ROWS)
    if type(limit) is not int or not 1 <= limit <= ROWS_MAX:
        raise WrongArguments(f'expected a number from 1 to {ROWS_MAX} in "limit", found {limit!r:.60}')
    order = options.get("order", "oldest" if start_ms is not None else "newest")
    if order not in _ORDERS:
        raise WrongArguments(f'expected {" or ".join(_ORDERS)} in "order", found {order!r:.60}')
    return Asked(pipeline, start_ms, end_ms, limit, order == "newest", _columns(options.get("columns", ["*"])))


def _time(name: str, value: Any) -> int | None:
    match value:
        case None:
            return None
        case bool():
            pass
        case int():
            return value
        case datetime():
            return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
        case str():
            try:
                found = datetime.fromisoformat(value)
                return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
            except (ValueError, OverflowError):
                pass
    raise WrongArguments(
        f'expected a time in "{name}", found {value!r:.60}', hint="a time stamp, a text like 2026-01-31T12:00, or ms"
    )


def _columns(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not names or len(names) > COLUMNS_MAX or not all(isinstance(name, str) for name in names):
        raise WrongArguments(f'expected 1 to {COLUMNS_MAX} names of columns in "columns", found {value!r:.60}')
    for name in names:
        group = name.partition(".")[0]
        if name != "*" and group not in _GROUPS and not group.startswith("out_"):
            tail = suggestion(group, _GROUPS, otherwise=f": expected * or one of {', '.join(_GROUPS)}")
            raise WrongArguments(f'no column "{name[:60]}"{tail}')
    return names


class LogFunctions:
    """``logs:local gaps status``."""

    def __init__(self, log: InferenceLog | None) -> None:
        self._log = log
        self._reader: LogReader | None = None

    @function("logs:local() -> Bag of Record", example=Example("//peer: E1\nlogs:local()"))
    @function(
        "logs:local(Record options) -> Bag of Record",
        example=(
            Example('//peer: E1\nlogs:local({"pipeline": "my-pipeline", "limit": 10, "columns": ["time", "out"]})'),
            Example('//peer: E1\nlogs:local({"columns": ["*", "metadata", "row"], "order": "oldest"})'),
            Example('//peer: E1\nlogs:local({"start": |2026-01-01|, "end": now()})'),
        ),
    )
    async def local(self, call: Call, options: dict[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """Rows of this peer's inference log, one for each row that a pipeline answered: the newest 100, the newest
        first. It needs no network.

        `options`: `pipeline`, one name; `start` and `end`, both: from a time up to and without another, the oldest
        first; `limit`, at most 10000; `order`, `newest` or `oldest`; `columns`, from `time in out out_<challenger>
        anomaly metadata row`, or one of a group (`out.price`). `*`, which is what is shown without `columns`, is
        everything but `metadata` and `row`, which are asked for beside it. `row` is what identifies a row for ever:
        edge, epoch and sequence.
        """
        log = self._found()
        asked = read_asked(options or {})
        return self._rows(log, asked)

    @function("logs:gaps() -> Bag of Record", example=Example("//peer: E1\nlogs:gaps()"))
    async def gaps(self, call: Call) -> list[dict[str, Any]]:
        """The rows that this peer's inference log does not have any more, the oldest first: `first` to `last` of an
        `epoch`, how many `rows` they were, of when (`from_ms`, `to_ms`), and why: `quota`, dropped to make room;
        `cut_off`, by a kill; `lost`, somebody removed a file. What was refused, `logs:status` counts.
        """
        found = await asyncio.to_thread(self._reading().gaps)
        return [msgspec.to_builtins(gap) for gap in found]

    @function("logs:status() -> Record", example=Example("//peer: E1\nlogs:status()"))
    async def status(self, call: Call) -> dict[str, Any]:
        """How this peer's inference log stands: the `epoch` that is written to and the `next` sequence, its `bytes`
        and `quota_bytes`, the `rows` and `segments` that are there, and since the process began how many rows were
        `recorded`, `sampled_out` and `refused`, by reason; `failure` says why rows cannot be recorded now.
        """
        log = self._found()
        listed = await asyncio.to_thread(self._reading().segments)
        counts = log.counts()
        return {
            "epoch": log.segments.epoch,
            "next": log.segments.next,
            "bytes": sum(segment.size for segment in listed),
            "quota_bytes": log.segments.quota_bytes,
            "rows": sum(segment.extent.rows for segment in listed),
            "segments": len(listed),
            "recorded": counts.recorded,
            "sampled_out": counts.sampled_out,
            "refused": counts.refused,
            "failure": counts.failure,
        }

    def _found(self) -> InferenceLog:
        if self._log is None:
            raise LogOff(
                "this peer keeps no inference log",
                hint="the setting local_inference_storage says how large it may be; 0 keeps none",
            )
        return self._log

    def _reading(self) -> LogReader:
        """Made when something is read: it brings numpy."""
        if self._reader is None:
            self._reader = self._found().reader()
        return self._reader

    async def _rows(self, log: InferenceLog, asked: Asked) -> AsyncIterator[dict[str, Any]]:
        from engine.records import Selection

        selection = Selection.of(asked.columns, ())
        place, left = None, asked.limit
        while left:
            page = await asyncio.to_thread(self._page, place, left, asked, selection)
            for row in page[0]:
                yield row
            left -= len(page[0])
            place = page[1]
            if place is None:
                return

    def _page(self, place: Any, limit: int, asked: Asked, selection: Selection) -> tuple[list[dict[str, Any]], Any]:
        page = self._reading().read(place, limit=limit, wanted=asked.wanted, newest_first=asked.newest_first)
        return list(page.records(selection)), None if page.ends == "end" else page.next
