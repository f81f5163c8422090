"""Why an edge has a version, or does not have it yet: winner, losers, and what it waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from federation import commands
from federation.documents import ActualState, LoadError
from federation.explanation import explain
from federation.reports import Contact
from query.errors import UnknownName
from tests.membership.small import NOW, Small, identity


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("m@1.0", "m@2.0", "n@1.0")
    small.edge("E1", "lab", "line")
    return small


def explained(
    small: Small, edge: str = "E1", model: str | None = "m", *, contact: Contact | None = None
) -> list[dict[str, Any]]:
    report = small.store.reports.latest(identity(edge))
    actual: ActualState | None = report.actual if report else None
    found = explain(small.state, identity(edge), model, actual=actual, contact=contact or Contact(), now=small.now)
    return [explanation.record() for explanation in found]


def waits(
    small: Small, edge: str = "E1", model: str = "m", *, contact: Contact | None = None
) -> tuple[str, str] | None:
    (record,) = explained(small, edge, model, contact=contact)
    waiting = record["waits_for"]
    return None if waiting is None else (waiting["reason"], waiting["message"])


def test_the_winner_first_then_the_losers_with_source_time_and_author(small: Small) -> None:
    for group, label in (("all", "m@1.0"), ("lab", "m@2.0"), ("line", "m@1.0")):
        small.assign(group, label)
    (record,) = explained(small)
    at = [datetime.fromtimestamp(small.now - back, UTC) for back in (0, 1, 2)]
    seq = small.state.seq
    assert record["winner"] == {
        "source": "group",
        "group": "line",
        "version": "1.0",
        "assignment": seq,
        "time": at[0],
        "by": "ada",
    }
    assert record["losers"] == [
        {"source": "group", "group": "lab", "version": "2.0", "assignment": seq - 1, "time": at[1], "by": "ada"},
        {"source": "group", "group": "all", "version": "1.0", "assignment": seq - 2, "time": at[2], "by": "ada"},
    ]
    assert (record["model"], record["desired"], record["loaded"]) == ("m", "1.0", None)


def test_all_models_of_the_edge_or_the_one_that_is_asked_for(small: Small) -> None:
    small.assign("lab", "n@1.0", "m@2.0")
    assert [record["model"] for record in explained(small, model=None)] == ["m", "n"]
    assert [record["model"] for record in explained(small, model="n")] == ["n"]
    with pytest.raises(UnknownName, match='no model "k"'):
        explained(small, model="k")


def test_an_edge_without_any_model_is_told_what_it_waits_for(small: Small) -> None:
    small.edge("E2", joined=False)
    (record,) = explained(small, "E2", None)
    assert (record["model"], record["desired"], record["loaded"]) == (None, None, None)
    assert record["waits_for"]["message"] == "E2 has not joined yet"
    assert record["waits_for"]["hint"] == "give the edge its bundle"
    (record,) = explained(small, "E1", None)
    assert record["waits_for"]["reason"] == "no_report"
    small.report("E1")
    (record,) = explained(small, "E1", None)
    assert record["waits_for"] == {
        "reason": "not_assigned",
        "message": "no group of E1 names a model",
        "since": None,
        "hint": "edge:set_group_models assigns",
    }


def test_what_runs_as_it_should_waits_for_nothing(small: Small) -> None:
    small.assign("lab", "m@2.0")
    small.report("E1", "m@2.0")
    assert waits(small) is None


def test_never_joined_and_bundle_expired(small: Small) -> None:
    small.edge("E2", joined=False)
    small.assign("all", "m@1.0")
    assert waits(small, "E2") == ("never_joined", "E2 has not joined yet")
    small.now += commands.TOKEN_LIFETIME_S
    assert waits(small, "E2") == ("never_joined", "E2 never joined and its bundle expired")


def test_joined_but_silent(small: Small) -> None:
    small.assign("lab", "m@1.0")
    assert waits(small) == (
        "no_report",
        "E1 joined but reported nothing yet; it was not seen since this nameserver started",
    )
    contact = Contact(last_seen=small.now - 5)
    assert waits(small, contact=contact) == ("no_report", "E1 joined but reported nothing yet; it was seen 5 s ago")


def test_not_polled_since(small: Small) -> None:
    small.report("E1")
    known = small.generation("E1")
    small.assign("lab", "m@1.0")
    contact = Contact(next_poll_at=small.now + 30)
    text = f"E1 knows generation {known}, the latest is {small.state.seq}; next poll in 30 s"
    assert waits(small, contact=contact) == ("not_polled", text)
    overdue = waits(small, contact=Contact(next_poll_at=small.now - 9))
    assert overdue is not None
    assert overdue[1].endswith("its poll is overdue by 9 s")


def test_an_error_of_the_edge(small: Small) -> None:
    small.assign("lab", "m@2.0")
    error = LoadError("m@2.0", "vectors_failed", "vector 1: expected 3, found 4", int(NOW))
    small.report("E1", "m@1.0", errors=(error,))
    (record,) = explained(small)
    assert (record["desired"], record["loaded"], record["loaded_by"]) == ("2.0", "1.0", "group")
    assert waits(small) == ("vectors_failed", "vector 1: expected 3, found 4")


def test_loaded_by_hand_against_a_group_and_with_none(small: Small) -> None:
    small.assign("lab", "m@2.0")
    small.report("E1", "m@1.0", origin="manual")
    reason = waits(small, contact=Contact(next_poll_at=small.now + 7))
    assert reason == (
        "loaded_by_hand",
        "m@1.0 was loaded by hand; the next answered poll replaces it, next poll in 7 s",
    )
    small.unassign("lab", "m")
    small.report("E1", "m@1.0", origin="manual")
    (record,) = explained(small)
    assert (record["winner"], record["loaded_by"], record["waits_for"]) == (None, "manual", None)


def test_at_work_unloading_and_unassigned(small: Small) -> None:
    assert waits(small) == ("not_assigned", "no group of E1 names m")
    small.assign("lab", "m@2.0")
    small.report("E1")
    assert waits(small) == ("in_progress", "E1 has been told and is fetching, verifying or loading m@2.0")
    small.unassign("lab", "m")
    small.report("E1", "m@2.0")
    assert waits(small) == ("unloading", "E1 has been told that no group names m any more")


def test_autonomous(small: Small) -> None:
    small.report("E1", mode="AUTONOMOUS")
    small.assign("lab", "m@2.0")
    assert waits(small) == ("autonomous", "E1 is AUTONOMOUS and asks nobody")


def test_creation_time_and_version_order_decide_nothing(small: Small) -> None:
    """The traps of systems that merge by priority: an older group assigned later wins, and so does a lower version."""
    small.assign("line", "m@2.0")
    small.assign("lab", "m@1.0")
    (record,) = explained(small)
    assert (record["desired"], record["winner"]["group"]) == ("1.0", "lab")
