"""What leaves an image layout: entries of its listing, and the blobs that nothing listed leads to any more.

Pure where the listing alone decides; reads manifests from the blobs where what they name decides. Removes nothing
itself: :class:`~federation.layout.ImageLayout` does, under its lock.

Rules: with a manifest go all its tags and everything that is attached to it, in its repository, but for releases, which
go by their own digest alone: anybody may attach one to something else. A blob is needed while a listed manifest of any
repository names it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UNSET

from federation.attachments import fallback_subject, fallback_tag
from federation.blobs import BlobStore
from federation.layout_index import REPOSITORY, SUBJECT, ContentNeeded, LayoutContents, annotations_of
from federation.manifests import (
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    REF_NAME,
    BadManifest,
    Descriptor,
    read_index,
    read_manifest,
)
from federation.names import Digest
from query.errors import LimitExceeded, UnknownName


def without_manifests(contents: LayoutContents, repository: str, digests: Iterable[str]) -> list[Descriptor]:
    """The entries without some manifests of a repository, their tags, and what is attached to them; a release that is
    attached to one stays.
    """
    mine = [entry for entry in contents.entries if annotations_of(entry).get(REPOSITORY) == repository]
    releases = {release.manifest for release in contents.releases.values() if release.repository == repository}
    attached: dict[str, set[str]] = {}
    for entry in mine:
        attached.setdefault(annotations_of(entry).get(SUBJECT, ""), set()).add(entry.digest)
    gone: set[str] = set()
    left = set(digests)
    while left:
        gone |= left
        left = {other for digest in left for other in attached.get(digest, ())} - gone - releases
    tags = {f"{repository}:{fallback_tag(Digest(digest))}" for digest in gone}
    return [
        entry
        for entry in contents.entries
        if annotations_of(entry).get(REPOSITORY) != repository
        or (entry.digest not in gone and annotations_of(entry).get(REF_NAME) not in tags)
    ]


def without_tag(contents: LayoutContents, repository: str, tag: str) -> list[Descriptor]:
    """The entries without a tag; its manifest stays, by its digest. A fall-back tag's index goes.

    Raises :class:`UnknownName`, or :class:`ContentNeeded` for the version of a release.
    """
    name = f"{repository}:{tag}"
    tagged = contents.by_name.get(name)
    if tagged is None:
        raise UnknownName(f'no tag "{tag}" in repository "{repository}"')
    if any(f"{release.repository}:{release.version}" == name for release in contents.releases.values()):
        raise ContentNeeded(
            f'"{tag}" is the version of a release: the tag stays as long as the release',
            hint=f"delete the release by the digest of its manifest, {tagged.digest}",
        )
    others = [entry for entry in contents.entries if entry is not tagged]
    facts = {key: text for key, text in annotations_of(tagged).items() if key != REF_NAME}
    left = LayoutContents.of(others)
    if fallback_subject(tag) is not None or f"{repository}@{tagged.digest}" in left.by_name:
        return others
    return [
        msgspec.structs.replace(entry, annotations=facts) if entry is tagged else entry for entry in contents.entries
    ]


def reached(blobs: BlobStore, contents: LayoutContents) -> set[Digest]:
    """Every blob that ``index.json`` leads to, through manifests and indices.

    Raises :class:`UnknownName` or ``DamagedBlob`` when a listed manifest is not whole: what it names is not known then.
    """
    listed = {(Digest(entry.digest), entry.media_type) for entry in contents.entries}
    found, left = set(listed), list(listed)
    while left:
        digest, media_type = left.pop()
        try:
            named = _parts(blobs, digest, media_type)
        except (UnknownName, LimitExceeded, BadManifest):
            if (digest, media_type) in listed:
                raise
            named = set()  # an index may name what was never pushed
        left.extend(named - found)
        found |= named
    return {digest for digest, _ in found}


def _parts(blobs: BlobStore, digest: Digest, media_type: str) -> set[tuple[Digest, str]]:
    """What a manifest or an index names, by digest and type; nothing for any other type."""
    if media_type == MANIFEST_TYPE:
        manifest = read_manifest(blobs.read(digest, bytes_max=MANIFEST_BYTES_MAX))
        parts = [manifest.config, *manifest.layers]
        if manifest.subject is not UNSET:
            parts.append(manifest.subject)
    elif media_type == INDEX_TYPE:
        parts = list(read_index(blobs.read(digest, bytes_max=MANIFEST_BYTES_MAX)).manifests)
    else:
        parts = []
    return {(Digest(part.digest), part.media_type) for part in parts}


def unneeded(blobs: BlobStore, contents: LayoutContents, candidates: set[Digest]) -> set[Digest]:
    """Those of ``candidates`` that no listed manifest is or names."""
    left = set(candidates)
    for entry in contents.entries:
        if not left:
            break
        digest = Digest(entry.digest)
        left -= {digest} | named_by(blobs, digest)
    return left


def named_by(blobs: BlobStore, digest: Digest) -> set[Digest]:
    """The config and the layers of a manifest; nothing of what is no manifest."""
    try:
        manifest = read_manifest(blobs.read_unchecked(digest, bytes_max=MANIFEST_BYTES_MAX))
    except (BadManifest, UnknownName):
        return set()
    return {Digest(part.digest) for part in (manifest.config, *manifest.layers)}
