"""What is attached to manifests: whom a manifest is attached to, the list of referrers, and the fall-back tag.

A manifest with a ``subject`` is attached to it. Registries without OCI's referrers API keep that list as an image index
under the tag ``sha256-<hex>`` of the subject, written by whoever attaches something. Here the list follows from the
manifests, and the tag is served from the list; an index that somebody pushed under it is served as it was pushed while
it names the same manifests.

Pure but for reading blobs. Rules: a referrer shows the annotations of its manifest, as OCI says; so what is attached
has few of them (:data:`ANNOTATION_BYTES_MAX`), and the whole list stays below what a manifest may have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from federation.blobs import BlobStore
from federation.layout_index import REPOSITORY, SUBJECT, LayoutContents, annotations_of
from federation.manifests import (
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    BadManifest,
    Descriptor,
    Index,
    check_descriptors,
    encode_index,
    read_index,
    read_manifest,
)
from federation.names import Digest
from query.errors import Problem

ANNOTATION_BYTES_MAX: Final = 16 * 1024  # of a manifest that is attached to another
TYPE_LENGTH_MAX: Final = 255  # of an artifact's type, which stands in the listing; media types have 127/127 at most

FALLBACK_PREFIX: Final = "sha256-"

_FALLBACK = re.compile(FALLBACK_PREFIX + r"([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Attached:
    """What a manifest or an index says of itself for the list of referrers."""

    subject: Descriptor | UnsetType
    artifact_type: str | UnsetType
    annotations: dict[str, str] | UnsetType


def fallback_tag(subject: Digest) -> str:
    return subject.replace(":", "-")


def fallback_subject(tag: str) -> Digest | None:
    """The manifest whose referrers a tag lists; None for any other tag."""
    match = _FALLBACK.fullmatch(tag)
    return None if match is None else Digest(f"sha256:{match[1]}")


def attached(raw: bytes, media_type: str) -> Attached:
    """Read a manifest or an index. Raises :class:`BadManifest`, also for what would make a listing too long."""
    if media_type == MANIFEST_TYPE:
        manifest = read_manifest(raw)
        subject, kind, annotations = manifest.subject, manifest.artifact_type, manifest.annotations
        if subject is not UNSET and kind is UNSET:
            kind = manifest.config.media_type
    else:
        index = read_index(raw)
        subject, kind, annotations = index.subject, index.artifact_type, index.annotations
        check_descriptors((*index.manifests, *(() if subject is UNSET else (subject,))))
    if kind is not UNSET and len(kind) > TYPE_LENGTH_MAX:
        raise BadManifest(f"an artifact's type of {len(kind)} characters, expected at most {TYPE_LENGTH_MAX}")
    if subject is not UNSET and annotations is not UNSET:
        size = sum(len(key) + len(text) for key, text in annotations.items())
        if size > ANNOTATION_BYTES_MAX:
            raise BadManifest(f"an attachment with {size} characters of annotations, expected {ANNOTATION_BYTES_MAX}")
    return Attached(subject, kind, annotations)


def referrers(blobs: BlobStore, contents: LayoutContents, repository: str, subject: str) -> tuple[Descriptor, ...]:
    """The manifests of a repository that are attached to ``subject``, as descriptors of OCI alone."""
    found: dict[str, Descriptor] = {}
    for entry in contents.entries:
        told = annotations_of(entry)
        if told.get(SUBJECT) == subject and told.get(REPOSITORY) == repository and entry.digest not in found:
            found[entry.digest] = Descriptor(
                media_type=entry.media_type,
                digest=entry.digest,
                size=entry.size,
                artifact_type=entry.artifact_type,
                annotations=_annotations(blobs, entry),
            )
    return tuple(found.values())


def _annotations(blobs: BlobStore, entry: Descriptor) -> dict[str, str] | UnsetType:
    try:
        return attached(blobs.read(Digest(entry.digest), bytes_max=MANIFEST_BYTES_MAX), entry.media_type).annotations
    except Problem:
        return UNSET  # the list stays whole; whoever asks for the damaged manifest is told


def fallback_index(
    blobs: BlobStore, contents: LayoutContents, repository: str, subject: Digest
) -> tuple[bytes, bool] | None:
    """The index under the fall-back tag, and whether it is one that was pushed; None when nothing is attached."""
    found = referrers(blobs, contents, repository, subject)
    pushed = contents.by_name.get(f"{repository}:{fallback_tag(subject)}")
    if pushed is not None:
        raw = blobs.read(Digest(pushed.digest), bytes_max=MANIFEST_BYTES_MAX)
        if {entry.digest for entry in read_index(raw).manifests} == {entry.digest for entry in found}:
            return raw, True
    if not found:
        return None
    return encode_index(Index(media_type=INDEX_TYPE, manifests=found)), False


def merged(contents: LayoutContents, raw: bytes, repository: str, subject: Digest) -> list[Descriptor]:
    """The entries of the manifests that a pushed fall-back index attaches to ``subject``, and that were not before.

    Raises :class:`BadManifest` when one of them is not here, is attached to something else, or is a release itself.
    """
    releases = {(release.repository, str(release.manifest)) for release in contents.releases.values()}
    entries = []
    for named in read_index(raw).manifests:
        entry = contents.by_name.get(f"{repository}@{named.digest}")
        if entry is None:
            raise BadManifest(f'the index names {named.digest[:80]}, which is not in "{repository}"')
        told = annotations_of(entry)
        if told.get(SUBJECT, subject) != subject:
            raise BadManifest(f"{named.digest} is attached to {told[SUBJECT]}, the index says to {subject}")
        if SUBJECT in told:
            continue
        if (repository, entry.digest) in releases:
            raise BadManifest(f"{named.digest} is a release: it is attached to nothing, the index says to {subject}")
        entries.append(msgspec.structs.replace(entry, annotations={**told, SUBJECT: str(subject)}))
    return entries
