"""Releases that come into the federation from other repositories: fetched, verified, published by who asked for them.

Owns the nameserver's side of imports. Rules: everything is fetched and verified before anything is listed or written
into the log, so that a call whose third release cannot be had leaves nothing of the first two but blobs that nothing
names; what is here already is not published again; the log and the repository change under the repositories' turns.
What a release needs and the federation does not have comes along, when the repository that the release is from has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from federation.assignments import WantedModel
from federation.documents import ReleaseRecord, SignedDocument, decode
from federation.events import Event
from federation.group_functions import Then
from federation.layout import ImageLayout
from federation.names import model_repository
from federation.needs import parsed_version, satisfies
from federation.release_commands import as_if, publish_release
from federation.store import FederationStore
from peers.remote_repositories import Fetched, RemoteRepositories
from peers.repository_turns import RepositoryTurns
from query.declarations import Call
from query.errors import LimitExceeded, WorldProblem

IMPORTS_MAX: Final = 64  # releases that one call brings, with all that they need

log = logging.getLogger("peerage.nameserver")


class FederationImports:
    """The nameserver's :class:`federation.group_functions.Imports`, and what ``models:import`` tells there."""

    def __init__(
        self,
        store: FederationStore,
        layout: ImageLayout,
        *,
        remotes: RemoteRepositories,
        turns: RepositoryTurns,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._layout = layout
        self._remotes = remotes
        self._turns = turns
        self._clock = clock

    def admit(self, signed: SignedDocument) -> None:
        """Raises for a release that the federation would not take, before its files are fetched."""
        publish_release(self._store.state, signed)

    async def bring(self, models: Sequence[WantedModel], *, call: Call, then: Then) -> None:
        """Have the federation have these releases and what ``then`` decides on them: all of it, or nothing changed."""
        fetched: dict[str, Fetched] = {}
        wanted = list(models)
        for model in wanted:  # grows by what is needed
            if len(wanted) > IMPORTS_MAX:
                raise LimitExceeded(f"{len(wanted)} releases to import in one call: expected at most {IMPORTS_MAX}")
            fetched[model.label] = await self._fetch(model, call)
            for name, condition in fetched[model.label].release.record.needs.releases.items():
                missing = await self._missing(model.repo, name, condition, wanted)
                if missing is not None:
                    wanted.append(missing)
        await self.publish([one.signed for one in fetched.values()], call=call, then=then)

    async def publish(self, documents: Sequence[SignedDocument], *, call: Call, then: Then = lambda state: ()) -> None:
        """List releases whose files are here and verified; write them, and what follows, into the log in one step."""
        repositories = {model_repository(decode(one.payload, ReleaseRecord).name) for one in documents}
        async with AsyncExitStack() as stack:
            for repository in sorted(repositories):
                await stack.enter_async_context(self._turns.of(repository))
            self._decided(documents, then)
            for signed in documents:
                await asyncio.shield(asyncio.to_thread(self._layout.attach, signed))
            published, following = self._decided(documents, then)  # by the state of now
            if published or following:
                self._store.append([*published, *following], caller=call.caller.name, now=self._clock())
            if published:
                log.info("imported", extra={"releases": len(published), "by": call.caller.name})

    def _decided(self, documents: Sequence[SignedDocument], then: Then) -> tuple[list[Event], Sequence[Event]]:
        state = self._store.state
        published = [event for signed in documents for event in publish_release(state, signed)]
        return published, then(as_if(state, published) if published else state)

    async def _fetch(self, model: WantedModel, call: Call) -> Fetched:
        try:
            return await self._remotes.fetch(
                model.repo, model.name, model.version, admit=self.admit, progress=call.progress
            )
        except WorldProblem as problem:
            if self._store.state.release(model.name, model.version) is not None:
                problem.hint = f'the federation has {model.label} already: leave "repo" out to assign what is here'
            raise

    async def _missing(self, repo: str, name: str, condition: str, wanted: Sequence[WantedModel]) -> WantedModel | None:
        """The newest release in the repository that meets a need which nothing here meets; None when none does,
        which the assignment then refuses with the chain.
        """
        here = [release.record.version for release in self._store.state.published.versions(name)]
        here += [model.version for model in wanted if model.name == name]
        if any(satisfies(version, condition) for version in here):
            return None
        versions = [label.partition("@")[2] for label in await self._remotes.available(repo, name)]
        fitting = [version for version in versions if satisfies(version, condition)]
        readable = [(parsed, version) for version in fitting if (parsed := parsed_version(version)) is not None]
        if readable:
            return WantedModel(name, max(readable)[1], repo)
        return WantedModel(name, fitting[-1], repo) if fitting else None
