"""Rows that cannot be recorded: refused and counted, never waited for, told in the log."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.inference_log import InferenceLog
from engine.inference_log_reading import LogUnreadable
from engine.inference_log_sampling import Sampling
from federation.pipelines import LogSettings
from tests.inference_log.filling import ALL, NOW_MS, everything, inference, log_in


class Disk:
    """Whose free space is what a test says, and which can be made to answer late."""

    def __init__(self) -> None:
        self.free = 10**12
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()

    def __call__(self) -> int:
        self.asked.set()
        assert self.answers.wait(20)
        return self.free


def told(log: InferenceLog) -> list[tuple[str, int]]:
    return [(gap.reason, gap.rows) for gap in everything(log.reader())[1]]


def test_below_the_floor_of_free_disk_rows_are_refused_until_space_returns(tmp_path: Path) -> None:
    disk = Disk()
    with log_in(tmp_path, free_bytes=disk, free_bytes_min=10**9) as log:
        log.append(inference(0), ALL)
        assert log.flush()
        disk.free = 10**9 - 1
        for number in range(1, 4):
            log.append(inference(number, count=2), ALL)
            log.flush()
        assert log.counts().failure == "disk_low"
        assert log.counts().refused == {"disk_low": 6}
        disk.free = 10**12
        wait_until(lambda: not log.counts().failure)
        log.append(inference(9), ALL)
        rows, gaps = everything(log.reader())
        assert [number for _, _, number in rows] == [1, 8]
        (gap,) = gaps
        assert (gap.reason, gap.first, gap.last, gap.rows) == ("disk_low", 2, 7, 6)
        assert (gap.from_ms, gap.to_ms) == (NOW_MS + 1, NOW_MS + 3)
        assert everything(log.reader(), limit=1) == (rows, gaps)


def wait_until(done: Callable[[], bool]) -> None:
    """Looks again and again; a bound for a machine that is busy."""
    for _ in range(2000):
        if done():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the system refuses in the middle of a frame."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with log_in(tmp_path) as log:
            log.append(inference(0, count=100), ALL)
            assert log.flush()
            (path,) = tmp_path.glob("*.log")
            size = path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
            log.append(inference(1, count=100), ALL)
            log.flush()
            assert path.stat().st_size == size
            assert log.counts().refused == {"disk_failed": 100}
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            wait_until(lambda: not log.counts().failure)
            log.append(inference(2, count=100), ALL)
            rows, gaps = everything(log.reader())
            assert [number for _, _, number in rows] == [*range(1, 101), *range(201, 301)]
            assert [(gap.reason, gap.first, gap.last) for gap in gaps] == [("disk_failed", 101, 200)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)


def test_a_folder_whose_place_is_taken(tmp_path: Path) -> None:
    (tmp_path / "inferences").write_text("a file", "utf-8")
    with log_in(tmp_path / "inferences") as log:
        log.append(inference(), ALL)
        log.flush()
        assert log.counts().refused == {"disk_failed": 1}
        (tmp_path / "inferences").unlink()
        wait_until(lambda: not log.counts().failure)
        log.append(inference(), ALL)
        assert told(log) == [("disk_failed", 1)]


def test_who_infers_never_waits_for_the_disk(tmp_path: Path) -> None:
    disk = Disk()
    with log_in(tmp_path, free_bytes=disk, pending_bytes_max=2000) as log:
        disk.answers.clear()
        log.append(inference(0), ALL)
        assert disk.asked.wait(20)  # the writer hangs
        for number in range(1, 500):
            log.append(inference(number), ALL)  # and this returns
        refused = log.counts().refused["busy"]
        assert 0 < refused < 499
        disk.answers.set()
        assert log.flush()
        log.append(inference(500), ALL)
        rows, gaps = everything(log.reader())
        assert [(gap.reason, gap.rows) for gap in gaps] == [("busy", refused)]
        assert len(rows) == 501 - refused


def test_requests_without_columns_fill_the_queue_too(tmp_path: Path) -> None:
    disk = Disk()
    with log_in(tmp_path, free_bytes=disk, pending_bytes_max=1 << 20) as log:
        disk.answers.clear()
        one = inference(0, inputs={}, outputs={}, anomalies={})
        for _ in range(50_000):
            log.append(one, ALL)
        refused = log.counts().refused["busy"]
        assert 0 < refused < 50_000
        disk.answers.set()
        assert log.flush(within_s=30)
        assert log.counts().recorded == 50_000 - refused


def test_one_large_request_is_taken_when_nothing_waits(tmp_path: Path) -> None:
    with log_in(tmp_path, pending_bytes_max=1000) as log:
        log.append(inference(0, count=1000), ALL)
        assert log.flush()
        assert log.counts().recorded == 1000


def test_what_cannot_be_written_is_counted_and_the_next_row_is_taken(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        wrong = np.array([1 + 2j, 3], np.complex128).view(np.dtype([("a", "f8"), ("b", "f8")]))
        log.append(inference(0, count=2, outputs={"y": wrong}), ALL)
        log.flush()
        log.append(inference(1), ALL)
        log.flush()
        assert log.counts().recorded + sum(log.counts().refused.values()) == 3
        assert log.counts().recorded >= 1


def test_what_was_refused_last_is_told_at_the_end(tmp_path: Path) -> None:
    disk = Disk()
    with log_in(tmp_path, free_bytes=disk, pending_bytes_max=1000) as log:
        disk.answers.clear()
        for number in range(100):
            log.append(inference(number), ALL)
        refused = log.counts().refused["busy"]
        epoch = log.segments.epoch
        disk.answers.set()
    with log_in(tmp_path) as log:
        rows, gaps = everything(log.reader())
        assert [(gap.reason, gap.rows) for gap in gaps] == [("busy", refused)]
        assert len(rows) + refused == 100
        assert gaps[0].epoch != epoch or gaps[0].epoch == rows[0][1]
        assert everything(log.reader(), limit=3) == (rows, gaps)


def test_a_log_that_was_closed_takes_nothing(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        log.append(inference(), ALL)
    log.append(inference(), ALL)
    assert log.counts().refused == {"closed": 1}
    with pytest.raises(LogUnreadable, match="it is closed"):
        log.reader().read()
    log.close()


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_the_wanted_share_of_rows_is_taken_evenly(share: float, count: int) -> None:
    sampling = Sampling(12345)
    taken = rows = 0
    for number in range(20_000 // count):
        found = sampling.chosen(inference(number * count, count=count), LogSettings(sample=share))
        taken += 0 if found is None else found.count
        rows += count
        assert abs(taken - rows * share) < 5
    assert sampling.left_out == rows - taken


def test_which_rows_are_taken_is_settled_by_their_numbers(tmp_path: Path) -> None:
    """However they come together in requests."""

    def taken(*counts: int) -> list[float]:
        sampling, found, at = Sampling(7), [], 0
        for count in counts:
            one = sampling.chosen(inference(at, count=count), LogSettings(sample=0.3))
            found.extend([] if one is None else one.outputs["y"].tolist())
            at += count
        return found

    assert taken(*[1] * 60) == taken(60) == taken(10, 1, 49)


def test_rows_that_take_turns_are_sampled_alike() -> None:
    sampling = Sampling(0)
    found = [sampling.chosen(inference(number), LogSettings(sample=0.25)) is not None for number in range(4000)]
    for rhythm in (2, 3, 4, 5, 8, 10, 60):
        for phase in range(rhythm):
            part = found[phase::rhythm]
            assert abs(sum(part) / len(part) - 0.25) < 0.08


def test_nothing_is_taken_where_nothing_is_wanted(tmp_path: Path) -> None:
    with log_in(tmp_path / "inferences") as log:
        log.append(inference(0, count=5), LogSettings(sample=0.0))
        assert log.counts().sampled_out == 5
        assert everything(log.reader()) == ([], [])


def test_a_sampled_request_keeps_what_belongs_to_its_rows(tmp_path: Path) -> None:
    made = inference(
        0, count=50, answered=np.arange(50) % 2, models=(inference().models[0], inference(1).models[0]), time_ms=5
    )
    with log_in(tmp_path) as log:
        log.append(made, LogSettings(sample=0.4))
        found = list(log.reader().read().records())
    whole = list(made.rows())
    assert len(found) in (19, 20, 21)
    assert all(row in whole for row in found)
