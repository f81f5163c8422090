"""Introductions on the nameserver's federation face: a member asks for one before it asks another peer directly.

    GET /v1/introductions/{name}     200 {"own": …, "peer": …}, see :mod:`federation.introductions`

Decides nothing. Rules: each request is admitted as every other on that face; a name that is none is a 404 that says the
nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from federation.documents import encode
from federation.introductions import introduce
from federation.keys import PrivateKey
from federation.members import Member
from peers.answers import told


class Roster(Protocol):
    """The members, and the name of their federation."""

    @property
    def federation(self) -> str: ...

    def find_member(self, name: str) -> Member:
        """Raises UnknownName with the nearest."""


def introduction_routes(
    roster: Callable[[], Roster],
    *,
    member_of: Callable[[web.Request], Member],
    director: Callable[[], PrivateKey],
    clock: Callable[[], float],
) -> tuple[web.RouteDef, ...]:
    """``member_of`` admits a request; ``director`` gives the key in force."""

    async def introduction(request: web.Request) -> web.StreamResponse:
        caller = member_of(request)
        now = roster()
        peer = now.find_member(request.match_info["name"])
        made = introduce(caller, peer, director=director(), federation=now.federation, now=clock())
        return web.Response(body=encode(made), content_type="application/json", headers={"Cache-Control": "no-store"})

    return (web.get("/v1/introductions/{name}", told(introduction), allow_head=False),)
