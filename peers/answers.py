"""HTTP answers that both faces of a peer give in the same way: errors, bodies read within a deadline, frames.

Rules: every error has the body ``{"error": {"code", "message", …}}`` and a status that agrees with it; a body is read
under a size limit and our own deadline, since aiohttp never ends a half-sent one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiohttp import ClientConnectionResetError, web

from peers.bunches import Bunches
from query.errors import (
    DeadlinePassed,
    Forbidden,
    InternalProblem,
    LimitExceeded,
    PeerProblem,
    Problem,
    UnknownName,
    UserProblem,
    WorldProblem,
)
from query.frames import Frame, encode_frame

BODY_DEADLINE_S: Final = 15.0
RETRY_AFTER_S: Final = 5
PATH_SHOWN: Final = 200
HEADER_SHOWN: Final = 80
HEAD_AFTER_S: Final = 0.25  # that an answer's first frame may hold back its head
LINES_AT_ONCE_MAX: Final = 64  # of an answer, in one piece

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("peerage.http")


class TooBusy(WorldProblem):
    """More of one kind of request than this peer takes at once."""

    code = "too_busy"


class Unauthorized(Forbidden):
    """No token, or not the one of this peer, where everything needs it."""

    code = "unauthorized"


class WrongMethod(UserProblem):
    """A path that is known, with another method; ``allowed`` are those that it has."""

    code = "wrong_method"

    def __init__(self, message: str, *, allowed: Iterable[str] = (), **more: Any) -> None:
        super().__init__(message, **more)
        self.allowed = tuple(sorted(allowed))


def status_of(problem: Problem) -> int:
    """The HTTP status that agrees with a problem's class."""
    match problem:
        case TooBusy():
            return 429
        case Unauthorized():
            return 401
        case WrongMethod():
            return 405
        case UnknownName():
            return 404
        case LimitExceeded():
            return 413
        case DeadlinePassed():
            return 408
        case Forbidden() | PeerProblem():
            return 403
        case UserProblem():
            return 400
        case WorldProblem():
            return 503
        case _:
            return 500


def error_answer(problem: Problem, *, status: int | None = None) -> web.Response:
    status = status or status_of(problem)
    headers = headers_of(problem)
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body = msgspec.json.encode({"error": problem.record()})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def headers_of(problem: Problem) -> dict[str, str]:
    """What HTTP asks for beside the status of some problems."""
    match problem:
        case Unauthorized():
            return {"WWW-Authenticate": 'Bearer realm="peerage"'}
        case WrongMethod(allowed=allowed):
            return {"Allow": ", ".join(allowed)}
        case _:
            return {}


def told(handler: Answer) -> Answer:
    """Problems that a handler raises become answers; anything else is ours, logged and told without detail."""

    @functools.wraps(handler)
    async def answering(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return error_answer(problem)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            log.exception("request_failed", extra={"path": request.path})
            return error_answer(InternalProblem("this peer failed to answer; its log has the cause"))

    return answering


def not_found(request: web.Request) -> web.Response:
    return error_answer(unknown_path(request), status=404)


def unknown_path(request: web.Request) -> UnknownName:
    return UnknownName(f"no {request.method} {request.path[:PATH_SHOWN]} on this face")


def shortened(header: str) -> str:
    """A foreign header's value as an error may hold it: bytes that are no text stand in it as half surrogate pairs."""
    return header[:HEADER_SHOWN].encode(errors="replace").decode()


async def body_of(request: web.Request, *, bytes_max: int, deadline_s: float = BODY_DEADLINE_S) -> bytes:
    """The whole body. Raises :class:`LimitExceeded` or :class:`DeadlinePassed`; the connection then ends."""
    declared = request.content_length
    if declared is not None and declared > bytes_max:
        raise LimitExceeded(f"a body of {declared} bytes, expected at most {bytes_max}")
    body = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise LimitExceeded(f"a body of more than {bytes_max} bytes")
    except TimeoutError as error:
        raise DeadlinePassed(f"the body did not end within {deadline_s:g} s; {len(body)} bytes came") from error
    return bytes(body)


async def stream_frames(request: web.Request, frames: AsyncIterator[Frame], *, query: str) -> web.StreamResponse:
    """Frames as JSON lines, each written in the turn of the loop in which it comes. A reader that leaves ends the
    iterator.

    What the iterator raises before its first frame is raised here, and nothing was sent; but a reader whom that frame
    keeps waiting gets the head of the answer, with the id to cancel it by.
    """
    response = web.StreamResponse(headers={"Peerage-Query": query, "Cache-Control": "no-store"})
    response.content_type = "application/x-ndjson"
    first = asyncio.create_task(_next(frames))

    async def write(lines: list[bytes]) -> None:
        await response.write(b"".join(lines))

    with suppress(ClientConnectionResetError):  # who read has left, which is no fault to log
        try:
            await asyncio.wait([first], timeout=HEAD_AFTER_S)
            if first.done():
                first.result()
            await response.prepare(request)
            await response.write(encode_frame(await first) + b"\n")
        finally:
            if not first.done():
                first.cancel()
                await asyncio.wait([first])
        async with Bunches(write, items_max=LINES_AT_ONCE_MAX) as bunches:
            async for frame in frames:
                await bunches.add(encode_frame(frame) + b"\n")
        await response.write_eof()
    return response


async def _next(frames: AsyncIterator[Frame]) -> Frame:
    return await anext(frames)
