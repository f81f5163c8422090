"""Functions of time stamps. The clock is federation time, read once a statement."""

from __future__ import annotations

from datetime import UTC, datetime

from query.declarations import Call, Example, function
from query.errors import WrongArguments


class TimeFunctions:
    """A time stamp plus or minus a number is that many seconds later or earlier."""

    @function("now() -> Timestamp", example="now()")
    def now(self, call: Call) -> datetime:
        """Federation time when the statement began; the same throughout the statement."""
        return call.now

    @function("unix_time(Timestamp time) -> Real", example=Example("unix_time(|1970-01-01T00:01:00Z|)", shows="60.0"))
    def unix_time(self, call: Call, time: datetime) -> float:
        """Seconds since the start of 1970, UTC."""
        return time.timestamp()

    @function(
        "timestamp(Number seconds) -> Timestamp", example=Example("timestamp(60)", shows="|1970-01-01T00:01:00Z|")
    )
    def timestamp(self, call: Call, seconds: float) -> datetime:
        """The time that many seconds after the start of 1970, UTC."""
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, ValueError, OSError):
            raise WrongArguments(
                f"timestamp: seconds: expected a time in the years 1 to 9999, found {seconds}"
            ) from None

    @function("year(Timestamp time) -> Integer", example=Example("year(|2026-01-31T12:00:00Z|)", shows="2026"))
    def year(self, call: Call, time: datetime) -> int:
        """The year, UTC."""
        return time.astimezone(UTC).year

    @function("month(Timestamp time) -> Integer", example=Example("month(|2026-01-31T12:00:00Z|)", shows="1"))
    def month(self, call: Call, time: datetime) -> int:
        """The month from 1, UTC."""
        return time.astimezone(UTC).month

    @function("day(Timestamp time) -> Integer", example=Example("day(|2026-01-31T12:00:00Z|)", shows="31"))
    def day(self, call: Call, time: datetime) -> int:
        """The day of the month, UTC."""
        return time.astimezone(UTC).day

    @function("hour(Timestamp time) -> Integer", example=Example("hour(|2026-01-31T12:00:00Z|)", shows="12"))
    def hour(self, call: Call, time: datetime) -> int:
        """The hour from 0, UTC."""
        return time.astimezone(UTC).hour
