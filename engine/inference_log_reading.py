"""Reading an inference log: pages of rows from a place on, and what is missing between them.

Owns the cursor, the filters and the page. Reads files that another thread writes: a segment's frames are read up to
where they were when the page was begun, and a segment that goes meanwhile is told as a gap. Works without any network,
and may take long: call it in a thread.

    reader = log.reader()
    page = reader.read()                                    the oldest rows
    page = reader.read(page.next)                           those after it
    reader.read(newest_first=True, limit=100)               the newest 100, the newest first
    reader.read(Cursor(epoch, sequence), limit=1000)        what an uploader has not sent yet

A page ends ``limit`` (as many rows as were asked for), ``bytes`` (as much data) or ``end`` (nothing more is there). Its
``gaps`` lie between the cursor and its end, and are told even when no row is left of them; :meth:`LogReader.gaps` tells
all of the ledger. A page that begins with the oldest and has no filter skips nothing in silence: its rows, in the order
of (epoch, sequence), and its gaps account for every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from msgspec.structs import replace

from engine.inference_log_columns import LoggedRows, rows_of
from engine.inference_log_frames import BadSegment, FrameHeader, Head, heads, read_body, read_header
from engine.inference_log_ledger import Gap
from engine.inference_log_mending import Segment
from engine.inference_log_segments import NotTaken, Segments
from engine.records import EVERYTHING, Selection
from query.errors import UserProblem, WorldProblem

ROWS: Final = 1_000
ROWS_MAX: Final = 10_000  # of one page
BYTES_MAX: Final = 10_000_000  # of one page's columns; at least one row is given


class LogUnreadable(WorldProblem):
    """The disk does not give the log, or another process writes to it."""

    code = "log_unreadable"


class BadCursor(UserProblem):
    """A text that is no place in an inference log."""

    code = "bad_cursor"


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The last row that was read; ``sequence`` 0: none of its epoch."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises :class:`BadCursor`."""
        epoch, dot, sequence = text.partition(".")
        if not dot or not (epoch + sequence).isascii() or not epoch.isdigit() or not sequence.isdigit():
            raise BadCursor(
                f'"{text[:60]}" is no place in an inference log: expected the cursor that a page was answered with'
            )
        if len(text) > 40:
            raise BadCursor(f"expected a cursor of at most 40 characters, found {len(text)}")
        return cls(int(epoch), int(sequence))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows are wanted: of a pipeline, and from ``start_ms`` up to and without ``end_ms``."""

    pipeline: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None

    def misses(self, from_ms: int, to_ms: int) -> bool:
        """Whether nothing between two times is wanted."""
        return (self.start_ms is not None and to_ms < self.start_ms) or (
            self.end_ms is not None and from_ms >= self.end_ms
        )

    def chosen(self, rows: LoggedRows) -> LoggedRows:
        if self.start_ms is None and self.end_ms is None:
            return rows
        wanted = np.ones(len(rows), np.bool_)
        if self.start_ms is not None:
            wanted &= rows.times >= self.start_ms
        if self.end_ms is not None:
            wanted &= rows.times < self.end_ms
        return rows if wanted.all() else rows.taken(np.flatnonzero(wanted))


EVERY_ROW: Final = Filter()


@dataclass(slots=True)
class Page:
    """``runs`` in the order in which they were read; the rows of those from one frame may lie between each other.

    ``next``: where to go on, also when nothing was found; ``ends``: ``limit bytes end``.
    """

    runs: list[LoggedRows] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    next: Cursor = Cursor(0, 0)
    ends: str = "end"
    newest_first: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def records(self, selection: Selection = EVERYTHING) -> Iterator[dict[str, Any]]:
        """The rows as records, in the order of the page."""
        at = 0
        while at < len(self.runs):
            together = [self.runs[at]]
            at += 1
            while at < len(self.runs) and _overlap(together, self.runs[at]):
                together.append(self.runs[at])
                at += 1
            if len(together) == 1 and not self.newest_first:
                yield from (record for _, record in together[0].records(selection))
                continue
            rows = [row for run in together for row in run.records(selection)]
            rows.sort(key=_number, reverse=self.newest_first)
            yield from (record for _, record in rows)


def _number(row: tuple[int, dict[str, Any]]) -> int:
    return row[0]


def _overlap(together: list[LoggedRows], other: LoggedRows) -> bool:
    """Whether rows of another run lie between those that were read together."""
    if other.epoch != together[0].epoch:
        return False
    low = min(int(run.sequences[0]) for run in together)
    high = max(int(run.sequences[-1]) for run in together)
    return not (int(other.sequences[0]) > high or int(other.sequences[-1]) < low)


class LogReader:
    """``flush`` waits until what was recorded so far is written."""

    def __init__(self, segments: Segments, *, flush: Callable[[], bool]) -> None:
        self._segments = segments
        self._flush = flush
        self._known: tuple[Cursor, Path, int] | None = None  # where the frame of a page's last row stands

    def read(
        self,
        start: Cursor | None = None,
        *,
        limit: int = ROWS,
        bytes_max: int = BYTES_MAX,
        wanted: Filter = EVERY_ROW,
        newest_first: bool = False,
    ) -> Page:
        """Rows after a place, the oldest first; or before it, the newest first. At most ``ROWS_MAX``.

        Raises :class:`LogUnreadable`.
        """
        page = Page(next=start or Cursor(0, 0), newest_first=newest_first)
        reading = _Reading(page, start, wanted, limit=max(min(limit, ROWS_MAX), 0), bytes_left=bytes_max)
        segments = self._there()
        for segment in reversed(segments) if newest_first else segments:
            if reading.full or _is_behind(segment, start, newest_first=newest_first):
                continue
            if wanted.misses(segment.extent.from_ms, segment.extent.to_ms):
                page.next = page.next if newest_first else Cursor(segment.epoch, segment.last)
                continue
            try:
                with segment.path.open("rb") as file:
                    reading.segment(file, segment, known=self._known)
            except FileNotFoundError:
                self._segments.note_lost(segment)
            except OSError as error:
                raise LogUnreadable(f"cannot read the inference log: {error}") from error
        if not newest_first:
            begin, until = start or Cursor(0, 0), page.next
            told = self._segments.ledger().gaps
            page.gaps.extend(gap for gap in told if _lies_between(gap, begin, until, to_end=page.ends == "end"))
            page.gaps.sort(key=lambda gap: (gap.epoch, gap.first))
            if page.ends == "end":
                page.next = max([page.next, *(Cursor(gap.epoch, gap.last) for gap in page.gaps)])
            elif reading.place is not None:
                self._known = (page.next, *reading.place)
        return page

    def segments(self) -> tuple[Segment, ...]:
        """What is there, the oldest first; whole files, of which the last may still grow."""
        return self._there()

    def gaps(self) -> tuple[Gap, ...]:
        """All that the ledger knows, the oldest first. Refused and damaged rows are told by the pages."""
        self._there()
        return self._segments.ledger().gaps

    def _there(self) -> tuple[Segment, ...]:
        self._flush()
        try:
            self._segments.open()
        except NotTaken as problem:
            why = "another process writes to it" if problem.reason == "in_use" else "it is closed"
            raise LogUnreadable(f"the inference log in {self._segments.path} cannot be read: {why}") from None
        except OSError as error:
            raise LogUnreadable(f"cannot open the inference log: {error}") from error
        return self._segments.listed()


def _is_behind(segment: Segment, start: Cursor | None, *, newest_first: bool) -> bool:
    if start is None:
        return False
    if newest_first:
        return Cursor(segment.epoch, segment.first) >= start
    return Cursor(segment.epoch, segment.last) <= start


def _lies_between(gap: Gap, begin: Cursor, end: Cursor, *, to_end: bool) -> bool:
    """Whether a gap lies behind a place, and before the end of a page."""
    if Cursor(gap.epoch, gap.last) <= begin:
        return False
    return to_end or Cursor(gap.epoch, gap.first) <= end


class _Reading:
    """One page on its way through the segments."""

    def __init__(self, page: Page, start: Cursor | None, wanted: Filter, *, limit: int, bytes_left: int) -> None:
        self._page = page
        self._start = start
        self._wanted = wanted
        self._rows_left = limit
        self._bytes_left = bytes_left
        self.full = False
        self.place: tuple[Path, int] | None = None
        if not limit:
            self._end("limit")

    def segment(self, file: BinaryIO, segment: Segment, *, known: tuple[Cursor, Path, int] | None) -> None:
        """The frames of one segment, as far as the page has room. ``known``: where a frame stands."""
        begin, expected = segment.start, segment.first
        if known is not None and known[:2] == (self._start, segment.path) and not self._page.newest_first:
            begin, expected = known[2], known[0].sequence + 1
        found = heads(file, begin, segment.extent.end)
        if self._page.newest_first:
            for head in reversed(list(found)):
                if not self._is_behind(head, segment.epoch):
                    self._newest(file, segment, head)
                if self.full:
                    return
            return
        for head in found:
            if not self._is_behind(head, segment.epoch):
                self._oldest(file, segment, head, expected)
            if self.full:
                self.place = (segment.path, head.at)
                return
            expected = head.last + 1
        if expected <= segment.last:
            self._tell(_missing("damaged", segment, expected, segment.last))

    def _is_behind(self, head: Head, epoch: int) -> bool:
        start = self._start
        if start is None or epoch != start.epoch:
            return False
        return head.first >= start.sequence if self._page.newest_first else head.last <= start.sequence

    def _newest(self, file: BinaryIO, segment: Segment, head: Head) -> None:
        with suppress(BadSegment):  # told to whoever reads the other way
            header, raw = read_header(file, head)
            if self._is_wanted(header, head):
                self._take(self._runs(header, read_body(file, head, raw), segment, head), segment.epoch)

    def _oldest(self, file: BinaryIO, segment: Segment, head: Head, expected: int) -> None:
        """A frame, and what is missing before it."""
        try:
            header, raw = read_header(file, head)
            refused = sum(one.rows for one in header.refused)
            if head.first - refused > expected:
                self._tell(_missing("damaged", segment, expected, head.first - refused - 1))
            at = head.first - refused
            for one in header.refused:
                gap = _missing(one.reason, segment, at, at + one.rows - 1)
                self._tell(replace(gap, from_ms=one.from_ms, to_ms=one.to_ms))
                at += one.rows
            if self._is_wanted(header, head):
                self._take(self._runs(header, read_body(file, head, raw), segment, head), segment.epoch)
        except BadSegment:
            gap = _missing("damaged", segment, head.first, head.last)
            self._tell(replace(gap, from_ms=head.from_ms, to_ms=head.to_ms, size=head.header_size + head.body_size))
        if not self.full:
            self._page.next = Cursor(segment.epoch, head.last)

    def _tell(self, gap: Gap) -> None:
        end = Cursor(gap.epoch, gap.last)
        if self._start is None or end > self._start:
            self._page.gaps.append(gap)
            self._page.next = max(self._page.next, end)

    def _is_wanted(self, header: FrameHeader, head: Head) -> bool:
        wanted = self._wanted
        if not head.rows or wanted.misses(head.from_ms, head.to_ms):
            return False
        return wanted.pipeline is None or any(one.pipeline == wanted.pipeline for one in header.requests)

    def _runs(self, header: FrameHeader, body: bytes, segment: Segment, head: Head) -> list[LoggedRows]:
        view, at, start = memoryview(body), 0, self._start
        runs = []
        for one in header.requests:
            size = sum(column.size for column in one.columns)
            if self._wanted.pipeline in (None, one.pipeline):
                rows = rows_of(one, view[at : at + size], head, edge=segment.edge, epoch=segment.epoch)
                if start is not None and start.epoch == segment.epoch:
                    rows = _beyond(rows, start.sequence, newest_first=self._page.newest_first)
                rows = self._wanted.chosen(rows)
                if len(rows):
                    runs.append(rows)
            at += size
        return runs

    def _take(self, runs: list[LoggedRows], epoch: int) -> None:
        """As many rows as the page has room for, by their numbers."""
        if not runs:
            return
        page = self._page
        numbers = np.sort(np.concatenate([run.sequences for run in runs]))
        if page.newest_first:
            numbers = numbers[::-1]
        size = sum(run.size for run in runs)
        room, ends = self._rows_left, "limit"
        by_bytes = max(self._bytes_left, 0) * len(numbers) // max(size, 1)
        if by_bytes < min(room, len(numbers)):
            room, ends = max(by_bytes, 0 if len(page) else 1), "bytes"
        if not room:
            self._end(ends)
            return
        last = int(numbers[min(room, len(numbers)) - 1])
        if room < len(numbers):
            newest = page.newest_first
            runs = [
                run.taken(np.flatnonzero((run.sequences >= last) if newest else (run.sequences <= last)))
                for run in runs
            ]
            self._end(ends)
        page.runs.extend(sorted((run for run in runs if len(run)), key=lambda run: int(run.sequences[0])))
        page.next = Cursor(epoch, last)
        self._rows_left -= min(room, len(numbers))
        self._bytes_left -= size
        if not self.full and not self._rows_left:
            self._end("limit")

    def _end(self, ends: str) -> None:
        self.full, self._page.ends = True, ends


def _beyond(run: LoggedRows, sequence: int, *, newest_first: bool) -> LoggedRows:
    wanted = run.sequences < sequence if newest_first else run.sequences > sequence
    return run if wanted.all() else run.taken(np.flatnonzero(wanted))


def _missing(reason: str, segment: Segment, first: int, last: int) -> Gap:
    extent = segment.extent
    return Gap(
        reason=reason,
        edge=segment.edge,
        epoch=segment.epoch,
        first=first,
        last=last,
        rows=last - first + 1,
        from_ms=extent.from_ms,
        to_ms=extent.to_ms,
    )
