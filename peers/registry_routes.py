"""The model repository on the federation face: the OCI distribution API under ``/v2/``, for peers, oras and skopeo.

Owns the table of endpoints, and those of blobs, uploads and lists; manifests are :mod:`peers.registry_manifests`'s, and
what answers when something cannot be done is :mod:`peers.registry_answers`'s. Endpoints by their numbers in the OCI
distribution specification: 1 version, 2 blobs with Range, 3 manifests, 4a 4b 5 6 uploads, 7 manifest upload, 8 tags,
9 10 deletion, 11 mount, 12 referrers, 13 14 upload state and its end; and Docker's ``/v2/_catalog``.

Rules: every byte is hashed while it arrives; uploads are bounded in number, size, idle time and lifetime, by our own
deadlines. Blobs are shared by all repositories; one goes only when no manifest names it. Every answer below ``/v2/``
has OCI's form, also to what is no endpoint.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

from aiohttp import hdrs, web

from federation.layout import ImageLayout
from federation.manifests import BLOB_TYPE
from federation.members import Member
from federation.names import Digest
from peers.answers import Answer
from peers.blob_answers import answer_blob
from peers.registry_answers import (
    MethodNotAllowed,
    NotSatisfiable,
    UnknownBlob,
    UnknownEndpoint,
    UnknownRepository,
    refusal,
    told,
)
from peers.registry_manifests import CheckRecord, Manifests, OnDelete, OnRelease
from peers.registry_requests import Access, chunk_start, digest_in, page
from peers.registry_uploads import RegistryLimits, UploadOutOfOrder, Uploads
from peers.repository_turns import RepositoryTurns

_METHODS: Final = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE")


def registry_routes(
    layout: ImageLayout,
    *,
    member_of: Callable[[web.Request], Member],
    on_release: OnRelease,
    check_record: CheckRecord,
    on_delete: OnDelete,
    turns: RepositoryTurns | None = None,
    clock: Callable[[], float] = time.monotonic,
    limits: RegistryLimits | None = None,
) -> list[web.RouteDef]:
    """The routes under ``/v2/``. ``member_of`` admits or raises; ``on_release`` registers a release or raises,
    ``check_record`` believes its record alone or raises, and ``on_delete`` lets go of a release or raises. They are
    called in turn for each repository, among ``turns`` that others may share.

    ``clock`` is monotonic. An aiohttp client limit does not matter to these routes: they bound bodies themselves.
    """
    limits = limits or RegistryLimits()
    access = Access(member_of)
    blobs = _Blobs(layout, access, Uploads(layout.blobs, clock=clock, limits=limits))
    lists = _Lists(layout, access)
    manifests = Manifests(
        layout,
        access,
        on_release=on_release,
        check_record=check_record,
        on_delete=on_delete,
        turns=turns or RepositoryTurns(),
        request_s=limits.request_s,
    )
    name = "/v2/{name:.+}"
    upload, blob = f"{name}/blobs/uploads/{{upload}}", f"{name}/blobs/{{digest}}"
    manifest = f"{name}/manifests/{{reference}}"
    table: list[tuple[str, str, Answer]] = [
        ("GET", "/v2/", lists.version),
        ("GET", "/v2", lists.version),
        ("GET", "/v2/_catalog", lists.catalog),
        ("POST", f"{name}/blobs/uploads/", blobs.begin_upload),
        ("GET", upload, blobs.upload_state),
        ("PATCH", upload, blobs.continue_upload),
        ("PUT", upload, blobs.end_upload),
        ("DELETE", upload, blobs.drop_upload),
        ("GET", blob, blobs.get),
        ("DELETE", blob, blobs.delete),
        ("GET", manifest, manifests.get),
        ("PUT", manifest, manifests.put),
        ("DELETE", manifest, manifests.delete),
        ("GET", f"{name}/tags/list", lists.tags),
        ("GET", f"{name}/referrers/{{digest}}", manifests.referrers),
    ]
    table += [("HEAD", path, handler) for method, path, handler in table if method == "GET"]
    routes = [web.route(method, path, told(handler)) for method, path, handler in table]
    elsewhere = told(_Elsewhere(access, table).answer)
    return [*routes, web.route("*", "/v2", elsewhere), web.route("*", "/v2/{rest:.*}", elsewhere)]


class _Lists:
    """What is here, by name."""

    def __init__(self, layout: ImageLayout, access: Access) -> None:
        self._layout = layout
        self._access = access

    async def version(self, request: web.Request) -> web.StreamResponse:
        self._access.member(request)
        return web.json_response({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async def catalog(self, request: web.Request) -> web.StreamResponse:
        self._access.member(request)
        repositories = await asyncio.to_thread(self._layout.repositories)
        shown, headers = page(repositories, request, "/v2/_catalog")
        return web.json_response({"repositories": shown}, headers=headers)

    async def tags(self, request: web.Request) -> web.StreamResponse:
        repository = self._access.puller(request)
        tags = await asyncio.to_thread(self._layout.tags, repository)
        if not tags and repository not in self._layout.repositories():
            raise UnknownRepository(f'no repository "{repository}" here')
        shown, headers = page(tags, request, f"/v2/{repository}/tags/list")
        return web.json_response({"name": repository, "tags": shown}, headers=headers)


class _Blobs:
    """Blobs, and their uploads."""

    def __init__(self, layout: ImageLayout, access: Access, uploads: Uploads) -> None:
        self._layout = layout
        self._access = access
        self._uploads = uploads

    async def get(self, request: web.Request) -> web.StreamResponse:
        self._access.puller(request)
        digest = digest_in(request.match_info["digest"])
        blobs = self._layout.blobs
        size = blobs.claim(digest) if request.method == "HEAD" else blobs.size(digest)  # HEAD comes before a push
        if size is None:
            raise UnknownBlob(f"no blob {digest} here")
        if not _satisfiable(request, size):
            problem = NotSatisfiable(f"{digest} has {size} bytes, asked for {request.headers['Range'][:60]!r}")
            return refusal(problem, request, {"Content-Range": f"bytes */{size}"})
        headers = {"Content-Type": BLOB_TYPE, "Docker-Content-Digest": digest}
        try:
            return await answer_blob(request, blobs.path(digest), digest, headers=headers)
        except FileNotFoundError as error:  # removed meanwhile
            raise UnknownBlob(f"no blob {digest} here") from error

    async def delete(self, request: web.Request) -> web.StreamResponse:
        self._access.pusher(request)
        digest = digest_in(request.match_info["digest"])
        if self._layout.blobs.size(digest) is None:
            raise UnknownBlob(f"no blob {digest} here")
        await asyncio.to_thread(self._layout.remove_blob, digest)
        return web.Response(status=202)

    # --- uploads ------------------------------------------------------------------------------------------------

    async def begin_upload(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._access.pusher(request)
        mount = request.query.get("mount")
        if mount is not None and self._layout.blobs.claim(digest_in(mount)) is not None:
            return _created(repository, digest_in(mount))
        digest = request.query.get("digest")
        wanted = None if digest is None else digest_in(digest)
        upload = self._uploads.begin(repository, owner=member.uuid)
        if wanted is None:
            return _accepted(repository, upload, 0)
        await self._uploads.receive(
            upload, request.content, owner=member.uuid, declared=request.content_length, resumable=False
        )
        return _created(repository, await self._uploads.finish(upload, wanted, owner=member.uuid))

    async def upload_state(self, request: web.Request) -> web.StreamResponse:
        _, repository, upload, offset = self._upload(request)
        return _accepted(repository, upload, offset, status=204)

    async def continue_upload(self, request: web.Request) -> web.StreamResponse:
        member, repository, upload, _ = self._upload(request)
        try:
            offset = await self._receive(request, upload, member)
        except UploadOutOfOrder as problem:
            return self._present(problem, request)
        return _accepted(repository, upload, offset)

    async def end_upload(self, request: web.Request) -> web.StreamResponse:
        member, repository, upload, _ = self._upload(request)
        digest = digest_in(request.query.get("digest", ""))
        try:
            await self._receive(request, upload, member)
        except UploadOutOfOrder as problem:
            return self._present(problem, request)
        return _created(repository, await self._uploads.finish(upload, digest, owner=member.uuid))

    async def drop_upload(self, request: web.Request) -> web.StreamResponse:
        member, _, upload, _ = self._upload(request)
        self._uploads.drop(upload, owner=member.uuid)
        return web.Response(status=204)

    def _upload(self, request: web.Request) -> tuple[Member, str, str, int]:
        """An upload of who asks: the member, the repository, its id and how many bytes it has."""
        member, repository = self._access.pusher(request)
        upload = request.match_info["upload"]
        return member, repository, upload, self._uploads.offset(upload, owner=member.uuid, repository=repository)

    async def _receive(self, request: web.Request, upload: str, member: Member) -> int:
        return await self._uploads.receive(
            upload, request.content, owner=member.uuid, start=chunk_start(request), declared=request.content_length
        )

    def _present(self, problem: UploadOutOfOrder, request: web.Request) -> web.Response:
        """A refused chunk, with what is there."""
        _, repository, upload, offset = self._upload(request)
        return refusal(problem, request, _place(repository, upload, offset))


class _Elsewhere:
    """Whatever is no endpoint, or is one that knows other methods alone."""

    def __init__(self, access: Access, table: list[tuple[str, str, Answer]]) -> None:
        self._access = access
        patterns = {path: _pattern(path) for _, path, _ in table}
        self._known = [
            (pattern, [method for method in _METHODS if any(row[:2] == (method, path) for row in table)])
            for path, pattern in patterns.items()
        ]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self._access.member(request)
        for pattern, methods in self._known:
            if pattern.fullmatch(request.path):
                problem = MethodNotAllowed(f"{request.path[:200]} knows {', '.join(methods)}, not {request.method}")
                return refusal(problem, request, {hdrs.ALLOW: ", ".join(methods)})
        raise UnknownEndpoint(f"no {request.method} {request.path[:200]} in the distribution API")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)(:[^}]*)?\}", lambda found: ".+" if found[2] else "[^/]+", path))


def _satisfiable(request: web.Request, size: int) -> bool:
    """Whether a blob has the bytes that are asked for; several ranges at once are not offered."""
    if hdrs.IF_RANGE in request.headers:
        return True  # of another content than was meant, all of it is answered
    try:
        asked = request.http_range
    except ValueError:
        return False
    if asked.start is None:
        return True
    return size > 0 if asked.start < 0 else bool(asked.start < size)


def _place(repository: str, upload: str, offset: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{repository}/blobs/uploads/{upload}",
        "Docker-Upload-UUID": upload,
        "Range": f"0-{max(0, offset - 1)}",
    }


def _accepted(repository: str, upload: str, offset: int, *, status: int = 202) -> web.Response:
    return web.Response(status=status, headers=_place(repository, upload, offset))


def _created(repository: str, digest: Digest) -> web.Response:
    headers = {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)
