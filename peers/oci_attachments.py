"""What is attached to a manifest at a registry, with and without its referrers API.

A registry without the API (404 to it) keeps attachments under the tag ``sha256-<hex of the subject>``: an image index
that whoever attaches something maintains. Such a tag cannot be changed in one step, so two writers may overwrite one
another: each reads back what it wrote, waits and reads again, and repeats until its entry stays.
"""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from federation.attachments import fallback_tag
from federation.manifests import (
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    BadManifest,
    Descriptor,
    Index,
    encode_index,
    read_index,
    read_manifest,
)
from federation.names import Digest, digest_of
from peers.fetching import WrongAnswer
from peers.oci_errors import NoSuchContent, NotSupportedThere, RegistryRefused
from peers.oci_registry import Registry
from query.errors import LimitExceeded

ATTEMPTS_MAX: Final = 8
SETTLE_S: Final = 0.2  # longer than another writer needs from reading an index to writing it
ATTACHMENTS_MAX: Final = 1000  # of one manifest


def attachments(registry: Registry, repository: str, subject: Digest, artifact_type: str) -> list[Descriptor]:
    """The attachments of a type, by the API, else by the tag; hints, until what they name is verified."""
    path = f"/v2/{repository}/referrers/{subject}?artifactType={quote(artifact_type, safe='')}"
    try:
        raw = registry.get(path, bytes_max=MANIFEST_BYTES_MAX, accept=INDEX_TYPE).body
    except (NoSuchContent, NotSupportedThere):  # an older registry does not know the path
        found: tuple[Descriptor, ...] = ()
    else:
        found = _index(raw, path).manifests
    found = found or _tagged(registry, repository, subject).manifests
    return [one for one in found if one.artifact_type in (artifact_type, UNSET)]


def attach(registry: Registry, repository: str, raw: bytes) -> None:
    """Send the manifest of an attachment and see to it that its subject's readers find it."""
    manifest = read_manifest(raw)
    if manifest.subject is UNSET:
        raise BadManifest("expected an attachment: a manifest with a subject")
    subject = Digest(manifest.subject.digest)
    answer = registry.send_manifest(repository, digest_of(raw), raw)
    if "OCI-Subject" in answer.headers:
        return
    entry = Descriptor(
        media_type=MANIFEST_TYPE,
        digest=digest_of(raw),
        size=len(raw),
        artifact_type=manifest.artifact_type,
        annotations=manifest.annotations,
    )
    for _ in range(ATTEMPTS_MAX):
        index = _tagged(registry, repository, subject)
        if any(one.digest == entry.digest for one in index.manifests):
            return
        if len(index.manifests) >= ATTACHMENTS_MAX:
            raise LimitExceeded(f"{ATTACHMENTS_MAX} attachments of {subject} are at the registry already")
        wider = msgspec.structs.replace(index, media_type=INDEX_TYPE, manifests=(*index.manifests, entry))
        registry.send_manifest(repository, fallback_tag(subject), encode_index(wider), media_type=INDEX_TYPE)
        time.sleep(SETTLE_S)
    raise RegistryRefused(f"others keep overwriting the attachments of {subject}: {ATTEMPTS_MAX} attempts were lost")


def _tagged(registry: Registry, repository: str, subject: Digest) -> Index:
    path = f"/v2/{repository}/manifests/{fallback_tag(subject)}"
    try:
        return _index(registry.get(path, bytes_max=MANIFEST_BYTES_MAX, accept=INDEX_TYPE).body, path)
    except NoSuchContent:
        return Index(media_type=INDEX_TYPE)


def _index(raw: bytes, path: str) -> Index:
    try:
        return read_index(raw)
    except BadManifest as error:
        raise WrongAnswer(f"{path}: {error.message}") from error
