"""The model repository on the federation face: the OCI distribution API under ``/v2/``, for peers, oras and skopeo.

Owns the translation between HTTP and the :class:`~federation.layout.ImageLayout`. Endpoints by their numbers in the
OCI distribution specification: 1 version, 2 blobs with Range, 3 manifests, 4a 4b 5 6 uploads, 7 manifest upload,
8 tags, 11 mount, 12 referrers, 13 14 upload state and its end. Deletion (9, 10) is not offered: a release stays
while it may be desired.

Rules: every member may pull; pushing needs the role operator or a publisher key. Every byte is hashed while it
arrives; uploads are bounded in number, size, idle time and lifetime, by our own deadlines. Blobs are shared by all
repositories. A manifest is kept as it was sent, once everything it names is here; one after the other in a repository,
so that a tag names the same bytes while a release is looked at. A release record that is attached to a manifest goes
to ``on_release`` first, which verifies and registers it or raises: what it refuses is not listed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from aiohttp import web
from msgspec import UNSET

from federation.documents import RELEASE_TYPE, SignedDocument
from federation.errors import WrongHash, WrongRole, WrongSize
from federation.layout import ImageLayout
from federation.layout_index import VersionTaken
from federation.manifests import (
    BLOB_TYPE,
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    BadManifest,
    Index,
    Manifest,
    encode_index,
    read_index,
    read_manifest,
)
from federation.members import Member
from federation.names import BadName, Digest, checked_digest, checked_model, checked_version, digest_of
from peers.answers import BODY_DEADLINE_S, body_of
from peers.registry_answers import BadDigest, NotDeleted, UnknownBlob, UnknownRepository, told
from peers.registry_uploads import RegistryLimits, UploadOutOfOrder, Uploads
from query.errors import (
    UserProblem,
)

TAGS_PER_PAGE_MAX: Final = 1000
NAME_LENGTH_MAX: Final = 255
_NAME = r"{name:[a-z0-9._/-]+}"
_RANGE = re.compile(r"(?:bytes )?(\d+)-(\d+)(?:/(?:\d+|\*))?")

OnRelease = Callable[[SignedDocument, bytes, Member], Awaitable[None]]

log = logging.getLogger("peerage.registry")


def registry_routes(
    layout: ImageLayout,
    *,
    member_of: Callable[[web.Request], Member],
    on_release: OnRelease,
    clock: Callable[[], float] = time.monotonic,
    limits: RegistryLimits | None = None,
) -> list[web.RouteDef]:
    """The routes under ``/v2/``. ``member_of`` admits or raises; ``on_release`` registers a release or raises.

    ``clock`` is monotonic. An aiohttp client limit does not matter to these routes: they bound bodies themselves.
    """
    registry = _Registry(
        layout, member_of=member_of, on_release=on_release, clock=clock, limits=limits or RegistryLimits()
    )
    upload = f"/v2/{_NAME}/blobs/uploads/{{upload}}"
    return [
        web.get("/v2/", told(registry.version)),
        web.post(f"/v2/{_NAME}/blobs/uploads/", told(registry.begin_upload)),
        web.get(upload, told(registry.upload_state), allow_head=False),
        web.patch(upload, told(registry.continue_upload)),
        web.put(upload, told(registry.end_upload)),
        web.delete(upload, told(registry.drop_upload)),
        web.get(f"/v2/{_NAME}/blobs/{{digest}}", told(registry.blob)),
        web.get(f"/v2/{_NAME}/manifests/{{reference}}", told(registry.manifest)),
        web.put(f"/v2/{_NAME}/manifests/{{reference}}", told(registry.put_manifest)),
        web.get(f"/v2/{_NAME}/tags/list", told(registry.tags)),
        web.get(f"/v2/{_NAME}/referrers/{{digest}}", told(registry.referrers)),
        web.delete(f"/v2/{_NAME}/manifests/{{reference}}", told(registry.refuse_deletion)),
        web.delete(f"/v2/{_NAME}/blobs/{{digest}}", told(registry.refuse_deletion)),
    ]


class _Registry:
    def __init__(
        self,
        layout: ImageLayout,
        *,
        member_of: Callable[[web.Request], Member],
        on_release: OnRelease,
        clock: Callable[[], float],
        limits: RegistryLimits,
    ) -> None:
        self._layout = layout
        self._member_of = member_of
        self._on_release = on_release
        self._limits = limits
        self._uploads = Uploads(layout.blobs, clock=clock, limits=limits)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by repository, while wanted

    def _puller(self, request: web.Request) -> str:
        """The repository that an admitted member asks about."""
        self._member_of(request)
        return _repository(request)

    def _pusher(self, request: web.Request) -> tuple[Member, str]:
        member = self._member_of(request)
        if member.role not in ("operator", "admin") and member.publisher_key is None:
            raise WrongRole(f'"{member.name}" may not push: expected the role operator or a publisher key')
        repository = _repository(request)
        kind, _, model = repository.partition("/")
        if kind not in ("models", "development"):
            raise BadName(f'"{repository}" cannot be pushed to: expected models/NAME or development/NAME')
        checked_model(model)
        return member, repository

    # --- pulling ------------------------------------------------------------------------------------------------

    async def version(self, request: web.Request) -> web.StreamResponse:
        self._member_of(request)
        return web.json_response({})

    async def blob(self, request: web.Request) -> web.StreamResponse:
        self._puller(request)
        digest = _digest(request.match_info["digest"])
        blobs = self._layout.blobs
        about_to_push = request.method == "HEAD"
        if (blobs.claim(digest) if about_to_push else blobs.size(digest)) is None:
            raise UnknownBlob(f"no blob {digest} here")
        headers = {"Content-Type": BLOB_TYPE, "Docker-Content-Digest": digest}
        return web.FileResponse(self._layout.blobs.path(digest), headers=headers)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        repository = self._puller(request)
        stored = self._layout.manifest(repository, request.match_info["reference"])
        headers = {"Content-Type": stored.media_type, "Docker-Content-Digest": stored.digest}
        return web.Response(body=stored.raw, headers=headers)

    async def tags(self, request: web.Request) -> web.StreamResponse:
        repository = self._puller(request)
        tags = self._layout.tags(repository)
        if not tags and repository not in self._layout.repositories():
            raise UnknownRepository(f'no repository "{repository}" here')
        last = request.query.get("last")
        left = [tag for tag in tags if last is None or tag > last]
        asked = request.query.get("n", str(TAGS_PER_PAGE_MAX))
        if not asked.isascii() or not asked.isdecimal() or len(asked) > 9:
            raise UserProblem(f"expected a number of tags, found n={asked[:20]!r}")
        shown = left[: min(int(asked), TAGS_PER_PAGE_MAX)]
        headers = {}
        if shown and len(shown) < len(left):
            headers["Link"] = f'</v2/{repository}/tags/list?n={len(shown)}&last={shown[-1]}>; rel="next"'
        return web.json_response({"name": repository, "tags": shown}, headers=headers)

    async def referrers(self, request: web.Request) -> web.StreamResponse:
        repository = self._puller(request)
        found = self._layout.referrers(repository, _digest(request.match_info["digest"]))
        wanted = request.query.get("artifactType")
        headers = {"Content-Type": INDEX_TYPE}
        if wanted is not None:
            found = tuple(descriptor for descriptor in found if descriptor.artifact_type == wanted)
            headers["OCI-Filters-Applied"] = "artifactType"
        return web.Response(body=encode_index(Index(media_type=INDEX_TYPE, manifests=found)), headers=headers)

    # --- uploads ------------------------------------------------------------------------------------------------

    async def begin_upload(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._pusher(request)
        mount = request.query.get("mount")
        if mount is not None and self._layout.blobs.claim(_digest(mount)) is not None:
            return _created_blob(repository, _digest(mount))
        digest = request.query.get("digest")
        wanted = None if digest is None else _digest(digest)
        upload = self._uploads.begin(repository, owner=member.uuid)
        if wanted is None:
            return _accepted(repository, upload, 0)
        await self._uploads.receive(upload, request.content, owner=member.uuid, declared=request.content_length)
        return _created_blob(repository, await self._uploads.finish(upload, wanted, owner=member.uuid))

    async def upload_state(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._pusher(request)
        upload = request.match_info["upload"]
        offset = self._uploads.offset(upload, owner=member.uuid)
        return _accepted(repository, upload, offset, status=204)

    async def continue_upload(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._pusher(request)
        upload = request.match_info["upload"]
        offset = await self._uploads.receive(
            upload, request.content, owner=member.uuid, start=_start(request), declared=request.content_length
        )
        return _accepted(repository, upload, offset)

    async def end_upload(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._pusher(request)
        upload = request.match_info["upload"]
        digest = _digest(request.query.get("digest", ""))
        await self._uploads.receive(
            upload, request.content, owner=member.uuid, start=_start(request), declared=request.content_length
        )
        return _created_blob(repository, await self._uploads.finish(upload, digest, owner=member.uuid))

    async def drop_upload(self, request: web.Request) -> web.StreamResponse:
        member, _ = self._pusher(request)
        self._uploads.drop(request.match_info["upload"], owner=member.uuid)
        return web.Response(status=204)

    # --- manifests ----------------------------------------------------------------------------------------------

    async def put_manifest(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._pusher(request)
        reference = request.match_info["reference"]
        media_type = request.content_type
        if media_type not in (MANIFEST_TYPE, INDEX_TYPE):
            raise BadManifest(f"expected a manifest of type {MANIFEST_TYPE} or {INDEX_TYPE}, found {media_type[:100]}")
        deadline_s = min(self._limits.request_s, BODY_DEADLINE_S)
        raw = await body_of(request, bytes_max=MANIFEST_BYTES_MAX, deadline_s=deadline_s)
        digest = digest_of(raw)
        if reference.startswith("sha256:"):
            tag = None
            if _digest(reference) != digest:
                raise WrongHash(f"expected a manifest of {reference}, found {digest}")
        else:
            tag = checked_version(reference)
        headers = {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": digest}
        async with self._turns.setdefault(repository, asyncio.Lock()):
            headers |= await self._listed(raw, media_type, tag, repository, member)
        log.info("manifest_stored", extra={"repository": repository, "reference": reference, "caller": member.name})
        return web.Response(status=201, headers=headers)

    async def _listed(
        self, raw: bytes, media_type: str, tag: str | None, repository: str, member: Member
    ) -> dict[str, str]:
        """List a manifest once it holds; headers that say what it is attached to. One of a repository at a time."""
        headers = {}
        if media_type == INDEX_TYPE:
            read_index(raw)
        else:
            manifest = read_manifest(raw)
            self._check_parts(manifest)
            if manifest.subject is not UNSET:
                headers["OCI-Subject"] = manifest.subject.digest
            if manifest.artifact_type == RELEASE_TYPE:
                await self._register(manifest, repository, member)
        await asyncio.to_thread(self._layout.put_manifest, repository, raw, media_type=media_type, tag=tag)
        return headers

    def _check_parts(self, manifest: Manifest) -> None:
        for part in (manifest.config, *manifest.layers):
            found = self._layout.blobs.claim(checked_digest(part.digest))
            if found != part.size:
                raise UnknownBlob(
                    f"the manifest names {part.digest} of {part.size} bytes, "
                    + ("which is not here" if found is None else f"here it has {found}")
                )

    async def _register(self, manifest: Manifest, repository: str, member: Member) -> None:
        """Have a release registered whose record is being attached; nothing is listed yet."""
        signed, record = self._layout.attached_record(manifest)
        subject = self._layout.manifest(repository, record.manifest)
        if len(subject.raw) != record.manifest_size:
            raise WrongSize(
                f"the record of {record.label} names a manifest of {record.manifest_size} bytes, "
                f"here it has {len(subject.raw)}"
            )
        if not record.development:
            tagged = self._layout.manifest(repository, record.version)
            if tagged.digest != record.manifest:
                raise VersionTaken(
                    f"{record.label} is tagged with other content: expected {tagged.digest}, found {record.manifest}"
                )
        await self._on_release(signed, subject.raw, member)

    async def refuse_deletion(self, request: web.Request) -> web.StreamResponse:
        self._pusher(request)
        raise NotDeleted("releases are not deleted over this interface: an edge may still be told to run them")


# --- answers ----------------------------------------------------------------------------------------------------


def _repository(request: web.Request) -> str:
    name = request.match_info["name"]
    if len(name) > NAME_LENGTH_MAX:
        raise BadName(f"a repository name of {len(name)} characters, expected at most {NAME_LENGTH_MAX}")
    for part in name.split("/"):
        checked_model(part)
    return name


def _digest(text: str) -> Digest:
    try:
        return checked_digest(text)
    except BadName as error:
        raise BadDigest(error.message) from error


def _start(request: web.Request) -> int | None:
    """Where a chunk begins, by its Content-Range (OCI's ``0-99`` or HTTP's ``bytes 0-99/*``); None when not told."""
    told = request.headers.get("Content-Range")
    if told is None:
        return None
    match = _RANGE.fullmatch(told.strip())
    if match is None or len(match[1]) > 18:
        raise UploadOutOfOrder(f"expected a Content-Range such as 0-99, found {told[:60]!r}")
    return int(match[1])


def _accepted(repository: str, upload: str, offset: int, *, status: int = 202) -> web.Response:
    headers = {
        "Location": f"/v2/{repository}/blobs/uploads/{upload}",
        "Docker-Upload-UUID": upload,
        "Range": f"0-{max(0, offset - 1)}",
    }
    return web.Response(status=status, headers=headers)


def _created_blob(repository: str, digest: Digest) -> web.Response:
    headers = {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)
