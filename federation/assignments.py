"""Assignments of releases to groups of edges: how they are made, ended, and which earlier ones a new one overtakes.

Rules: recency is the sequence number of the ``set_group_models`` call, and repeating a call renews it; joining a group
is no assignment. In its own group a version replaces the one before for good. Across groups the latest wins on each
edge (:mod:`federation.decisions`), and an older one comes back when the later one goes. ``all`` is a group like the
others here, whose members are every edge, later ones too. What a release needs is chosen and pinned when it is
assigned, and decides like an assignment of the same call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from federation.decisions import names_of, pins
from federation.documents import MODELS_PER_EDGE_MAX
from federation.entries import ALL, Assignment, Group, Release
from federation.events import AssignedModel, Event, ModelsAssigned, ModelsUnassigned, PinnedRelease
from federation.names import DEFAULT_REPOSITORY, PeerId
from federation.needs import Candidate, resolve
from federation.revocation import check_assignable
from federation.standing_needs import check_group, standing_needs
from federation.state import FederationState
from query.errors import LimitExceeded, WrongArguments, suggestion, unknown
from query.text_form import to_text
from query.values import described

KEYS: Final = ("repo", "name", "version")
_FORM: Final = 'as in {"name": "my-model", "version": "1.0"}, and "repo" where it is not the default'


class WantedModel(Struct, frozen=True):
    """One element of a ``set_group_models`` call."""

    name: str
    version: str
    repo: str = DEFAULT_REPOSITORY

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Overtaken(Struct, frozen=True):
    """An assignment, or what it needed, that decided for ``edges`` edges until a later call. In its own group an
    assignment is replaced for good by one of the same model.
    """

    group: str
    assignment: Assignment
    edges: int
    replaced: bool


class Assigning(Struct, frozen=True):
    """The decision on a ``set_group_models`` call. ``needed``: what comes with it, in the order of loading."""

    events: tuple[Event, ...]
    group: str
    assigned: tuple[WantedModel, ...]
    needed: tuple[PinnedRelease, ...]
    overtaken: tuple[Overtaken, ...]


def read_models(models: Sequence[Any]) -> tuple[WantedModel, ...]:
    """The records of a call: ``name``, ``version``, ``repo`` if wanted. Raises on anything else, naming the element."""
    if len(models) > MODELS_PER_EDGE_MAX:
        raise LimitExceeded(f"{len(models)} models in one call: expected at most {MODELS_PER_EDGE_MAX}")
    wanted = tuple(_read_model(index, model) for index, model in enumerate(models, start=1))
    seen: set[str] = set()
    for model in wanted:
        if model.name in seen:
            raise WrongArguments(f'model "{model.name}" is named twice: a group has one version of a model')
        seen.add(model.name)
    return wanted


def _read_model(index: int, model: Any) -> WantedModel:
    if not isinstance(model, Mapping):
        raise WrongArguments(
            f'model {index}: expected a record like {{"name": "m", "version": "1.0"}}, found {described(model)}'
        )
    for key, value in model.items():
        if key not in KEYS:
            raise WrongArguments(
                f'model {index}: "{str(key)[:40]}" is not one of "repo", "name", "version"{suggestion(str(key), KEYS)}',
                hint=_FORM,
            )
        if not isinstance(value, str):
            raise WrongArguments(
                f'model {index}: expected "{key}" as a string, found {to_text(value)[:40]}',
                hint=f'in quotes: "{key}": "{to_text(value)[:40]}"' if isinstance(value, int | float) else _FORM,
            )
    for key in ("name", "version"):
        if key not in model:
            found = ", ".join(f'"{one}"' for one in model) or "nothing"
            raise WrongArguments(f'model {index}: expected a "{key}" too, found {found} alone', hint=_FORM)
    return WantedModel(model["name"], model["version"], model.get("repo", DEFAULT_REPOSITORY))


def set_group_models(state: FederationState, group: str, models: Sequence[WantedModel]) -> Assigning:
    """Give a group these versions; its other models stay. All of them, or none when one is unknown. Their repositories
    are noted, not asked: the federation has the releases by now.

    Raises :class:`UnknownName` for a group, model or version that does not exist, :class:`~query.errors.LimitExceeded`.
    """
    found = state.find_group(group)
    releases = []
    for wanted in models:
        release = state.find_release(wanted.name, wanted.version)
        check_assignable(release.document, state.root, wanted.label)
        releases.append(release)
    needed = _needed(state, found, releases)
    assigned = tuple(
        AssignedModel(model.name, model.version, model.repo, release.digest, needs)
        for model, release, needs in zip(models, releases, needed, strict=True)
    )
    named = {model.name for model in models}
    brought = {pin.name: pin for needs in needed for pin in needs if pin.name not in named}
    _check_count(state, found, {*named, *brought})
    after = dict(found.assignments)
    for model in assigned:
        record = (model.name, model.version, model.repo, model.record)
        after[model.name] = Assignment(*record, state.seq + 1, 0.0, "", model.needs)
    check_group(state, found, after)
    told = [(model.name, model.version, False) for model in models]
    told += [(pin.name, pin.version, True) for pin in brought.values()]
    overtaken = tuple(
        one for name, version, pinned in told for one in _overtaken(state, found, name, version, pinned=pinned)
    )
    events: tuple[Event, ...] = (ModelsAssigned(found.name, assigned),) if assigned else ()
    return Assigning(events, found.name, tuple(models), tuple(brought.values()), overtaken)


def _needed(state: FederationState, group: Group, releases: Sequence[Release]) -> list[tuple[PinnedRelease, ...]]:
    """For each release what it needs, chosen so that the edges of the group keep what they have where that can be."""
    if not any(release.record.needs.releases for release in releases):
        return [() for _ in releases]
    standing, preferred = standing_needs(state, group, frozenset(release.record.name for release in releases))
    wanted = [_candidate(release, preferred) for release in releases]
    return _pinned(resolve(wanted, lambda name: _published(state, name, preferred), standing))


def needed_by(state: FederationState, release: Release) -> tuple[PinnedRelease, ...]:
    """What a release needs, as it would be chosen for an edge that has nothing. Raises as ``set_group_models``."""
    nothing: frozenset[tuple[str, str]] = frozenset()
    found = resolve([_candidate(release, nothing)], lambda name: _published(state, name, nothing))
    return _pinned(found)[0]


def _published(state: FederationState, name: str, preferred: Collection[tuple[str, str]]) -> list[Candidate]:
    """The releases of a model that may be chosen: signed by a publisher that is trusted now."""
    trusted = state.root.publishers.keys() - state.root.revoked.keys()
    return [
        _candidate(release, preferred)
        for release in state.published.versions(name)
        if any(signature.keyid in trusted for signature in release.document.signatures)
    ]


def _candidate(release: Release, preferred: Collection[tuple[str, str]]) -> Candidate:
    record = release.record
    return Candidate(
        record.name,
        record.version,
        release.digest,
        record.needs.releases,
        deprecated=release.deprecated is not None,
        preferred=(record.name, record.version) in preferred,
    )


def _pinned(found: Iterable[Sequence[Candidate]]) -> list[tuple[PinnedRelease, ...]]:
    return [tuple(PinnedRelease(one.name, one.version, one.record) for one in needs) for needs in found]


def remove_group_models(state: FederationState, group: str, names: Sequence[Any]) -> tuple[Event, ...]:
    """End a group's assignments of models. All of them, or none when the group has no such model."""
    found = state.find_group(group)
    for name in names:
        if not isinstance(name, str):
            raise WrongArguments(f"expected names of models, found {name!r:.40}")
        if name not in found.assignments:
            problem = unknown("model", name, found.assignments)
            raise type(problem)(problem.message.replace(f'"{name}"', f'"{name}" in group "{found.name}"', 1))
    if not names:
        return ()
    check_group(state, found, {name: kept for name, kept in found.assignments.items() if name not in names})
    return (ModelsUnassigned(found.name, tuple(dict.fromkeys(names))),)


def _overtaken(state: FederationState, group: Group, name: str, version: str, *, pinned: bool) -> Iterator[Overtaken]:
    """The assignments of the model that decide for any edge of ``group`` now, the latest first; pins are such too.

    Works through the groups by recency, each with the members that no later one had: set operations, so that ``all``
    of a hundred thousand edges takes milliseconds.
    """
    before = [(other.assignments[name], other, False) for other in state.group_objects() if name in other.assignments]
    for other in state.group_objects():
        for assignment in other.assignments.values():
            if assignment.needs:
                brought = (one.assignment for one in pins(assignment, other) if one.assignment.name == name)
                before.extend((pin, other, True) for pin in brought)
    open_members: set[PeerId] = set(group.members)
    for assignment, other, as_need in sorted(before, key=lambda one: (-one[0].seq, one[2])):
        decided = open_members & other.members
        open_members -= decided
        if other is group and not as_need and not pinned:
            if assignment.version != version:
                yield Overtaken(other.name, assignment, len(decided), replaced=True)
        elif decided and (other is not group or assignment.version != version):
            yield Overtaken(other.name, assignment, len(decided), replaced=False)


def _check_count(state: FederationState, group: Group, added: set[str]) -> None:
    """No edge may come to have more models than a desired state holds."""
    everything = added | names_of(state.group_objects())
    if len(everything) <= MODELS_PER_EDGE_MAX:
        return
    own = added | names_of((group,))
    sets_of_groups = {state.groups_of(uuid) for uuid in group.members}
    sets_of_groups.add((group,) if group.name == ALL else (group, *state.group_objects()[:1]))
    for groups in sets_of_groups:
        count = len(own | names_of(groups))
        if count > MODELS_PER_EDGE_MAX:
            raise LimitExceeded(
                f'an edge of group "{group.name}" would have {count} models: expected at most {MODELS_PER_EDGE_MAX}'
            )
