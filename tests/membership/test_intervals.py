"""Poll intervals: their text and what a wait is."""

from __future__ import annotations

import pytest

from federation.intervals import BadInterval, parse_interval


@pytest.mark.parametrize(
    ("text", "seconds", "jitter"),
    [
        ("60s~10%", 60.0, 0.1),
        ("1s", 1.0, 0.0),
        ("1.5m", 90.0, 0.0),
        (" 2 h ~ 50 % ", 7200.0, 0.5),
        ("0.1s~0%", 0.1, 0.0),
    ],
)
def test_a_text_is_a_number_of_units_with_jitter(text: str, seconds: float, jitter: float) -> None:
    interval = parse_interval(text)
    assert (interval.seconds, interval.jitter) == (seconds, jitter)


def test_waits_spread_evenly_around_the_setting_and_are_computed_from_it() -> None:
    interval = parse_interval("60s~10%")
    waits = [interval.wait_s(draw / 1000) for draw in range(1000)]
    assert (min(waits), round(max(waits), 1)) == (54.0, 66.0)
    assert abs(sum(waits) / 1000 - 60.0) < 0.1
    assert waits == [interval.wait_s(draw / 1000) for draw in range(1000)]
    assert parse_interval("5s").wait_s(0.9) == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", '"fast" is not a poll interval: expected a form like "60s", "5m" or "60s~10%"'),
        ("0.05s", 'poll interval "0.05s" is 0.05 s: expected 0.1 s to 604800 s'),
        ("60s~60%", 'poll interval "60s~60%" has 60 % jitter: expected at most 50 %'),
    ],
)
def test_another_text_is_an_error_that_shows_one(text: str, message: str) -> None:
    with pytest.raises(BadInterval) as bad:
        parse_interval(text)
    assert bad.value.message == message
