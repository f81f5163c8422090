"""A peer's application face: programs and people on this device, over a Unix socket and loopback; or, bound wider, over
TLS with the token for everything.

    GET  /v1/health   liveness and readiness
    POST /v1/query    a statement, frames as JSON lines    as a change: Unix socket, or the token
    …                 the routes of other parts: inference, pipelines, metrics, and what changes the repository

Rules: every request passes the gate of the way that it came (:mod:`peers.gates`); whoever is let through to statements
and changes is ``admin`` on this peer. An error below ``/v1`` has the form of :mod:`peers.answers`, every other one that
of :mod:`peers.face_errors`. Inferences are many and short, so they go past the router.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, Protocol, cast

from aiohttp import hdrs, web

from peers.answers import WrongMethod, body_of, not_found, told, unknown_path
from peers.answers import stream_frames as stream
from peers.face_errors import BadHttp, face_error, told_on_face
from peers.gates import Gate
from peers.requests import QUERY_BYTES_MAX, Origin, StatementRunner
from query.declarations import Caller

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Dispatch = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Quick(Protocol):
    """A kind of request that is answered without the router."""

    def takes(self, path: str) -> bool:
        """Whether a POST of this path, as it stands in the request's first line, is of the kind."""
        ...

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse: ...


class ApplicationListener:
    """The routes; one application for each way in. ``changing`` need what statements need.

    ``refused`` is told the code of every error that is answered outside ``/v1``.
    """

    def __init__(
        self,
        *,
        statements: StatementRunner,
        caller: Caller,
        health: Callable[[], dict[str, Any]],
        routes: Iterable[web.RouteDef] = (),
        changing: Iterable[web.RouteDef] = (),
        quick: Quick | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        self._statements = statements
        self._caller = caller
        self._health = health
        self._routes = tuple(routes)
        self._changing = tuple(changing)
        self._quick = quick
        self._refused = refused
        self._started = time.monotonic()

    def application(self, gate: Gate) -> web.Application:
        """What is served behind a gate."""
        application = web.Application(client_max_size=QUERY_BYTES_MAX)
        application.add_routes(
            [
                web.get("/v1/health", told(_guarded(self._tell_health, gate))),
                web.post("/v1/query", told(_guarded(self._query, gate, changes=True))),
                *(self._on_face(route, gate) for route in self._routes),
                *(self._on_face(route, gate, changes=True) for route in self._changing),
            ]
        )
        application.router.add_route("*", "/v1/{rest:.*}", told(_guarded(_unknown_of_v1, gate)))
        application.router.add_route("*", "/{rest:.*}", told_on_face(_guarded(_unknown, gate), refused=self._refused))
        return application

    def dispatching(self, gate: Gate, ordinary: Dispatch) -> Dispatch:
        """``ordinary``, the application's own, with what is quick taken out before it."""

        async def plainly(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await ordinary(request)
            except web.HTTPException as error:  # of aiohttp itself, before any route: it would be told as plain text
                problem = BadHttp(f"expected a request for a path of this face, found: {error.text or error.reason}")
                return face_error(problem, status=error.status)

        quick = self._quick
        if quick is None:
            return plainly
        takes, answer, check = quick.takes, quick.answer, gate.check

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            check(request)
            return await answer(request)

        quickly = cast(Dispatch, told_on_face(cast(Answer, guarded), refused=self._refused))

        async def dispatch(request: web.BaseRequest) -> web.StreamResponse:
            if request.method == hdrs.METH_POST and takes(request.raw_path) and hdrs.EXPECT not in request.headers:
                return await quickly(request)
            return await plainly(request)

        return dispatch

    def _on_face(self, route: web.RouteDef, gate: Gate, *, changes: bool = False) -> web.RouteDef:
        handler = told_on_face(_guarded(route.handler, gate, changes=changes), refused=self._refused)
        return web.RouteDef(route.method, route.path, handler, dict(route.kwargs))

    async def _tell_health(self, request: web.Request) -> web.StreamResponse:
        health = {"live": True, "uptime_s": round(time.monotonic() - self._started, 3), **self._health()}
        return web.json_response(health, status=200 if health.get("ready", True) else 503)

    async def _query(self, request: web.Request) -> web.StreamResponse:
        body = await body_of(request, bytes_max=QUERY_BYTES_MAX)
        query = self._statements.new_query()
        origin = Origin(self._caller, own=True)
        async with aclosing(self._statements.run(body, origin=origin, query=query)) as frames:
            return await stream(request, frames, query=query)


def _guarded(handler: Answer, gate: Gate, *, changes: bool = False) -> Answer:
    async def guarded(request: web.Request) -> web.StreamResponse:
        gate.check(request)
        if changes:
            gate.check_change(request)
        return await handler(request)

    return guarded


async def _unknown_of_v1(request: web.Request) -> web.StreamResponse:
    return not_found(request)


async def _unknown(request: web.Request) -> web.StreamResponse:
    """What no route takes: a path that nobody knows, or a known one with another method."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if not resource.canonical.endswith("{rest}"):
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise WrongMethod(
            f"expected {' or '.join(sorted(allowed))} on {request.path[:200]}, found {request.method}", allowed=allowed
        )
    raise unknown_path(request)
