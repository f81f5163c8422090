"""Manifests of the repository over HTTP: served, taken, listed, attached to one another, and deleted.

A manifest is kept as it was sent, once everything it names is here; one after the other in a repository, so that a tag
names the same bytes while a release is looked at. A release record that is attached to a manifest goes to
``on_release`` first, which verifies and registers it or raises: what it refuses is not listed.

A record may come before its release's manifest, as copying the fall-back tag first does. It is kept when its signature
holds (``check_record``), and registered when the manifest arrives under the version. A second record of a release that
is there already is kept beside the first.

Deleting a tag takes the tag; deleting a manifest takes all its tags and what is attached to it. A release that the
federation has goes to ``on_delete`` first, which lets go of it or raises; its record and its version's tag stay as long
as it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from msgspec import UNSET

from federation.attachments import attached, fallback_subject, fallback_tag
from federation.documents import RELEASE_TYPE, ReleaseRecord, SignedDocument
from federation.errors import WrongHash, WrongSize
from federation.layout import ImageLayout
from federation.layout_index import ContentNeeded, VersionTaken
from federation.manifest_store import StoredManifest, check_whole
from federation.manifests import (
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    BadManifest,
    Index,
    Manifest,
    encode_index,
    read_manifest,
)
from federation.members import Member
from federation.names import Digest, checked_version, digest_of
from federation.packing import record_digest, release_repository
from peers.answers import BODY_DEADLINE_S, body_of
from peers.endings import to_the_end
from peers.registry_answers import NotDeleted
from peers.registry_requests import Access, digest_in
from peers.repository_turns import RepositoryTurns
from query.errors import PeerProblem, UnknownName, UserProblem

OnRelease = Callable[[SignedDocument, bytes, Member], Awaitable[None]]
CheckRecord = Callable[[SignedDocument, Member], None]
OnDelete = Callable[[ReleaseRecord, Digest, Member], Awaitable[None]]  # with the digest of the record

log = logging.getLogger("peerage.registry")


class Manifests:
    """The endpoints of manifests and referrers."""

    def __init__(
        self,
        layout: ImageLayout,
        access: Access,
        *,
        on_release: OnRelease,
        check_record: CheckRecord,
        on_delete: OnDelete,
        turns: RepositoryTurns,
        request_s: float,
    ) -> None:
        self._layout = layout
        self._access = access
        self._on_release = on_release
        self._check_record = check_record
        self._on_delete = on_delete
        self._request_s = request_s
        self._turns = turns

    async def get(self, request: web.Request) -> web.StreamResponse:
        repository = self._access.puller(request)
        stored = await asyncio.to_thread(self._layout.manifest, repository, request.match_info["reference"])
        headers = {"Content-Type": stored.media_type, "Docker-Content-Digest": stored.digest}
        return web.Response(body=stored.raw, headers=headers)

    async def referrers(self, request: web.Request) -> web.StreamResponse:
        repository = self._access.puller(request)
        found = await asyncio.to_thread(self._layout.referrers, repository, digest_in(request.match_info["digest"]))
        wanted = request.query.get("artifactType")
        headers = {"Content-Type": INDEX_TYPE}
        if wanted is not None:
            found = tuple(descriptor for descriptor in found if descriptor.artifact_type == wanted)
            headers["OCI-Filters-Applied"] = "artifactType"
        return web.Response(body=encode_index(Index(media_type=INDEX_TYPE, manifests=found)), headers=headers)

    # --- taking -------------------------------------------------------------------------------------------------

    async def put(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._access.pusher(request)
        reference = request.match_info["reference"]
        media_type = request.content_type
        if media_type not in (MANIFEST_TYPE, INDEX_TYPE):
            raise BadManifest(f"expected a manifest of type {MANIFEST_TYPE} or {INDEX_TYPE}, found {media_type[:100]}")
        deadline_s = min(self._request_s, BODY_DEADLINE_S)
        raw = await body_of(request, bytes_max=MANIFEST_BYTES_MAX, deadline_s=deadline_s)
        digest = digest_of(raw)
        tag = None
        if not reference.startswith("sha256:"):
            tag = checked_version(reference)
        elif digest_in(reference) != digest:
            raise WrongHash(f"expected a manifest of {reference}, found {digest}")
        _check_type(raw, media_type)
        headers = {"Location": f"/v2/{repository}/manifests/{digest}", "Docker-Content-Digest": str(digest)}
        async with self._turns.of(repository):
            subject = None if tag is None else fallback_subject(tag)
            if subject is not None:
                headers = await to_the_end(self._merged(raw, media_type, subject, repository))
            else:
                headers |= await to_the_end(self._listed(raw, media_type, tag, repository, member))
        log.info("manifest_stored", extra={"repository": repository, "reference": reference, "caller": member.name})
        return web.Response(status=201, headers=headers)

    async def _merged(self, raw: bytes, media_type: str, subject: Digest, repository: str) -> dict[str, str]:
        """Take what was pushed under a fall-back tag. Its digest is told if the tag names these bytes from now on."""
        if media_type != INDEX_TYPE:
            raise BadManifest(f"expected an index of what is attached to {subject}, found {media_type}")
        await asyncio.to_thread(self._layout.put_fallback, repository, raw, subject)
        tag = fallback_tag(subject)
        stored = await asyncio.to_thread(self._layout.manifest, repository, tag)
        headers = {"Location": f"/v2/{repository}/manifests/{tag}"}
        return headers | ({"Docker-Content-Digest": str(stored.digest)} if stored.raw == raw else {})

    async def _listed(
        self, raw: bytes, media_type: str, tag: str | None, repository: str, member: Member
    ) -> dict[str, str]:
        """List a manifest once it holds; headers that say what it is attached to. One of a repository at a time."""
        found = attached(raw, media_type)
        pending = False
        if media_type == MANIFEST_TYPE:
            manifest = read_manifest(raw)
            check_whole(self._layout.blobs, manifest)
            if manifest.artifact_type == RELEASE_TYPE:
                pending = not await self._registered(manifest, repository, member)
        digest = await asyncio.to_thread(
            self._layout.put_manifest,
            repository,
            raw,
            media_type=media_type,
            tag=tag,
            pending=pending,
            whole=True,
        )
        if all(release.manifest != digest for release in self._layout.releases(development=True)):
            for attachment in self._layout.waiting(repository, digest):
                await self._take_up(attachment, repository, member)
        return {} if found.subject is UNSET else {"OCI-Subject": found.subject.digest}

    async def _registered(self, manifest: Manifest, repository: str, member: Member) -> bool:
        """Have a release registered whose record is being attached; nothing is listed yet.

        False when the record has to wait for the manifest, or says again what another says: it is believed then.
        """
        signed, record = self._layout.attached_record(manifest)
        if release_repository(record) != repository:
            raise BadManifest(f'the record of {record.label} belongs to "{release_repository(record)}"')
        subject = self._found(repository, record.manifest)
        tagged = subject if record.development else self._found(repository, record.version)
        if tagged is not None and tagged.digest != record.manifest:
            raise VersionTaken(
                f"{record.label} is tagged with other content: expected {tagged.digest}, found {record.manifest}"
            )
        known = None if record.development else self._layout.find(record.name, record.version)
        if subject is None or tagged is None or (known is not None and known.record_digest != record_digest(signed)):
            self._check_record(signed, member)
            return False
        if len(subject.raw) != record.manifest_size:
            raise WrongSize(
                f"the record of {record.label} names a manifest of {record.manifest_size} bytes, "
                f"here it has {len(subject.raw)}"
            )
        await self._on_release(signed, subject.raw, member)
        return True

    async def _take_up(self, attachment: Digest, repository: str, member: Member) -> None:
        """Register a release whose record was here before its manifest. A record that no longer holds goes."""
        raw = self._layout.blobs.read(attachment, bytes_max=MANIFEST_BYTES_MAX)
        try:
            registered = await self._registered(read_manifest(raw), repository, member)
        except (PeerProblem, UserProblem):
            await asyncio.to_thread(self._layout.remove_manifest, repository, attachment)
            raise
        if registered:
            await asyncio.to_thread(self._layout.put_manifest, repository, raw)

    def _found(self, repository: str, reference: str) -> StoredManifest | None:
        try:
            return self._layout.manifest(repository, reference)
        except UnknownName:
            return None

    # --- deleting -----------------------------------------------------------------------------------------------

    async def delete(self, request: web.Request) -> web.StreamResponse:
        member, repository = self._access.pusher(request)
        reference = request.match_info["reference"]
        async with self._turns.of(repository):
            stored = await asyncio.to_thread(self._layout.manifest, repository, reference)
            if not await asyncio.to_thread(self._layout.lists, repository, reference):
                raise NotDeleted(f'"{reference}" follows from what is attached: delete that')
            if reference.startswith("sha256:"):
                await to_the_end(self._removed(repository, stored.digest, member))
            else:
                await asyncio.to_thread(self._layout.remove_tag, repository, reference)
        log.info("manifest_deleted", extra={"repository": repository, "reference": reference, "caller": member.name})
        return web.Response(status=202)

    async def _removed(self, repository: str, manifest: Digest, member: Member) -> None:
        await self._let_go(repository, manifest, member)
        await asyncio.to_thread(self._layout.remove_manifest, repository, manifest)

    async def _let_go(self, repository: str, manifest: Digest, member: Member) -> None:
        """Ask for the end of every release that goes with a manifest."""
        for release in self._layout.releases():
            if release.repository != repository:
                continue
            if release.attachment == manifest:
                raise ContentNeeded(
                    f"the signed record of {release.label} stays as long as the release",
                    hint=f"delete the release by the digest of its manifest, {release.manifest}",
                )
            if release.manifest == manifest:
                signed = await asyncio.to_thread(self._layout.signed, release)
                record = msgspec.json.decode(signed.payload, type=ReleaseRecord)
                await self._on_delete(record, release.record_digest, member)


def _check_type(raw: bytes, media_type: str) -> None:
    """Raises :class:`BadManifest` when a manifest says of itself that it has another type."""
    try:
        told = msgspec.json.decode(raw, type=_Typed).media_type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"expected an OCI manifest, found {raw[:60]!r}: {error}") from error
    if told is not UNSET and told != media_type:
        raise BadManifest(f"expected a manifest of type {media_type}, found one that says {told[:100]!r}")


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str | msgspec.UnsetType = UNSET
