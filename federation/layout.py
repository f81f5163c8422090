"""A peer's repository of releases: an OCI image layout on disk. Nameserver, edge and client homes have the same.

A release is a manifest of its own, see :mod:`federation.manifests`; its signed record is an artifact manifest whose
``subject`` is that manifest, and whose entry in the listing says which release it is. What a listing says is not
evidence: :meth:`ImageLayout.verified` checks everything before it gives out a release.

Rules: those of :mod:`federation.manifest_store`. Once a record is attached to a tagged manifest, that tag never names
other bytes; before that a tag may move, since what an interrupted publisher left must not block the next attempt.
"""

from __future__ import annotations

import math

from federation.documents import (
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
    encode,
)
from federation.layout_index import (
    InstalledRelease,
    taken,
)
from federation.layout_removal import named_by, unneeded, without_manifests
from federation.manifest_store import ManifestStore
from federation.manifests import (
    EMPTY_CONFIG,
    MANIFEST_BYTES_MAX,
    read_manifest,
    record_attachment,
)
from federation.names import Digest, checked_digest
from federation.packing import PackedRelease, record_digest, release_repository
from federation.record_shape import check_kind
from federation.verification import VerifiedRelease, verify, verify_record
from query.errors import unknown


class ImageLayout(ManifestStore):
    """One repository on disk, for any thread. Blocking: reads are small, writes wait for the disk."""

    # --- releases -----------------------------------------------------------------------------------------------

    def install(self, packed: PackedRelease) -> InstalledRelease:
        """Keep a release that was packed here. Raises :class:`VersionTaken` for a version with other content, and
        :class:`~federation.record_shape.NameOfAnother`.

        Packing the same content again keeps the record that was made first. Of a pipeline the models' files are here
        already; raises :class:`MissingPart` when one is not.
        """
        record = packed.record
        repository = packed.repository
        if not record.development:
            known = self.find(record.name, record.version)
            if known is not None and known.manifest == record.manifest:
                return known
            if known is not None:
                raise taken(record.label, known.manifest, record.manifest)
        others = (one for one in self.releases() if one.name == record.name)
        check_kind(record, (decode(self.signed(one).payload, ReleaseRecord) for one in others))
        for content in (*packed.files.values(), packed.config):
            self.blobs.put(content)
        tag = None if record.development else record.version
        self.put_manifest(repository, packed.manifest, tag=tag, whole=record.kind == "pipeline")
        return self.attach(packed.signed)

    def attach(self, signed: SignedDocument) -> InstalledRelease:
        """List a release whose manifest and files are here already. Doing it twice changes nothing.

        Raises ``UnknownName`` for one that is not whole any more, also when a part was removed this very moment.
        """
        record = decode(signed.payload, ReleaseRecord)
        digest = record_digest(signed)
        known = self.find_record(digest)
        if known is None:
            repository = release_repository(record)
            if f"{repository}@{record.manifest}" not in self._read().by_name:
                raw = self.blobs.read(record.manifest, bytes_max=MANIFEST_BYTES_MAX)
                self.put_manifest(repository, raw, tag=None if record.development else record.version, whole=True)
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
            hint = (
                f'models:create_release("{name}", "{version}") makes one of its folder, models:import fetches one; '
                "models:installed() lists what is here"
            )
            known = (entry.label for entry in self.releases())
            raise unknown("installed release", f"{name}@{version}", known, hint=hint)
        return found

    def signed(self, release: InstalledRelease) -> SignedDocument:
        """The signed record of a release, unverified."""
        raw = self.blobs.read(release.attachment, bytes_max=MANIFEST_BYTES_MAX)
        return self.attached_record(read_manifest(raw))[0]

    def newest(self, name: str, version: str | None = None) -> SignedDocument | None:
        """The signed record, unverified, of the release of that name, or of several the one made last.

        Records tell seconds; of those made in the same one it is the one that came here last.
        """
        found = [entry for entry in self.releases() if entry.name == name and version in (None, entry.version)]
        made = [(self.signed(entry), self.blobs.written(entry.attachment)) for entry in found]
        last = max(made, key=lambda one: (decode(one[0].payload, ReleaseRecord).created, one[1]), default=None)
        return None if last is None else last[0]

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

    def remove(self, release: InstalledRelease, *, written_before: float = math.inf) -> None:
        """Take a release off the list, then drop the blobs that nothing else names and that are as old as that.

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
                self.blobs.remove(digest, written_before=written_before)
