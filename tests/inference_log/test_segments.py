"""The folder of a log: bounded, told of what goes, whole after any end."""

import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from engine.inference_log import InferenceLog
from engine.inference_log_ledger import GAPS_MAX, Gap, Ledger, read_ledger
from engine.inference_log_reading import LogUnreadable
from engine.inference_log_segments import QUOTA_BYTES_MIN, quota_of
from query.quantities import BadQuantity
from tests.inference_log.filling import ALL, EDGE, NOW_MS, everything, inference, log_in, opened

SMALL = 96 * 1024


def fill(log: InferenceLog, numbers: range, *, count: int = 8) -> None:
    """A frame for each request."""
    for number in numbers:
        log.append(inference(number, count=count), ALL)
        assert log.flush()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def accounted(rows: list[tuple[str, int, int]], gaps: list[Gap], epoch: int) -> list[int]:
    """The numbers of an epoch's rows and gaps together; each once."""
    numbers = [number for _, found, number in rows if found == epoch]
    for gap in gaps:
        if gap.epoch == epoch:
            numbers.extend(range(gap.first, gap.last + 1))
    return sorted(numbers)


def test_the_oldest_segments_go_whole_and_are_told(tmp_path: Path) -> None:
    with log_in(tmp_path, quota_bytes=SMALL) as log:
        fill(log, range(600))
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= SMALL
        reader, epoch = log.reader(), log.segments.epoch
        rows, gaps = everything(reader, limit=1000)
        assert {gap.reason for gap in gaps} == {"quota"}
        assert rows[-1] == (EDGE, epoch, 4800)
        assert accounted(rows, gaps, epoch) == list(range(1, 4801))
        assert reader.gaps() == tuple(gaps)
        for gap, after in pairwise(gaps):
            assert after.first == gap.last + 1
            assert gap.rows == gap.last - gap.first + 1
            assert gap.from_ms <= gap.to_ms <= after.from_ms
        assert gaps[0].from_ms == NOW_MS
    assert read_ledger(tmp_path).gaps == tuple(gaps)


def test_a_drop_is_on_disk_before_its_segment_is_gone(tmp_path: Path) -> None:
    """A kill between the two: the file is there, the ledger says it is gone."""
    with log_in(tmp_path, quota_bytes=SMALL) as log:
        fill(log, range(60))
        first = segments(tmp_path)[0]
        kept = first.read_bytes()
        fill(log, range(60, 600))
        assert not first.exists()
        told = log.reader().gaps()
    first.write_bytes(kept)
    with log_in(tmp_path, quota_bytes=SMALL) as log:
        rows, gaps = everything(log.reader(), limit=1000)
        assert not first.exists()
        assert gaps == list(told)
        assert min(number for _, _, number in rows) == told[-1].last + 1


def test_a_smaller_quota_takes_effect_at_the_next_beginning(tmp_path: Path) -> None:
    with log_in(tmp_path, quota_bytes=SMALL) as log:
        fill(log, range(300))
        before = log.reader().segments()
    with log_in(tmp_path, quota_bytes=QUOTA_BYTES_MIN) as log:
        left = log.reader().segments()
        assert sum(segment.size for segment in left) <= QUOTA_BYTES_MIN
        assert [one.first for one in left] == [one.first for one in before[-len(left) :]]
        rows, gaps = everything(log.reader(), limit=1000)
        assert accounted(rows, gaps, before[0].epoch) == list(range(1, 2401))


def test_a_request_larger_than_half_the_quota_is_refused(tmp_path: Path) -> None:
    with log_in(tmp_path, quota_bytes=QUOTA_BYTES_MIN) as log:
        fill(log, range(1), count=8000)
        fill(log, range(1, 3))
        rows, gaps = everything(log.reader())
        assert [(gap.reason, gap.first, gap.last, gap.rows) for gap in gaps] == [("too_large", 1, 8000, 8000)]
        assert [number for _, _, number in rows] == list(range(8001, 8017))
        assert log.counts().refused == {"too_large": 8000}


def test_every_beginning_is_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        with log_in(tmp_path) as log:
            fill(log, range(2))
            epochs.append(log.segments.epoch)
    with log_in(tmp_path) as log:
        rows, gaps = everything(log.reader())
    assert epochs == sorted(set(epochs))
    assert rows == [(EDGE, epoch, number) for epoch in epochs for number in range(1, 17)]
    assert gaps == []


def test_epochs_go_up_though_the_clock_went_back(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        fill(log, range(1))
        before = log.segments.epoch
    with log_in(tmp_path, now_ms=lambda: 0) as log:
        fill(log, range(1))
        assert log.segments.epoch > before


def test_a_folder_put_back_from_a_copy_gives_no_number_twice(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    with log_in(live) as log:
        fill(log, range(2))
        shutil.copytree(live, copy)
        fill(log, range(2, 4))
        used, _ = everything(log.reader())
    shutil.rmtree(live)
    copy.rename(live)
    with log_in(live) as log:
        fill(log, range(4, 6))
        rows, _ = everything(log.reader())
        fresh = [row for row in rows if row[1] == log.segments.epoch]
    assert len(fresh) == 16
    assert not set(fresh) & set(used)


def test_a_folder_that_is_taken_away_is_begun_anew_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "inferences"
    with log_in(folder) as log:
        fill(log, range(4))
        before = log.segments.epoch
        shutil.rmtree(folder)
        fill(log, range(4, 6))
        assert log.segments.epoch > before
        rows, gaps = everything(log.reader())
        assert rows == [(EDGE, log.segments.epoch, number) for number in range(1, 17)]
        assert [(gap.reason, gap.epoch, gap.first, gap.last) for gap in gaps] == [("lost", before, 1, 32)]


def test_a_folder_that_is_another_one_is_begun_anew(tmp_path: Path) -> None:
    folder, aside = tmp_path / "inferences", tmp_path / "aside"
    with log_in(folder) as log:
        fill(log, range(1))
        folder.rename(aside)
        folder.mkdir()
        fill(log, range(1, 2))
        rows, gaps = everything(log.reader())
        assert rows == [(EDGE, log.segments.epoch, number) for number in range(1, 9)]
        assert [gap.reason for gap in gaps] == ["lost"]


def test_a_segment_that_somebody_removed_is_told(tmp_path: Path) -> None:
    with log_in(tmp_path, segment_bytes=2000) as log:
        fill(log, range(20))
        there = log.reader().segments()
        there[1].path.unlink()
        rows, gaps = everything(log.reader())
        assert [(gap.reason, gap.first, gap.last) for gap in gaps] == [("lost", there[1].first, there[1].last)]
        assert accounted(rows, gaps, log.segments.epoch) == list(range(1, 161))
        there[3].path.unlink()
    with log_in(tmp_path) as log:  # removed while nobody looked
        rows, gaps = everything(log.reader())
        assert [gap.first for gap in gaps] == [there[1].first, there[3].first]
        assert accounted(rows, gaps, there[0].epoch) == list(range(1, 161))


@pytest.mark.parametrize("cut", [1, 60, 200, 2000])
def test_what_a_kill_has_cut_off_is_mended_and_named(tmp_path: Path, cut: int) -> None:
    log = opened(tmp_path / "live")
    fill(log, range(10))
    epoch = log.segments.epoch
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    log.close()
    (killed,) = segments(tmp_path / "killed")
    os.truncate(killed, killed.stat().st_size - cut)
    with log_in(killed.parent) as after:
        rows, gaps = everything(after.reader())
        assert [gap.reason for gap in gaps] == ["cut_off"]
        assert rows == [(EDGE, epoch, number) for number in range(1, len(rows) + 1)]
        assert gaps[0].first == len(rows) + 1
        assert gaps[0].size > 0
        assert 0 < len(rows) < 80
    with log_in(killed.parent) as again:  # mended once
        assert everything(again.reader()) == (rows, gaps)


def test_a_kill_between_two_frames_loses_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path / "live")
    fill(log, range(10))
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "live", killed)
    wanted = everything(log.reader())
    log.close()
    with log_in(killed) as after:
        assert everything(after.reader()) == wanted


def test_zeros_where_a_loss_of_power_left_them_are_cut_off(tmp_path: Path) -> None:
    log = opened(tmp_path / "live")
    fill(log, range(10))
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "live", killed)
    log.close()
    (path,) = segments(killed)
    raw = bytearray(path.read_bytes())
    raw[-300:] = bytes(300)
    path.write_bytes(raw)
    with log_in(killed) as after:
        rows, gaps = everything(after.reader())
        assert [(gap.reason, gap.rows) for gap in gaps] == [("cut_off", 8)]
        assert len(rows) == 72


def damaged(path: Path, change: Callable[[bytearray], None]) -> None:
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)


def test_a_damaged_frame_is_a_gap_of_known_size(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        fill(log, range(10))
        epoch = log.segments.epoch
    (path,) = segments(tmp_path)
    magic = path.read_bytes().split(b"PILF")
    body = len(b"PILF".join(magic[:5])) - 10  # in the content of the fourth frame
    head = len(b"PILF".join(magic[:8])) + 10  # in the head of the eighth

    def change(raw: bytearray) -> None:
        raw[body] ^= 0xFF
        raw[head] ^= 0xFF

    damaged(path, change)
    with log_in(tmp_path) as log:
        rows, gaps = everything(log.reader(), limit=5)
        assert [(gap.reason, gap.first, gap.last) for gap in gaps] == [("damaged", 25, 32), ("damaged", 57, 64)]
        assert accounted(rows, gaps, epoch) == list(range(1, 81))


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"something else\n" * 50])
def test_a_file_that_is_no_segment_does_not_keep_a_log_from_opening(tmp_path: Path, content: bytes) -> None:
    with log_in(tmp_path) as log:
        fill(log, range(2))
    (tmp_path / f"{5:016d}-{1:016d}.log").write_bytes(content)
    (tmp_path / "notes.log").write_text("mine", "utf-8")
    with log_in(tmp_path) as log:
        rows, _ = everything(log.reader())
        assert len(rows) == 16
    assert (tmp_path / "notes.log").read_text("utf-8") == "mine"


def test_a_damaged_ledger_is_put_aside(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        fill(log, range(2))
    (tmp_path / "ledger.json").write_text('{"gaps": 5', "utf-8")
    with log_in(tmp_path) as log:
        assert len(everything(log.reader())[0]) == 16
    assert (tmp_path / "ledger.json.damaged").exists()


def test_the_ledger_is_bounded(tmp_path: Path) -> None:
    gaps = [
        Gap(reason="quota", edge=EDGE, epoch=1, first=at, last=at + 1, rows=2, from_ms=0, to_ms=0)
        for at in range(1, 2 * GAPS_MAX + 1, 2)
    ]
    ledger = Ledger().with_gaps(gaps).with_gaps([gaps[0], gaps[1]])
    assert len(ledger.gaps) == GAPS_MAX
    assert (ledger.older_gaps, ledger.older_rows) == (2, 4)
    assert len(json.dumps([])) < 4 << 20


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with log_in(tmp_path) as one, log_in(tmp_path) as other:
        fill(one, range(1))
        other.append(inference(), ALL)
        other.flush()
        assert other.counts().refused == {"in_use": 1}
        assert other.counts().failure == "in_use"
        with pytest.raises(LogUnreadable, match="another process writes"):
            other.reader().read()


def test_a_folder_that_is_none_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "inferences").write_text("a file", "utf-8")
    with log_in(tmp_path / "inferences") as log, pytest.raises(LogUnreadable, match="cannot open"):
        log.reader().read()


def test_only_the_owner_may_read_what_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "inferences"
    with log_in(folder, quota_bytes=QUOTA_BYTES_MIN) as log:
        fill(log, range(200))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("amount", "found"),
    [
        *[("1Gi", 1 << 30), ("512Mi", 512 << 20), ("64Ki", 65536), ("2Ti", 2 << 40), ("1.5Gi", 3 << 29)],
        *[("0", 0), (0, 0), (" 0 ", 0), ("1048576", 1 << 20), (1 << 20, 1 << 20)],
    ],
)
def test_amounts_of_storage(amount: str | int, found: int) -> None:
    assert quota_of(amount) == found


@pytest.mark.parametrize("amount", ["", "much", "1Xi", "-1", "1Ki", -1, "0.5", "nan", "1e9"])
def test_what_is_no_amount_of_storage(amount: str | int) -> None:
    with pytest.raises(BadQuantity):
        quota_of(amount)
