"""Signatures over documents, as DSSE envelopes (https://github.com/secure-systems-lab/dsse, protocol.md).

Owns the bytes that are signed: ``PAE(type, payload) = "DSSEv1" SP len(type) SP type SP len(payload) SP payload``,
lengths in decimal. So no document passes for one of another kind. Refuses to give out a payload before enough of the
keys that the caller names have signed it.

Rules: the payload is the stored bytes, never a re-serialisation. Keys are named by the caller, never by the document;
a key id is checked against its key; a key counts once however often it signed. Signatures by other keys, and bad ones
beside enough good ones, are ignored, as DSSE says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from federation.documents import DOCUMENT_BYTES_MAX, KeyId, Signature, SignedDocument
from federation.errors import BadSignature, TooFewSignatures, UnknownKey, WrongDocument
from federation.keys import PrivateKey, keyid_of, signed_by

SIGNATURES_MAX: Final = 16  # a document with more costs its reader more than it is worth


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    named = kind.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(named), named, len(payload), payload)


def sign(payload: bytes, kind: str, *keys: PrivateKey) -> SignedDocument:
    """``payload`` as a document of ``kind``, signed by each of ``keys``."""
    content = pae(kind, payload)
    return SignedDocument(payload, kind, tuple(Signature(key.keyid, key.sign_bytes(content)) for key in keys))


def verified(doc: SignedDocument, kind: str, keys: Mapping[KeyId, bytes], *, threshold: int = 1) -> bytes:
    """The payload, once at least ``threshold`` different keys of ``keys`` (key id → 32 bytes) have signed it.

    Raises :class:`WrongDocument` for a document of another kind or shape, :class:`BadSignature` when a signature
    under one of ``keys`` does not hold, :class:`UnknownKey` when nobody of ``keys`` signed, :class:`TooFewSignatures`
    below the threshold.
    """
    return signers(doc, kind, keys, threshold=threshold)[0]


def signers(
    doc: SignedDocument, kind: str, keys: Mapping[KeyId, bytes], *, threshold: int = 1
) -> tuple[bytes, frozenset[KeyId]]:
    """As :func:`verified`, with the ids of the keys whose signatures hold."""
    if threshold < 1:
        raise ValueError(f"a threshold of {threshold} accepts unsigned documents")
    if doc.payload_type != kind:
        raise WrongDocument(f"expected a document of type {kind}, found {doc.payload_type[:100]!r}")
    if len(doc.payload) > DOCUMENT_BYTES_MAX:
        raise WrongDocument(f"expected at most {DOCUMENT_BYTES_MAX} bytes, found {len(doc.payload)}")
    if len(doc.signatures) > SIGNATURES_MAX:
        raise WrongDocument(f"expected at most {SIGNATURES_MAX} signatures, found {len(doc.signatures)}")
    content = pae(kind, doc.payload)
    valid: set[KeyId] = set()
    bad: KeyId | None = None
    for signature in doc.signatures:
        key = keys.get(signature.keyid)
        if key is None or keyid_of(key) != signature.keyid:
            continue
        if signed_by(key, content, signature.sig):
            valid.add(signature.keyid)
        else:
            bad = signature.keyid
    if len(valid) >= threshold:
        return doc.payload, frozenset(valid)
    if bad is not None:
        raise BadSignature(f"the signature of key {bad[:16]} does not fit the {kind} document")
    if not valid:
        found = ", ".join(signature.keyid[:16] for signature in doc.signatures) or "no signature"
        raise UnknownKey(f"expected a {kind} document signed by a trusted key, found {found}")
    raise TooFewSignatures(f"expected {threshold} trusted signatures on a {kind} document, found {len(valid)}")
