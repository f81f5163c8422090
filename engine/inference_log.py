"""The inference log of a peer: every request through a pipeline becomes rows on this disk, beside the answers.

Owns the queue between those who infer and the one thread that writes, sampling, and the count of what was refused.
What a row is: :mod:`engine.inferences`; the folder: :mod:`engine.inference_log_segments`; reading:
:mod:`engine.inference_log_reading`.

Rules:
- Recording never delays an answer: :meth:`InferenceLog.append` takes references and returns. Whoever gave an array to
  an inference does not write to it afterwards.
- Rows for which there is no room are refused and counted by reason. They have numbers like those that are taken, and
  the next frame says why they are not there: ``busy`` (the writer is behind), ``disk_low`` (less than the floor is
  free), ``disk_full``, ``disk_failed``, ``too_large``, ``in_use`` (another process writes to the folder), ``damaged``
  (nothing that can be written), ``closed``.
- Rows are written together, every ``GATHER_S``, and made durable every ``SYNC_S``. A kill of the process loses what
  came since the last writing; a loss of power what came since the last syncing. Nothing stands there twice.
- Sampling takes the wanted share of all rows evenly: row number n is taken where the fraction of n times the golden
  ratio is below the share, so that after any number of rows the share is off by a few rows, whatever their rhythm.
- The thread begins with the first row; while nothing is inferred it sleeps.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from engine.inference_log_frames import Refusal
from engine.inference_log_segments import NotTaken, Segments

if TYPE_CHECKING:
    from engine.inference_log_columns import Recorded
    from engine.inference_log_reading import LogReader
    from engine.inferences import Inference
    from engine.signature import Array
    from federation.pipelines import LogSettings

PENDING_BYTES_MAX: Final = 32 << 20
PENDING_REQUESTS_MAX: Final = 32_768
FRAME_REQUESTS_MAX: Final = 256  # few enough that who infers waits for no more than parts of a millisecond
FRAME_BYTES: Final = 1 << 20
GATHER_S: Final = 0.1
SYNC_S: Final = 1.0
RETRY_S: Final = 1.0  # while rows cannot be written
FLUSH_S_MAX: Final = 10.0
OBJECT_BYTES: Final = 64  # what a text or record takes beside its characters or fields
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1

log = logging.getLogger("peerage.inferences")


@dataclass(frozen=True, slots=True)
class LogCounts:
    """Since this process began: rows ``recorded``, ``sampled_out``, and refused by reason; ``failure``: why rows cannot
    be written now.
    """

    recorded: int
    sampled_out: int
    refused: dict[str, int]
    failure: str


class InferenceLog:
    """:meth:`append` from any thread. ``now_ms``: this device's clock."""

    def __init__(
        self,
        segments: Segments,
        *,
        now_ms: Callable[[], int],
        pending_bytes_max: int = PENDING_BYTES_MAX,
        gather_s: float = GATHER_S,
    ) -> None:
        self.segments = segments
        self._now_ms = now_ms
        self._pending_bytes_max = pending_bytes_max
        self._gather_s = gather_s
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._written = threading.Condition(self._lock)
        self._pending: deque[tuple[Recorded, int]] = deque()
        self._pending_bytes = 0
        self._asleep = True
        self._hurry = False
        self._offered = now_ms()  # so that not every beginning takes its first row
        self._sampled_out = 0
        self._taken = 0  # requests, ever
        self._settled = 0  # of these written or refused
        self._recorded = 0
        self._refused: dict[str, int] = {}
        self._untold: dict[str, Refusal] = {}
        self._failure = ""
        self._closed = False
        self._thread: threading.Thread | None = None
        self._recorded_type: type[Recorded] | None = None

    def append(self, inference: Inference, settings: LogSettings) -> None:
        """Hand a request to the writer; raises nothing. What :data:`engine.servables.Recorder` asks for."""
        recorded_type = self._recorded_type or self._load()
        rows: Array | None = None
        if settings.sample < 1.0:
            rows = self._drawn(inference.count, settings.sample)
            if rows is not None and not len(rows):
                return
        if settings.columns:
            inference = _with_columns(inference, settings.columns)
        size = _size_of(inference)
        recorded = recorded_type(inference, rows)
        with self._lock:
            if self._closed or self._failure or self._crowded(size):
                self._refuse(self._failure or ("closed" if self._closed else "busy"), recorded)
                return
            self._pending.append((recorded, size))
            self._pending_bytes += size
            self._taken += 1
            if self._asleep:
                self._asleep = False
                self._wake.notify()

    def _crowded(self, size: int) -> bool:
        """Whether the writer is too far behind; a single request larger than the bound is taken when nothing waits."""
        if not self._pending:
            return False
        return self._pending_bytes + size > self._pending_bytes_max or len(self._pending) >= PENDING_REQUESTS_MAX

    def flush(self, *, within_s: float = FLUSH_S_MAX) -> bool:
        """Wait until everything appended so far is in the log, or refused; whether that is so."""
        with self._lock:
            goal = self._taken
            if self._settled >= goal:
                return True
            self._hurry, self._asleep = True, False
            self._wake.notify()
            return self._written.wait_for(lambda: self._settled >= goal, within_s)

    def reader(self) -> LogReader:
        """Reads what is in the log, from any thread."""
        from engine.inference_log_reading import LogReader

        return LogReader(self.segments, flush=self.flush)

    def counts(self) -> LogCounts:
        with self._lock:
            return LogCounts(self._recorded, self._sampled_out, dict(self._refused), self._failure)

    def close(self) -> None:
        """Write what was appended, and end. What comes later is refused."""
        with self._lock:
            self._closed = True
            self._hurry, self._asleep = True, False
            self._wake.notify()
            thread = self._thread
        if thread is not None:
            thread.join(FLUSH_S_MAX)
            if thread.is_alive():  # a disk that does not answer; it is a daemon
                log.warning("inference_log_stuck")
                return
        try:
            self.segments.close()
        except OSError as error:
            log.warning("inference_log_not_closed", extra={"reason": str(error)})

    # --- those who infer ----------------------------------------------------------------------------------------------

    def _load(self) -> type[Recorded]:
        """With the first row: numpy is there by then."""
        from engine.inference_log_columns import Recorded

        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._write_all, name="inference-log", daemon=True)
                self._thread.start()
            self._recorded_type = Recorded
        return Recorded

    def _drawn(self, count: int, share: float) -> Array | None:
        """The places of the rows that are taken; None: all."""
        import numpy as np

        with self._lock:
            number = self._offered
            self._offered += count
        bound = int(share * 2.0**64)
        if count == 1:
            taken = (number * _GOLDEN) & _MASK < bound
            if taken:
                return None
            places = np.empty(0, np.intp)
        else:
            with np.errstate(over="ignore"):
                drawn = np.arange(number, number + count, dtype=np.uint64) * np.uint64(_GOLDEN)
            places = np.flatnonzero(drawn < np.uint64(min(bound, _MASK)))
        with self._lock:
            self._sampled_out += count - len(places)
        return None if len(places) == count else places

    def _refuse(self, reason: str, recorded: Recorded) -> None:
        """With the lock."""
        rows, at_ms = recorded.count, recorded.inference.time_ms
        self._refused[reason] = self._refused.get(reason, 0) + rows
        before = self._untold.get(reason)
        if before is None:
            self._untold[reason] = Refusal(reason, rows, at_ms, at_ms)
        else:
            self._untold[reason] = Refusal(
                reason, before.rows + rows, min(before.from_ms, at_ms), max(before.to_ms, at_ms)
            )

    # --- the thread that writes ---------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        due: float | None = None  # when what was written has to be synced
        while True:
            with self._lock:
                if not self._pending and not self._closed:
                    self._asleep = True
                    left_s = None if due is None else max(due - time.monotonic(), 0.0)
                    self._wake.wait_for(lambda: not self._asleep, RETRY_S if self._failure else left_s)
                    self._asleep = False
                if self._pending and not self._hurry:
                    self._wake.wait_for(lambda: self._hurry, self._gather_s)
                closing, self._hurry = self._closed, False
            if self._write_pending() and due is None:
                due = time.monotonic() + SYNC_S
            if due is not None and (closing or time.monotonic() >= due):
                due = None
                self._sync()
            if closing:
                self._tell_refused()
                return

    def _write_pending(self) -> bool:
        """Everything that waits, frame by frame; whether anything was written."""
        if self._failure:
            self._try_again()
        written = False
        while True:
            batch: list[Recorded] = []
            size = 0
            with self._lock:
                while self._pending and len(batch) < FRAME_REQUESTS_MAX and (not batch or size < FRAME_BYTES):
                    recorded, bytes_ = self._pending.popleft()
                    batch.append(recorded)
                    size += bytes_
                refused, self._untold = (tuple(self._untold.values()), {}) if batch else ((), self._untold)
            if not batch:
                return written
            failure = self._write(batch, refused)
            with self._lock:
                self._pending_bytes -= size
                self._settled += len(batch)
                if failure:
                    self._take_back(refused)
                    for recorded in batch:
                        self._refuse(failure, recorded)
                else:
                    self._recorded += sum(recorded.count for recorded in batch)
                    written = True
                self._written.notify_all()

    def _write(self, batch: list[Recorded], refused: tuple[Refusal, ...]) -> str:
        """One frame. Why it could not be written; empty when it was."""
        from engine.inference_log_columns import frame_of

        try:
            self.segments.ready()
            frame = frame_of(batch, first=self.segments.next, refused=refused)
            self.segments.write(
                frame.parts,
                size=frame.size,
                first=frame.first,
                rows=frame.rows,
                from_ms=frame.from_ms,
                to_ms=frame.to_ms,
            )
        except NotTaken as problem:
            if problem.reason != "too_large":
                self._stop_for(problem.reason)
            return problem.reason
        except OSError as error:
            reason = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_failed"
            self._stop_for(reason, str(error))
            return reason
        except (TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:  # what no column holds
            log.warning("inference_not_recorded", extra={"reason": f"{type(error).__name__}: {error}"[:300]})
            return "damaged"
        return ""

    def _stop_for(self, reason: str, said: str = "") -> None:
        with self._lock:
            self._failure = reason
        log.warning("inference_log_stopped", extra={"reason": reason, "said": said})

    def _try_again(self) -> None:
        try:
            self.segments.ready()
        except NotTaken as problem:
            with self._lock:
                self._failure = problem.reason
        except OSError:
            pass
        else:
            with self._lock:
                self._failure = ""
            log.info("inference_log_goes_on")

    def _sync(self) -> None:
        try:
            self.segments.sync()
        except OSError as error:
            self._stop_for("disk_failed", str(error))

    def _tell_refused(self) -> None:
        """At the end, so that the counts are not lost with the process."""
        with self._lock:
            refused, self._untold = tuple(self._untold.values()), {}
        if refused and not self._failure:
            self._write([], refused)

    def _take_back(self, refused: tuple[Refusal, ...]) -> None:
        """With the lock: they were not told after all."""
        for one in refused:
            since = self._untold.get(one.reason)
            if since is not None:
                one = Refusal(one.reason, one.rows + since.rows, one.from_ms, since.to_ms)  # noqa: PLW2901
            self._untold[one.reason] = one


def _size_of(inference: Inference) -> int:
    """About what a request takes in memory while it waits."""
    size = OBJECT_BYTES
    for columns in (inference.inputs, inference.outputs, *inference.challengers.values()):
        for column in columns.values():
            size += column.nbytes
            if column.dtype.kind == "O":
                size += sum(OBJECT_BYTES + len(one) for one in column.ravel().tolist() if isinstance(one, str | dict))
    return size


def _with_columns(inference: Inference, names: tuple[str, ...]) -> Inference:
    """What of a request is recorded, and in ``dropped`` what is not: groups, or ``group.column``; ``time``,
    ``metadata`` and ``anomaly.count`` always are.
    """
    import numpy as np

    from engine.records import Selection

    selection = Selection(frozenset(names))
    left: list[str] = []

    def chosen(group: str, columns: dict[str, Array]) -> dict[str, Array]:
        left.extend(f"{group}.{name}" for name in columns if not selection.gives(group, name))
        return {name: column for name, column in columns.items() if selection.gives(group, name)}

    inputs, outputs = chosen("in", dict(inference.inputs)), chosen("out", dict(inference.outputs))
    challengers = {name: chosen(f"out_{name}", dict(columns)) for name, columns in inference.challengers.items()}
    anomalies = chosen("anomaly", dict(inference.anomalies))
    if len(anomalies) != len(inference.anomalies):
        flags = np.stack(list(inference.anomalies.values()))
        count: Array = np.add.reduce(flags, axis=0, dtype=np.uint32)
        anomalies = {"count": count, **anomalies}
    return replace(
        inference,
        inputs=inputs,
        outputs=outputs,
        challengers=challengers,
        anomalies=anomalies,
        dropped=(*inference.dropped, *left),
    )
