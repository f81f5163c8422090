"""What lies in the folder of an inference log when it is opened: segments, mended where a kill cut them off.

Owns the look at one file and at what is missing between files. A segment without an end mark was written to when its
process ended: what stands behind its last whole frame is cut away, the end mark is set, and a gap names it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from engine.inference_log_frames import BadSegment, Extent, end_bytes, heads, holds, read_end, read_preamble
from engine.inference_log_ledger import Gap

_NAME: Final = re.compile(r"([0-9]{16})-([0-9]{16})\.log")

log = logging.getLogger("peerage.inferences")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file. ``start``: where its frames begin; ``extent.end``: up to where they were written."""

    path: Path
    edge: str
    epoch: int
    first: int
    start: int
    extent: Extent
    size: int

    @property
    def last(self) -> int:
        return self.extent.last

    def gap(self, reason: str, *, now_ms: int) -> Gap:
        """What the ledger says when it is gone."""
        extent = self.extent
        return Gap(
            reason=reason,
            edge=self.edge,
            epoch=self.epoch,
            first=self.first,
            last=self.last,
            rows=extent.rows,
            from_ms=extent.from_ms,
            to_ms=extent.to_ms,
            size=self.size,
            at_ms=now_ms,
        )


def segment_name(epoch: int, first: int) -> str:
    return f"{epoch:016d}-{first:016d}.log"


def segment_files(folder: Path) -> list[tuple[Path, int, int]]:
    """Path, epoch and first row of each file that has the name of a segment, the oldest first."""
    found = []
    for path in folder.glob("*.log"):
        name = _NAME.fullmatch(path.name)
        if name is not None and path.is_file():
            found.append((path, int(name[1]), int(name[2])))
    return sorted(found, key=lambda one: one[1:])


def mended(path: Path, epoch: int, first: int, *, edge: str, now_ms: int) -> tuple[Segment, Gap | None]:
    """A segment, whole, and what was cut off of it. ``edge``: whose it is when its first lines do not say.

    Raises ``OSError``.
    """
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            preamble, start = read_preamble(file)
            edge = preamble.edge
        except BadSegment:
            start = 0
        extent = read_end(file, size)
        if extent is not None:
            return Segment(path, edge, epoch, first, start, extent, size), None
        extent, torn = _whole_frames(file, first, start, size)
        cut = size - extent.end
        if extent.frames:
            mark = end_bytes(extent)
            file.truncate(extent.end)
            file.seek(extent.end)
            file.write(mark)
            file.flush()
            os.fdatasync(file.fileno())
            size = extent.end + len(mark)
    segment = Segment(path, edge, epoch, first, start, extent, size)
    if not cut:
        return segment, None
    log.warning("inference_log_mended", extra={"segment": path.name, "bytes": cut, "rows": torn})
    begin = segment.last + 1
    return segment, Gap(
        reason="cut_off",
        edge=edge,
        epoch=epoch,
        first=begin,
        last=begin + max(torn, 1) - 1,
        rows=torn,
        from_ms=extent.to_ms,
        to_ms=extent.to_ms,
        size=cut,
        at_ms=now_ms,
    )


def _whole_frames(file: BinaryIO, first: int, start: int, size: int) -> tuple[Extent, int]:
    """Up to the last frame that holds, and the rows of those behind it whose heads do. One between others that does
    not hold stays, for the reader to name.
    """
    extent, torn = Extent(0, 0, first - 1, 0, 0, start), 0
    for head in heads(file, start, size):
        if not holds(file, head):
            torn += head.rows
            continue
        extent = extent.with_frame(
            first=head.first, rows=head.rows, from_ms=head.from_ms, to_ms=head.to_ms, end=head.end
        )
        torn = 0
    return extent, torn


def holes(found: Sequence[Segment], told: Iterable[Gap], *, now_ms: int) -> list[Gap]:
    """Rows between two segments of one epoch that nobody accounts for: somebody removed a file."""
    covered = {(gap.epoch, gap.first): gap.last for gap in told if gap.last >= gap.first}
    gaps = []
    for before, after in pairwise(found):
        if before.epoch != after.epoch:
            continue
        missing = before.last + 1
        while (before.epoch, missing) in covered:
            missing = covered[before.epoch, missing] + 1
        if missing < after.first:
            gaps.append(
                Gap(
                    reason="lost",
                    edge=after.edge,
                    epoch=after.epoch,
                    first=missing,
                    last=after.first - 1,
                    rows=after.first - missing,
                    from_ms=before.extent.to_ms,
                    to_ms=after.extent.from_ms,
                    at_ms=now_ms,
                )
            )
    return gaps
