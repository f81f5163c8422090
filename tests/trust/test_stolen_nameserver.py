"""Whoever holds every file of the nameserver's home still cannot make an edge run a new model.

The home has the CA's, the director's and the nameserver's own key, every certificate, the root record and every
published release. Root keys are in the root folder and publisher keys in the publishers' homes, both elsewhere.
"""

from __future__ import annotations

import msgspec
import pytest

from federation.documents import RELEASE_TYPE, DesiredModel, Signature, SignedDocument, TrustedKey, encode
from federation.errors import MixedParts, Untrusted
from federation.keys import PrivateKey, keyid_of
from federation.names import digest_of
from federation.roots import advance, pin_of, sign_root, trust_chain
from federation.signing import sign
from federation.verification import verify, verify_desired
from tests.trust.material import (
    AUTHORITY,
    DIRECTOR,
    EDGE,
    FEDERATION,
    FILES,
    NAMESERVER,
    NOW,
    ROOT,
    ROOT_DOCUMENT,
    ROOT_RECORD,
    package,
    signed_desired,
)

STOLEN = (AUTHORITY, DIRECTOR, NAMESERVER)
EVIL = {"model.onnx": b"evil", "functions.pql": FILES["functions.pql"]}
GENUINE = package()


@pytest.mark.parametrize("thief", STOLEN)
def test_a_stolen_key_signs_no_release(thief: PrivateKey) -> None:
    new = package(thief, contents=EVIL)
    for key_id in (thief.keyid, *ROOT_RECORD.publishers):
        forged = SignedDocument(new.doc.payload, RELEASE_TYPE, (Signature(key_id, new.doc.signatures[0].sig),))
        with pytest.raises(Untrusted):
            verify(forged, root=ROOT_RECORD, manifest=new.manifest, files=new.files)
    everybody = package(*STOLEN, contents=EVIL)
    with pytest.raises(Untrusted):
        verify(everybody.doc, root=ROOT_RECORD, manifest=everybody.manifest, files=everybody.files)


@pytest.mark.parametrize("thief", STOLEN)
def test_a_stolen_key_is_no_development_key(thief: PrivateKey) -> None:
    new = package(thief, contents=EVIL, version="dev+00000000", development=True)
    with pytest.raises(Untrusted):
        verify(new.doc, root=ROOT_RECORD, manifest=new.manifest, files=new.files)


@pytest.mark.parametrize("thief", STOLEN)
def test_a_stolen_key_endorses_nobody(thief: PrivateKey) -> None:
    """Neither as the next root record, nor as another first one, nor beside the genuine signature."""
    own = {thief.keyid: TrustedKey(thief.public, "root-1")}
    mallory = PrivateKey(b"m" * 32)
    publishers = {mallory.keyid: TrustedKey(mallory.public, "ann")}
    following = msgspec.structs.replace(ROOT_RECORD, version=2, publishers=publishers)
    usurping = msgspec.structs.replace(following, roots=own, directors={})
    first = msgspec.structs.replace(usurping, version=1)
    for record in (following, usurping, first):
        doc = sign_root(record, thief)
        borrowed = SignedDocument(doc.payload, doc.payload_type, (*ROOT_DOCUMENT.signatures, *doc.signatures))
        for forged in (doc, borrowed):
            with pytest.raises(Untrusted):
                advance(ROOT_RECORD, forged)
            with pytest.raises(Untrusted):
                trust_chain([forged], pin_of(ROOT_DOCUMENT))
            with pytest.raises(Untrusted):
                trust_chain([ROOT_DOCUMENT, forged], pin_of(ROOT_DOCUMENT))


def test_the_director_can_only_name_what_a_publisher_signed() -> None:
    """Its desired state is believed, but what it names does not verify."""
    new = package(DIRECTOR, contents=EVIL)
    wanted = (DesiredModel("digits", "1.0", digest_of(new.doc.payload), "lab", 99),)
    doc = signed_desired(generation=99, models=wanted)
    state = verify_desired(doc, root=ROOT_RECORD, federation=FEDERATION, edge=EDGE, cursor=None, now=NOW)
    assert state is not None
    assert state.models[0].record == digest_of(new.doc.payload)
    with pytest.raises(Untrusted):
        verify(new.doc, root=ROOT_RECORD, manifest=new.manifest, files=new.files)


def test_a_published_release_does_not_carry_other_content() -> None:
    new = package(DIRECTOR, contents=EVIL)
    for manifest, files in ((new.manifest, EVIL), (GENUINE.manifest, EVIL), (new.manifest, FILES)):
        with pytest.raises(Untrusted):
            verify(GENUINE.doc, root=ROOT_RECORD, manifest=manifest, files=files)
    altered = msgspec.structs.replace(GENUINE.record, manifest=digest_of(new.manifest), manifest_size=len(new.manifest))
    for doc in (
        SignedDocument(encode(altered), RELEASE_TYPE, GENUINE.doc.signatures),
        SignedDocument(encode(altered), RELEASE_TYPE, sign(encode(altered), RELEASE_TYPE, *STOLEN).signatures),
    ):
        with pytest.raises(Untrusted):
            verify(doc, root=ROOT_RECORD, manifest=new.manifest, files=EVIL)


def test_the_thief_lacks_exactly_one_signature() -> None:
    """The same release verifies once root endorses who signed it, and not a moment earlier."""
    mallory = PrivateKey(b"m" * 32)
    new = package(mallory, contents=EVIL)
    with pytest.raises(Untrusted):
        verify(new.doc, root=ROOT_RECORD, manifest=new.manifest, files=new.files)
    publishers = {**ROOT_RECORD.publishers, keyid_of(mallory.public): TrustedKey(mallory.public, "mallory")}
    following = msgspec.structs.replace(ROOT_RECORD, version=2, publishers=publishers)
    endorsed = advance(ROOT_RECORD, sign_root(following, ROOT))
    assert verify(new.doc, root=endorsed, manifest=new.manifest, files=new.files).signer == "mallory"
    with pytest.raises(MixedParts):
        verify(new.doc, root=endorsed, manifest=new.manifest, files={})
