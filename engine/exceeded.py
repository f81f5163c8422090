"""Limits that running things ran into: counted, told to the log, and shown with what ran into them.

Owns the count by resource and when the log hears of it: the first time, and then at most once in ``LOGGED_EVERY_S``
seconds a resource, so that a limit that is hit a thousand times a second fills no disk.

    memory    a run needed more than it may have, or the process that ran it did
    time      a run took longer than it may
    cpus      a request was refused, as too many waited for the threads that may run it
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

log = logging.getLogger("peerage.engine")

LOGGED_EVERY_S: Final = 60.0

Resource = Literal["memory", "time", "cpus"]


@dataclass(frozen=True, slots=True)
class Exceeded:
    """``count`` times since the name and version were first known; ``last``: seconds since the epoch."""

    resource: Resource
    count: int
    last: int
    message: str


class ExceededLimits:
    """Of one name and version. Thread-safe. ``what`` names it in the log."""

    __slots__ = ("_clock", "_found", "_lock", "_logged", "_what")

    def __init__(self, what: str, *, clock: Callable[[], float] = time.time) -> None:
        self._what = what
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[Resource, Exceeded] = {}
        self._logged: dict[Resource, float] = {}

    def note(self, resource: Resource, message: str) -> None:
        """A limit was exceeded once more."""
        now = self._clock()
        with self._lock:
            before = self._found.get(resource)
            count = 1 if before is None else before.count + 1
            self._found[resource] = Exceeded(resource, count, int(now), message)
            told = self._logged.get(resource)
            tells = told is None or now >= told + LOGGED_EVERY_S
            if tells:
                self._logged[resource] = now
        if tells:
            log.warning(
                "limit_exceeded",
                extra={"model": self._what, "resource": resource, "count": count, "reason": message},
            )

    def read(self) -> tuple[Exceeded, ...]:
        """By resource, as they were first exceeded."""
        return tuple(self._found.values())


def together(parts: Iterable[Iterable[Exceeded]]) -> tuple[Exceeded, ...]:
    """Several such readings as one: counts add up, the latest message stays."""
    found: dict[Resource, Exceeded] = {}
    for part in parts:
        for one in part:
            before = found.get(one.resource)
            if before is not None:
                latest = max(before, one, key=lambda known: known.last)
                one = Exceeded(one.resource, before.count + one.count, latest.last, latest.message)  # noqa: PLW2901
            found[one.resource] = one
    return tuple(found.values())
