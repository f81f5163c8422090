"""The time limit of every run, kept by one thread.

A run borrows run options from here and gives them back; a thread that wakes a few times per limit ends the runs that
are overdue by their ``terminate`` flag, which the runtime obeys between two nodes and two rounds of a loop. Who takes a
run out of the table, its end or the thread, decides whether its options may be used again.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Any, Final

from engine.sessions import run_options

CHECKS_PER_LIMIT: Final = 4
CHECK_INTERVAL_S_MAX: Final = 1.0


class RunDeadlines:
    """Thread-safe. A run ends at the latest a check interval after its limit, counted between nodes."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._idle: deque[Any] = deque()
        self._running: dict[int, tuple[float, Any]] = {}
        self._closed = threading.Event()
        interval_s = min(limit_s / CHECKS_PER_LIMIT, CHECK_INTERVAL_S_MAX)
        threading.Thread(target=self._watch, args=(interval_s,), name="run-deadlines", daemon=True).start()

    def start(self) -> Any:
        """Run options whose deadline begins now; to be given to :meth:`end`."""
        try:
            options = self._idle.pop()
        except IndexError:
            options = run_options()
        self._running[id(options)] = (monotonic() + self.limit_s, options)
        return options

    def end(self, options: Any) -> None:
        if self._running.pop(id(options), None) is not None:
            self._idle.append(options)

    def abort(self, options: Any) -> None:
        """End a run that nobody waits for any more."""
        if self._running.pop(id(options), None) is not None:
            options.terminate = True

    def close(self) -> None:
        self._closed.set()

    def _watch(self, interval_s: float) -> None:
        while not self._closed.wait(interval_s):
            now = monotonic()
            for deadline, options in list(self._running.values()):
                if deadline < now:
                    self.abort(options)
