"""How the repository answers when it cannot do what was asked: OCI's error codes, with ours beside them.

Owns the errors that the distribution API alone knows, and the table from a problem's class to OCI's code and HTTP
status. The body is ``{"errors": [{code, message, detail}], "error": {…}}``: OCI's form, whose ``detail`` names the
class of the problem, and the same error in ours. Who is not admitted is told UNAUTHORIZED with status 403, as on the
rest of the face: no log-in would help; who is but may not, DENIED.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from federation.blobs import StorageFull
from federation.errors import Refused, WrongHash, WrongRole, WrongSize
from federation.layout_index import ContentNeeded, RepositoryFull, VersionTaken
from federation.manifest_store import MissingPart
from federation.manifests import BadManifest
from federation.names import BadName
from peers.answers import RETRY_AFTER_S, Answer, TooBusy, status_of
from peers.registry_uploads import UnknownUpload, UploadOutOfOrder
from query.errors import (
    DeadlinePassed,
    Forbidden,
    InternalProblem,
    LimitExceeded,
    PeerProblem,
    Problem,
    UnknownName,
    UserProblem,
)

log = logging.getLogger("peerage.registry")


class UnknownBlob(UnknownName):
    code = "blob_unknown"


class UnknownRepository(UnknownName):
    code = "repository_unknown"


class BadDigest(UserProblem):
    code = "bad_digest"


class NotDeleted(UserProblem):
    """What follows from other content is not deleted by itself."""

    code = "not_deleted"


class UnknownEndpoint(UnknownName):
    """Not a path of the distribution API."""

    code = "endpoint_unknown"


class MethodNotAllowed(UserProblem):
    """A path of the distribution API, asked in a way that it does not know."""

    code = "method_not_allowed"


class NotSatisfiable(UserProblem):
    """A range of bytes that a blob does not have."""

    code = "not_satisfiable"


@dataclass(frozen=True, slots=True)
class _Form:
    """How a class of problems is told in OCI: its code and status."""

    code: str
    status: int


def _form(problem: Problem, request: web.Request) -> _Form:
    manifests = "/manifests/" in request.path
    match problem:
        case MethodNotAllowed():
            return _Form("UNSUPPORTED", 405)
        case UnknownEndpoint():
            return _Form("UNSUPPORTED", 404)
        case NotSatisfiable():
            return _Form("SIZE_INVALID", 416)
        case UnknownUpload():
            return _Form("BLOB_UPLOAD_UNKNOWN", 404)
        case UploadOutOfOrder():
            return _Form("BLOB_UPLOAD_INVALID", 416)
        case MissingPart():
            return _Form("MANIFEST_BLOB_UNKNOWN", 404)
        case UnknownBlob():
            return _Form("BLOB_UNKNOWN", 404)
        case UnknownRepository():
            return _Form("NAME_UNKNOWN", 404)
        case UnknownName():
            return _Form("MANIFEST_UNKNOWN", 404) if manifests else _Form("BLOB_UNKNOWN", 404)
        case VersionTaken():
            return _Form("DENIED", 409)
        case BadManifest():
            return _Form("MANIFEST_INVALID", 400)
        case WrongHash() | BadDigest():
            return _Form("DIGEST_INVALID", 400)
        case RepositoryFull() | ContentNeeded():
            return _Form("DENIED", 403)
        case WrongSize() | LimitExceeded():
            return _Form("SIZE_INVALID", 413)
        case NotDeleted():
            return _Form("UNSUPPORTED", 405)
        case BadName():
            return _Form("NAME_INVALID", 400)
        case TooBusy():
            return _Form("TOOMANYREQUESTS", 429)
        case DeadlinePassed():
            return _Form("BLOB_UPLOAD_INVALID", 408)
        case StorageFull():
            return _Form("DENIED", 507)
        case WrongRole():
            return _Form("DENIED", 403)
        case Refused():
            return _Form("UNAUTHORIZED", 403)
        case Forbidden() | PeerProblem():
            return _Form("DENIED", 403)
        case UserProblem() if request.method == "DELETE":  # whoever holds what should go
            return _Form("DENIED", 403)
        case _:
            return _Form("UNSUPPORTED" if isinstance(problem, UserProblem) else "UNKNOWN", status_of(problem))


def told(handler: Answer) -> Answer:
    """Problems become answers in OCI's form; anything else is ours, logged and told without detail."""

    @functools.wraps(handler)
    async def answering(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as raised:
            problem = raised
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            log.exception("request_failed", extra={"path": request.path})
            problem = InternalProblem("this peer failed to answer; its log has the cause")
        return refusal(problem, request)

    return answering


def refusal(problem: Problem, request: web.Request, headers: Mapping[str, str] | None = None) -> web.Response:
    """A problem in OCI's form; ``headers`` tell more of it."""
    form = _form(problem, request)
    record = problem.record()
    detail = {"class": record.code} | ({} if record.hint is None else {"hint": record.hint})
    error = {"code": form.code, "message": record.message, "detail": detail}
    body = msgspec.json.encode({"errors": [error], "error": record})
    told = {"Retry-After": str(RETRY_AFTER_S)} if form.status in (429, 503) else {}
    return web.Response(
        status=form.status, body=body, content_type="application/json", headers={**told, **(headers or {})}
    )
