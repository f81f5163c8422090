"""What is shown of a release: records for the language, made from its signed record and the root record.

Pure. Who signed is told from the signature that holds, under the keys that the root record names, never from what
anybody says; ``standing`` is what the root record says of that key now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from federation.documents import ReleaseRecord, RootRecord, SignedDocument, TensorSpec
from federation.names import Digest
from federation.packing import release_repository
from federation.reports import moment
from federation.retention import HOLDERS_TOLD_MAX, Holder
from federation.revocation import Standing, standing_of


class Signer(Struct, frozen=True):
    """Whose key signed, by the name in the root record; the name is None for a key that it does not know."""

    name: str | None
    key: str
    standing: Standing
    since: int | None = None  # of a retired or revoked key


def signer_of(document: SignedDocument, root: RootRecord) -> Signer:
    """Who signed a release record. A key that the root record does not know is told by the id beside its signature."""
    standing, keyid = standing_of(document, root)
    if keyid is None:
        return Signer(None, document.signatures[0].keyid if document.signatures else "", standing)
    if standing == "revoked":
        revoked = root.revoked[keyid]
        return Signer(revoked.name, keyid, standing, revoked.revoked)
    trusted = root.publishers[keyid]
    return Signer(trusted.name, keyid, standing, trusted.retired)


def listed(record: ReleaseRecord, digest: Digest, signer: Signer) -> dict[str, Any]:
    """One release of a list. ``digest`` is of its signed record, ``manifest`` of what a registry knows it by."""
    return {
        "model": record.label,
        "name": record.name,
        "version": record.version,
        "kind": record.kind,
        "digest": digest,
        "manifest": record.manifest,
        "size": record.size,
        "created": moment(record.created),
        "signer": signer.name,
        "needs": dict(record.needs.releases),
    }


def told(record: ReleaseRecord, digest: Digest, signer: Signer) -> dict[str, Any]:
    """Everything that a signed record says of a release, with who signed it; ``models`` are those of a pipeline."""
    return {
        **listed(record, digest, signer),
        "key": {"id": signer.key, "standing": signer.standing, "since": moment(signer.since)},
        "files": [
            {"path": entry.path, "kind": entry.kind, "size": entry.size, "digest": entry.digest}
            for entry in record.files
        ],
        "inputs": _tensors(record.inputs),
        "outputs": _tensors(record.outputs),
        "opset": dict(record.opset),
        "licenses": list(record.licenses),
        "models": [{"model": member.label, "digest": member.record} for member in record.members],
        "needs_memory_bytes": record.needs.memory_bytes,
        "development": record.development,
        "repository": release_repository(record),
        "tag": None if record.development else record.version,
    }


def held(holders: Iterable[Holder]) -> dict[str, Any]:
    """Who holds a release: the first ``HOLDERS_TOLD_MAX`` of them, and how many they are."""
    found = tuple(holders)
    return {
        "held_by": [
            {"kind": holder.kind, "name": holder.name, "detail": holder.detail} for holder in found[:HOLDERS_TOLD_MAX]
        ],
        "holders": len(found),
    }


def _tensors(tensors: tuple[TensorSpec, ...]) -> list[Mapping[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in tensors]
