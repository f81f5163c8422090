"""The inference log of a peer, composed: where it lies, how large it may be, whose rows it holds, what it tells.

An edge keeps one unless it is told not to; every other peer keeps one only when it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from engine.inference_log import InferenceLog
from engine.inference_log_segments import Segments, quota_of
from peers.homes import Home, Membership
from peers.metrics import Extra
from peers.settings import CommonSettings
from query.quantities import parse_bytes

if TYPE_CHECKING:
    from engine.inference_log_reading import LogReader


def opened_inference_log(home: Home, settings: CommonSettings, membership: Membership) -> InferenceLog | None:
    """Touches no disk before the first inference, or the first question."""
    quota_bytes = quota_of(settings.local_inference_storage)
    if not quota_bytes:
        return None

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    segments = Segments(
        home.path / "inferences",
        edge=membership.uuid or membership.name,
        quota_bytes=quota_bytes,
        free_bytes_min=parse_bytes(settings.local_inference_free_min),
        now_ms=now_ms,
    )
    return InferenceLog(segments, now_ms=now_ms)


def log_finder(log: InferenceLog | None) -> Callable[[], LogReader | None]:
    """The log as its route finds it."""
    reader: list[LogReader] = []

    def find() -> LogReader | None:
        if log is not None and not reader:
            reader.append(log.reader())
        return reader[0] if reader else None

    return find


def log_metrics(log: InferenceLog | None) -> tuple[Callable[[], Iterable[Extra]], ...]:
    """What Prometheus is told of the log."""
    if log is None:
        return ()

    def extras() -> Iterable[Extra]:
        counts, ledger = log.counts(), log.segments.ledger()
        refused: dict[tuple[str, ...], float] = {(reason,): rows for reason, rows in counts.refused.items()}
        gone = ledger.older_rows + sum(gap.rows for gap in ledger.gaps)
        return (
            Extra("peerage_log_rows_total", "rows recorded in the inference log", {(): counts.recorded}),
            Extra("peerage_log_rows_sampled_out_total", "rows that sampling left out", {(): counts.sampled_out}),
            Extra("peerage_log_rows_refused_total", "rows that were not recorded, by reason", refused, ("reason",)),
            Extra("peerage_log_rows_gone", "rows dropped or lost since the log began", {(): gone}, counts=False),
            Extra("peerage_log_bytes", "what the inference log takes", {(): log.segments.size}, counts=False),
            Extra("peerage_log_quota_bytes", "what it may take", {(): log.segments.quota_bytes}, counts=False),
        )

    return (extras,)
