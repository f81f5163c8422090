"""Assignments of releases to groups of edges: how they are made, ended, and which earlier ones a new one overtakes.

Rules: recency is the sequence number of the ``set_group_models`` call, and repeating a call renews it; joining a group
is no assignment. In its own group a version replaces the one before for good. Across groups the latest wins on each
edge (:func:`federation.polling.decisions`), and an older one comes back when the later one goes. ``all`` is a group
like the others here, whose members are every edge, later ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from federation.documents import MODELS_PER_EDGE_MAX
from federation.entries import ALL, Assignment, Group
from federation.events import AssignedModel, Event, ModelsAssigned, ModelsUnassigned
from federation.names import DEFAULT_REPOSITORY, PeerId
from federation.state import FederationState
from query.errors import LimitExceeded, UserProblem, WrongArguments, nearest, unknown

KEYS: Final = ("repo", "name", "version")


class RepositoryNotSupported(UserProblem):
    code = "repository_not_supported"


class WantedModel(Struct, frozen=True):
    """One element of a ``set_group_models`` call."""

    name: str
    version: str
    repo: str = DEFAULT_REPOSITORY

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Overtaken(Struct, frozen=True):
    """An assignment that decided for ``edges`` edges until a later call. In its own group it is replaced for good."""

    group: str
    assignment: Assignment
    edges: int
    replaced: bool


class Assigning(Struct, frozen=True):
    """The decision on a ``set_group_models`` call."""

    events: tuple[Event, ...]
    group: str
    assigned: tuple[WantedModel, ...]
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
            f'model {index}: expected a record like {{"name": "m", "version": "1.0"}}, found {type(model).__name__}'
        )
    for key, value in model.items():
        if key not in KEYS:
            close = nearest(str(key), KEYS)
            raise WrongArguments(
                f'model {index}: "{str(key)[:40]}" is not one of "repo", "name", "version"'
                + (f' — did you mean "{close}"?' if close else "")
            )
        if not isinstance(value, str):
            raise WrongArguments(f'model {index}: expected "{key}" as a text, found {value!r:.40}')
    for key in ("name", "version"):
        if key not in model:
            raise WrongArguments(f'model {index}: expected a "{key}", found {", ".join(map(str, model)) or "nothing"}')
    return WantedModel(model["name"], model["version"], model.get("repo", DEFAULT_REPOSITORY))


def set_group_models(state: FederationState, group: str, models: Sequence[WantedModel]) -> Assigning:
    """Give a group these versions; its other models stay. All of them, or none when one is unknown.

    Raises :class:`UnknownName` for a group, model or version that does not exist, :class:`RepositoryNotSupported`,
    :class:`~query.errors.LimitExceeded`.
    """
    found = state.find_group(group)
    assigned = []
    for model in models:
        if model.repo != DEFAULT_REPOSITORY:
            raise RepositoryNotSupported(
                f'repository "{model.repo}" of {model.label}: this version knows "{DEFAULT_REPOSITORY}" only',
                hint=f'publish the release here first, and leave "repo" out or set it to "{DEFAULT_REPOSITORY}"',
            )
        release = state.find_release(model.name, model.version)
        assigned.append(AssignedModel(model.name, model.version, model.repo, release.digest))
    _check_count(state, found, {model.name for model in models})
    overtaken = tuple(one for model in models for one in _overtaken(state, found, model))
    events: tuple[Event, ...] = (ModelsAssigned(found.name, tuple(assigned)),) if assigned else ()
    return Assigning(events, found.name, tuple(models), overtaken)


def remove_group_models(state: FederationState, group: str, names: Sequence[Any]) -> tuple[Event, ...]:
    """End a group's assignments of models. All of them, or none when the group has no such model."""
    found = state.find_group(group)
    for name in names:
        if not isinstance(name, str):
            raise WrongArguments(f"expected names of models, found {name!r:.40}")
        if name not in found.assignments:
            problem = unknown("model", name, found.assignments)
            raise type(problem)(problem.message.replace(f'"{name}"', f'"{name}" in group "{found.name}"', 1))
    return (ModelsUnassigned(found.name, tuple(dict.fromkeys(names))),) if names else ()


def _overtaken(state: FederationState, group: Group, model: WantedModel) -> Iterator[Overtaken]:
    """The assignments of the model that decide for any edge of ``group`` now, the latest first.

    Works through the groups by recency, each with the members that no later one had: set operations, so that ``all``
    of a hundred thousand edges takes milliseconds.
    """
    before = [
        (other.assignments[model.name], other) for other in state.group_objects() if model.name in other.assignments
    ]
    open_members: set[PeerId] = set(group.members)
    for assignment, other in sorted(before, key=lambda pair: -pair[0].seq):
        decided = open_members & other.members
        open_members -= decided
        if other is group:
            if assignment.version != model.version:
                yield Overtaken(other.name, assignment, len(decided), replaced=True)
        elif decided:
            yield Overtaken(other.name, assignment, len(decided), replaced=False)


def _check_count(state: FederationState, group: Group, added: set[str]) -> None:
    """No edge may come to have more models than a desired state holds."""
    everything = added.union(*(other.assignments for other in state.group_objects()))
    if len(everything) <= MODELS_PER_EDGE_MAX:
        return
    own = added.union(group.assignments)
    sets_of_groups = {state.groups_of(uuid) for uuid in group.members}
    sets_of_groups.add((group,) if group.name == ALL else (group, *state.group_objects()[:1]))
    for groups in sets_of_groups:
        count = len(own.union(*(other.assignments for other in groups)))
        if count > MODELS_PER_EDGE_MAX:
            raise LimitExceeded(
                f'an edge of group "{group.name}" would have {count} models: expected at most {MODELS_PER_EDGE_MAX}'
            )
