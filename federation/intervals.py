"""Poll intervals: ``60s``, ``1.5m``, ``60s~10%`` (a number of seconds, minutes or hours, with up to so much jitter).

Rules: the jitter spreads a single wait evenly over ``seconds ± share``; waits are computed from the setting each time,
never scaled in place.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

from query.errors import UserProblem

DEFAULT_INTERVAL: Final = "60s~10%"
INTERVAL_S_MIN: Final = 0.1
INTERVAL_S_MAX: Final = 7 * 86_400.0  # an edge that polls more rarely could outlive its desired state
JITTER_PERCENT_MAX: Final = 50

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TEXT = re.compile(
    r"\s*(?P<count>\d{1,9}(?:\.\d{1,6})?)\s*(?P<unit>[smh])\s*(?:~\s*(?P<jitter>\d{1,3})\s*%)?\s*", re.ASCII
)


class BadInterval(UserProblem):
    code = "bad_interval"


class Interval(Struct, frozen=True, gc=False):
    """``jitter`` is a share: 0.1 for ``~10%``."""

    seconds: float
    jitter: float

    def wait_s(self, draw: float) -> float:
        """One wait. ``draw`` is uniform in [0, 1)."""
        return self.seconds * (1.0 + self.jitter * (2.0 * draw - 1.0))


@lru_cache(maxsize=1024)
def parse_interval(text: str) -> Interval:
    """Raises :class:`BadInterval` for another form or a wait outside the bounds."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise BadInterval(f'"{text[:40]}" is not a poll interval: expected a form like "60s", "5m" or "60s~10%"')
    seconds = float(match["count"]) * _UNITS[match["unit"]]
    percent = int(match["jitter"] or 0)
    if not INTERVAL_S_MIN <= seconds <= INTERVAL_S_MAX:
        raise BadInterval(
            f'poll interval "{text}" is {seconds:g} s: expected {INTERVAL_S_MIN:g} s to {INTERVAL_S_MAX:g} s'
        )
    if percent > JITTER_PERCENT_MAX:
        raise BadInterval(f'poll interval "{text}" has {percent} % jitter: expected at most {JITTER_PERCENT_MAX} %')
    return Interval(seconds, percent / 100)
