"""Threads that run what was submitted, taking turns between those who submitted it.

Owns the order: of whoever waits, each gets one turn before anybody gets a second, and each one's own come as they were
submitted. So a model whose runs take long, or never end, delays another by the runs that are on, and not by all that
wait. Refuses nothing and bounds nothing: that is the scheduler's (:mod:`engine.scheduling`).

The threads sleep while there is nothing to do, start with the first submission, and end when nobody holds the lane.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """Thread-safe. ``threads`` at most; their names begin with ``name``."""

    def __init__(self, threads: int, *, name: str = "inference") -> None:
        self.threads = threads
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._turns: OrderedDict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = OrderedDict()

    @property
    def started(self) -> bool:
        """Whether anything was ever submitted."""
        return self._pool is not None

    def submit(self, whose: Hashable, work: Callable[[], T]) -> Future[T]:
        """``work()`` in a thread, when it is the turn of ``whose``. It never begins once the future is cancelled."""
        future: Future[T] = Future()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix=self._name)
            self._pool.submit(_take_turn, self._next)
            self._turns.setdefault(whose, deque()).append((future, work))
        return future

    def close(self, *, wait: bool) -> None:
        """Ends the threads once they are done, for which ``wait`` waits; what has not begun is cancelled."""
        with self._lock:
            left = [future for turns in self._turns.values() for future, _ in turns]
            self._turns.clear()
        for future in left:
            future.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            if not self._turns:
                return None
            whose, turns = self._turns.popitem(last=False)
            taken = turns.popleft()
            if turns:
                self._turns[whose] = turns  # behind everybody else
            return taken


def _take_turn(next_turn: Callable[[], tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    turn = next_turn()
    if turn is None:
        return
    future, work = turn
    del turn
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(work())
    except BaseException as error:  # noqa: BLE001 — who waits gets it
        future.set_exception(error)
    finally:
        del future, work  # an error and this frame would hold each other, and what was asked with them
