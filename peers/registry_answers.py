"""How the repository answers when it cannot do what was asked: OCI's error codes, with ours beside them.

Owns the errors that the distribution API alone knows, and the table from a problem's class to OCI's code and HTTP
status. The body is ``{"errors": [{code, message}], "error": {…}}``: OCI's form, and the same error in ours.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import msgspec
from aiohttp import web

from federation.blobs import StorageFull
from federation.errors import WrongHash, WrongSize
from federation.layout_index import VersionTaken
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
    """Deletion is not offered."""

    code = "not_deleted"


@dataclass(frozen=True, slots=True)
class _Form:
    """How a class of problems is told in OCI: its code and status."""

    code: str
    status: int


def _form(problem: Problem, request: web.Request) -> _Form:
    manifests = "/manifests/" in request.path
    match problem:
        case UnknownUpload():
            return _Form("BLOB_UPLOAD_UNKNOWN", 404)
        case UploadOutOfOrder():
            return _Form("BLOB_UPLOAD_INVALID", 416)
        case UnknownBlob():
            return _Form("MANIFEST_BLOB_UNKNOWN", 404) if manifests else _Form("BLOB_UNKNOWN", 404)
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
        case Forbidden() | PeerProblem():
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
        form = _form(problem, request)
        record = problem.record()
        body = msgspec.json.encode({"errors": [{"code": form.code, "message": record.message}], "error": record})
        headers = {"Retry-After": str(RETRY_AFTER_S)} if form.status in (429, 503) else {}
        return web.Response(status=form.status, body=body, content_type="application/json", headers=headers)

    return answering
