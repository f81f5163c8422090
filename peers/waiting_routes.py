"""The routes by which an edge fetches the statements that wait for it, and hands its answers over.

    GET /v1/edges/{uuid}/statements        {"open": [id, …], "more": true when there are further ones}
    GET /v1/edges/{uuid}/statements/{id}   the statement, with the director's word of now; it counts as taken
    PUT /v1/edges/{uuid}/statements/{id}   the whole answer; 204 once it is durable

Rules: an edge speaks for itself alone, and sees what is for it alone; what is over answers 404.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from federation.members import Member
from peers.answers import body_of, told
from peers.errand_polling import ErrandList
from peers.uplink_messages import ENCODER
from peers.waiting import LISTED_MAX, WaitingStatements
from peers.waiting_intake import AnswerIntake
from peers.whole_frames import WHOLE_BYTES_MAX


def waiting_routes(
    waiting: WaitingStatements, intake: AnswerIntake, *, edge_of: Callable[[web.Request], Member]
) -> list[web.RouteDef]:
    """``edge_of`` admits the caller as the edge that a request's path names, or raises."""

    async def listed(request: web.Request) -> web.StreamResponse:
        edge = edge_of(request)
        everything = waiting.open_for(edge.uuid)
        waiting.looked(edge.uuid)
        return _json(ENCODER.encode(ErrandList(everything[:LISTED_MAX], more=len(everything) > LISTED_MAX)))

    async def statement(request: web.Request) -> web.StreamResponse:
        edge = edge_of(request)
        return _json(ENCODER.encode(waiting.message(edge.uuid, request.match_info["id"])))

    async def answer(request: web.Request) -> web.StreamResponse:
        edge = edge_of(request)
        whole = await body_of(request, bytes_max=WHOLE_BYTES_MAX)
        await intake.take(edge.uuid, request.match_info["id"], whole)
        return web.Response(status=204)

    return [
        web.get("/v1/edges/{uuid}/statements", told(listed), allow_head=False),
        web.get("/v1/edges/{uuid}/statements/{id}", told(statement), allow_head=False),
        web.put("/v1/edges/{uuid}/statements/{id}", told(answer)),
    ]


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
