"""The functions of the language about groups of edges and what is assigned to them; at home on the nameserver.

They read arguments, let a command decide, and write what it decided. Edges are shown in upper case, groups as they
were spelled. Nothing is half-applied: a call that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from federation import assignments, commands
from federation.entries import ALL
from federation.names import DEFAULT_REPOSITORY, fold, shown
from federation.reports import moment
from query.declarations import Call, Effect, Example, Home, Role, function

if TYPE_CHECKING:
    from collections.abc import Callable

    from federation.assignments import Assigning, WantedModel
    from federation.events import Event, PinnedRelease
    from federation.past import Past
    from federation.state import FederationState
    from federation.store import FederationStore


Then: TypeAlias = "Callable[[FederationState], Sequence[Event]]"


class Imports(Protocol):
    """How releases come into the federation from the nameserver's other repositories."""

    async def bring(self, models: Sequence[WantedModel], *, call: Call, then: Then) -> None:
        """Have the federation have these releases and, in the same step, what ``then`` decides on the state that has
        them: all of it, or raise and nothing has changed.
        """


class GroupFunctions:
    """Bind on the nameserver, beside :class:`federation.functions.EdgeFunctions`."""

    def __init__(self, store: FederationStore, past: Past, imports: Imports) -> None:
        self._store = store
        self._past = past
        self._imports = imports

    def _write(self, call: Call, events: Sequence[Event]) -> None:
        self._store.append(events, caller=call.caller.name, now=call.now.timestamp())

    @function(
        "edge:add_group(String edge, String group) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:add_group("MY-EDGE-1", "staging-area-edges")', shows="true"),
    )
    def add_group(self, call: Call, edge: str, group: str) -> bool:
        """Make an edge a member of a group. A group that is missing is made; adding twice changes nothing."""
        self._write(call, commands.add_group(self._store.state, edge, group))
        return True

    @function(
        "edge:remove_group(String edge, String group) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:remove_group("MY-EDGE-1", "staging-area-edges")', shows="true"),
    )
    def remove_group(self, call: Call, edge: str, group: str) -> bool:
        """End an edge's membership of a group. The group stays, also when empty. Nobody can leave ``all``."""
        self._write(call, commands.remove_group(self._store.state, edge, group))
        return True

    @function(
        "edge:groups(String edge, Boolean with_all?) -> Vector of String",
        home=Home.NAMESERVER,
        example=Example('edge:groups("MY-EDGE-1")'),
        past=True,
    )
    async def groups(self, call: Call, edge: str, with_all: bool = False) -> list[str]:
        """The groups of an edge, in the order of joining. Every edge is in ``all``, which is shown on request."""
        async with self._past.state(call) as state:
            names = [group.name for group in state.groups_of(state.find_edge(edge).uuid)]
        return [name for name in names if with_all or name != ALL]

    @function(
        "edge:all_groups() -> Vector of String",
        home=Home.NAMESERVER,
        example=Example("edge:all_groups()"),
    )
    def all_groups(self, call: Call) -> list[str]:
        """The names of all groups: ``all``, then the others in the order they were made."""
        return list(self._store.state.groups())

    @function(
        "edge:group_members(String group) -> Vector of String",
        home=Home.NAMESERVER,
        example=Example('edge:group_members("staging-area-edges")'),
    )
    def group_members(self, call: Call, group: str) -> list[str]:
        """The edges of a group by name, in upper case."""
        state = self._store.state
        return [shown(member.name) for member in state.members_of(state.find_group(group).name)]

    @function(
        "edge:delete_group(String group) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:delete_group("old-edges")', shows="true"),
    )
    def delete_group(self, call: Call, group: str) -> bool:
        """Delete a group with its memberships and assignments; its edges fall back to what their other groups say."""
        self._write(call, commands.delete_group(self._store.state, group))
        return True

    @function(
        "edge:set_group_models(String group, Vector models) -> Record",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example(
            'edge:set_group_models("staging-area-edges", '
            '[{"repo": "default", "name": "my-sa-model", "version": "5.3"}])'
        ),
    )
    async def set_group_models(self, call: Call, group: str, models: Sequence[Any]) -> dict[str, Any]:
        """Assign versions of models to a group; the models that are not named stay.

        Each element is a record with ``name``, ``version`` and, if wanted, ``repo``: ``default``, or a repository of
        the nameserver, from which releases that the federation does not have yet are imported first. The latest
        assignment wins, not the highest version, also between groups; a repeated call counts as the latest. The answer
        names what it overtook: ``replaced`` ones are gone for good, others come back when this assignment goes. What
        the models need is chosen now, the newest that fits; it comes along as ``needed``, and goes with them. Releases
        among them that are ``deprecated`` are named.
        """
        wanted = assignments.read_models(models)
        decided: list[Assigning] = []

        def assign(state: FederationState) -> Sequence[Event]:
            decided.append(assignments.set_group_models(state, group, wanted))
            return decided[-1].events

        remote = [model for model in wanted if fold(model.repo) != DEFAULT_REPOSITORY]
        if remote:
            self._store.state.find_group(group)
            await self._imports.bring(remote, call=call, then=assign)
        else:
            self._write(call, assign(self._store.state))
        made = decided[-1]
        return {
            "group": made.group,
            "assigned": [model.label for model in made.assigned],
            "needed": [pin.label for pin in made.needed],
            "overtaken": [
                {
                    "group": one.group,
                    "model": one.assignment.label,
                    "edges": one.edges,
                    "replaced": one.replaced,
                    "time": moment(one.assignment.time),
                    "by": one.assignment.by,
                }
                for one in made.overtaken
            ],
            **self._deprecated([*made.assigned, *made.needed]),
        }

    def _deprecated(self, chosen: Sequence[WantedModel | PinnedRelease]) -> dict[str, Any]:
        """Which of the releases that were just assigned should not be chosen any more, and why."""
        releases = [self._store.state.release(one.name, one.version) for one in chosen]
        told = [
            {"model": release.record.label, "reason": release.deprecated}
            for release in releases
            if release is not None and release.deprecated is not None
        ]
        return {"deprecated": told} if told else {}

    @function(
        "edge:remove_group_models(String group, Vector names) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:remove_group_models("staging-area-edges", ["my-sa-model"])', shows="true"),
    )
    def remove_group_models(self, call: Call, group: str, names: Sequence[Any]) -> bool:
        """End a group's assignments of the named models. Its edges fall back to what their other groups say."""
        self._write(call, assignments.remove_group_models(self._store.state, group, names))
        return True

    @function(
        "edge:group_models(String group) -> Vector of Record",
        home=Home.NAMESERVER,
        example=Example('edge:group_models("staging-area-edges")'),
        past=True,
    )
    async def group_models(self, call: Call, group: str) -> list[dict[str, str]]:
        """What is assigned to a group, in the form that ``edge:set_group_models`` takes."""
        async with self._past.state(call) as state:
            return [
                {"repo": assignment.repo, "name": assignment.name, "version": assignment.version}
                for assignment in state.find_group(group).assignments.values()
            ]
