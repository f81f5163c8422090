"""Which release of each model an edge should have: what its groups are assigned, and what that needs.

Pure. Rules:

- The assignments of an edge's groups are gone through, the latest first. Each decides its model unless a later one
  has; one that does brings what was pinned with it, and each pin decides its model unless something later has.
- So an assignment and a pin are the same to each other: the latest wins. What lost has no pins.
- A pin holds as long as the assignment that brought it decides, whatever came to stand between them since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from federation.entries import Assignment, Group, Release
from federation.names import PeerId
from federation.needs import satisfies
from federation.state import FederationState


class Candidate(Struct, frozen=True):
    """A release that speaks for a model on an edge. ``needed_by``: the assignment that brought it as a need."""

    group: Group
    assignment: Assignment
    needed_by: Assignment | None = None


class Decision(Struct, frozen=True):
    """The candidates for one model that apply to an edge, the latest first: the winner, then the losers."""

    name: str
    candidates: tuple[Candidate, ...]

    @property
    def group(self) -> Group:
        return self.candidates[0].group

    @property
    def winner(self) -> Assignment:
        return self.candidates[0].assignment

    @property
    def needed_by(self) -> Assignment | None:
        return self.candidates[0].needed_by


Assigned = Iterable[tuple[Group, Iterable[Assignment]]]


def decisions(state: FederationState, uuid: PeerId) -> tuple[Decision, ...]:
    """For each model that any group of the edge names or needs, by name: which release decides."""
    return decided((group, group.assignments.values()) for group in state.groups_of(uuid))


def decided(assigned: Assigned) -> tuple[Decision, ...]:
    """The decisions, by name, of an edge that is in groups with these assignments."""
    everything = [(assignment, group) for group, assignments in assigned for assignment in assignments]
    everything.sort(key=lambda pair: -pair[0].seq)
    found: dict[str, list[Candidate]] = {}
    start = 0
    while start < len(everything):
        end = start
        while end < len(everything) and everything[end][0].seq == everything[start][0].seq:
            end += 1
        call = everything[start:end]  # of one call: what it names comes before what it needs
        winners = []
        for assignment, group in call:
            if assignment.name not in found:
                winners.append((assignment, group))
            found.setdefault(assignment.name, []).append(Candidate(group, assignment))
        for winner, group in winners:
            for candidate in pins(winner, group):
                present = found.setdefault(candidate.assignment.name, [])
                if not any(one.assignment.seq == winner.seq for one in present):
                    present.append(candidate)
        start = end
    return tuple(Decision(name, tuple(found[name])) for name in sorted(found))


def pins(assignment: Assignment, group: Group) -> Iterator[Candidate]:
    """What an assignment brings along, each as if it were assigned by the same call."""
    for pin in assignment.needs:
        brought = Assignment(
            pin.name, pin.version, assignment.repo, pin.record, assignment.seq, assignment.time, assignment.by
        )
        yield Candidate(group, brought, assignment)


def names_of(groups: Iterable[Group]) -> set[str]:
    """The models that any of the groups names or needs."""
    return {
        name
        for group in groups
        for assignment in group.assignments.values()
        for name in (assignment.name, *(pin.name for pin in assignment.needs))
    }


def needs_of(state: FederationState, assignment: Assignment) -> Mapping[str, str]:
    """The conditions of the release that an assignment or a pin stands for."""
    release: Release | None = state.release(assignment.name, assignment.version)
    return release.record.needs.releases if release is not None else {}


def unmet(state: FederationState, made: Collection[Decision]) -> Iterator[str]:
    """The needs that these decisions leave unmet, each as the chain that tells it."""
    by_name = {decision.name: decision for decision in made}
    for decision in made:
        for name, condition in needs_of(state, decision.winner).items():
            present = by_name.get(name)
            if present is None:
                yield f"{shown(decision)} needs {name}{condition}: nothing brings {name}"
            elif not satisfies(present.winner.version, condition):
                yield f"{shown(decision)} needs {name}{condition}: there would be {shown(present)}"


def shown(decision: Decision) -> str:
    """``features@1.2 (needed by a@1.0, group "line")``."""
    needed = f"needed by {decision.needed_by.label}, " if decision.needed_by is not None else ""
    return f'{decision.winner.label} ({needed}group "{decision.group.name}")'
