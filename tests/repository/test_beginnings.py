"""What the head of a blob's answer is held to, whoever sends it: on plain values."""

from __future__ import annotations

import pytest

from peers.fetching import FetchProblem, WrongAnswer, WrongLength, beginning

GONE_ON = {"Content-Range": "bytes 400-999/1000", "Content-Length": "600"}
DIGITS = "9" * 5000  # more than Python turns into a number


@pytest.mark.parametrize(
    ("status", "headers", "begins"),
    [
        (200, {}, 0),
        (200, {"Content-Length": "1000", "Content-Type": "application/octet-stream"}, 0),
        (206, GONE_ON, 400),
        (206, {**GONE_ON, "Content-Range": "bytes 400-999/*"}, 400),
        (206, {**GONE_ON, "Content-Length": "\xb2"}, 400),  # says nothing: what comes is counted
    ],
)
def test_an_answer_goes_on_or_begins_anew(status: int, headers: dict[str, str], begins: int) -> None:
    assert beginning("/blob", status, headers, offset=400, size=1000) == begins


@pytest.mark.parametrize(
    ("status", "headers", "problem", "message"),
    [
        (404, {}, WrongAnswer, "expected status 200 or 206, found 404"),
        (200, {"Content-Type": "Text/HTML; charset=utf-8"}, WrongAnswer, "expected a blob, found text/html"),
        (200, {"Content-Encoding": "gzip"}, WrongAnswer, "expected plain bytes, found encoding gzip"),
        (206, {}, WrongAnswer, "expected the bytes from 400 on, found another range"),
        (206, {"Content-Range": "bytes 0-999/1000"}, WrongAnswer, "expected the bytes from 400 on"),
        (206, {"Content-Range": f"bytes {DIGITS}-999/1000"}, WrongAnswer, "expected the bytes from 400 on"),
        (206, {**GONE_ON, "Content-Length": "1000"}, WrongLength, "expected 600 bytes, 1000 are announced"),
        (200, {"Content-Length": "600"}, WrongLength, "expected 1000 bytes, 600 are announced"),
        (200, {"Content-Length": DIGITS}, WrongLength, f"expected 1000 bytes, {'9' * 20} are announced"),
    ],
)
def test_another_answer_is_refused(
    status: int, headers: dict[str, str], problem: type[FetchProblem], message: str
) -> None:
    with pytest.raises(problem, match=message):
        beginning("/blob", status, headers, offset=400, size=1000)
