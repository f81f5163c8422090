"""When to try again."""

from __future__ import annotations

from random import Random

from peers.backoff import Backoff, Pace, boot_offset_s


def test_failures_double_the_bound_up_to_the_cap_and_success_resets_it() -> None:
    backoff = Backoff(lambda: 0.5, base_s=1.0, cap_s=10.0)
    assert [backoff.failed() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.succeeded()
    assert backoff.failed() == 1.0


def test_waits_spread_over_the_whole_bound() -> None:
    random = Random(1)
    backoff = Backoff(random.random, base_s=1.0, cap_s=8.0)
    waits = [backoff.pause(10) for _ in range(1000)]
    assert min(waits) < 0.1
    assert 7.9 < max(waits) <= 8.0


def test_polls_cannot_become_a_hot_loop() -> None:
    pace = Pace(rate_per_s=5.0, burst=2)
    now = 0.0
    count = 0
    while now < 10.0:
        now += pace.wait_s(now)
        pace.spend(now)
        count += 1
    assert count <= 2 + 50 + 1


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    pace = Pace(rate_per_s=1.0, burst=1)
    pace.spend(100.0)
    assert pace.wait_s(50.0) == 1.0
    assert pace.wait_s(51.0) == 0.0


def test_a_place_in_the_interval_is_stable_and_spread() -> None:
    offsets = [boot_offset_s(f"edge-{number}", 60.0) for number in range(1000)]
    assert offsets == [boot_offset_s(f"edge-{number}", 60.0) for number in range(1000)]
    assert all(0 <= offset < 60 for offset in offsets)
    assert 25 < sum(offsets) / 1000 < 35
