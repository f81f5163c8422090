"""The releases of this peer as the inference API's repository extension sees them.

Owns nothing: what is installed is read from disk, load and unload are statements of this peer's own, with everything
that goes with one: roles, needs, records, and on an edge the groups that have the last word at the next poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import aclosing
from typing import Any

from engine.engine import Engine
from engine.errors import ModelNotLoaded
from federation.documents import ReleaseRecord, decode
from federation.layout import ImageLayout
from peers.client import Answer
from peers.requests import Origin, StatementRequest, StatementRunner, encode_request
from query.declarations import Caller
from query.errors import nearest
from query.values import encode_value


class OwnRepository:
    """``caller`` is whom the gate let through."""

    def __init__(self, engine: Engine, layout: ImageLayout, statements: StatementRunner, caller: Caller) -> None:
        self._engine = engine
        self._layout = layout
        self._statements = statements
        self._caller = caller

    async def installed(self) -> Collection[str]:
        """The names of the releases in this peer's repository."""
        return await asyncio.to_thread(lambda: {release.name for release in self._layout.releases()})

    async def load(self, name: str) -> None:
        """What is loaded stays as it is; else the release made last. Raises why it cannot be."""
        if any(servable.name == name for servable in self._engine.loaded()):
            return
        await self._require_installed(name)
        newest = await asyncio.to_thread(self._layout.newest, name)
        if newest is not None:
            version = decode(newest.payload, ReleaseRecord).version
            await self._run("models:load(:name, :version)", name=name, version=version)

    async def unload(self, name: str) -> None:
        """Raises :class:`~engine.errors.ModelNotLoaded` for a name that nothing here has."""
        if any(servable.name == name for servable in self._engine.loaded()):
            await self._run("models:unload(:name)", name=name)
        else:
            await self._require_installed(name)

    async def _require_installed(self, name: str) -> None:
        installed = await self.installed()
        if name not in installed:
            close = nearest(name, installed)
            tail = f' — did you mean "{close}"?' if close else ""
            raise ModelNotLoaded(
                f'no release "{name[:80]}" is installed here{tail}', hint="models:installed() lists what is"
            )

    async def _run(self, text: str, **params: Any) -> None:
        encoded: Mapping[str, Any] = {name: encode_value(value) for name, value in params.items()}
        body = encode_request(StatementRequest(text=text, params=dict(encoded)))
        origin = Origin(self._caller, own=True)
        answer = Answer()
        running = self._statements.run(body, origin=origin, query=self._statements.new_query())
        async with aclosing(running) as frames:
            async for frame in frames:
                answer.add(frame)
        answer.checked()
