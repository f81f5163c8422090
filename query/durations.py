"""Durations as they are written: ``500ms``, ``5s``, ``2.5m``, ``1h``, ``7d``; a number alone is seconds."""

from __future__ import annotations

import re
from typing import Final

from query.errors import UserProblem

_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})\s*(ms|s|min|m|h|d)?\s*", re.IGNORECASE)


class BadDuration(UserProblem):
    code = "bad_duration"


def parse_duration(text: str, *, longest_s: float) -> float:
    """Seconds, more than 0 and at most ``longest_s``. Raises :class:`BadDuration`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadDuration(f'"{text[:40]}" is not a duration: expected a number and ms, s, m, h or d, such as "5s"')
    seconds = float(match[1]) * _UNITS[(match[2] or "").casefold()]
    if not 0 < seconds <= longest_s:
        raise BadDuration(f'"{text[:40]}" is not a usable duration: expected more than 0 and at most {longest_s:g}s')
    return seconds
