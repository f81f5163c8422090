"""Who holds a release: groups now and before, what they need, what edges were told, and what edges say."""

from __future__ import annotations

import pytest

from federation import commands, release_commands
from federation.assignments import remove_group_models
from federation.events import AssignedModel, ModelsAssigned, PinnedRelease
from federation.retention import HOLDERS_TOLD_MAX, TOLD_S, Holder, ReleaseHeld, check_free, held, holders, reported
from tests.membership.small import Small, identity


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("m@1", "m@2", "m@3", "n@1")
    small.edge("e1", "lab")
    return small


def kinds(small: Small, label: str, *, later_s: float = 0.0) -> list[str]:
    release, now = small.release(label), small.now + later_s
    found = [holder.kind for holder in holders(small.state, release, now=now)]
    assert (release.digest in held(small.state, now=now)) == bool(found)
    return found


def needing(small: Small, label: str, *needs: str) -> None:
    """An assignment of a release to the lab, with what it needs pinned."""
    release = small.release(label)
    pinned = tuple(PinnedRelease(*need.split("@"), small.release(need).digest) for need in needs)
    model = AssignedModel(*label.split("@"), "default", release.digest, pinned)
    small.write((ModelsAssigned("lab", (model,)),))


def test_nobody_holds_what_was_only_published(small: Small) -> None:
    assert kinds(small, "m@1") == []


def test_a_group_holds_what_it_has_and_what_it_had(small: Small) -> None:
    small.assign("lab", "m@1")
    assert kinds(small, "m@1") == ["group"]
    small.assign("lab", "m@2")
    assert kinds(small, "m@1") == ["rollback", "desired"]
    assert kinds(small, "m@1", later_s=TOLD_S) == ["rollback"]
    small.assign("lab", "m@3")
    assert kinds(small, "m@1") == ["desired"]
    assert kinds(small, "m@1", later_s=TOLD_S - 5) == ["desired"]
    assert kinds(small, "m@1", later_s=TOLD_S) == []


def test_an_overtaken_assignment_holds_too(small: Small) -> None:
    small.assign("lab", "m@1")
    small.assign("all", "m@2")
    assert small.desired("e1") == ["m@2"]
    assert kinds(small, "m@1") == ["group"]


def test_what_is_needed_is_held_with_what_needs_it(small: Small) -> None:
    needing(small, "m@1", "n@1")
    (holder,) = holders(small.state, small.release("n@1"), now=small.now)
    assert str(holder) == "group lab has m@1, which needs it"
    small.assign("lab", "m@2")
    told = [str(one) for one in holders(small.state, small.release("n@1"), now=small.now)]
    assert told[0] == "rollback lab had m@1, which needed it"
    assert told[1].startswith("desired states from before ")
    small.assign("lab", "m@3")
    assert kinds(small, "n@1", later_s=TOLD_S) == []


def test_the_same_release_with_other_needs_lets_the_old_ones_go(small: Small) -> None:
    needing(small, "m@1", "n@1")
    needing(small, "m@1")
    assert kinds(small, "m@1") == ["group", "desired"]
    assert kinds(small, "n@1") == ["desired"]
    assert kinds(small, "n@1", later_s=TOLD_S) == []


@pytest.mark.parametrize("how", ["unassigned", "deleted"])
def test_an_assignment_that_ended_is_held_while_a_desired_state_may_say_so(small: Small, how: str) -> None:
    small.assign("lab", "m@1")
    told = small.director.desired(identity("e1"), now=small.now)
    if how == "unassigned":
        small.write(remove_group_models(small.state, "lab", ["m"]))
        assert kinds(small, "m@1") == ["rollback", "desired"]
    else:
        small.write(commands.delete_group(small.state, "lab"))
        assert kinds(small, "m@1") == ["desired"]
    ended = small.now
    assert told.expires <= ended + TOLD_S
    assert "desired" in kinds(small, "m@1", later_s=told.expires - ended)


def test_edges_hold_what_their_last_report_names(small: Small) -> None:
    small.report("e1", "m@1", "n@1")
    actual = small.report("e1", "m@1")
    assert [str(one) for one in reported("e1", actual, small.release("m@1"))] == ["edge E1 runs it"]
    assert list(reported("e1", actual, small.release("n@1"))) == []
    reports = small.store.reports.mentioning(small.release("m@1").digest, "m@1")
    assert [report.edge for report in reports] == [identity("e1")]
    assert small.store.reports.mentioning(small.release("n@1").digest, "n@1") == ()  # an older report does not count


def test_reports_are_read_page_by_page(small: Small) -> None:
    for number in range(5):
        small.edge(f"p{number}")
        small.report(f"p{number}", "m@1")
        small.report(f"p{number}", "m@1", "n@1")
    seen, after = [], ""
    while page := small.store.reports.page(after, limit=2):
        assert len(page) <= 2
        seen += page
        after = page[-1].edge
    assert sorted(report.edge for report in seen) == sorted(identity(f"p{number}") for number in range(5))
    assert all(len(report.actual.loaded) == 2 for report in seen)


def test_the_error_names_a_bounded_number_of_holders() -> None:
    many = tuple(Holder("edge", f"E{number}", "runs it") for number in range(HOLDERS_TOLD_MAX + 5))
    with pytest.raises(ReleaseHeld) as caught:
        check_free("m@1", many)
    assert caught.value.message.endswith("; edge E19 runs it; and 5 more")
    check_free("m@1", ())


def test_a_deleted_version_takes_no_more_room_when_it_comes_back(small: Small) -> None:
    document = small.release("m@1").document
    small.write(release_commands.delete_release(small.state, "m", "1", holders=()))
    assert (len(small.state.published), small.state.published.deleted_count) == (3, 1)
    small.write(release_commands.publish_release(small.state, document, releases_max=4))
    assert (len(small.state.published), small.state.published.deleted_count) == (4, 0)
