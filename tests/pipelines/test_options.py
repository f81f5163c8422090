"""What pipeline:deploy is told: amounts of memory, options, and what they change of a deployment."""

from typing import Any

import pytest

from federation.pipelines import BatchSettings, Deployment, LogSettings
from peers.pipeline_options import GROUPS_MAX, DeployOptions, read_options, read_places
from query.errors import WrongArguments
from query.quantities import BadQuantity, parse_bytes

VERSION = "684d80ad-8ee3-5213-9515-8431da1da234"


@pytest.mark.parametrize(
    ("amount", "found"),
    [
        ("512Mi", 512 << 20),
        ("1.5Gi", 3 << 29),
        (" 2 Ki ", 2048),
        ("1Ti", 1 << 40),
        ("20M", 20_000_000),
        ("3k", 3000),
        ("100", 100),
        (100, 100),
        (1.0, 1),
    ],
)
def test_amounts(amount: str | float, found: int) -> None:
    assert parse_bytes(amount) == found


@pytest.mark.parametrize(
    "amount", ["", "Mi", "1mi", "1 MB", "-1", "1e3", "0", "9999Ti", 0, -5, 2**60, float("nan"), float("inf"), True]
)
def test_what_is_no_amount(amount: str | float) -> None:
    with pytest.raises(BadQuantity):
        parse_bytes(amount)


@pytest.mark.parametrize(
    ("options", "deployment"),
    [
        ({}, Deployment()),
        ({"cpus": 2, "memory": "1Mi", "replicas": 3}, Deployment(cpus=2.0, memory_bytes=1 << 20, replicas=3)),
        ({"batch": True}, Deployment(batch=BatchSettings(enabled=True))),
        ({"batch": {"rows_max": 8}}, Deployment(batch=BatchSettings(rows_max=8))),
        ({"log": {"sample": 0, "columns": ["in"]}}, Deployment(log=LogSettings(0.0, ("in",)))),
    ],
)
def test_what_a_pipeline_may_take(options: dict[str, Any], deployment: Deployment) -> None:
    assert read_options(options).applied(Deployment()) == deployment


def test_what_is_not_told_stays_and_null_takes_it_back() -> None:
    before = Deployment(cpus=4.0, memory_bytes=5, log=LogSettings(0.5))
    assert read_options({"cpus": 1}).applied(before) == Deployment(cpus=1.0, memory_bytes=5, log=LogSettings(0.5))
    nothing = {"cpus": None, "memory": None, "replicas": None, "batch": None, "log": None}
    assert read_options(nothing).applied(before) == Deployment()


def test_places_and_versions() -> None:
    assert read_options({"group": "g"}) == DeployOptions(("g",))
    assert read_options({"groups": ["a", "b", "a"]}).groups == ("a", "b")
    assert read_options({"version": VERSION.upper()}).version == VERSION
    assert read_places({"groups": ["a"]}) == ("a",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": 5}, 'expected "groups" as a vector of names'),
        ({"groups": "g"}, 'expected "groups" as a vector of names'),
        ({"groups": [str(number) for number in range(GROUPS_MAX + 1)]}, f"at most {GROUPS_MAX} groups"),
        ({"replica": 1}, 'no option "replica" — did you mean "replicas"'),
        ({"x": 1}, 'no option "x": expected one of group, groups, version'),
        ({"cpus": -1}, 'option "cpus": expected a number > 0'),
        ({"cpus": float("nan")}, 'option "cpus"'),
        ({"replicas": 65}, 'option "replicas": expected a whole number <= 64'),
        ({"batch": {"rows_max": 0}}, 'option "batch": "rows_max": expected a whole number >= 1'),
        ({"log": {"sample": 2}}, 'option "log": "sample": expected a number <= 1'),
        ({"log": "all"}, 'option "log": expected a record, found text'),
        ({"batch": {"rows": 3}}, 'option "batch": unknown field "rows"'),
        ({"version": 5}, "a UUID, found 5"),
        ({"version": "latest"}, "a UUID, found 'latest'"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongArguments) as caught:
        read_options(options)
    assert said in caught.value.message


def test_undeploying_knows_places_alone() -> None:
    with pytest.raises(WrongArguments, match='no option "cpus"'):
        read_places({"cpus": 1})
