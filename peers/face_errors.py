"""Errors of the inference API: ``{"error": text, "code": …, "hint": …}`` and a status that agrees.

Owns the table of statuses for both protocols of the application face, the Open Inference Protocol and the pipeline
server's; errors below ``/v1`` keep their own form (:mod:`peers.answers`).

    400  the request itself                  401  no token where all needs it     403  refused to this caller
    404  unknown, or not loaded here         405  a path with another method
    408  the body did not end in time        409  a release that does not load    413  over a limit
    415  a form that is not read here        429  too many requests at once       503  may pass: busy, loading, memory
    504  the time limit                      500  ours: the log has the cause, the body its incident id

Rules: 429 and 503 carry ``Retry-After``; what is ours is told without detail.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import web

from engine.errors import ContentProblem, EngineBusy, ModelNotLoaded, OverTime, ReplicaLost, StreamBusy
from peers.answers import Answer, TooBusy, headers_of, status_of
from peers.content_coding import UnknownCoding
from query.errors import (
    ErrorRecord,
    InternalProblem,
    Problem,
    UserProblem,
)

BUSY_S: Final = 1  # after which a client may ask a busy peer again
LOADING_S: Final = 5
_BUSY: Final = (EngineBusy, TooBusy, ReplicaLost, StreamBusy)


class BadHttp(UserProblem):
    """What is no request that any route could take."""

    code = "bad_http"


Refused: TypeAlias = Callable[[str], None]
"""Told the code of every error that is answered."""

log = logging.getLogger("peerage.http")


def status_on_face(problem: Problem) -> int:
    """The HTTP status that agrees with a problem's class: as on every face, but for what only this one meets."""
    match problem:
        case UnknownCoding() | Problem(code="arrow_unavailable"):
            return 415
        case ModelNotLoaded():
            return 404
        case OverTime():
            return 504
        case ContentProblem():
            return 409
        case _:
            return status_of(problem)


def face_error(
    problem: Problem, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """The answer that tells a problem."""
    status = status or status_on_face(problem)
    body: dict[str, Any] = {"error": problem.message, "code": problem.code}
    if problem.hint:
        body["hint"] = problem.hint
    more = headers_of(problem) | dict(headers or {})
    if status in (429, 503):
        more.setdefault("Retry-After", str(BUSY_S if isinstance(problem, _BUSY) else LOADING_S))
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json", headers=more)


def told_on_face(handler: Answer, *, refused: Refused | None = None) -> Answer:
    """Problems that a handler raises become answers; anything else is ours, logged and told by its incident alone."""

    async def answering(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            code = problem.code
            if status_on_face(problem) != 500:
                answer = face_error(problem)
            else:
                found = _incident()
                log.exception("request_failed", extra={"path": request.path, "incident": found})
                answer = face_error(_told(found, code))
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            code, found = InternalProblem.code, _incident()
            log.exception("request_failed", extra={"path": request.path, "incident": found})
            answer = face_error(_told(found, code))
        if refused is not None:
            refused(code)
        return answer

    return answering


def _incident() -> str:
    return uuid.uuid4().hex[:12]


def _told(incident: str, code: str) -> Problem:
    """What a client is told of what is ours."""
    record = ErrorRecord(code, f"this peer failed to answer; its log has the cause under incident {incident}")
    return Problem.from_record(record)
