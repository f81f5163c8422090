"""What a person's load and unload do to a peer's memory, on an edge and elsewhere.

Owns nothing: an edge's agent records a request before it acts on it; a nameserver or a client keeps no record, since
it starts with nothing in memory each time; what a revoked key signed stops there where the revocation says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from engine.engine import Engine
from federation.documents import KeyId, RootRecord
from federation.names import Digest
from federation.needs import StillNeeded, satisfies
from federation.revocation import stopping
from federation.verification import VerifiedRelease
from peers.agent import Agent
from peers.demanded import DemandedReleases, Find

if TYPE_CHECKING:
    from engine.servables import Servable


log = logging.getLogger("peerage.models")


class AgentMemory:
    """An edge's memory. The release must be in the edge's repository, from where it is verified and loaded."""

    def __init__(self, agent: Agent, engine: Engine) -> None:
        self._agent = agent
        self._engine = engine
        self._demanded: DemandedReleases | None = None

    def load_on_demand(self, find: Find, *, root: Callable[[], RootRecord]) -> None:
        """From now on requests load what ``find`` finds."""
        self._demanded = DemandedReleases(self._engine, find, root=root)

    def obey(self, root: RootRecord) -> None:
        """Take out of memory what a root record says must stop, of what the agent knows nothing of."""
        if self._demanded is not None:
            self._demanded.obey(root)

    async def load_release(self, release: VerifiedRelease, *, origin: Literal["manual", "development"]) -> Servable:
        """Raises why it could not be loaded; what answered under that name before still does."""
        record = release.record
        await self._agent.load_manual(record.name, record.version, release.record_digest, origin=origin)
        return self._engine.find(record.name)

    async def unload(self, name: str) -> None:
        """Raises :class:`~query.errors.UnknownName` for a model that is not in memory."""
        if any(servable.name == name and servable.origin == "demand" for servable in self._engine.loaded()):
            self._engine.unload(name)
        else:
            await self._agent.unload_manual(name)

    def present(self) -> Sequence[Servable]:
        """The models in memory."""
        return self._engine.loaded()

    def exceeded(self, name: str) -> tuple[str, ...]:
        """The resources that were not enough for what is in memory under that name."""
        return tuple(limit.resource for limit in self._engine.exceeded(name))

    def used(self) -> frozenset[Digest]:
        """The records of the releases that are in memory, on their way there, or should be."""
        return self._agent.used()

    def forget(self, record: Digest) -> None:
        """A person took a release that was not used off this disk."""
        self._agent.forget(record)

    def described(self, record: Digest) -> dict[str, Any]:
        """What is shown of a release because it is loaded, or that it is not."""
        return _described(self._engine, record)


class PlainMemory:
    """The memory of a peer that no group speaks of, until the process ends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._demanded: DemandedReleases | None = None
        self._signed: dict[str, frozenset[KeyId]] = {}  # what is loaded, by which keys

    async def load_release(self, release: VerifiedRelease, *, origin: Literal["manual", "development"]) -> Servable:
        """Raises as :class:`AgentMemory` does."""
        for model in self._dependents(release.record.name):
            condition = model.record.needs.releases[release.record.name]
            if not satisfies(release.record.version, condition):
                raise StillNeeded(
                    f"{model.label} needs {release.record.name}{condition}, so {release.label} cannot take its place",
                    hint=f'models:unload("{model.name}") first',
                )
        model = await self._engine.load(release, origin=origin)
        self._signed[model.name] = frozenset([release.keyid, *(member.keyid for member in release.members)])
        return model

    def load_on_demand(self, find: Find, *, root: Callable[[], RootRecord]) -> None:
        """As :meth:`AgentMemory.load_on_demand`."""
        self._demanded = DemandedReleases(self._engine, find, root=root)

    def obey(self, root: RootRecord) -> None:
        """Take out of memory what a root record says must stop."""
        if self._demanded is not None:
            self._demanded.obey(root)
        for name in stopping(self._signed, root):
            self._signed.pop(name)
            for model in tuple(self._dependents(name)):
                self._engine.unload(model.name)
                log.warning("needs_unmet", extra={"model": model.label, "reason": f"{name} must stop"})
            if any(model.name == name for model in self._engine.loaded()):
                self._engine.unload(name)
                log.warning("revoked_key", extra={"model": name, "reason": "its publisher's key was revoked"})

    async def unload(self, name: str) -> None:
        """Raises :class:`~engine.errors.ModelNotLoaded` for a model that is not in memory."""
        for model in self._dependents(name):
            raise StillNeeded(
                f"{model.label} needs {name}{model.record.needs.releases[name]}, so it stays",
                hint=f'models:unload("{model.name}") first',
            )
        self._engine.unload(name)

    def _dependents(self, name: str) -> Iterator[Servable]:
        return (model for model in self._engine.loaded() if name in model.record.needs.releases)

    def present(self) -> Sequence[Servable]:
        """The models in memory."""
        return self._engine.loaded()

    def exceeded(self, name: str) -> tuple[str, ...]:
        """The resources that were not enough for what is in memory under that name."""
        return tuple(limit.resource for limit in self._engine.exceeded(name))

    def used(self) -> frozenset[Digest]:
        """The records of the releases that are in memory."""
        return frozenset(model.record_digest for model in self._engine.loaded())

    def forget(self, record: Digest) -> None:
        """Nothing is noted of what is on disk."""

    def described(self, record: Digest) -> dict[str, Any]:
        """As :meth:`AgentMemory.described`."""
        return _described(self._engine, record)


def _described(engine: Engine, record: Digest) -> dict[str, Any]:
    from engine.functions import in_memory

    for model in engine.loaded():
        if model.record_digest == record:
            return in_memory(model)
    return {"loaded": False}
