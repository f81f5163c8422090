"""What must stand after every change of groups and assignments: no edge is left with a model whose needs are not met.

Pure; called by the commands that change what decides on an edge. Owns the edges that a change concerns, as sets: edges
in the same groups are one case, however many they are. Rules:

- A change is refused when a need that was met before would not be met after it, on any edge; the refusal is the chain.
- What was unmet already is no reason to refuse: the change may be the one that mends it.
- Only groups that name or need a model that is needed, or that needs others, are looked at; without such there is
  nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from federation.decisions import Decision, decided, names_of, needs_of, shown, unmet
from federation.entries import ALL, Assignment, Group
from federation.names import PeerId
from federation.needs import Standing, StillNeeded
from federation.state import FederationState

Classes = frozenset[tuple[Group, ...]]


def check_group(state: FederationState, group: Group, after: Mapping[str, Assignment] | None) -> None:
    """That the edges of ``group`` keep what they need when its assignments are ``after``; None: when it is deleted.

    Raises :class:`~federation.needs.StillNeeded`.
    """
    assignments = tuple((after or {}).values())
    concerned = _concerned(state.group_objects(), assignments)
    changed_names = {one.name for one in {*group.assignments.values()} ^ {*assignments}}
    if not changed_names & concerned:
        return
    for groups in classes(state, group, concerned):
        before = decided((one, one.assignments.values()) for one in groups)
        changed = ((one, assignments if one is group else one.assignments.values()) for one in groups)
        _compare(state, before, decided(changed))


def check_edge(state: FederationState, uuid: PeerId, after: Sequence[Group]) -> None:
    """That an edge keeps what it needs when these are its groups, ``all`` included. Raises ``StillNeeded``."""
    present = state.groups_of(uuid)
    if not _concerned((*present, *after)):
        return
    before = decided((group, group.assignments.values()) for group in present)
    _compare(state, before, decided((group, group.assignments.values()) for group in after))


def classes(state: FederationState, group: Group, concerned: frozenset[str] | None = None) -> Classes:
    """The sets of groups that edges of ``group`` are in, as far as they name or need a model that is ``concerned``.

    ``all`` alone is always among the sets of ``all``: an edge is registered without being asked. Of another group that
    has no edge yet, the set of one that is in nothing else; joining it is judged for each edge.
    """
    found = {state.groups_of(uuid) for uuid in group.members}
    everyone = state.group_objects()[0]
    if group.name == ALL:
        found.add((everyone,))
    elif not found:
        found.add((group, everyone))
    looked_at: dict[int, bool] = {}

    def matters(one: Group) -> bool:
        known = looked_at.get(id(one))
        if known is None:
            known = one is group or bool(one.assignments and (concerned is None or names_of((one,)) & concerned))
            looked_at[id(one)] = known
        return known

    return frozenset(tuple(one for one in groups if matters(one)) for groups in found)


def standing_needs(
    state: FederationState, group: Group, replaced: frozenset[str]
) -> tuple[tuple[Standing, ...], frozenset[tuple[str, str]]]:
    """What edges of ``group`` hold a new assignment to: the conditions of the models that stay, and the releases that
    are assigned by name, as names and versions. ``replaced`` are the models that the call assigns itself.
    """
    conditions: dict[tuple[str, str, str], Standing] = {}
    assigned: set[tuple[str, str]] = set()
    for groups in classes(state, group):
        kept = ((one, [a for a in one.assignments.values() if a.name not in replaced]) for one in groups)
        for decision in decided(kept):
            winner = decision.winner
            if decision.needed_by is None:
                assigned.add((winner.name, winner.version))
            for name, condition in needs_of(state, winner).items():
                key = (winner.label, name, condition)
                conditions.setdefault(key, Standing(winner.name, name, condition, shown(decision)))
    return tuple(conditions[key] for key in sorted(conditions)), frozenset(assigned)


def _concerned(groups: Sequence[Group], added: Sequence[Assignment] = ()) -> frozenset[str]:
    """The models that need others or are needed."""

    def everything() -> Iterator[Assignment]:
        for group in groups:
            yield from group.assignments.values()
        yield from added

    return frozenset(
        name
        for assignment in everything()
        if assignment.needs
        for name in (assignment.name, *(pin.name for pin in assignment.needs))
    )


def _compare(state: FederationState, before: Sequence[Decision], after: Sequence[Decision]) -> None:
    present = tuple(unmet(state, after))
    if not present:
        return
    known = frozenset(unmet(state, before))
    for chain in present:
        if chain not in known:
            raise StillNeeded(chain, hint="assign versions that go together in one call, or end what needs it first")
