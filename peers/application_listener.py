"""A peer's application face: programs and people on this device, over a Unix socket and loopback.

    GET  /v1/health   liveness and readiness               no token needed
    POST /v1/query    a statement, frames as JSON lines    Unix socket, or the token file's content as Bearer token

Rules: a caller on the Unix socket (0600) or with the token is ``admin`` on this peer. On the port, ``Host`` must name
this device and ``Origin`` must be absent or name it too, so that a web page cannot reach through a browser.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from peers.answers import body_of, not_found, told
from peers.answers import stream_frames as stream
from peers.requests import QUERY_BYTES_MAX, Origin, StatementRunner
from query.declarations import Caller
from query.errors import Forbidden

LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


class ApplicationListener:
    """The routes; one application for the socket (``token=None``) and one for the port."""

    def __init__(
        self,
        *,
        statements: StatementRunner,
        caller: Caller,
        health: Callable[[], dict[str, Any]],
        routes: Iterable[web.RouteDef] = (),
    ) -> None:
        self._statements = statements
        self._caller = caller
        self._health = health
        self._routes = tuple(routes)
        self._started = time.monotonic()

    def application(self, *, token: str | None) -> web.Application:
        """``token`` is what callers must show; None on the Unix socket, whose permissions are the proof."""
        application = web.Application(client_max_size=QUERY_BYTES_MAX)

        def guarded(handler: Callable[[web.Request], Any], *, needs_token: bool) -> Any:
            @told
            async def checked(request: web.Request) -> web.StreamResponse:
                if token is not None:
                    check_local(request)
                    if needs_token:
                        check_token(request, token)
                answer: web.StreamResponse = await handler(request)
                return answer

            return checked

        application.add_routes(
            [
                web.get("/v1/health", guarded(self._tell_health, needs_token=False)),
                web.post("/v1/query", guarded(self._query, needs_token=True)),
                *self._routes,
            ]
        )
        application.router.add_route("*", "/{rest:.*}", guarded(_unknown, needs_token=False))
        return application

    async def _tell_health(self, request: web.Request) -> web.StreamResponse:
        health = {"live": True, "uptime_s": round(time.monotonic() - self._started, 3), **self._health()}
        return web.json_response(health, status=200 if health.get("ready", True) else 503)

    async def _query(self, request: web.Request) -> web.StreamResponse:
        body = await body_of(request, bytes_max=QUERY_BYTES_MAX)
        query = self._statements.new_query()
        origin = Origin(self._caller, own=True)
        async with aclosing(self._statements.run(body, origin=origin, query=query)) as frames:
            return await stream(request, frames, query=query)


async def _unknown(request: web.Request) -> web.StreamResponse:
    return not_found(request)


def check_local(request: web.Request) -> None:
    """Raises :class:`Forbidden` unless ``Host`` and ``Origin`` name this device."""
    host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    if host not in LOCAL_HOSTS:
        raise Forbidden(f'the Host header names "{host[:80]}", expected this device')
    origin = request.headers.get("Origin")
    if origin is not None and (urlsplit(origin).hostname or "") not in LOCAL_HOSTS:
        raise Forbidden(f'the Origin header names "{origin[:80]}", expected this device')


def check_token(request: web.Request, token: str) -> None:
    """Raises :class:`Forbidden` without the token of this peer's token file."""
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), token.encode()):
        raise Forbidden(
            "statements on this port need the token of this peer",
            hint='send "Authorization: Bearer …" with the content of the file "token" in the peer\'s home',
        )
