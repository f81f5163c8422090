"""The time limit of every run, kept by one thread.

A run borrows run options from here and gives them back; a thread ends the runs that are overdue by their ``terminate``
flag, which the runtime obeys between two nodes and two rounds of a loop. Who takes a run out of the table, its end or
the thread, decides whether its options may be used again.

The thread sleeps until the earliest deadline among the runs that it saw when it last looked; a run with an earlier one
wakes it. Having seen none it looks once more a limit later, and then sleeps until a run wakes it. So it wakes about
once per limit while there are runs, however short they are, and never while there are none.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic_ns
from typing import Any, Final, TypeAlias

from engine.sessions import run_options

NEVER_NS: Final = 1 << 62

Started: TypeAlias = tuple[int, Any]
"""A run that has begun: its deadline by ``monotonic_ns``, and its run options."""


class RunDeadlines:
    """Thread-safe. A run is told to end at its limit, counted between nodes."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._limit_ns = int(limit_s * 1e9)
        self._idle: deque[Any] = deque()
        self._running: dict[int, Started] = {}
        self._look_ns = NEVER_NS  # when the thread looks next
        self._wake = threading.Event()
        self._closed = False
        self.looks = 0
        threading.Thread(target=self._watch, name="run-deadlines", daemon=True).start()

    def start(self, now_ns: int, limit_s: float | None = None) -> Any:
        """Run options whose deadline begins now, by ``monotonic_ns``; to be given to :meth:`end`.

        ``limit_s`` shortens the limit of every run, and does not lengthen it.
        """
        try:
            options = self._idle.pop()
        except IndexError:
            options = run_options()
        deadline_ns = now_ns + self._limit_ns
        if limit_s is not None:
            deadline_ns = min(deadline_ns, now_ns + max(0, int(limit_s * 1e9)))
        self._running[id(options)] = (deadline_ns, options)
        if deadline_ns < self._look_ns:
            self._wake.set()
        return options

    def end(self, options: Any) -> None:
        if self._running.pop(id(options), None) is not None:
            self._idle.append(options)

    def begun(self, options: Any) -> Started:
        """Names the run that has these options now, for :meth:`abort`: options are used again."""
        return self._running.get(id(options), (0, options))

    def abort(self, started: Started) -> None:
        """End a run that nobody waits for any more. Nothing happens to one that has ended."""
        _, options = started
        found = self._running.pop(id(options), None)
        if found is started:
            options.terminate = True
        elif found is not None:
            self._running[id(options)] = found  # another run has them by now

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _watch(self) -> None:
        woken = False
        while not self._closed:
            self._wake.clear()
            # First say that nobody looks, then look: a run that begins meanwhile is either seen or wakes this thread.
            self._look_ns = NEVER_NS
            now_ns = monotonic_ns()
            self.looks += 1
            next_ns = now_ns + self._limit_ns if woken else NEVER_NS
            for started in list(self._running.values()):
                if started[0] <= now_ns:
                    self.abort(started)
                else:
                    next_ns = min(next_ns, started[0])
            self._look_ns = next_ns
            woken = self._wake.wait(None if next_ns == NEVER_NS else (next_ns - now_ns) / 1e9)
