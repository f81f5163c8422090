"""Whether an edge runs what it should, and what it waits for when it does not.

Pure. An edge is *converged* when its last report says so and knows of the latest change; *failed* when it tried a
release that is desired now and will not try again before something changes; *waiting* in every other case. A waiting
edge is *idle* where nothing is under way that could change it: it never joined, or asks nobody.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from federation.documents import ActualState, DesiredState
from federation.errors import WrongHash, WrongSize
from federation.explanation import Waiting, absence, explain, not_polled
from federation.members import Member
from federation.names import PeerId, shown
from federation.reports import Contact, converged, moment
from federation.state import FederationState
from query.errors import ErrorRecord, PeerProblem, Problem, WrongArguments, unknown

Status = Literal["converged", "waiting", "failed"]

_FETCHED_AGAIN: Final = (WrongHash, WrongSize)
_IDLE: Final = ("never_joined", "autonomous", "removed")


class Standing(Struct, frozen=True):
    """One edge. ``model`` is None where the edge itself waits; ``waiting`` None when it is converged."""

    edge: str
    status: Status
    model: str | None = None
    waiting: Waiting | None = None

    @property
    def settled(self) -> bool:
        """Whether waiting longer is not known to bring anything."""
        return self.status != "waiting" or (self.waiting is not None and self.waiting.reason in _IDLE)

    def record(self) -> dict[str, Any]:
        """Why it is not converged, for ``edge:converged``."""
        waiting = self.waiting
        assert waiting is not None
        return {
            "edge": shown(self.edge),
            "state": self.status,
            "model": self.model,
            "reason": waiting.reason,
            "message": waiting.message,
            "since": moment(waiting.since),
            "hint": waiting.hint,
        }


def standing(
    state: FederationState,
    member: Member,
    desired: DesiredState,
    actual: ActualState | None,
    contact: Contact,
    *,
    now: float,
) -> Standing:
    """How a registered edge stands; one that was removed is told by :func:`gone`."""
    if converged(desired, actual):
        return Standing(member.name, "converged")
    missing = absence(member, actual, contact, now=now)
    if missing is None:
        assert actual is not None
        missing = not_polled(state, member, actual, contact, now=now)
    if missing is not None:
        return Standing(member.name, "waiting", None, missing)
    open_ones = [
        (found.model, found.waiting)
        for found in explain(state, member.uuid, None, actual=actual, contact=contact, now=now)
        if found.waiting is not None
    ]
    for model, waiting in open_ones:
        if _lasts(waiting, actual):
            return Standing(member.name, "failed", model, waiting)
    if open_ones:
        return Standing(member.name, "waiting", *open_ones[0])
    return Standing(member.name, "waiting", None, Waiting("in_progress", f"{shown(member.name)} is at work"))


def gone(name: str) -> Standing:
    """An edge that was removed while it was waited for."""
    return Standing(name, "waiting", None, Waiting("removed", f"{shown(name)} was removed"))


def _lasts(waiting: Waiting, actual: ActualState | None) -> bool:
    """Whether an edge holds its error against the release itself, and so does not try again."""
    if actual is None or all(error.error != waiting.reason for error in actual.errors):
        return False
    problem = Problem.from_record(ErrorRecord(waiting.reason, waiting.message))
    return isinstance(problem, PeerProblem) and not isinstance(problem, _FETCHED_AGAIN)


def edges_meant(state: FederationState, edge_or_group: str) -> tuple[PeerId, ...]:
    """The edges that a name means: one, or a group's. Raises for a name that is nobody's, or both an edge's and a
    group's.
    """
    group = state.group(edge_or_group)
    if group is not None:
        if state.member_named(edge_or_group) is not None:
            raise WrongArguments(f'"{edge_or_group}" is both an edge and a group: expected a name of one of them')
        return tuple(member.uuid for member in state.edges() if member.uuid in group.members)
    if state.member_named(edge_or_group) is None:
        raise unknown("edge or group", edge_or_group, (*state.names_like(edge_or_group), *state.groups()))
    return (state.find_edge(edge_or_group).uuid,)
