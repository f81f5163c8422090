"""The functions of the language about single edges: desired, reported and why; at home on the nameserver.

Compose a nameserver's catalogue from :func:`nameserver_functions`, every other peer's from the declarations of
:data:`NAMESERVER_FUNCTIONS`. Edges are shown in upper case; an unknown name is told with the nearest existing one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from federation import commands
from federation.carrying_functions import CarryingFunctions
from federation.convergence_functions import ConvergenceFunctions
from federation.decisions import Decision, decisions
from federation.documents import ActualState
from federation.events import Event
from federation.explanation import explain
from federation.group_functions import GroupFunctions, Imports
from federation.member_functions import MakeBundle, MemberFunctions
from federation.members import Member, PropertyValue
from federation.names import shown
from federation.need_functions import NeedFunctions
from federation.past import Past, no_report_by, reported_by
from federation.polling import Director, desired_state, window_of
from federation.presence import Presence, last_report
from federation.properties import edge_properties
from federation.reports import Contact, NoReport, converged, moment, state_record, status_record
from query.declarations import Call, Effect, Example, Home, Role, function

if TYPE_CHECKING:
    from federation.state import FederationState
    from federation.store import FederationStore


class EdgeFunctions:
    """Bind on the nameserver."""

    def __init__(self, store: FederationStore, past: Past, presence: Presence) -> None:
        self._store = store
        self._past = past
        self._presence = presence

    def _write(self, call: Call, events: Sequence[Event]) -> None:
        self._store.append(events, caller=call.caller.name, now=call.now.timestamp())

    def _reported(self, call: Call, member: Member) -> tuple[ActualState | None, Contact]:
        if call.as_of is not None:
            return reported_by(self._store, member, call.as_of.timestamp())
        return last_report(self._store, self._presence, member)

    # --- desired ------------------------------------------------------------------------------------------------

    @function(
        "edge:get_config(String edge) -> Record",
        home=Home.NAMESERVER,
        example=Example('edge:get_config("MY-EDGE-1")'),
        past=True,
    )
    async def get_config(self, call: Call, edge: str) -> dict[str, Any]:
        """What the edge's next poll is told: models, mode, poll interval and generation.

        For each model its version, the digest of its signed record, and the group and assignment that decided.
        """
        async with self._past.state(call) as state:
            member = state.find_edge(edge)
            desired = desired_state(state, member.uuid, window=window_of(member.uuid, _asked_about(call)))
            return {
                "edge": shown(member.name),
                "generation": desired.generation,
                "epoch": desired.epoch,
                "mode": desired.mode,
                "poll_interval": desired.poll_interval,
                "models": [_decision_record(decision) for decision in decisions(state, member.uuid)],
            }

    @function(
        "edge:set_mode(String edge, String mode) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:set_mode("MY-EDGE-1", "ONLINE")', shows="true"),
    )
    def set_mode(self, call: Call, edge: str, mode: str) -> bool:
        """INTERACTIVE: the edge keeps an uplink for queries and acts at once. ONLINE: it only polls.

        AUTONOMOUS is refused: it is entered and left on the edge.
        """
        self._write(call, commands.set_mode(self._store.state, edge, mode))
        return True

    @function(
        "edge:set_poll_interval(String edge_or_group, String interval) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:set_poll_interval("MY-EDGE-1", "30s~10%")', shows="true"),
    )
    def set_poll_interval(self, call: Call, edge_or_group: str, interval: str) -> bool:
        """How often an edge, a group's edges or, with ``all``, every edge polls: ``30s``, ``5m``, ``60s~10%``.

        What follows ``~`` is jitter. An edge's own setting counts first, then the one set last among its groups, then
        that of ``all``. ``default`` takes a setting back.
        """
        self._write(call, commands.set_poll_interval(self._store.state, edge_or_group, interval))
        return True

    @function(
        "edge:set_property(String edge, String key, Object value) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('edge:set_property("MY-EDGE-1", "site", "lab")', shows="true"),
    )
    def set_property(self, call: Call, edge: str, key: str, value: PropertyValue | None) -> bool:
        """Set a property of an edge: a text, a number or a truth value. ``null`` removes it.

        ``//peer: where site = "lab"`` then means the edges whose ``site`` was set so.
        """
        self._write(call, commands.set_property(self._store.state, edge, key, value))
        return True

    @function(
        "edge:properties(String edge) -> Record",
        home=Home.NAMESERVER,
        example=Example('edge:properties("MY-EDGE-1")'),
    )
    def properties(self, call: Call, edge: str) -> dict[str, Any]:
        """What the edge told of itself (``arch``, ``os``, ``python``, ``cores``, ``memory`` in bytes, ``version``,
        ``site`` …), over it what was set here, and its ``name``, ``mode``, ``tags`` and ``groups``.

        These are the names that ``//peer: where CONDITION`` knows.
        """
        return dict(edge_properties(self._store, self._store.state.find_edge(edge)))

    # --- actual -------------------------------------------------------------------------------------------------

    @function(
        "edge:actual_state(String edge) -> Record",
        home=Home.NAMESERVER,
        example=Example(
            'edge:actual_state("MY-EDGE-1")',
            shows='{"models:loaded":[\'my-sa-model@5.3\'],"last_load_errors":[],"edge_mode":\'INTERACTIVE\'}',
        ),
        past=True,
    )
    async def actual_state(self, call: Call, edge: str) -> dict[str, Any]:
        """What the edge reported last: the models in its memory, why others are not there, and its mode."""
        async with self._past.state(call) as state:
            member = state.find_edge(edge)
        actual, _ = self._reported(call, member)
        if actual is None and call.as_of is not None:
            raise no_report_by(member, call.as_of.timestamp())
        if actual is None:
            raise NoReport(
                f'no report yet from "{shown(member.name)}"',
                hint=f'edge:explain("{shown(member.name)}") says what it waits for',
            )
        return state_record(actual)

    @function(
        "edge:status(String edge) -> Record",
        home=Home.NAMESERVER,
        example=Example('edge:status("MY-EDGE-1")'),
        past=True,
    )
    async def status(self, call: Call, edge: str) -> dict[str, Any]:
        """One edge: joined, seen, reported; desired and reported generation, mode and models; ``lag`` in seconds.

        Of the past, whether it was connected and when it was seen is null: no log has it.
        """
        async with self._past.state(call) as state:
            return self._status(call, state, state.find_edge(edge))

    @function(
        "edge:status() -> Bag of Record",
        home=Home.NAMESERVER,
        example=Example("edge:status()"),
        aliases=("edge_status",),
    )
    def status_of_all(self, call: Call) -> Iterator[dict[str, Any]]:
        """The status of every edge, one a row, in the order of registration."""
        for member in tuple(self._store.state.edges()):
            if self._store.state.entry(member.uuid) is not None:  # not removed while rows were read
                yield self._status(call, self._store.state, member)

    def _status(self, call: Call, state: FederationState, member: Member) -> dict[str, Any]:
        now = _asked_about(call)
        desired = desired_state(state, member.uuid, window=window_of(member.uuid, now))
        actual, contact = self._reported(call, member)
        lag_s = 0.0
        if not converged(desired, actual):
            changed_at = self._store.time_of(desired.generation)
            lag_s = round(max(0.0, now - changed_at), 3) if changed_at is not None else 0.0
        return status_record(member, desired, actual, contact, lag_s=lag_s)

    @function(
        "edge:explain(String edge, String model?) -> Bag of Record",
        home=Home.NAMESERVER,
        example=(Example('edge:explain("MY-EDGE-1")'), Example('edge:explain("MY-EDGE-1", "my-sa-model")')),
    )
    def explain(self, call: Call, edge: str, model: str | None = None) -> list[dict[str, Any]]:
        """Why an edge has a version of a model, or does not have it yet; one row a model, or one row whose ``model`` is
        null for an edge without any.

        ``winner`` is the assignment that decides and ``losers`` those it overtook, the latest first, each with its
        group, version, number in the log, time and author. ``waits_for`` is null when all is as it should be.
        """
        member = self._store.state.find_edge(edge)
        actual, contact = self._reported(call, member)
        explanations = explain(
            self._store.state, member.uuid, model, actual=actual, contact=contact, now=call.now.timestamp()
        )
        return [explanation.record() for explanation in explanations]

    # --- listings -----------------------------------------------------------------------------------------------

    @function(
        "edge:list() -> Vector of String",
        home=Home.NAMESERVER,
        example=(Example("edge:list()"), Example("edge:list() as of (now() - 0.001)")),
        past=True,
    )
    async def list_edges(self, call: Call) -> list[str]:
        """The names of all edges, in upper case, in the order of registration."""
        async with self._past.state(call) as state:
            return [shown(member.name) for member in state.edges()]

    @function(
        "edge:listening() -> Vector of String",
        home=Home.NAMESERVER,
        example=Example("edge:listening()"),
        aliases=("listening_edges",),
    )
    def listening(self, call: Call) -> list[str]:
        """The edges that hold an uplink now and take queries."""
        return [shown(member.name) for member in self._store.state.edges() if self._presence.connected(member.uuid)]

    @function(
        "edge:listening(String edge) -> Boolean",
        home=Home.NAMESERVER,
        example=Example('edge:listening("MY-EDGE-1")'),
        aliases=("edge_listening",),
    )
    def is_listening(self, call: Call, edge: str) -> bool:
        """Whether an edge holds an uplink now and takes queries."""
        return self._presence.connected(self._store.state.find_edge(edge).uuid)


def _asked_about(call: Call) -> float:
    """The moment that a call is about, in seconds."""
    return (call.as_of or call.now).timestamp()


def _decision_record(decision: Decision) -> dict[str, Any]:
    winner = decision.winner
    return {
        "name": decision.name,
        "version": winner.version,
        "digest": winner.record,
        "group": decision.group.name,
        "assignment": winner.seq,
        "assigned": moment(winner.time),
        "by": winner.by,
        "needed_by": decision.needed_by.label if decision.needed_by else None,
    }


NAMESERVER_FUNCTIONS: Final[tuple[type, ...]] = (
    EdgeFunctions,
    GroupFunctions,
    NeedFunctions,
    MemberFunctions,
    CarryingFunctions,
    ConvergenceFunctions,
)


def nameserver_functions(
    store: FederationStore, director: Director, presence: Presence, *, make_bundle: MakeBundle, imports: Imports
) -> tuple[object, ...]:
    """An instance of each of :data:`NAMESERVER_FUNCTIONS`, to be bound in a nameserver's catalogue."""
    past = Past(store)
    return (
        EdgeFunctions(store, past, presence),
        GroupFunctions(store, past, imports),
        NeedFunctions(store),
        MemberFunctions(store, make_bundle=make_bundle),
        CarryingFunctions(store, director),
        ConvergenceFunctions(store, director, presence),
    )
