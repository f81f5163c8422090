"""Giving memory back to the system: of what a dropped model freed, the loading of one, or long requests, libc would
keep most.

Owns how that happens: after a load, once the last call that held a dropped model has gone, and when whoever serves says
that long requests have passed; however many go at a time, on a thread, so that the event loop does not wait for it.
Does nothing where libc cannot. What libc gives back is whole pages: a few MiB more or less may stay, and are used
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


class FreedMemory:
    """Used from one event loop; what is watched may go on any thread. ``returned`` counts how often memory was given
    back.
    """

    def __init__(self, trim: Callable[[int], int] | None = None) -> None:
        self._trim = trim or _malloc_trim()
        self._lock = threading.Lock()
        self._due = False
        self.returned = 0

    def watch(self, dropped: object) -> None:
        """Memory is given back when nobody holds ``dropped`` any more."""
        weakref.finalize(dropped, self._gone, asyncio.get_running_loop()).atexit = False

    def loaded(self) -> None:
        """Memory is given back that a load needed and freed."""
        self._gone(asyncio.get_running_loop())

    def passed(self) -> None:
        """Memory is given back that requests needed and freed."""
        self._gone(asyncio.get_running_loop())

    def _gone(self, loop: asyncio.AbstractEventLoop) -> None:
        # Called while the object is taken apart: its memory is free only later.
        with self._lock:
            if self._due or self._trim is None:
                return
            self._due = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it this process
            loop.call_soon_threadsafe(self._return_soon, loop)

    def _return_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        def give_back() -> Any:
            with self._lock:
                self._due = False
            assert self._trim is not None
            self._trim(0)
            self.returned += 1

        loop.run_in_executor(None, give_back)
