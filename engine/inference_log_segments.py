"""The folder of an inference log: its segments, oldest first, and the ledger of what is not there any more.

    <epoch>-<first>.log    a segment (:mod:`engine.inference_log_frames`), in whose name stand its first row's numbers
    ledger.json            every gap: which rows are gone, how many, of when, why (:mod:`engine.inference_log_ledger`)
    lock                   held by the process that writes here

Owns these files. Refuses to write what would leave less than ``free_bytes_min`` on the disk, and a frame larger than
half the quota (:class:`NotTaken`). One thread writes; what says so may be asked from any.

Rules:
- Every opening begins an epoch of its own, above all that are known here, and numbers its rows from 1: whatever became
  of the folder meanwhile (killed, filled, lost, put back from a copy), no two rows have the same numbers.
- The numbers of an epoch's rows follow each other, refused ones included; what is gone is in the ledger.
- Beyond the quota the oldest segment goes whole. What goes is in the ledger, durably, before its file is unlinked; a
  kill between the two is made good at the next opening, and nothing is told twice.
- Segments of an earlier opening are never written to, but for being mended (:mod:`engine.inference_log_mending`).
- A folder that is gone, or another one, while rows are written begins anew: a new epoch, and the ledger names what is
  lost. So it does with a segment that somebody removed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from engine.inference_log_frames import (
    END_BYTES,
    PREAMBLE_BYTES_MAX,
    Extent,
    Frame,
    Preamble,
    end_bytes,
    preamble_bytes,
)
from engine.inference_log_ledger import Gap, Ledger, read_ledger, write_ledger
from engine.inference_log_mending import Segment, holes, mended, segment_files, segment_name
from federation.blobs import sync_folder
from query.quantities import BadQuantity, parse_bytes

FREE_BYTES_MIN: Final = 1_000_000_000
QUOTA_BYTES_MIN: Final = 64 * 1024
SEGMENT_BYTES_MAX: Final = 32 << 20
SEGMENTS_OF_QUOTA: Final = 16  # a segment is at most this part of the quota
SEGMENTS_MAX: Final = 10_000
PARTS_MAX: Final = 512  # buffers of one write; the system takes 1024
LOCK: Final = "lock"

log = logging.getLogger("peerage.inferences")


def quota_of(amount: str | int) -> int:
    """The bytes that an amount as ``512Mi`` stands for; 0 for no log. Raises ``BadQuantity``."""
    if str(amount).strip() == "0":
        return 0
    found = parse_bytes(amount)
    if found < QUOTA_BYTES_MIN:
        raise BadQuantity(f"expected 0, or at least {QUOTA_BYTES_MIN >> 10}Ki for an inference log, found {amount}")
    return found


class NotTaken(Exception):
    """Rows that cannot be written now; ``reason`` is one of ``disk_low too_large in_use closed``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Segments:
    """``edge`` is who records; ``free_bytes`` says what is free on the folder's disk. Touches nothing before
    :meth:`open`.
    """

    def __init__(
        self,
        path: Path,
        *,
        edge: str,
        quota_bytes: int,
        now_ms: Callable[[], int],
        free_bytes: Callable[[], int] | None = None,
        free_bytes_min: int = FREE_BYTES_MIN,
    ) -> None:
        self.path = path
        self.edge = edge
        self.quota_bytes = quota_bytes
        self.free_bytes_min = free_bytes_min
        self.segment_bytes = min(SEGMENT_BYTES_MAX, max(quota_bytes // SEGMENTS_OF_QUOTA, 1))
        self.epoch = 0
        self.next = 1
        self._now_ms = now_ms
        self._free_bytes = free_bytes or self._free
        self._turn = threading.RLock()  # of whoever changes what is there
        self._known: tuple[Segment, ...] = ()  # replaced whole, so that any thread may look
        self._ledger = Ledger()
        self._file: int | None = None
        self._folder_lock: int | None = None
        self._place: tuple[int, int] | None = None
        self._ended = False

    @property
    def is_open(self) -> bool:
        return self._folder_lock is not None

    def open(self) -> None:
        """Read what is there, mend it, and begin an epoch; nothing when it is open.

        Raises ``OSError``, and ``NotTaken`` when another process writes here, or this one has ended doing so.
        """
        with self._turn:
            if self.is_open:
                return
            if self._ended:
                raise NotTaken("closed")
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = self.path.stat()
                self._take_stock()
                self._begin_epoch()
                self._make_room(0)
            except BlockingIOError:
                os.close(held)
                raise NotTaken("in_use") from None
            except BaseException:
                os.close(held)
                raise
            self._folder_lock, self._place = held, (status.st_dev, status.st_ino)

    def listed(self) -> tuple[Segment, ...]:
        """Every segment, the oldest first."""
        return self._known

    def ledger(self) -> Ledger:
        """What is not there any more."""
        return self._ledger

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self._known)

    def ready(self) -> None:
        """Before a frame is made: that rows can be written, and where; :attr:`epoch` and :attr:`next` then hold.

        Raises ``NotTaken`` and ``OSError``.
        """
        with self._turn:
            if self.is_open and not self._in_place():
                log.warning("inference_log_lost", extra={"folder": str(self.path)})
                self._let_go()
            self.open()
            if self._free_bytes() < self.free_bytes_min:
                raise NotTaken("disk_low")

    def write(self, frame: Frame) -> None:
        """Append a frame whose rows begin at or behind :attr:`next`; it says why the numbers between were refused.

        Raises ``NotTaken`` and ``OSError``; then nothing of it stays.
        """
        size = frame.size
        with self._turn:
            if size > self.quota_bytes // 2:
                raise NotTaken("too_large")
            if self._file is not None and self._known[-1].size + size > self.segment_bytes:
                self.seal()
            self._make_room(size)
            if self._file is None:
                self._begin_segment()
            assert self._file is not None
            segment = self._known[-1]
            try:
                _write_all(self._file, frame.parts, at=segment.extent.end)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._file, segment.extent.end)
                raise
            end = segment.extent.end + size
            extent = segment.extent.with_frame(
                first=frame.first, rows=frame.rows, from_ms=frame.from_ms, to_ms=frame.to_ms, end=end
            )
            self._known = (*self._known[:-1], replace(segment, extent=extent, size=end))
            self.next = extent.last + 1

    def sync(self) -> None:
        """What was written survives a loss of power."""
        if self._file is not None:
            os.fdatasync(self._file)

    def seal(self) -> None:
        """Close the segment that is written to; the next frame begins another."""
        with self._turn:
            if self._file is None:
                return
            segment = self._known[-1]
            file, self._file = self._file, None
            try:
                mark = end_bytes(segment.extent)
                _write_all(file, (mark,), at=segment.extent.end)
                os.fdatasync(file)
                self._known = (*self._known[:-1], replace(segment, size=segment.extent.end + len(mark)))
            finally:
                os.close(file)

    def note_lost(self, segment: Segment) -> None:
        """A reader did not find the file of a segment."""
        with self._turn:
            if segment.path.exists() or all(one.path != segment.path for one in self._known):
                return
            try:
                self._note([segment.gap("lost", now_ms=self._now_ms())])
            except OSError as error:  # the next opening sees that it is missing
                log.warning("inference_ledger_not_written", extra={"reason": str(error)})
                return
            self._forget([segment])

    def close(self) -> None:
        """For good: whoever opens the folder next begins another epoch."""
        with self._turn:
            self._ended = True
            try:
                self.seal()
            finally:
                self._let_go()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take_stock(self) -> None:
        """The segments that are there, whole; finishes and notes what an end in between has left."""
        ledger, now_ms = read_ledger(self.path), self._now_ms()
        gaps = [gap for gap in self._ledger.gaps if gap not in ledger.gaps]  # of a folder that was lost
        dropped = {(gap.epoch, gap.first) for gap in (*ledger.gaps, *gaps) if gap.reason == "quota"}
        found: list[Segment] = []
        going: list[Path] = []
        for path, epoch, first in segment_files(self.path):
            if (epoch, first) in dropped:
                going.append(path)
                continue
            segment, gap = mended(path, epoch, first, edge=self.edge, now_ms=now_ms)
            if gap is not None:
                gaps.append(gap)
            if segment.extent.frames:
                found.append(segment)
            else:
                going.append(path)
        there = {segment.path for segment in found}
        told = {(gap.epoch, gap.first) for gap in (*ledger.gaps, *gaps)}
        for segment in self._known:
            if segment.path not in there and segment.extent.rows and (segment.epoch, segment.first) not in told:
                gaps.append(segment.gap("lost", now_ms=now_ms))
        gaps.extend(holes(found, (*ledger.gaps, *gaps), now_ms=now_ms))
        self._known, self._ledger = tuple(found), ledger
        self._note(gaps)
        for path in going:
            path.unlink(missing_ok=True)

    def _begin_epoch(self) -> None:
        known = [self.epoch, *(one.epoch for one in self._known), *(gap.epoch for gap in self._ledger.gaps)]
        minted = (self._now_ms() // 1000 << 20) + secrets.randbits(20)
        self.epoch = max(minted, max(known) + 1 + secrets.randbits(20))
        self.next = 1

    def _in_place(self) -> bool:
        """Whether the folder, and the file that is written to, are still the ones that were opened."""
        try:
            status = self.path.stat()
            if (status.st_dev, status.st_ino) != self._place:
                return False
            return self._file is None or os.fstat(self._file).st_nlink > 0
        except OSError:
            return False

    def _let_go(self) -> None:
        for handle in (self._file, self._folder_lock):
            if handle is not None:
                os.close(handle)
        self._file = self._folder_lock = self._place = None

    def _begin_segment(self) -> None:
        path = self.path / segment_name(self.epoch, self.next)
        start = preamble_bytes(Preamble(self.edge, self.epoch, self.next))
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(file, (start,), at=0)
            sync_folder(self.path)
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        extent = Extent(0, 0, self.next - 1, 0, 0, len(start))
        self._file = file
        segment = Segment(path, self.edge, self.epoch, self.next, len(start), extent, len(start))
        self._known = (*self._known, segment)

    def _make_room(self, size: int) -> None:
        """Drop the oldest segments until a frame fits the quota."""
        total = self.size + size + PREAMBLE_BYTES_MAX + END_BYTES
        going: list[Segment] = []
        while len(going) < len(self._known) and (
            total > self.quota_bytes or len(self._known) - len(going) > SEGMENTS_MAX
        ):
            if len(going) == len(self._known) - 1:
                self.seal()
            going.append(self._known[len(going)])
            total -= going[-1].size
        if going:
            now_ms = self._now_ms()
            self._note([segment.gap("quota", now_ms=now_ms) for segment in going if segment.extent.rows])
            for segment in going:
                segment.path.unlink(missing_ok=True)
            self._forget(going)

    def _note(self, gaps: Sequence[Gap]) -> None:
        """Durably. Nothing that it names is unlinked before."""
        if gaps:
            ledger = self._ledger.with_gaps(gaps)
            write_ledger(self.path, ledger)
            self._ledger = ledger
        for gap in gaps:
            log.info("inferences_gone", extra={"reason": gap.reason, "epoch": gap.epoch, "rows": gap.rows})

    def _forget(self, going: Sequence[Segment]) -> None:
        paths = {segment.path for segment in going}
        self._known = tuple(segment for segment in self._known if segment.path not in paths)

    def _free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


def _write_all(file: int, parts: Sequence[bytes | memoryview], *, at: int) -> None:
    """Everything, from a place on."""
    left = [memoryview(part) for part in parts if len(part)]
    while left:
        written = os.pwritev(file, left[:PARTS_MAX], at)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        at += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
