"""What edges are: their own word, what operators set, and what the federation knows; as of the last report of each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from federation import commands
from federation.documents import encode
from federation.properties import REPORTS_PER_PAGE, EdgeProperties, edge_properties
from tests.membership.small import Small


@pytest.fixture
def small() -> Small:
    small = Small()
    small.edge("E1", "staging", "Line")
    small.edge("E2")
    return small


def told(small: Small, edge: str, *, reported_mode: Any = "INTERACTIVE", **properties: Any) -> None:
    actual = small.report(edge, mode=reported_mode)
    small.now += 1
    body = encode(msgspec.structs.replace(actual, properties=properties))
    small.store.reports.put(actual.edge, body, now=small.now)


def test_what_was_set_counts_before_what_was_told(small: Small) -> None:
    told(small, "E1", reported_mode="ONLINE", arch="arm64", site="told", mode="x", name="y", tags="z")
    small.write(commands.set_property(small.state, "E1", "site", "set"))
    found = {
        "arch": "arm64",
        "site": "set",
        "mode": "ONLINE",
        "name": "E1",
        "tags": [],
        "groups": ["staging", "Line"],
    }
    assert edge_properties(small.store, small.member("E1")) == found
    assert dict(EdgeProperties(small.store).of_all())["E1"] == found


def test_an_edge_that_never_reported_has_what_the_federation_knows(small: Small) -> None:
    small.write(commands.set_mode(small.state, "E2", "ONLINE"))
    assert edge_properties(small.store, small.member("E2")) == {
        "name": "E2",
        "mode": "ONLINE",
        "tags": [],
        "groups": [],
    }


def test_the_newest_report_of_each_counts(small: Small) -> None:
    everybody = EdgeProperties(small.store)
    assert [(name, known.get("arch")) for name, known in everybody.of_all()] == [("E1", None), ("E2", None)]
    told(small, "E2", arch="arm64")
    assert dict(everybody.of_all())["E2"]["arch"] == "arm64"
    told(small, "E2", arch="x86_64")
    told(small, "E1", arch="riscv64")
    assert [known["arch"] for _, known in everybody.of_all()] == ["riscv64", "x86_64"]
    small.store.reports.forget(small.member("E1").uuid)
    assert "arch" not in dict(everybody.of_all())["E1"]
    small.write(commands.remove(small.state, "E1"))
    assert [name for name, _ in everybody.of_all()] == ["E2"]


def test_more_reports_than_one_page() -> None:
    small = Small()
    for number in range(REPORTS_PER_PAGE + 3):
        small.edge(f"e{number}", joined=False)
        told(small, f"e{number}", cores=number)
    assert [known["cores"] for _, known in EdgeProperties(small.store).of_all()] == [*range(REPORTS_PER_PAGE + 3)]
