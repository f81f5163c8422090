"""The token bucket is pure: its time is passed in."""

from hypothesis import given
from hypothesis import strategies as st

from peers.throttle import Throttle


def test_a_burst_passes_and_the_rate_follows() -> None:
    throttle = Throttle(2.0, 3)
    assert [throttle.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert throttle.take(0.5)
    assert not throttle.take(0.5)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    throttle = Throttle(1.0, 1)
    assert throttle.take(100.0)
    assert not throttle.take(50.0)


@given(st.lists(st.floats(0, 5), max_size=60))
def test_never_more_than_burst_and_rate_allow(gaps: list[float]) -> None:
    throttle, now, taken = Throttle(2.0, 5), 0.0, 0
    for gap in gaps:
        now += gap
        taken += throttle.take(now)
    assert taken <= 5 + 2.0 * now + 1e-6
