"""Everything that the protocol refuses, on the pure codec."""

import json

import pytest

from engine.oip_messages import header_length_of
from query.errors import Problem
from tests.serving.refused import REFUSED, Refused, asking, good, protocol, tensor


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.what)
def test_a_request_is_refused_with_what_is_wrong(row: Refused) -> None:
    with pytest.raises(Problem) as refused:
        protocol(row.model).read(row.body, header_length_of(row.header))
    assert refused.value.code == row.code, refused.value.message
    assert row.says in refused.value.message
    json.dumps(refused.value.message).encode()  # holds nothing that an answer could not carry


def test_the_table_says_each_thing_once() -> None:
    assert len({row.what for row in REFUSED}) == len(REFUSED)


def test_what_nobody_knows_is_passed_over() -> None:
    body = asking(
        good(parameters={"content_type": "x", "more": 1}) | {"extra": [1, {"a": None}]},
        parameters={"priority": 3, "unknown": "u", "timeout": 0},
        something={"nested": [1, 2]},
    )
    assert protocol("one").read(body, None).feed["x"].tolist() == [[1, 2, 3, 4]]


def test_optional_parts_may_be_null() -> None:
    body = asking(good(parameters=None), outputs=None, id=None, parameters=None)
    request = protocol("one").read(body, None)
    assert request.id is None
    assert len(request.wanted) == 1


def test_a_message_of_megabytes_is_refused_before_it_is_read() -> None:
    body = b" " * (16 * 1024 * 1024) + asking(good())
    with pytest.raises(Problem, match="expected at most 16777216 bytes of JSON") as refused:
        protocol("one").read(body, None)
    assert refused.value.hint is not None


def test_a_model_without_a_graph_takes_no_request() -> None:
    from engine.oip import Protocol

    with pytest.raises(Problem, match="has functions alone") as refused:
        Protocol("m", "1", (), ()).read(asking(tensor()), None)
    assert refused.value.code == "no_graph"
