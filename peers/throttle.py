"""A token bucket: how often something may happen. Pure: the time is passed in."""

from __future__ import annotations


class Throttle:
    """``rate_per_s`` on the long run, ``burst`` at once."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._left = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more may happen now; counts it when it may."""
        if self._at is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate_per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
