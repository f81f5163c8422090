"""Inferences and logs of them, made for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.inference_log import InferenceLog
from engine.inference_log_reading import Cursor, LogReader
from engine.inference_log_segments import Segments
from engine.inferences import AnsweringModel, Inference
from federation.pipelines import LogSettings

EDGE = "0f4c2f6e-6a31-4a54-9b1c-2f3c6a1d8e55"
NOW_MS = 1_800_000_000_000
QUOTA = 64 << 20
MODEL = AnsweringModel("double", "1.0", "ab" * 32)
OTHER = AnsweringModel("triple", "2.1", "cd" * 32)
ALL = LogSettings()

Columns = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


def inference(
    number: int = 0,
    *,
    count: int = 1,
    pipeline: str = "pipe",
    version: str = "v1",
    time_ms: int | None = None,
    inputs: Columns | None = None,
    outputs: Columns | None = None,
    challengers: Mapping[str, Columns] | None = None,
    anomalies: Columns | None = None,
    models: tuple[AnsweringModel, ...] = (MODEL,),
    answered: np.ndarray[Any, np.dtype[Any]] | None = None,
    elapsed_ns: tuple[int, ...] = (11, 22),
    dropped: tuple[str, ...] = (),
) -> Inference:
    """Request ``number``, whose rows hold ``number``, ``number + 1`` …"""
    x = np.arange(number, number + count, dtype=np.float32)
    return Inference(
        pipeline,
        version,
        "EDGE-1",
        NOW_MS + number if time_ms is None else time_ms,
        count,
        inputs if inputs is not None else {"x": np.stack([x, x / 3], axis=1)},
        outputs if outputs is not None else {"y": x * 2},
        challengers or {},
        anomalies if anomalies is not None else {"big": x > 100},
        models,
        answered,
        elapsed_ns,
        dropped,
    )


@contextmanager
def log_in(folder: Path, **about: Any) -> Iterator[InferenceLog]:
    """A log that writes into a folder. ``about``: of :class:`Segments` and :class:`InferenceLog`."""
    made = opened(folder, **about)
    try:
        yield made
    finally:
        made.close()


def opened(
    folder: Path,
    *,
    quota_bytes: int = QUOTA,
    edge: str = EDGE,
    free_bytes: Callable[[], int] | None = None,
    free_bytes_min: int = 0,
    segment_bytes: int | None = None,
    now_ms: Callable[[], int] = lambda: NOW_MS,
    gather_s: float = 0.0,
    pending_bytes_max: int = 32 << 20,
) -> InferenceLog:
    segments = Segments(
        folder,
        edge=edge,
        quota_bytes=quota_bytes,
        now_ms=now_ms,
        free_bytes=free_bytes,
        free_bytes_min=free_bytes_min,
    )
    if segment_bytes is not None:
        segments.segment_bytes = segment_bytes
    return InferenceLog(segments, now_ms=now_ms, gather_s=gather_s, pending_bytes_max=pending_bytes_max)


def everything(reader: LogReader, **about: Any) -> tuple[list[tuple[str, int, int]], list[Any]]:
    """The identity of every row, page by page, and every gap on the way."""
    rows: list[tuple[str, int, int]] = []
    gaps: list[Any] = []
    place: Cursor | None = None
    while True:
        page = reader.read(place, **about)
        assert place is None or page.next >= place
        rows.extend(sorted((run.edge, run.epoch, int(number)) for run in page.runs for number in run.sequences))
        gaps.extend(page.gaps)
        if page.ends == "end":
            return rows, gaps
        assert page.next != place
        place = page.next
