"""The peer that the editor asks: one connection to a home's peer, and what is known of the peers that are asked about.

Rules: without a peer everything goes on with the program's own catalogue, and :attr:`Living.state` says why; connecting
is tried again when something is asked, at most every ``RETRY_S``. What is known grows old after ``STALE_S``, or when
something was changed, and is fetched anew beside the work: an answer to the editor never waits for a peer. Of at most
``PEERS_KNOWN_MAX`` peers something is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from peers.client import AsyncConnection
from peers.knowledge import FETCH_S_MAX, fetch, means_one, offline
from query.catalogue import Catalogue
from query.errors import Problem
from query.knowledge import Knowledge

RETRY_S: Final = 5.0
STALE_S: Final = 20.0
PEERS_KNOWN_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class State:
    """``peer``: the name of the peer that is connected, None while there is none; ``reason`` says why there is none."""

    peer: str | None = None
    reason: str = "not connected yet"


@dataclass(slots=True)
class _Known:
    knowledge: Knowledge
    at: float


class Living:
    """See the module. ``changed`` is awaited when more, or something else, is known than before."""

    def __init__(self, connect: Callable[[], AsyncConnection], *, changed: Callable[[], Awaitable[None]]) -> None:
        self._connect = connect
        self._changed = changed
        self._connection: AsyncConnection | None = None
        self._opening = asyncio.Lock()
        self._known: dict[str, _Known] = {}
        self._wanted: set[str] = set()
        self._asked = asyncio.Event()
        self._news = False
        self._tried = -RETRY_S
        self.state = State()

    async def run(self) -> None:
        """Fetch what is wanted, until cancelled; then close the connection."""
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                wanted, self._wanted = self._wanted, set()
                if self._news:
                    self._news = False
                    await self._changed()
                if not wanted:
                    continue
                if await self._reachable():
                    for peer in sorted(wanted):
                        await self._fetch(peer)
        finally:
            await self.close()

    def known(self, peer: str | None) -> Knowledge:
        """What is known at a peer, in the words of ``//peer:``; None: at the peer that is connected."""
        key = _key(peer)
        known = self._known.get(key)
        if known is None or self._now() - known.at > STALE_S:
            self.want(peer)
        base = known.knowledge if known is not None else self._anything()
        variables = self._connection.variables if self._connection is not None else {}
        return base.with_variables(variables) if variables else base

    def catalogues(self) -> Callable[[str], Catalogue | None]:
        """The catalogue of each peer by its folded name, as it is known now; for other threads too.

        Of a peer that is asked about and not known something is known soon.
        """
        now = {key: known.knowledge.catalogue for key, known in self._known.items() if known.knowledge.peer is not None}
        tried = set(self._known)
        loop = asyncio.get_running_loop()

        def catalogue(peer: str) -> Catalogue | None:
            if peer not in tried:
                loop.call_soon_threadsafe(self.want, peer)
            return now.get(peer)

        return catalogue

    def silent(self, peer: str) -> bool:
        """Whether a peer was asked for its functions and did not tell them."""
        known = self._known.get(_key(peer))
        return known is not None and known.knowledge.peer is None

    def want(self, peer: str | None) -> None:
        """Have what is known at a peer fetched anew."""
        if self._now() - self._tried >= RETRY_S or self._connection is not None:
            self._wanted.add(_key(peer))
            self._asked.set()

    def tell_anew(self) -> None:
        """Have :attr:`changed` awaited, though nothing else is known: the default peer is another."""
        self._news = True
        self._asked.set()

    def forget(self) -> None:
        """Something was changed: what is known is old."""
        for known in self._known.values():
            known.at = self._now() - STALE_S - 1.0

    async def connection(self) -> AsyncConnection:
        """The open connection. Raises :class:`~query.errors.Problem` when there is no peer."""
        async with self._opening:
            if self._connection is None:
                self._tried = self._now()
                connection = self._connect()
                await connection.__aenter__()
                self._connection = connection
            return self._connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.__aexit__(None, None, None)

    def _anything(self) -> Knowledge:
        """Names of the federation are the same wherever they were heard; the catalogue is the program's own."""
        if not self._known:
            return offline()
        latest = max(self._known.values(), key=lambda known: known.at).knowledge
        return replace(latest, catalogue=offline().catalogue, peer=None)

    async def _reachable(self) -> bool:
        before = self.state
        try:
            connection = await self.connection()
            name = await connection.value("this_peer()", timeout_s=FETCH_S_MAX)
            self.state = State(str(name), "")
        except (Problem, OSError) as problem:
            self._tried = self._now()
            self._known.clear()
            self.state = State(None, problem.message if isinstance(problem, Problem) else str(problem))
        if self.state != before:
            await self._changed()
        return self.state.peer is not None

    async def _fetch(self, key: str) -> None:
        connection = await self.connection()
        knowledge = await fetch(connection, peer=key or None)
        before = self._known.pop(key, None)
        self._known[key] = _Known(knowledge, self._now())
        while len(self._known) > PEERS_KNOWN_MAX:
            del self._known[next(iter(self._known))]
        if before is None or _told(before.knowledge) != _told(knowledge):
            await self._changed()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _key(peer: str | None) -> str:
    """Whose catalogue is meant: a peer's folded name, empty for the peer that is connected."""
    return peer.casefold() if peer is not None and means_one(peer) else ""


def _told(knowledge: Knowledge) -> object:
    """What an editor would see of it."""
    functions = tuple((declared.signature, declared.documentation) for declared in knowledge.catalogue)
    return functions, dict(knowledge.names), dict(knowledge.versions), dict(knowledge.keys), knowledge.peer
