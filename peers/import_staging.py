"""The blobs of a file on their way into a device's repository: each measured against what was signed.

Owns what an import has put on disk before its state is kept. Refuses a blob that nothing signed names, one of another
size or content, and to begin without room. Rules: of a file that is refused no blob stays; what was here before is not
written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from federation.blobs import BlobStore, StorageFull
from federation.documents import ReleaseRecord, SignedDocument, encode
from federation.errors import WrongHash, WrongSize
from federation.manifests import EMPTY_CONFIG, MANIFEST_BYTES_MAX, read_manifest, record_attachment
from federation.names import Digest, checked_digest, digest_of
from peers.archives import ArchiveReader, BadArchive
from peers.fetching import CONFIG_BYTES_MAX
from query.declarations import Progress, silent

DISK_RESERVE_BYTES: Final = 16 * 1024 * 1024


class Staging:
    """Brings the blobs of a file into a layout, each hashed on its way; blocking."""

    def __init__(
        self,
        blobs: BlobStore,
        releases: Sequence[tuple[SignedDocument, ReleaseRecord]],
        *,
        strict: bool,
        progress: Progress = silent,
    ) -> None:
        """``releases``: signed records that were verified. ``strict``: the file holds nothing but what they name."""
        self._blobs = blobs
        self._records = tuple(record for _, record in releases)
        self._strict = strict
        self._progress = progress
        self._wanted: dict[Digest, int] = {}
        self._manifests: set[Digest] = set()
        self._known: dict[Digest, int] = {digest_of(EMPTY_CONFIG): len(EMPTY_CONFIG)}
        self._placed: list[Digest] = []
        for signed, record in releases:
            self._manifests.add(record.manifest)
            self._wanted[record.manifest] = record.manifest_size
            self._wanted |= {entry.digest: entry.size for entry in record.files}
            envelope = encode(signed)
            attachment = record_attachment(envelope, subject=record.manifest, subject_size=record.manifest_size)
            self._known |= {digest_of(content): len(content) for content in (envelope, attachment)}
        for digest in tuple(self._manifests):
            self._want_config(digest)

    def stage(self, reader: ArchiveReader) -> None:
        """Raises the class of what is wrong with the file; then nothing of it is left here."""
        self._check_room()
        try:
            while (member := reader.next()) is not None:
                digest = member.blob
                if digest is not None:
                    self._take(reader, digest, member.size)
                self._progress("import", reader.offset, reader.size, "bytes")
            self._check_complete()
        except BaseException:
            for digest in self._placed:
                with suppress(OSError):
                    self._blobs.remove(digest)
            raise

    def _take(self, reader: ArchiveReader, digest: Digest, size: int) -> None:
        wanted = self._wanted.get(digest, self._known.get(digest))
        if wanted is None:
            if self._strict:  # of a refused release, what is its own is not known
                raise BadArchive(f"the file holds a blob {digest} that nothing signed in it names")
            return
        if size != wanted:
            raise WrongSize(f"the blob {digest}: expected {wanted} bytes, found {size}")
        if digest not in self._wanted:
            content = b"".join(reader.chunks())
            if digest_of(content) != digest:
                raise WrongHash(f"expected content of {digest}, found {digest_of(content)}")
            return
        if self._blobs.size(digest) == size:
            return
        with self._blobs.stage(digest, size=size) as staged:
            if staged.offset:
                staged.restart()
            for chunk in reader.chunks():
                staged.write(chunk)
                self._progress("import", reader.offset, reader.size, "bytes")
            staged.finish(digest)
        self._placed.append(digest)
        if digest in self._manifests:
            self._want_config(digest)

    def _want_config(self, manifest: Digest) -> None:
        """Only a release's manifest says which config belongs to it."""
        if self._blobs.size(manifest) is None:
            return
        config = read_manifest(self._blobs.read(manifest, bytes_max=MANIFEST_BYTES_MAX)).config
        if config.size > CONFIG_BYTES_MAX:
            raise WrongSize(f"a config of {config.size} bytes, expected at most {CONFIG_BYTES_MAX}")
        self._wanted[checked_digest(config.digest)] = config.size

    def _check_room(self) -> None:
        missing = sum(size for digest, size in self._wanted.items() if self._blobs.size(digest) != size)
        free = self._blobs.free_bytes()
        if missing + DISK_RESERVE_BYTES > free:
            raise StorageFull(
                f"the file's releases need {missing} bytes and {DISK_RESERVE_BYTES} in reserve, the disk has {free}",
                hint="free some disk space and import again",
            )

    def _check_complete(self) -> None:
        for record in self._records:
            for digest in (record.manifest, *(entry.digest for entry in record.files)):
                if self._blobs.size(digest) is None:
                    raise BadArchive(f"the file lacks {digest} of {record.label}", hint="export it again")
        lacking = [digest for digest, size in self._wanted.items() if self._blobs.size(digest) != size]
        if lacking:
            raise BadArchive(f"the file lacks {lacking[0]}", hint="export it again")
