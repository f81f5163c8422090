"""An OCI image layout on disk: manifests by repository, tag and digest, what is attached to them, and their blobs.

    oci-layout                 {"imageLayoutVersion": "1.0.0"}
    index.json                 an image index: every manifest, with its repository and, where it has one, its tag
    blobs/sha256/<hex>         configs, layers, manifests, signed records
    staging/                   content on its way (not part of OCI)

A manifest is an entry of ``index.json`` with the annotation ``peerage.repository``; a tag is the annotation
``org.opencontainers.image.ref.name`` = ``repository:tag``. The releases in it are :mod:`federation.layout`'s.

Rules: blobs first, ``index.json`` last, each replaced whole, so a crash leaves the old or the new repository and at
most blobs that nothing names. One writer at a time, by a lock; a change that another process made is seen at the next
call. Nothing is removed from under a manifest that is just being listed.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from federation.attachments import attached, fallback_index, fallback_subject, fallback_tag, merged, referrers
from federation.blobs import BlobStore, DamagedBlob, StorageFailed, replace_file, storing
from federation.documents import (
    DOCUMENT_BYTES_MAX,
    RELEASE_TYPE,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
)
from federation.layout_index import (
    RECORD,
    RELEASE,
    REPOSITORY,
    SUBJECT,
    ContentNeeded,
    LayoutContents,
    annotations_of,
    with_entry,
)
from federation.layout_removal import reached, unneeded, without_manifests, without_tag
from federation.manifests import (
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    REF_NAME,
    BadManifest,
    Descriptor,
    Index,
    Manifest,
    encode_index,
    read_index,
    read_manifest,
)
from federation.names import Digest, checked_digest, digest_of
from federation.packing import record_digest, release_repository
from query.errors import LimitExceeded, UnknownName

INDEX_BYTES_MAX: Final = 64 * 1024 * 1024
MANIFESTS_MAX: Final = 50_000
LISTINGS_MAX: Final = 1024  # made indices whose digest is remembered
_OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

# msgspec (0.22) builds what it knows of a type at the type's first use, and crashes when two threads do that at once.
for _type in (Index, Manifest, ReleaseRecord, RootRecord, SignedDocument):
    msgspec.json.Decoder(_type)


class MissingPart(UnknownName):
    """A manifest names a config or a layer that is not here."""

    code = "missing_part"


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """Exactly the bytes that were put, under the type they were put with."""

    raw: bytes
    media_type: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Garbage:
    """How many blobs went, and their bytes."""

    blobs: int
    size: int


class ManifestStore:
    """The manifests and blobs of one layout, for any thread. Blocking: reads are small, writes wait for the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = path / "index.json"
        self.blobs = BlobStore(path)
        self._listings: dict[
            tuple[str, str], Digest
        ] = {}  # subjects of indices that were made, by repository and digest
        self._seen: tuple[tuple[int, int, int], LayoutContents] | None = None
        if not (path / "oci-layout").exists():
            with self._writer():
                replace_file(path / "oci-layout", _OCI_LAYOUT)

    # --- manifests ----------------------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        """By tag or digest; a fall-back tag lists what is attached to a manifest. Raises :class:`UnknownName`."""
        contents = self._read()
        joined = "@" if reference.startswith("sha256:") else ":"
        entry = contents.by_name.get(f"{repository}{joined}{reference}")
        subject = fallback_subject(reference) or self._listings.get((repository, reference))
        if subject is not None and (entry is None or joined == ":"):
            found = self._fallback(contents, repository, subject)
            if found is not None and reference in (found.digest, fallback_tag(subject)):
                return found
            entry = None
        if entry is None:
            raise UnknownName(f'no manifest "{reference[:140]}" in repository "{repository}"')
        digest = checked_digest(entry.digest)
        if self.blobs.size(digest) is None:
            raise DamagedBlob(f"the manifest {digest} of {repository} is listed and not on this disk")
        return StoredManifest(self.blobs.read(digest, bytes_max=MANIFEST_BYTES_MAX), entry.media_type, digest)

    def lists(self, repository: str, reference: str) -> bool:
        """Whether a manifest or tag stands in the listing, and not only follows from it as a fall-back tag does."""
        joined = "@" if reference.startswith("sha256:") else ":"
        return f"{repository}{joined}{reference}" in self._read().by_name

    def _fallback(self, contents: LayoutContents, repository: str, subject: Digest) -> StoredManifest | None:
        found = fallback_index(self.blobs, contents, repository, subject)
        if found is None:
            return None
        raw, pushed = found
        digest = digest_of(raw)
        if not pushed:  # whoever has asked for it by its tag may ask by its digest next
            if len(self._listings) >= LISTINGS_MAX:
                self._listings.clear()
            self._listings[repository, str(digest)] = subject
        return StoredManifest(raw, INDEX_TYPE, digest)

    def put_manifest(
        self,
        repository: str,
        raw: bytes,
        *,
        media_type: str = MANIFEST_TYPE,
        tag: str | None = None,
        pending: bool = False,
        whole: bool = False,
    ) -> Digest:
        """Keep a manifest, under a tag or by its digest alone; durable on return.

        It is read, and listed under its ``subject`` where it has one. A release record that it attaches makes a
        release, unless it is ``pending``: that is kept and listed as any other attachment. Raises
        :class:`VersionTaken` when the tag is the version of a release with other bytes, and, when it is to be
        ``whole``, :class:`MissingPart` for a config or a layer that is not here.
        """
        digest = digest_of(raw)
        found = attached(raw, media_type)
        told = {REPOSITORY: repository}
        if found.subject is not UNSET:
            told[SUBJECT] = found.subject.digest
        if media_type == MANIFEST_TYPE and found.artifact_type == RELEASE_TYPE:
            of_release = self._told_of_release(read_manifest(raw), repository)
            told |= {} if pending else of_release
        self.blobs.put(raw)
        if tag is not None:
            told[REF_NAME] = f"{repository}:{tag}"
        entry = Descriptor(
            media_type=media_type, digest=digest, size=len(raw), artifact_type=found.artifact_type, annotations=told
        )

        def change(contents: LayoutContents) -> list[Descriptor]:
            if whole and media_type == MANIFEST_TYPE:
                check_whole(self.blobs, read_manifest(raw))
            return with_entry(contents, entry)

        self._change(change)
        return digest

    def put_fallback(self, repository: str, raw: bytes, subject: Digest) -> Digest:
        """Take an index that was made for the fall-back tag of ``subject``: what it names is attached from now on.

        Raises :class:`BadManifest` when it names what is not in the repository, or is attached to something else.
        """
        self.blobs.put(raw)
        told = {REPOSITORY: repository, REF_NAME: f"{repository}:{fallback_tag(subject)}"}
        index = Descriptor(media_type=INDEX_TYPE, digest=digest_of(raw), size=len(raw), annotations=told)

        def change(contents: LayoutContents) -> list[Descriptor]:
            for entry in (*merged(contents, raw, repository, subject), index):
                contents = LayoutContents.of(with_entry(contents, entry))
            return list(contents.entries)

        self._change(change)
        return digest_of(raw)

    def _told_of_release(self, manifest: Manifest, repository: str) -> dict[str, str]:
        signed, record = self.attached_record(manifest)
        if repository != release_repository(record):
            raise BadManifest(f'the record of {record.label} belongs to "{release_repository(record)}"')
        return {RELEASE: record.label, RECORD: record_digest(signed)}

    def attached_record(self, manifest: Manifest) -> tuple[SignedDocument, ReleaseRecord]:
        """The signed record that an attachment carries, and what it says, unverified. Raises :class:`BadManifest`."""
        if manifest.subject is UNSET or len(manifest.layers) != 1:
            raise BadManifest("expected the attachment of a release record: a subject and one layer")
        raw = self.blobs.read(checked_digest(manifest.layers[0].digest), bytes_max=DOCUMENT_BYTES_MAX)
        try:
            signed = decode(raw, SignedDocument)
            record = decode(signed.payload, ReleaseRecord)
        except msgspec.MsgspecError as error:
            raise BadManifest(f"expected a signed release record: {error}") from error
        if record.manifest != manifest.subject.digest:
            raise BadManifest(
                f"the record of {record.label} names the manifest {record.manifest}, "
                f"it is attached to {manifest.subject.digest}"
            )
        return signed, record

    def tags(self, repository: str) -> tuple[str, ...]:
        """In the order of ASCII, without fall-back tags; empty for a repository that is not here."""
        prefix = f"{repository}:"
        tags = (name.removeprefix(prefix) for name in self._read().by_name if name.startswith(prefix))
        return tuple(sorted(tag for tag in tags if fallback_subject(tag) is None))

    def repositories(self) -> tuple[str, ...]:
        return tuple(sorted({annotations_of(entry).get(REPOSITORY, "") for entry in self._read().entries} - {""}))

    def referrers(self, repository: str, subject: str) -> tuple[Descriptor, ...]:
        """The manifests of a repository that are attached to the given one, as descriptors of OCI alone."""
        return referrers(self.blobs, self._read(), repository, subject)

    def waiting(self, repository: str, subject: str) -> tuple[Digest, ...]:
        """The attachments of ``subject`` that carry a release record and make no release."""
        return tuple(
            Digest(entry.digest)
            for entry in self._read().entries
            if entry.artifact_type == RELEASE_TYPE
            and RECORD not in annotations_of(entry)
            and annotations_of(entry).get(SUBJECT) == subject
            and annotations_of(entry).get(REPOSITORY) == repository
        )

    # --- removal ---------------------------------------------------------------------------------------------------

    def remove_manifest(self, repository: str, digest: Digest) -> None:
        """Take a manifest off the list, with all its tags and what is attached to it; its blobs are garbage from then
        on, if nothing else names them.
        """
        self._change(lambda contents: without_manifests(contents, repository, {digest}))

    def remove_tag(self, repository: str, tag: str) -> None:
        """Take a tag away; its manifest stays. Raises :class:`ContentNeeded` for the version of a release."""
        self._change(lambda contents: without_tag(contents, repository, tag))

    def remove_blob(self, digest: Digest) -> None:
        """Raises :class:`ContentNeeded` while a listed manifest names it, or is it."""
        with self._writer(), storing(self.path):
            if digest not in unneeded(self.blobs, self._read(), {digest}):
                raise ContentNeeded(f"a manifest names {digest}: it stays as long as the manifest")
            if not self.blobs.remove(digest):
                raise ContentNeeded(f"{digest} stays while the repository is being copied")

    def collect_garbage(
        self, *, keep: Iterable[Digest] = (), written_before: float = math.inf, dry_run: bool = False
    ) -> Garbage:
        """Remove every blob that nothing listed leads to and that was written or claimed before a time; what went, or,
        in a ``dry_run``, would go.

        Nothing is listed meanwhile; what is staged is not touched. Raises :class:`UnknownName` or
        :class:`DamagedBlob` and removes nothing when a listed manifest is not whole: what it names is not known then.
        """
        with self._writer(), storing(self.path):
            found = set(self.blobs.digests()) - set(keep) - reached(self.blobs, self._read())
            sizes = {
                digest: self.blobs.size(digest) or 0 for digest in found if self.blobs.written(digest) < written_before
            }
            gone = [
                size
                for digest, size in sizes.items()
                if dry_run or self.blobs.remove(digest, written_before=written_before)
            ]
            return Garbage(len(gone), sum(gone))

    # --- index.json ---------------------------------------------------------------------------------------------

    def _read(self) -> LayoutContents:
        try:
            found = self._index.stat()
        except FileNotFoundError:
            return LayoutContents()
        state = _state_of(found)
        seen = self._seen  # one value: several threads read and write it, and a writer builds on what it has read
        if seen is None or seen[0] != state:
            try:
                index = read_index(self._index.read_bytes(), bytes_max=INDEX_BYTES_MAX)
            except BadManifest as error:
                raise StorageFailed(f"{self._index} is damaged: {error.message}") from error
            seen = (state, LayoutContents.of(index.manifests))
            self._seen = seen
        return seen[1]

    def _change(self, change: Callable[[LayoutContents], list[Descriptor]]) -> None:
        with self._writer():
            self._replace(change(self._read()))

    def _replace(self, entries: list[Descriptor]) -> None:
        """Write ``index.json``, by whoever has the lock."""
        if len(entries) > MANIFESTS_MAX:
            raise LimitExceeded(f"{self.path} holds {MANIFESTS_MAX} manifests already")
        if tuple(entries) == self._read().entries:
            return
        raw = encode_index(Index(manifests=tuple(entries)))
        if len(raw) > INDEX_BYTES_MAX:
            raise LimitExceeded(
                f"the listing in {self.path} would have {len(raw)} bytes, the most is {INDEX_BYTES_MAX}"
            )
        replace_file(self._index, raw)
        self._seen = (_state_of(self._index.stat()), LayoutContents.of(entries))

    @contextmanager
    def _writer(self) -> Iterator[None]:
        with storing(self.path):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _state_of(found: os.stat_result) -> tuple[int, int, int]:
    """What changes with a file that is replaced whole."""
    return found.st_ino, found.st_mtime_ns, found.st_size


def check_whole(blobs: BlobStore, manifest: Manifest) -> None:
    """Raises :class:`MissingPart` unless config and layers are here, in their sizes."""
    for part in (manifest.config, *manifest.layers):
        found = blobs.claim(checked_digest(part.digest))
        if found != part.size:
            raise MissingPart(
                f"the manifest names {part.digest} of {part.size} bytes, "
                + ("which is not here" if found is None else f"here it has {found}")
            )
