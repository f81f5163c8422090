"""How pipelines stand, as each kind of peer can tell: the nameserver of every edge, an edge of itself, a client of what
it has in memory itself and, asking the nameserver, of every edge.

Reads states and reports; decides nothing (:mod:`federation.pipeline_standing` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from federation.documents import ActualState, LoadError
from federation.entries import ALL
from federation.explanation import explain
from federation.members import Member
from federation.pipeline_standing import EdgeStanding, WantedVersion, standing_of, status_record
from federation.presence import Presence
from federation.reports import Contact
from federation.state import FederationState
from federation.store import FederationStore, Report
from peers.agent import Agent
from peers.pipeline_drafts import PipelineDrafts
from peers.release_ports import Present, Statements
from query.declarations import Call
from query.errors import Problem, UnknownName, unknown

REPORTS_PER_PAGE: Final = 500
EDGES_AT_ONCE: Final = 100


class Standings(Protocol):
    """The pipelines of which one peer can tell."""

    async def status(self, name: str, call: Call) -> dict[str, Any]: ...


class OwnMemory(Protocol):
    """What this peer runs itself."""

    def present(self) -> Sequence[Present]: ...

    def exceeded(self, name: str) -> tuple[str, ...]: ...


class FederationStandings:
    """The nameserver's: by the assignments and the last reports."""

    def __init__(self, store: FederationStore, presence: Presence) -> None:
        self._store = store
        self._presence = presence

    async def status(self, name: str, call: Call) -> dict[str, Any]:
        """Raises :class:`~query.errors.UnknownName` for a name that no pipeline has or had."""
        state = self._store.state
        known = {one.record.name for one in state.releases() if one.record.kind == "pipeline"}
        reports = await self._mentioning(name)
        if name not in known and not reports:
            raise unknown("pipeline", name[:80], known)
        members = {member.uuid: member for member in _assigned(state, name)}
        for report in reports.values():
            entry = state.entry(report.edge)
            if entry is not None:
                members.setdefault(entry.member.uuid, entry.member)
        edges = []
        for number, member in enumerate(members.values()):
            if number % EDGES_AT_ONCE == 0:
                await asyncio.sleep(0)  # polls are answered in between
            standing = self._standing(name, member, call.now.timestamp())
            if standing is not None:
                edges.append(standing)
        return dict(status_record(name, edges))

    def _standing(self, name: str, member: Member, now: float) -> EdgeStanding | None:
        report = self._store.reports.latest(member.uuid)
        actual = report.actual if report else None
        contact = Contact(
            last_seen=self._presence.last_seen(member.uuid),
            connected=self._presence.connected(member.uuid),
            next_poll_at=self._presence.next_poll_at(member.uuid),
            reported_at=report.time if report else None,
        )
        try:
            found = next(iter(explain(self._store.state, member.uuid, name, actual=actual, contact=contact, now=now)))
        except UnknownName:  # an error of a pipeline that the federation no longer has
            return None
        decision = found.decision
        wanted = (
            WantedVersion(decision.winner.version, decision.winner.record, decision.group.name) if decision else None
        )
        if wanted is None and found.loaded is None and not (actual and _errors(actual, name)):
            return None
        return standing_of(
            member.name,
            wanted=wanted,
            loaded=found.loaded,
            errors=_errors(actual, name) if actual else (),
            waiting=found.waiting,
            exceeded=_exceeded(actual, name),
        )

    async def _mentioning(self, name: str) -> dict[str, Report]:
        """The last reports of the edges that have it in memory or tell an error of it."""
        words = (f'"name":"{name}"'.encode(), f'"model":"{name}@'.encode())
        found: dict[str, Report] = {}
        after = ""
        while page := self._store.reports.page(after, limit=REPORTS_PER_PAGE):
            found |= {report.edge: report for report in page if any(word in report.body for word in words)}
            after = page[-1].edge
            await asyncio.sleep(0)
        return found


class EdgeStandings:
    """An edge's: of itself."""

    def __init__(self, agent: Agent, memory: OwnMemory, drafts: PipelineDrafts) -> None:
        self._agent = agent
        self._memory = memory
        self._drafts = drafts

    async def status(self, name: str, call: Call) -> dict[str, Any]:
        actual, desired = self._agent.actual_state(), self._agent.desired
        model = next((one for one in desired.models if one.name == name), None) if desired else None
        loaded = next((one for one in actual.loaded if one.name == name), None)
        errors = _errors(actual, name)
        if model is None and loaded is None and not errors:
            known = set(await asyncio.to_thread(self._drafts.names))
            if name not in known:
                known |= {one.record.name for one in self._memory.present() if one.record.kind == "pipeline"}
                raise unknown("pipeline", name[:80], known)
            return dict(status_record(name, []))
        wanted = WantedVersion(model.version, model.record, model.group) if model else None
        exceeded = _exceeded(actual, name)
        standing = standing_of(call.peer, wanted=wanted, loaded=loaded, errors=errors, exceeded=exceeded)
        return dict(status_record(name, [standing]))


class ClientStandings:
    """A client's: its own memory, and what the nameserver tells."""

    def __init__(self, memory: OwnMemory, drafts: PipelineDrafts, statements: Statements) -> None:
        self._memory = memory
        self._drafts = drafts
        self._statements = statements

    async def status(self, name: str, call: Call) -> dict[str, Any]:
        here = [one.record.version for one in self._memory.present() if one.record.name == name]
        answers = await self._statements.run(("nameserver",), "pipeline:status(:name)", {"name": name}, call=call)
        told = next(iter(answers.values()))
        if isinstance(told, UnknownName):
            if not here and name not in await asyncio.to_thread(self._drafts.names):
                raise told
            told = status_record(name, [])
        elif isinstance(told, Problem):
            raise told
        status = "Running" if here and told["status"] == "Undeployed" else told["status"]
        exceeded = self._memory.exceeded(name) if here else ()
        return {**told, "status": status, "here": here[0] if here else None, "here_exceeded": list(exceeded)}


def _errors(actual: ActualState, name: str) -> list[LoadError]:
    return [error for error in actual.errors if error.model.partition("@")[0] == name]


def _exceeded(actual: ActualState | None, name: str) -> list[str]:
    return [one.resource for one in actual.exceeded if one.model.partition("@")[0] == name] if actual else []


def _assigned(state: FederationState, name: str) -> Iterator[Member]:
    """The edges of every group that has a pipeline, in the order of registration where it is ``all``."""
    for group in state.group_objects():
        if name in group.assignments:
            yield from state.edges() if group.name == ALL else state.members_of(group.name)
