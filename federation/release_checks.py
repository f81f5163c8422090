"""Whether a release on disk is what its signed record says, for whoever does not need its bytes.

The checks of :func:`federation.verification.verify` in the same order, with a piece of a file at a time in memory. What
holds here is no :class:`~federation.verification.VerifiedRelease`: nothing is loaded by it.
"""

from __future__ import annotations

from federation.blobs import BlobStore
from federation.documents import ReleaseRecord, RootRecord, SignedDocument
from federation.errors import WrongHash, WrongSize
from federation.names import digest_of
from federation.pipeline_members import parts_of
from federation.verification import check_content, check_manifest, judge_of_members, verify_record


def check_release(
    blobs: BlobStore, signed: SignedDocument, *, root: RootRecord, development_key: bytes | None = None
) -> ReleaseRecord:
    """What the record says. Raises ``UnknownName`` when a part is missing, else what ``verify`` raises."""
    record = verify_record(signed, root, development_key=development_key)
    manifest = blobs.read_unchecked(record.manifest, bytes_max=record.manifest_size)
    check_content(manifest, f"the manifest of {record.label}", digest=record.manifest, size=record.manifest_size)
    for entry in record.files:
        digest, size = blobs.hashed(entry.digest)
        what = f"{entry.path} of {record.label}"
        if size != entry.size:
            raise WrongSize(f"{what}: expected {entry.size} bytes, found {size}")
        if digest != entry.digest:
            raise WrongHash(f"{what}: expected {entry.digest}, found {digest}")
    check_manifest(manifest, record)
    if record.kind == "pipeline":
        places = {entry.path: entry for entry in record.files}

        def small(path: str) -> bytes:
            content = blobs.read_unchecked(places[path].digest, bytes_max=places[path].size)
            check_content(content, f"{path} of {record.label}", digest=places[path].digest, size=places[path].size)
            return content

        parts_of(record, small, judge_of_members(record, digest_of(signed.payload), root))
    return record
