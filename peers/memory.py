"""What a person's load and unload do to a peer's memory, on an edge and elsewhere.

Owns nothing: an edge's agent records a request before it acts on it; a nameserver or a client keeps no record, since
it starts with nothing in memory each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.engine import Engine
from federation.verification import VerifiedRelease
from peers.agent import Agent

if TYPE_CHECKING:
    from engine.loaded import LoadedModel  # brings numpy, which an idle edge does without


class AgentMemory:
    """An edge's memory. The release must be in the edge's repository, from where it is verified and loaded."""

    def __init__(self, agent: Agent, engine: Engine) -> None:
        self._agent = agent
        self._engine = engine

    async def load_release(self, release: VerifiedRelease, *, origin: Literal["manual", "development"]) -> LoadedModel:
        """Raises why it could not be loaded; what answered under that name before still does."""
        record = release.record
        await self._agent.load_manual(record.name, record.version, release.record_digest, origin=origin)
        return self._engine.find(record.name)

    async def unload(self, name: str) -> None:
        """Raises :class:`~query.errors.UnknownName` for a model that is not in memory."""
        await self._agent.unload_manual(name)


class PlainMemory:
    """The memory of a peer that no group speaks of, until the process ends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load_release(self, release: VerifiedRelease, *, origin: Literal["manual", "development"]) -> LoadedModel:
        """Raises as :class:`AgentMemory` does."""
        return await self._engine.load(release, origin=origin)

    async def unload(self, name: str) -> None:
        """Raises :class:`~engine.errors.ModelNotLoaded` for a model that is not in memory."""
        self._engine.unload(name)
