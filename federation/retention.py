"""Who holds a release of the federation: what must go before the release may be deleted.

Pure. A release is held by whoever may still come and ask for its files:

    group      an assignment of the group names it, also one that a later call overtook, or needs it
    rollback   it is what the group had before, or what that needed: who rolls back goes there
    desired    an assignment that ended named or needed it, and a desired state signed before that may be valid still
    edge       the edge's last report says that it has it in memory or installed, also an edge that is away

Rules: what is held is judged generously, since a release that is kept too long costs room, and one that is deleted too
early costs a model. A desired state is signed anew each window, so one that named a release may be valid until
``VALIDITY_S`` after the assignment ended; ``BACKDATE_S`` is added for clocks that are behind. Whether the edge that was
told so still is in the group is not asked. An edge that was removed from the roster holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from msgspec import Struct

from federation.documents import ActualState
from federation.entries import Assignment, Group, Release
from federation.names import Digest, shown
from federation.polling import BACKDATE_S, VALIDITY_S
from federation.reports import moment
from federation.state import FederationState
from query.errors import UserProblem

HOLDERS_TOLD_MAX: Final = 20
TOLD_S: Final = float(VALIDITY_S + BACKDATE_S)  # how long an edge may act on what it was told last

Kind = Literal["group", "rollback", "desired", "edge"]


class ReleaseHeld(UserProblem):
    """A release that something still names is not deleted."""

    code = "release_held"


class Holder(Struct, frozen=True):
    """``name`` of the group or edge, empty for ``desired``; ``detail`` says how it holds the release."""

    kind: Kind
    name: str
    detail: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind if self.name else "", self.name, self.detail) if part)


def holders(
    state: FederationState, release: Release, *, now: float, reports: Iterable[tuple[str, ActualState]] = ()
) -> tuple[Holder, ...]:
    """All that hold a release. ``reports``: the last one of every edge that mentions it, by the edge's name."""
    return (
        *_named(state, release.digest),
        *_told(release, now=now),
        *(holder for name, actual in reports for holder in reported(name, actual, release)),
    )


def held(state: FederationState, *, now: float) -> set[Digest]:
    """The records of every release that groups or desired states hold."""
    assigned = (assignment for group in state.group_objects() for assignment, _ in _assignments(group))
    found = {record for assignment in assigned for record, _ in _records(assignment)}
    return found | {release.digest for release in state.releases() if any(_told(release, now=now))}


def reported(name: str, actual: ActualState, release: Release) -> Iterator[Holder]:
    """How the edge that reported holds a release."""
    if any(entry.record == release.digest for entry in actual.loaded):
        yield Holder("edge", shown(name), "runs it")
    elif release.record.label in actual.installed:
        yield Holder("edge", shown(name), "has it installed")


def running(actual: ActualState) -> Iterator[Digest | str]:
    """The records of the releases that a report names as loaded, and the labels of those it names as installed."""
    yield from (entry.record for entry in actual.loaded)
    yield from actual.installed


def check_free(label: str, found: tuple[Holder, ...]) -> None:
    """Raises :class:`ReleaseHeld` that names the holders, when there are any."""
    if not found:
        return
    told = "; ".join(map(str, found[:HOLDERS_TOLD_MAX]))
    more = f"; and {len(found) - HOLDERS_TOLD_MAX} more" if len(found) > HOLDERS_TOLD_MAX else ""
    raise ReleaseHeld(
        f"{label} is held by {len(found)}, expected nobody: {told}{more}",
        hint="edge:remove_group_models or another version takes it from a group; edges report when they let it go",
    )


def _named(state: FederationState, record: Digest) -> Iterator[Holder]:
    for group in state.group_objects():
        for assignment, kind in _assignments(group):
            for named, needed_by in _records(assignment):
                if named == record:
                    yield Holder(kind, group.name, _how(kind, needed_by))


def _how(kind: Kind, needed_by: str | None) -> str:
    if kind == "group":
        return f"has {needed_by}, which needs it" if needed_by else "has it"
    return f"had {needed_by}, which needed it" if needed_by else "had it before"


def _assignments(group: Group) -> Iterator[tuple[Assignment, Kind]]:
    for assignment in group.assignments.values():
        yield assignment, "group"
    for assignment in group.before.values():
        yield assignment, "rollback"


def _records(assignment: Assignment) -> Iterator[tuple[Digest, str | None]]:
    """What an assignment names, and of what is only needed, who needs it."""
    yield assignment.record, None
    for need in assignment.needs:
        yield need.record, assignment.label


def _told(release: Release, *, now: float) -> Iterator[Holder]:
    until = None if release.named_until is None else release.named_until + TOLD_S
    if until is not None and now < until:
        ended = moment(release.named_until)
        yield Holder(
            "desired", "", f"desired states from before {ended:%Y-%m-%dT%H:%MZ}, valid until {moment(until):%Y-%m-%d}"
        )
