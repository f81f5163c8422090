"""Bodies that are no request are told in our words."""

from __future__ import annotations

import pytest

from peers.requests import StatementRequest, decode_request, encode_request
from query.errors import UserProblem


def test_a_request_is_read_as_it_was_written() -> None:
    for request in (
        StatementRequest("1"),
        StatementRequest("1", params={"v": [1]}, targets="all", timeout=1.5),
        StatementRequest("1", targets=("a", "b"), timeout=2),
    ):
        assert decode_request(encode_request(request)) == request


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b'["text"]', "the body is a list"),
        (b'"1 + 1"', "the body is text"),
        (b"{}", 'the request has no "text"'),
        (b'{"text": "1", "bogus": 1}', 'a request has no "bogus"'),
        (b'{"text": "1", "target": 1}', 'a request has no "target" — did you mean "targets"?'),
        (b'{"text": 1}', '"text" is a number, not text'),
        (b'{"text": null}', '"text" is null, not text'),
        (b'{"text": "1", "params": []}', '"params" is a list, not an object'),
        (b'{"text": "1", "targets": 3}', '"targets" is a number, not text or a list of names'),
        (b'{"text": "1", "targets": [3]}', '"targets" holds something else than text'),
        (b'{"text": "1", "timeout": true}', '"timeout" is true or false, not a number of seconds'),
        (b'{"text": "1", "timeout": "5s"}', '"timeout" is text, not a number of seconds'),
    ],
)
def test_what_is_no_request(body: bytes, fault: str) -> None:
    with pytest.raises(UserProblem) as caught:
        decode_request(body)
    assert caught.value.message == f"{fault}: expected a request {{text, params, targets, timeout, budget}}"
