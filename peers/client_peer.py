"""A short-lived client peer, in the process of a command or program: the home of a person or a publisher.

Functions at home everywhere run here, with this home's folders and keys; the rest goes to the nameserver, signed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

from federation.certificate_reading import check_issued
from federation.keys import read_key
from federation.layout import ImageLayout
from peers.addresses import Look
from peers.catalogues import PeerCatalogue
from peers.direct_parts import DirectParts
from peers.edge_parts import HomeCertificate, HomeTrust, trusted_root
from peers.federation_client import FederationClient
from peers.homes import Home, Membership
from peers.inference_log_parts import opened_inference_log
from peers.local_parts import (
    OwnStatements,
    PeerSelf,
    local_functions,
    opened_client,
    opened_engine,
    statements_of,
)
from peers.memory import PlainMemory
from peers.requests import Origin, StatementRequest, encode_request
from peers.running import RunningQueries
from peers.settings import ClientSettings
from peers.statements import Statements
from query.declarations import Caller, Role
from query.errors import Problem, UnknownName
from query.frames import Frame
from query.session import Session
from query.values import encode_value

__all__ = ["ClientPeer", "open_client"]

log = logging.getLogger("peerage.federation")


class ClientPeer:
    """A :class:`peers.client.Link` that is a peer itself. Session variables last as long as it does."""

    def __init__(
        self, *, statements: Statements, running: RunningQueries, caller: Caller, stack: AsyncExitStack
    ) -> None:
        self._statements = statements
        self._running = running
        self._own: set[str] = set()  # ids of what runs for this link
        self._caller = caller
        self._stack = stack
        self._session = Session()

    @property
    def variables(self) -> Mapping[str, Any]:
        return dict(self._session.variables)

    async def close(self) -> None:
        await self._stack.aclose()

    async def cancel(self) -> None:
        for query in tuple(self._own):
            with suppress(UnknownName):  # it ended meanwhile
                self._running.cancel(query, caller=self._caller)

    async def frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any],
        peer: str | None,
        timeout_s: float | None,
        budget: str | None = None,
    ) -> AsyncGenerator[Frame, None]:
        request = StatementRequest(
            text=text,
            params={name: encode_value(value) for name, value in params.items()},
            targets=peer,
            timeout=timeout_s,
            budget=budget,
        )
        query = self._statements.new_query()
        running = self._statements.run(
            encode_request(request), origin=Origin(self._caller, own=True), query=query, session=self._session
        )
        self._own.add(query)
        try:
            async with aclosing(running) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._own.discard(query)


async def open_client(home: Home, settings: ClientSettings, *, clock: Callable[[], float] = time.time) -> ClientPeer:
    """The client peer of a home. Dials nothing before a statement needs it."""
    membership = home.membership()
    check_issued(home.text(home.identity_crt), home.text(home.ca_crt))
    stack = AsyncExitStack()
    key = read_key(home.identity_key)
    client = opened_client(home, settings.nameserver, clock=clock, look=_look(membership, settings))
    stack.push_async_callback(client.close)
    client.first = _renewal(home, client, key=key.public)
    trust = HomeTrust(home, trusted_root(home))
    inferences = opened_inference_log(home, settings, membership)
    if inferences is not None:
        stack.callback(inferences.close)
    engine = opened_engine(settings, partition=membership.name, inferences=inferences)
    stack.callback(engine.close)
    memory = PlainMemory(engine)

    async def follow_root() -> None:
        await trust.follow(client)
        memory.obey(trust.root)

    running = RunningQueries()
    catalogue = PeerCatalogue()
    me = PeerSelf(home, membership, settings)
    direct = DirectParts(me, client=client, root=lambda: trust.root, follow_root=follow_root)
    stack.push_async_callback(direct.close)
    statements = statements_of(me, key=key, client=client, catalogue=catalogue, running=running, front=direct.front)
    catalogue.compose(
        *local_functions(
            me,
            engine=engine,
            memory=memory,
            layout=ImageLayout(home.releases),
            root=lambda: trust.root,
            asking=OwnStatements(statements),
            running=running,
            client=client,
            agent=None,
            where=lambda: client.addresses[0] if client.addresses else "",
            follow_root=follow_root,
            inferences=inferences,
        )
    )
    catalogue.follow(engine)
    return ClientPeer(
        statements=statements, running=running, caller=Caller(membership.name, Role.ADMIN, membership.uuid), stack=stack
    )


def _renewal(home: Home, client: FederationClient, *, key: bytes) -> Callable[[], Awaitable[None]]:
    """A certificate that is at two thirds of its life, or over, is made anew before anything else is asked."""

    async def renew_when_due() -> None:
        certificate = HomeCertificate(home, client, key=key)
        if client.federation_time() < certificate.renew_at():
            return
        try:
            await certificate.renew()
        except Problem as problem:  # what is asked then tells it, if it matters
            log.info("renewal_failed", extra={"code": problem.code, "reason": problem.message})
        else:
            log.info("certificate_renewed")

    return renew_when_due


def _look(membership: Membership, settings: ClientSettings) -> Look | None:
    """Looking for the nameserver on the local network; None where it is named, or zeroconf is not wanted."""
    if settings.nameserver or not settings.zeroconf:
        return None

    async def look() -> Sequence[str]:
        from peers.discovery import find_nameservers

        return await find_nameservers(membership.federation, interface=settings.zeroconf_interface)

    return look
