"""How an edge is, for ``/v1/health`` and whoever watches it: in a few words, of what its agent knows.

Pure. Rules: ready is an edge whose memory holds what it should; one that waits for its nameserver is ready too.
"""

from __future__ import annotations

from typing import Any

from peers.agent import Agent
from peers.homes import Membership


def unready(agent: Agent) -> str | None:
    """What keeps an edge from being ready: what it should run is not in its memory."""
    if not agent.ready.is_set():
        return "what was loaded before is being loaded again"
    return f"{', '.join(agent.missing)} should be loaded and is not" if agent.missing else None


def health(membership: Membership, agent: Agent, *, direct: str | None) -> dict[str, Any]:
    """``direct``: where other members may ask it, while they may."""
    return {
        "ready": agent.ready.is_set(),
        "peer": membership.name,
        "kind": membership.kind,
        "federation": membership.federation,
        "mode": agent.mode,
        "contact": agent.contact.state,
        "generation": agent.desired.generation if agent.desired else None,
        "direct": direct,
    }
