"""A peer's repository of releases: an OCI image layout on disk. Nameserver, edge and client homes have the same.

    oci-layout                 {"imageLayoutVersion": "1.0.0"}
    index.json                 an image index: every manifest, with its repository and, where it has one, its tag
    blobs/sha256/<hex>         configs, layers, manifests, signed records
    staging/                   content on its way (not part of OCI)

A manifest is an entry of ``index.json`` with the annotation ``peerage.repository``; a tag is the annotation
``org.opencontainers.image.ref.name`` = ``repository:tag``. A signed release record is an artifact manifest whose
``subject`` is the release's manifest; its entry says, for listings, which release that is. What a listing says is not
evidence: :meth:`ImageLayout.verified` checks everything before it gives out a release.

Rules: blobs first, ``index.json`` last, each replaced whole, so a crash leaves the old or the new repository and at
most blobs that nothing names. Once a record is attached to a tagged manifest, that tag never names other bytes; before
that a tag may move, since what an interrupted publisher left must not block the next attempt. One writer at a time, by
a lock; a change that another process made is seen at the next call.
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

from federation.blobs import BlobStore, StorageFailed, replace_file, storing
from federation.documents import (
    DOCUMENT_BYTES_MAX,
    RELEASE_TYPE,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
    encode,
)
from federation.layout_index import (
    RECORD,
    RELEASE,
    REPOSITORY,
    SUBJECT,
    InstalledRelease,
    LayoutContents,
    annotations_of,
    taken,
    with_entry,
)
from federation.layout_removal import named_by, reached, unneeded, without_manifests
from federation.manifests import (
    EMPTY_CONFIG,
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
    record_attachment,
)
from federation.names import Digest, checked_digest, digest_of
from federation.packing import PackedRelease, record_digest, release_repository
from federation.verification import VerifiedRelease, verify, verify_record
from query.errors import LimitExceeded, UnknownName, unknown

INDEX_BYTES_MAX: Final = 64 * 1024 * 1024
MANIFESTS_MAX: Final = 50_000
_OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

# msgspec (0.22) builds what it knows of a type at the type's first use, and crashes when two threads do that at once.
for _type in (Index, Manifest, ReleaseRecord, RootRecord, SignedDocument):
    msgspec.json.Decoder(_type)


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """Exactly the bytes that were put, under the type they were put with."""

    raw: bytes
    media_type: str
    digest: Digest


class ImageLayout:
    """One repository on disk, for any thread. Blocking: reads are small, writes wait for the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = path / "index.json"
        self.blobs = BlobStore(path)
        self._seen: tuple[tuple[int, int, int], LayoutContents] | None = None
        if not (path / "oci-layout").exists():
            with self._writer():
                replace_file(path / "oci-layout", _OCI_LAYOUT)

    # --- manifests ----------------------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        """By tag or digest. Raises :class:`UnknownName`."""
        contents = self._read()
        joined = "@" if reference.startswith("sha256:") else ":"
        entry = contents.by_name.get(f"{repository}{joined}{reference}")
        if entry is None:
            raise UnknownName(f'no manifest "{reference[:140]}" in repository "{repository}"')
        digest = checked_digest(entry.digest)
        return StoredManifest(self.blobs.read(digest, bytes_max=MANIFEST_BYTES_MAX), entry.media_type, digest)

    def put_manifest(
        self, repository: str, raw: bytes, *, media_type: str = MANIFEST_TYPE, tag: str | None = None
    ) -> Digest:
        """Keep a manifest, under a tag or by its digest alone; durable on return.

        Raises :class:`VersionTaken` when the tag names a release with other bytes. An image manifest is read, and
        listed under its ``subject`` where it has one.
        """
        digest = digest_of(raw)
        told = {REPOSITORY: repository}
        artifact_type: str | msgspec.UnsetType = UNSET
        if media_type == MANIFEST_TYPE:
            manifest = read_manifest(raw)
            artifact_type = manifest.artifact_type
            if manifest.subject is not UNSET:
                told[SUBJECT] = manifest.subject.digest
            if artifact_type == RELEASE_TYPE:
                told |= self._told_of_release(manifest, repository)
        self.blobs.put(raw)
        if tag is not None:
            told[REF_NAME] = f"{repository}:{tag}"
        entry = Descriptor(
            media_type=media_type, digest=digest, size=len(raw), artifact_type=artifact_type, annotations=told
        )
        self._change(lambda contents: with_entry(contents, entry))
        return digest

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
        """In the order of ASCII; empty for a repository that is not here."""
        prefix = f"{repository}:"
        return tuple(sorted(name.removeprefix(prefix) for name in self._read().by_name if name.startswith(prefix)))

    def repositories(self) -> tuple[str, ...]:
        return tuple(sorted({annotations_of(entry).get(REPOSITORY, "") for entry in self._read().entries} - {""}))

    def referrers(self, repository: str, subject: str) -> tuple[Descriptor, ...]:
        """The manifests of a repository whose ``subject`` is the given one, as descriptors of OCI alone."""
        return tuple(
            Descriptor(
                media_type=entry.media_type, digest=entry.digest, size=entry.size, artifact_type=entry.artifact_type
            )
            for entry in self._read().entries
            if annotations_of(entry).get(SUBJECT) == subject and annotations_of(entry).get(REPOSITORY) == repository
        )

    # --- releases -----------------------------------------------------------------------------------------------

    def install(self, packed: PackedRelease) -> InstalledRelease:
        """Keep a release that was packed here. Raises :class:`VersionTaken` for a version with other content.

        Packing the same content again keeps the record that was made first.
        """
        record = packed.record
        repository = packed.repository
        if not record.development:
            known = self.find(record.name, record.version)
            if known is not None and known.manifest == record.manifest:
                return known
            if known is not None:
                raise taken(record.label, known.manifest, record.manifest)
        for content in (*packed.files.values(), packed.config):
            self.blobs.put(content)
        self.put_manifest(repository, packed.manifest, tag=None if record.development else record.version)
        return self.attach(packed.signed)

    def attach(self, signed: SignedDocument) -> InstalledRelease:
        """List a release whose manifest and files are here already. Doing it twice changes nothing."""
        record = decode(signed.payload, ReleaseRecord)
        digest = record_digest(signed)
        known = self.find_record(digest)
        if known is None:
            repository = release_repository(record)
            if f"{repository}@{record.manifest}" not in self._read().by_name:
                raw = self.blobs.read(record.manifest, bytes_max=MANIFEST_BYTES_MAX)
                self.put_manifest(repository, raw, tag=None if record.development else record.version)
            envelope = encode(signed)
            self.blobs.put(envelope)
            self.blobs.put(EMPTY_CONFIG)
            attachment = record_attachment(envelope, subject=record.manifest, subject_size=record.manifest_size)
            self.put_manifest(repository, attachment)
            known = self._read().releases[digest]
        return known

    def releases(self, *, development: bool = False) -> tuple[InstalledRelease, ...]:
        """Every release here, in the order of their labels; development releases only when asked for."""
        found = (entry for entry in self._read().releases.values() if development or not entry.development)
        return tuple(sorted(found, key=lambda entry: entry.label))

    def find(self, name: str, version: str) -> InstalledRelease | None:
        """A release by name and version; never a development release."""
        label = f"{name}@{version}"
        return next((entry for entry in self.releases() if entry.label == label), None)

    def find_record(self, digest: Digest) -> InstalledRelease | None:
        """The release, development ones too, whose record's payload has this digest."""
        return self._read().releases.get(digest)

    def installed(self, name: str, version: str) -> InstalledRelease:
        """As :meth:`find`; raises :class:`UnknownName` with the nearest release."""
        found = self.find(name, version)
        if found is None:
            raise unknown("installed release", f"{name}@{version}", (entry.label for entry in self.releases()))
        return found

    def signed(self, release: InstalledRelease) -> SignedDocument:
        """The signed record of a release, unverified."""
        raw = self.blobs.read(release.attachment, bytes_max=MANIFEST_BYTES_MAX)
        return self.attached_record(read_manifest(raw))[0]

    def packed(self, release: InstalledRelease) -> PackedRelease:
        """A release as it was packed, for sending it on; its blobs are hashed again."""
        signed, record = self.attached_record(
            read_manifest(self.blobs.read(release.attachment, bytes_max=MANIFEST_BYTES_MAX))
        )
        raw = self.blobs.read(record.manifest, bytes_max=MANIFEST_BYTES_MAX)
        config = read_manifest(raw).config
        return PackedRelease(
            record=record,
            signed=signed,
            manifest=raw,
            config=self.blobs.read(checked_digest(config.digest), bytes_max=config.size),
            files={entry.path: self.blobs.read(entry.digest, bytes_max=entry.size) for entry in record.files},
        )

    def verified(
        self, signed: SignedDocument, *, root: RootRecord, development_key: bytes | None = None
    ) -> VerifiedRelease:
        """The release of a signed record, from the bytes that are here; each is hashed on the way.

        Raises :class:`UnknownName` when a part is missing, else what ``verify`` raises.
        """
        record = verify_record(signed, root, development_key=development_key)
        manifest = self.blobs.read_unchecked(record.manifest, bytes_max=record.manifest_size)
        files = {entry.path: self.blobs.read_unchecked(entry.digest, bytes_max=entry.size) for entry in record.files}
        return verify(signed, root=root, manifest=manifest, files=files, development_key=development_key)

    # --- removal ------------------------------------------------------------------------------------------------

    def remove(self, release: InstalledRelease) -> None:
        """Take a release off the list, then drop the blobs that nothing else names.

        With the last release of a manifest go the manifest, all its tags and whatever else is attached to it.
        """
        others = [entry for entry in self._read().releases.values() if entry.manifest == release.manifest]
        gone = {str(release.attachment), *([str(release.manifest)] if len(others) == 1 else [])}
        candidates = {Digest(digest) for digest in gone}
        for digest in gone:
            candidates |= named_by(self.blobs, Digest(digest))
        with self._writer():
            self._replace(without_manifests(self._read(), release.repository, gone))
            for digest in unneeded(self.blobs, self._read(), candidates):
                self.blobs.remove(digest)

    def collect_garbage(self, *, keep: Iterable[Digest] = (), written_before: float = math.inf) -> int:
        """Remove every blob that nothing listed leads to and that was written before a time; how many went.

        Nothing is listed meanwhile; what is staged is not touched. Raises :class:`UnknownName` or
        :class:`DamagedBlob` and removes nothing when a listed manifest is not whole: what it names is not known then.
        """
        with self._writer(), storing(self.path):
            found = set(self.blobs.digests()) - set(keep) - reached(self.blobs, self._read())
            garbage = [digest for digest in found if self.blobs.written(digest) < written_before]
            return sum(self.blobs.remove(digest) for digest in garbage)

    # --- index.json ---------------------------------------------------------------------------------------------

    def _read(self) -> LayoutContents:
        try:
            found = self._index.stat()
        except FileNotFoundError:
            return LayoutContents()
        state = (found.st_ino, found.st_mtime_ns, found.st_size)
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
        if tuple(entries) != self._read().entries:
            replace_file(self._index, encode_index(Index(manifests=tuple(entries))))

    @contextmanager
    def _writer(self) -> Iterator[None]:
        with storing(self.path):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
