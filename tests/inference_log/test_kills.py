"""A real process that records is killed, again and again: what it had flushed is there once, and the log opens."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.inference_log_frames import MAGIC
from tests.inference_log.filling import ALL, EDGE, everything, inference, log_in

QUOTA = 192 * 1024  # segments of 12 KiB: they are sealed and dropped all the time

RECORDING = """
import sys, itertools
from pathlib import Path
from tests.inference_log.filling import ALL, inference, opened
log = opened(Path(sys.argv[1]), quota_bytes={quota}, gather_s=0.001)
number = int(sys.argv[2])
while True:
    for _ in range(20):
        log.append(inference(number, count=3), ALL)
        number += 3
    assert log.flush()
    print(log.segments.epoch, log.segments.next - 1, number, flush=True)
"""


def recorded_until_killed(folder: Path, begin: int, *, lines: int) -> tuple[int, int, int]:
    """Epoch and number of the last row that was surely flushed, and the value behind it."""
    program = [sys.executable, "-c", RECORDING.format(quota=QUOTA), str(folder), str(begin)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for _ in range(lines):
            line = running.stdout.readline()
        running.send_signal(signal.SIGKILL)
        rest = running.stdout.read().splitlines()
        running.wait(20)
    whole = [one for one in [line.strip(), *rest] if one.count(" ") == 2]
    epoch, sequence, number = map(int, whole[-1].split())
    return epoch, sequence, number


def test_flushed_rows_survive_a_kill_once(tmp_path: Path) -> None:
    folder, draw = tmp_path / "inferences", random.Random(4)
    flushed: dict[int, int] = {}
    number = 0
    for _ in range(6):
        epoch, sequence, number = recorded_until_killed(folder, number, lines=draw.randint(1, 60))
        assert epoch not in flushed
        flushed[epoch] = sequence
        with log_in(folder, quota_bytes=QUOTA) as log:
            rows, gaps = everything(log.reader(), limit=500)
            assert len(set(rows)) == len(rows)
            assert rows == sorted(rows)
            for known, last in flushed.items():
                numbers = [found for edge, at, found in rows if (edge, at) == (EDGE, known)]
                for gap in gaps:
                    if gap.epoch == known and gap.reason == "quota":
                        numbers.extend(range(gap.first, gap.last + 1))
                assert sorted(numbers)[:last] == list(range(1, last + 1))
            assert {gap.reason for gap in gaps} <= {"quota", "cut_off"}


def test_values_are_those_of_their_rows_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "inferences"
    epoch, sequence, number = recorded_until_killed(folder, 0, lines=3)
    with log_in(folder) as log:
        for run in log.reader().read(limit=10_000).runs:
            assert run.epoch == epoch
            wanted = (run.sequences - 1) * 2.0
            assert run.columns["out"]["y"].tolist() == wanted.tolist()
        assert sequence == number


def test_a_kill_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """The system was asked to write a frame and wrote a part of it: as far as a kill can come."""
    for part in (0.0, 0.1, 0.5, 0.9):
        folder = tmp_path / str(part)
        with log_in(folder) as log:
            log.append(inference(0, count=5), ALL)
            log.flush()
            (path,) = folder.glob("*.log")
            whole = path.read_bytes()
            log.append(inference(5, count=5), ALL)
            log.flush()
            longer = path.read_bytes()
            assert log.segments.next == 11
        path.write_bytes(longer[: len(whole) + int((len(longer) - len(whole)) * part)])
        with log_in(folder) as log:
            rows, gaps = everything(log.reader())
            assert [number for _, _, number in rows] == [1, 2, 3, 4, 5]
            assert [gap.reason for gap in gaps] == ([] if part == 0.0 else ["cut_off"])


@pytest.mark.parametrize("damage", [b"\xff", b"\x00", b"{", b"\n"])
def test_first_lines_that_cannot_be_read_stop_no_log(tmp_path: Path, damage: bytes) -> None:
    """Whatever byte of them: a log is there again, and nothing stands in it twice."""
    with log_in(tmp_path / "kept") as log:
        log.append(inference(1, count=3), ALL)
    (segment,) = (tmp_path / "kept").glob("*.log")
    whole = segment.read_bytes()
    for at in range(len(MAGIC) - 2, whole.index(b"PILF"), 7):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        (folder / segment.name).write_bytes(whole[:at] + damage + whole[at + 1 :])
        with log_in(folder) as log:
            log.append(inference(9), ALL)
            rows, _ = everything(log.reader())
            assert len(set(rows)) == len(rows) >= 1
            assert log.counts().failure == ""
