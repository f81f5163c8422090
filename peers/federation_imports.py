"""Releases that come into the federation from other repositories: fetched, verified, published by who asked for them.

Owns the nameserver's side of imports. Rules: everything is fetched and verified before anything is listed or written
into the log, so that a call whose third release cannot be had leaves nothing of the first two but blobs that nothing
names; what is here already is not published again; the log and the repository change under the repositories' turns.
What a release needs and the federation does not have comes along, when the release's repository has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from federation.assignments import WantedModel
from federation.documents import ReleaseRecord, SignedDocument, decode
from federation.events import Event
from federation.group_functions import Then
from federation.layout import ImageLayout
from federation.names import model_repository
from federation.release_commands import as_if, publish_release
from federation.store import FederationStore
from peers.endings import to_the_end
from peers.remote_repositories import RemoteRepositories
from peers.repository_turns import RepositoryTurns
from query.declarations import Call
from query.errors import WorldProblem

log = logging.getLogger("peerage.nameserver")


class FederationImports:
    """The nameserver's :class:`federation.group_functions.Imports`: also for ``models:import`` there."""

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

    async def bring(self, models: Sequence[WantedModel], *, call: Call, then: Then = lambda state: ()) -> None:
        """Have the federation have these releases and what ``then`` decides on them: all of it, or nothing changed."""
        published = self._store.state.published
        try:
            fetched = await self._remotes.fetch_all(
                models,
                here=lambda name: [release.record.version for release in published.versions(name)],
                admit=lambda signed: publish_release(self._store.state, signed),
                progress=call.progress,
            )
        except WorldProblem as problem:
            if all(self._store.state.release(model.name, model.version) for model in models):
                problem.hint = 'the federation has all of it already: leave "repo" out to assign what is here'
            raise
        await self._publish([one.signed for one in fetched], call=call, then=then)

    async def _publish(self, documents: Sequence[SignedDocument], *, call: Call, then: Then) -> None:
        """List releases whose files are here and verified; write them, and what follows, into the log in one step."""
        repositories = {model_repository(decode(one.payload, ReleaseRecord).name) for one in documents}
        async with AsyncExitStack() as stack:
            for repository in sorted(repositories):
                await stack.enter_async_context(self._turns.of(repository))
            await to_the_end(self._publish_in_turn(documents, call=call, then=then))

    async def _publish_in_turn(self, documents: Sequence[SignedDocument], *, call: Call, then: Then) -> None:
        self._decided(documents, then)
        for signed in documents:
            await asyncio.to_thread(self._layout.attach, signed)
        published, following = self._decided(documents, then)  # by the state of now
        if published or following:
            self._store.append([*published, *following], caller=call.caller.name, now=self._clock())
        if published:
            log.info("imported", extra={"releases": len(published), "by": call.caller.name})

    def _decided(self, documents: Sequence[SignedDocument], then: Then) -> tuple[list[Event], Sequence[Event]]:
        state = self._store.state
        published = [event for signed in documents for event in publish_release(state, signed)]
        return published, then(as_if(state, published) if published else state)
