"""What is counted of runs, and read as Open Inference Protocol and Prometheus want it."""

from __future__ import annotations

import threading
import time

from engine.statistics import BOUNDS_NS, KEPT_MAX, ROWS_EXACT_MAX, Counted, Counters, Key, Statistics

MS = 1_000_000


def test_a_run_counts_as_request_execution_and_rows() -> None:
    counters = Counters(Key("digits", "1.0"))
    counters.ran(1, 10 * MS, 12 * MS)
    counters.ran(1, 20 * MS, 21 * MS)
    counters.ran(32, 30 * MS, 35 * MS)
    found = counters.read()
    assert (found.inference_count, found.execution_count) == (34, 3)
    assert found.success == found.compute_infer == Counted(3, 8 * MS)
    assert found.batches == {1: Counted(2, 3 * MS), 32: Counted(1, 5 * MS)}
    assert sum(found.latency) == 3
    assert (found.fail, found.queue, found.refused) == (Counted(), Counted(), 0)


def test_a_batch_is_one_execution_for_several_requests() -> None:
    counters = Counters(Key("digits", "1.0"))
    for _ in range(4):
        counters.waited(MS)
    counters.ran(8, 0, 2 * MS)
    counters.batched(4, 2 * MS)
    found = counters.read()
    assert (found.execution_count, found.inference_count) == (1, 8)
    assert found.success == Counted(4, 12 * MS)
    assert found.queue == Counted(4, 4 * MS)
    assert (sum(found.latency), sum(found.waits)) == (4, 4)


def test_failures_refusals_and_what_faces_tell_stand_apart() -> None:
    counters = Counters(Key("digits", "1.0"))
    counters.failed(3 * MS)
    counters.refuse()
    counters.translated(10, 20)
    found = counters.read()
    assert (found.fail, found.refused, found.execution_count) == (Counted(1, 3 * MS), 1, 0)
    assert (found.compute_input, found.compute_output) == (Counted(1, 10), Counted(1, 20))
    assert found.last_inference_ms == 0


def test_a_time_falls_below_the_first_bound_that_holds_it() -> None:
    counters = Counters(Key("digits", "1.0"))
    for taken_ns in (0, BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1], BOUNDS_NS[-1] + 1):
        counters.ran(1, 0, taken_ns)
    found = counters.read().latency
    assert len(found) == len(BOUNDS_NS) + 1
    assert (found[0], found[1], found[-2], found[-1]) == (2, 1, 1, 1)
    assert BOUNDS_NS[0] == 10_000
    assert list(BOUNDS_NS) == sorted(BOUNDS_NS)


def test_sizes_of_batches_are_bounded_and_rows_are_not_rounded() -> None:
    counters = Counters(Key("digits", "1.0"))
    for rows in range(1, 5000):
        counters.ran(rows, 0, 1)
    found = counters.read()
    assert len(found.batches) == ROWS_EXACT_MAX + 7  # 128 … 8192
    assert found.inference_count == sum(range(1, 5000))
    assert found.execution_count == 4999


def test_the_last_inference_is_told_by_the_clock_on_the_wall() -> None:
    counters = Counters(Key("digits", "1.0"))
    counters.ran(1, time.monotonic_ns(), time.monotonic_ns())
    assert abs(counters.read().last_inference_ms - time.time() * 1000) < 60_000


def test_counting_from_many_threads_loses_nothing() -> None:
    counters = Counters(Key("digits", "1.0"))

    def count() -> None:
        for _ in range(5000):
            counters.ran(1, 0, MS)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = counters.read()
    assert found.success == Counted(20_000, 20_000 * MS)
    assert sum(found.latency) == 20_000


def test_counts_go_on_when_a_version_comes_back() -> None:
    statistics = Statistics()
    statistics.counters("digits", "1.0").ran(1, 0, 1)
    statistics.counters("digits", "2.0").ran(1, 0, 1)
    statistics.counters("digits", "1.0").ran(1, 0, 1)
    statistics.counters("digits", "1.0", step="house-price").ran(1, 0, 1)
    found = [(one.key, one.read().execution_count) for one in statistics.all()]
    assert found == [
        (Key("digits", "2.0"), 1),
        (Key("digits", "1.0"), 2),
        (Key("digits", "1.0", "house-price"), 1),
    ]


def test_only_so_many_are_kept_and_the_oldest_goes() -> None:
    statistics = Statistics()
    for number in range(KEPT_MAX + 1):
        statistics.counters("digits", str(number))
        statistics.counters("kept", "1.0")
    names = {one.key for one in statistics.all()}
    assert len(names) == KEPT_MAX
    assert Key("kept", "1.0") in names
    assert Key("digits", "0") not in names
