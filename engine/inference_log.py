"""The inference log of a peer: every request through a pipeline becomes rows on this disk, beside the answers.

Owns the queue between those who infer and the one thread that writes, and the count of what was refused.
What a row is: :mod:`engine.inferences`; the folder: :mod:`engine.inference_log_segments`; reading:
:mod:`engine.inference_log_reading`.

Rules:
- Recording never delays an answer: :meth:`InferenceLog.append` takes a reference, or the bytes of a few columns
  (:mod:`engine.inference_log_batches`), and returns. Whoever gave an array to an inference does not write to it
  afterwards.
- Rows for which there is no room are refused and counted by reason. They have numbers like those that are taken, and
  the next frame says why they are not there: ``busy`` (the writer is behind), ``disk_low`` (less than the floor is
  free), ``disk_full``, ``disk_failed``, ``too_large``, ``in_use`` (another process writes to the folder), ``damaged``
  (nothing that can be written), ``closed``.
- Rows are written together, every ``GATHER_S``, and made durable every ``SYNC_S``. A kill of the process loses what
  came since the last writing; a loss of power what came since the last syncing. Nothing stands there twice.
- The thread begins with the first row; while nothing is inferred it sleeps.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.inference_log_batches import Batch
from engine.inference_log_frames import Refusal
from engine.inference_log_sampling import Sampling
from engine.inference_log_segments import NotTaken, Segments

if TYPE_CHECKING:
    from engine.inference_log_reading import LogReader
    from engine.inferences import Inference
    from federation.pipelines import LogSettings

PENDING_BYTES_MAX: Final = 32 << 20
FRAME_BYTES: Final = 1 << 20
FRAMES_OF_QUOTA: Final = 64  # a frame of several requests is at most about this part of it
FULL_WAITING: Final = 8  # frames for which the writer does not go on gathering
GATHER_S: Final = 0.25
SYNC_S: Final = 1.0
RETRY_S: Final = 1.0  # while rows cannot be written
FLUSH_S_MAX: Final = 10.0

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
        self._pending_bytes_max = pending_bytes_max
        self._gather_s = gather_s
        self._sampling = Sampling(now_ms())  # so that not every beginning takes its first row
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._written = threading.Condition(self._lock)
        self._frame_bytes = min(FRAME_BYTES, segments.quota_bytes // FRAMES_OF_QUOTA, pending_bytes_max // FULL_WAITING)
        self._batch = Batch()  # to which requests are added
        self._full: list[Batch] = []
        self._held_bytes = 0  # of full batches, until they are written
        self._refusing = ""  # why rows are refused now
        self._asleep = True
        self._hurry = False
        self._begun = 0  # batches, ever
        self._settled = 0  # of these written or refused
        self._recorded = 0
        self._refused: dict[str, int] = {}
        self._untold: dict[str, Refusal] = {}
        self._failure = ""
        self._closed = False
        self._thread: threading.Thread | None = None

    def append(self, inference: Inference, settings: LogSettings) -> None:
        """Hand a request to the writer; raises nothing. What :data:`engine.servables.Recorder` asks for."""
        if settings.sample < 1.0 or settings.columns:
            chosen = self._sampling.chosen(inference, settings)
            if chosen is None:
                return
            inference = chosen
        with self._lock:
            batch = self._batch
            if self._refusing:
                self._refuse(self._refusing, inference.count, (inference.time_ms,))
                return
            batch.add(inference)
            if batch.size >= self._frame_bytes:
                self._turn_over()
            if self._asleep:
                self._begin()

    def _turn_over(self) -> None:
        """With the lock: a frame is full."""
        batch, self._batch = self._batch, Batch()
        self._full.append(batch)
        self._begun += 1
        self._held_bytes += batch.size
        if len(self._full) >= FULL_WAITING:
            self._hurry = True
            self._wake.notify()
        self._decide()

    def _decide(self) -> None:
        """With the lock: whether rows are refused, and why."""
        busy = "busy" if self._held_bytes >= self._pending_bytes_max else ""
        self._refusing = self._failure or ("closed" if self._closed else busy)

    def flush(self, *, within_s: float = FLUSH_S_MAX) -> bool:
        """Wait until everything appended so far is in the log, or refused; whether that is so."""
        with self._lock:
            if self._batch.rows:
                self._turn_over()
            goal = self._begun
            if self._settled >= goal:
                return True
            self._hurry = True
            self._wake.notify()
            return self._written.wait_for(lambda: self._settled >= goal, within_s)

    def reader(self) -> LogReader:
        """Reads what is in the log, from any thread."""
        from engine.inference_log_reading import LogReader

        return LogReader(self.segments, flush=self.flush)

    def counts(self) -> LogCounts:
        with self._lock:
            return LogCounts(self._recorded, self._sampling.left_out, dict(self._refused), self._failure)

    def close(self) -> None:
        """Write what was appended, and end. What comes later is refused."""
        with self._lock:
            self._closed = True
            self._decide()
            self._hurry = True
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

    def _begin(self) -> None:
        """With the lock: something waits."""
        self._asleep = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="inference-log", daemon=True)
            self._thread.start()
        else:
            self._wake.notify()

    def _refuse(self, reason: str, rows: int, times: Sequence[int]) -> None:
        """With the lock. ``times``: when the requests were answered."""
        self._refused[reason] = self._refused.get(reason, 0) + rows
        self._tell_later(Refusal(reason, rows, min(times), max(times)))

    def _tell_later(self, one: Refusal) -> None:
        """With the lock."""
        known = self._untold.get(one.reason)
        if known is not None:
            from_ms, to_ms = min(known.from_ms, one.from_ms), max(known.to_ms, one.to_ms)
            one = Refusal(one.reason, known.rows + one.rows, from_ms, to_ms)
        self._untold[one.reason] = one

    # --- the thread that writes ---------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        due: float | None = None  # when what was written has to be synced
        while True:
            with self._lock:
                if not self._waits() and not self._closed:
                    self._asleep = True
                    left_s = None if due is None else max(due - time.monotonic(), 0.0)
                    self._wake.wait_for(self._is_awake, RETRY_S if self._failure else left_s)
                    self._asleep = False
                if self._waits() and not self._hurry:
                    self._wake.wait_for(lambda: self._hurry, self._gather_s)
                closing = self._closed
                if self._batch.rows:
                    self._turn_over()
                batches, self._full, self._hurry = self._full, [], False
            if self._write_batches(batches) and due is None:
                due = time.monotonic() + SYNC_S
            if due is not None and (closing or time.monotonic() >= due):
                due = None
                self._sync()
            if closing:
                self._tell_refused()
                return

    def _waits(self) -> bool:
        return bool(self._full or self._batch.rows)

    def _is_awake(self) -> bool:
        return not self._asleep or self._closed

    def _write_batches(self, batches: list[Batch]) -> bool:
        """A frame for each; whether anything was written."""
        if not batches and not self._failure:
            return False
        self._make_ready()
        written = False
        for batch in batches:
            with self._lock:
                refused, self._untold = tuple(self._untold.values()), {}
            failure = self._failure or self._write(batch, refused)
            with self._lock:
                self._held_bytes -= batch.size
                self._settled += 1
                self._decide()
                if failure:
                    for one in refused:
                        self._tell_later(one)
                    self._refuse(failure, batch.rows, batch.times)
                else:
                    self._recorded += batch.rows
                    written = True
                self._written.notify_all()
        return written

    def _make_ready(self) -> None:
        """Whether rows can be written, before a batch, and again and again while they cannot."""
        failed, said = "", ""
        try:
            self.segments.ready()
        except NotTaken as problem:
            failed = problem.reason
        except OSError as error:
            failed, said = _reason(error), str(error)
        with self._lock:
            before, self._failure = self._failure, failed
            self._decide()
        if failed and failed != before:
            log.warning("inference_log_stopped", extra={"reason": failed, "said": said})
        elif before and not failed:
            log.info("inference_log_goes_on")

    def _write(self, batch: Batch, refused: tuple[Refusal, ...]) -> str:
        """One frame. Why it could not be written; empty when it was."""
        from engine.inference_log_columns import frame_of

        try:
            frame = frame_of(batch, first=self.segments.next, refused=refused)
            self.segments.write(frame)
        except NotTaken as problem:
            return problem.reason
        except OSError as error:
            return self._stop(error)
        except Exception:  # the writer goes on for all others
            log.exception("inferences_not_recorded", extra={"rows": batch.rows})
            return "damaged"
        return ""

    def _sync(self) -> None:
        try:
            self.segments.sync()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> str:
        reason = _reason(error)
        with self._lock:
            self._failure = reason
            self._decide()
        log.warning("inference_log_stopped", extra={"reason": reason, "said": str(error)})
        return reason

    def _tell_refused(self) -> None:
        """At the end, so that the counts are not lost with the process."""
        with self._lock:
            refused, self._untold = tuple(self._untold.values()), {}
        if refused and not self._failure and self.segments.is_open:
            self._write(Batch(), refused)


def _reason(error: OSError) -> str:
    return "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_failed"
