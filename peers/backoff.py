"""When to try again, and how often something may be done at all. Pure: times and draws are passed in.

Rules: errors back off with full jitter, doubling to a cap; successes are paced by a token bucket, never by a fixed
sleep; an edge's place within the interval after a boot is stable, so that restarts do not reshuffle the load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from federation.outcomes import full_jitter

POLLS_PER_S: Final = 5.0
POLLS_BURST: Final = 2


class Backoff:
    """Counts failures in a row and gives the seconds to wait after each. ``random`` draws from [0, 1)."""

    def __init__(self, random: Callable[[], float], *, base_s: float, cap_s: float) -> None:
        self._random = random
        self._base_s = base_s
        self._cap_s = cap_s
        self.failures = 0

    def failed(self) -> float:
        """One more failure: seconds until the next try."""
        self.failures += 1
        return self.pause(self.failures)

    def succeeded(self) -> None:
        self.failures = 0

    def pause(self, attempt: int) -> float:
        """Seconds to wait after failure ``attempt`` in a row, from 1."""
        return full_jitter(attempt, self._random(), base_s=self._base_s, cap_s=self._cap_s)


class Pace:
    """A token bucket that says how long to wait instead of refusing."""

    def __init__(self, *, rate_per_s: float = POLLS_PER_S, burst: int = POLLS_BURST) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._left = float(burst)
        self._at: float | None = None

    def wait_s(self, now: float) -> float:
        """Seconds until one more may happen."""
        self._refill(now)
        return max(0.0, (1.0 - self._left) / self._rate_per_s)

    def spend(self, now: float) -> None:
        """One happens now."""
        self._refill(now)
        self._left -= 1.0

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate_per_s)
        self._at = now


def boot_offset_s(identity: str, interval_s: float) -> float:
    """The stable part of the interval that this peer waits before its first poll after a boot."""
    fraction = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    return fraction * interval_s
