"""Compressed bodies: whole, bounded, and nothing behind them."""

import gzip
import random
import time
import tracemalloc
import zlib

import pytest

from peers.content_coding import (
    MEMBERS_MAX,
    BadCoding,
    Coding,
    UnknownCoding,
    coding_of,
    compressed,
    decompressed,
    wanted_coding,
)
from query.errors import LimitExceeded

TEXT = b"some text, " * 1000
PACKED: dict[Coding, bytes] = {"gzip": gzip.compress(TEXT), "deflate": zlib.compress(TEXT)}


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
class TestBothCodings:
    def test_what_was_packed_comes_out(self, coding: Coding) -> None:
        assert decompressed(PACKED[coding], coding, bytes_max=len(TEXT)) == TEXT
        assert decompressed(compressed(TEXT, coding), coding, bytes_max=len(TEXT)) == TEXT
        assert decompressed(compressed(b"", coding), coding, bytes_max=10) == b""

    def test_a_byte_too_much_is_too_much(self, coding: Coding) -> None:
        with pytest.raises(LimitExceeded, match=f"at most {len(TEXT) - 1} bytes in a compressed body"):
            decompressed(PACKED[coding], coding, bytes_max=len(TEXT) - 1)

    def test_a_bomb_takes_no_more_than_the_bound(self, coding: Coding) -> None:
        bomb = compressed(bytes(64 * 1024 * 1024), coding)
        assert len(bomb) < 400_000
        tracemalloc.start()
        with pytest.raises(LimitExceeded):
            decompressed(bomb, coding, bytes_max=1024 * 1024)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 1024 * 1024

    def test_a_body_cut_off_is_damaged(self, coding: Coding) -> None:
        for at in range(len(PACKED[coding])):
            with pytest.raises(BadCoding):
                decompressed(PACKED[coding][:at], coding, bytes_max=len(TEXT))

    def test_nothing_may_stand_behind_it(self, coding: Coding) -> None:
        with pytest.raises(BadCoding):
            decompressed(PACKED[coding] + b"more", coding, bytes_max=len(TEXT))

    def test_noise_is_damaged(self, coding: Coding) -> None:
        with pytest.raises(BadCoding, match="found damage"):
            decompressed(b"noise" * 10, coding, bytes_max=1000)


def test_gzip_may_have_members() -> None:
    assert decompressed(PACKED["gzip"] * 2, "gzip", bytes_max=2 * len(TEXT)) == TEXT * 2
    with pytest.raises(LimitExceeded, match="parts"):
        decompressed(gzip.compress(b"") * (MEMBERS_MAX + 1), "gzip", bytes_max=1000)


def test_a_long_body_behind_many_parts_is_read_once() -> None:
    """Some milliseconds; a copy of the rest with each part would be some seconds."""
    noise = random.Random(5).randbytes(8 * 1024 * 1024)
    body = gzip.compress(b"") * (MEMBERS_MAX - 1) + gzip.compress(noise, 0)
    before = time.process_time()
    assert decompressed(body, "gzip", bytes_max=len(noise)) == noise
    assert time.process_time() - before < 3


@pytest.mark.parametrize(
    ("header", "coding"),
    [(None, None), ("", None), ("identity", None), ("gzip", "gzip"), (" GZIP ", "gzip"), ("deflate", "deflate")],
)
def test_known_codings(header: str | None, coding: str | None) -> None:
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "gzip, deflate", "zstd", "gzip;q=1"])
def test_other_codings_are_refused(header: str) -> None:
    with pytest.raises(UnknownCoding, match="expected Content-Encoding gzip or deflate"):
        coding_of(header)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        ("gzip", "gzip"),
        (" Deflate ", "deflate"),
        ("identity", None),
        ("br", None),
        ("gzip;q=0", None),
        ("gzip; q=0.0", None),
        ("gzip; q=0.5", "gzip"),
        ("gzip, deflate, br", None),
        ("*", None),
    ],
)
def test_answers_are_compressed_for_who_asks_for_it_alone(header: str | None, coding: str | None) -> None:
    assert wanted_coding(header) == coding
