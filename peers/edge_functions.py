"""Functions of the language about the edge that runs them."""

from __future__ import annotations

from typing import Any

from federation.names import shown
from federation.reports import moment, state_record
from peers.agent import Agent
from query.declarations import Call, Effect, Example, Role, function
from query.errors import WrongHome


class OwnEdgeFunctions:
    """About this edge; at home everywhere, so that asking a peer that is none is told clearly."""

    def __init__(self, agent: Agent | None) -> None:
        """``agent`` is None on a peer that is not an edge."""
        self._agent = agent

    @function("edge:actual_state() -> Record", example=Example("//peer: E1\nedge:actual_state()"))
    def actual_state(self, call: Call) -> dict[str, Any]:
        """What this edge has in memory, which loads failed last and why, and its mode.

        `edge:actual_state(edge)` asks the nameserver what an edge reported last.
        """
        return state_record(self._edge(call, "edge:actual_state()").actual_state())

    @function("edge:contact() -> Record", example=Example("//peer: E1\nedge:contact()"))
    def contact(self, call: Call) -> dict[str, Any]:
        """How this edge's last poll ended (`answered`, `unreachable`, `refused`, `untrusted`, or `never`), since when
        polls end so, the error if there is one, when it polls next, and by how much this device's clock is ahead of
        or behind the nameserver's, null while they agree: it goes by the nameserver's.
        """
        agent = self._edge(call, "edge:contact()")
        contact = agent.contact
        problem = contact.problem
        return {
            "state": contact.state,
            "since": moment(contact.since),
            "error": problem.code if problem else None,
            "message": problem.message if problem else None,
            "next_poll_at": moment(contact.next_poll_at),
            "generation": agent.desired.generation if agent.desired else None,
            "clock": agent.clock_skew,
        }

    @function(
        "edge:poll() -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example("//peer: E1\nedge:poll()"),
    )
    async def poll(self, call: Call) -> dict[str, Any]:
        """Poll the nameserver at once; gives the generation that the edge then stands at and the models it wants.

        What follows from it, fetching and loading, goes on after the answer.
        """
        agent = self._edge(call, "edge:poll()")
        await agent.poll_now()
        desired = agent.desired
        assert desired is not None
        return {"generation": desired.generation, "models": [model.label for model in desired.models]}

    def _edge(self, call: Call, function_name: str) -> Agent:
        if self._agent is None:
            raise WrongHome(
                f"{function_name} speaks of the edge that runs it, and {shown(call.peer)} is not an edge",
                hint="put //peer: NAME of an edge above the statement",
            )
        return self._agent
