"""Keys and signatures: what was signed is what is given out, and nothing else is."""

from __future__ import annotations

import copy
import pickle
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from federation.documents import (
    CREDENTIAL_TYPE,
    DESIRED_TYPE,
    DOCUMENT_BYTES_MAX,
    JOIN_TYPE,
    RELEASE_TYPE,
    ROOT_TYPE,
    STATEMENT_TYPE,
    Signature,
    SignedDocument,
    decode,
    encode,
)
from federation.errors import BadKeyFile, BadSignature, TooFewSignatures, UnknownKey, Untrusted, WrongDocument
from federation.keys import PrivateKey, keyid_of, read_key, signed_by, write_key
from federation.signing import SIGNATURES_MAX, pae, sign, signers, verified
from tests.trust.material import DIRECTOR, PUBLISHER, STRANGER, key

TYPES = (RELEASE_TYPE, DESIRED_TYPE, ROOT_TYPE, STATEMENT_TYPE, CREDENTIAL_TYPE, JOIN_TYPE)
KEYS = {DIRECTOR.keyid: DIRECTOR.public, PUBLISHER.keyid: PUBLISHER.public}


def test_the_signed_bytes_are_those_of_dsse() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected


def test_a_key_signs_as_rfc_8032_says() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    made = PrivateKey(seed)
    assert made.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert made.sign_bytes(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")
    assert made.seed == seed


def test_openssl_reads_the_key_file() -> None:
    loaded = load_pem_private_key(DIRECTOR.pem.encode(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    assert loaded.public_key().public_bytes_raw() == DIRECTOR.public
    assert PrivateKey.from_pem(DIRECTOR.pem) == DIRECTOR


def test_a_key_shows_nothing_of_itself() -> None:
    for text in (repr(DIRECTOR), str(DIRECTOR), f"{DIRECTOR}"):
        assert DIRECTOR.seed.hex() not in text
        assert text == f"PrivateKey({DIRECTOR.keyid[:16]}…)"
    for leak in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            leak(DIRECTOR)


def test_new_keys_differ() -> None:
    assert PrivateKey.generate() != PrivateKey.generate()


# --- key files ------------------------------------------------------------------------------------------------------


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_key(path, DIRECTOR)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == DIRECTOR
    with pytest.raises(BadKeyFile, match=r"never overwritten"):
        write_key(path, STRANGER)
    assert read_key(path) == DIRECTOR
    assert [found.name for found in tmp_path.iterdir()] == ["identity.key"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        DIRECTOR.pem[:60].encode(),
        DIRECTOR.pem.replace("PRIVATE", "PUBLIC").encode(),
        DIRECTOR.pem.replace("MC4C", "MC4D").encode(),
    ],
)
def test_what_is_not_a_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(BadKeyFile, match=r"identity\.key is not a key file") as caught:
        read_key(path)
    assert "MC4" not in str(caught.value)


def test_a_missing_key_file_and_one_that_others_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with pytest.raises(BadKeyFile, match="no key file"):
        read_key(path)
    with pytest.raises(BadKeyFile, match="cannot read key file"):
        read_key(tmp_path)
    write_key(path, DIRECTOR)
    path.chmod(0o644)
    with pytest.raises(BadKeyFile, match="expected mode 600, found 644"):
        read_key(path)


# --- signatures -----------------------------------------------------------------------------------------------------


def test_signed_bytes_come_back_as_they_were_also_over_the_wire() -> None:
    doc = sign(b'{"a" : 1}', RELEASE_TYPE, PUBLISHER)
    assert verified(decode(encode(doc), SignedDocument), RELEASE_TYPE, KEYS) == b'{"a" : 1}'


@given(payload=st.binary(max_size=200), at=st.integers(0), flip=st.integers(1, 255))
def test_any_other_payload_is_refused(payload: bytes, at: int, flip: int) -> None:
    doc = sign(payload, RELEASE_TYPE, PUBLISHER)
    altered = bytearray(payload or b"\0")
    altered[at % len(altered)] ^= flip
    for other in (bytes(altered), payload + b" ", payload[:-1] if payload else b"x"):
        with pytest.raises(BadSignature):
            verified(SignedDocument(other, RELEASE_TYPE, doc.signatures), RELEASE_TYPE, KEYS)


@given(at=st.integers(0, 63), flip=st.integers(1, 255))
def test_any_other_signature_is_refused(at: int, flip: int) -> None:
    doc = sign(b"content", RELEASE_TYPE, PUBLISHER)
    altered = bytearray(doc.signatures[0].sig)
    altered[at] ^= flip
    with pytest.raises(BadSignature):
        verified(_with(doc, Signature(PUBLISHER.keyid, bytes(altered))), RELEASE_TYPE, KEYS)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 10_000])
def test_a_signature_of_another_length_is_a_bad_one(size: int) -> None:
    doc = sign(b"content", RELEASE_TYPE, PUBLISHER)
    with pytest.raises(BadSignature):
        verified(_with(doc, Signature(PUBLISHER.keyid, bytes(size))), RELEASE_TYPE, KEYS)
    assert not signed_by(b"short", b"content", doc.signatures[0].sig)


@pytest.mark.parametrize("asked", TYPES)
@pytest.mark.parametrize("made", TYPES)
def test_a_document_is_of_its_kind_alone(made: str, asked: str) -> None:
    doc = sign(b"{}", made, PUBLISHER)
    if made == asked:
        assert verified(doc, asked, KEYS) == b"{}"
        return
    with pytest.raises(WrongDocument):
        verified(doc, asked, KEYS)
    with pytest.raises(BadSignature):
        verified(SignedDocument(doc.payload, asked, doc.signatures), asked, KEYS)


def test_signatures_by_others_do_not_count() -> None:
    with pytest.raises(UnknownKey, match="no signature"):
        verified(SignedDocument(b"x", RELEASE_TYPE, ()), RELEASE_TYPE, KEYS)
    with pytest.raises(UnknownKey, match=STRANGER.keyid[:16]):
        verified(sign(b"x", RELEASE_TYPE, STRANGER), RELEASE_TYPE, KEYS)
    with pytest.raises(UnknownKey):
        verified(sign(b"x", RELEASE_TYPE, PUBLISHER), RELEASE_TYPE, {})


def test_swapped_key_ids_are_refused() -> None:
    first, second = sign(b"x", RELEASE_TYPE, PUBLISHER, DIRECTOR).signatures
    swapped = (Signature(first.keyid, second.sig), Signature(second.keyid, first.sig))
    with pytest.raises(BadSignature):
        verified(SignedDocument(b"x", RELEASE_TYPE, swapped), RELEASE_TYPE, KEYS)


def test_a_key_under_another_id_is_no_key() -> None:
    """Else one key under two ids would reach a threshold of two."""
    false_id = keyid_of(b"\1" * 32)
    (made,) = sign(b"x", RELEASE_TYPE, PUBLISHER).signatures
    doc = SignedDocument(b"x", RELEASE_TYPE, (made, Signature(false_id, made.sig)))
    both = {PUBLISHER.keyid: PUBLISHER.public, false_id: PUBLISHER.public}
    with pytest.raises(TooFewSignatures, match=r"expected 2 .* found 1"):
        verified(doc, RELEASE_TYPE, both, threshold=2)


def test_a_threshold_counts_keys_not_signatures() -> None:
    (made,) = sign(b"x", RELEASE_TYPE, PUBLISHER).signatures
    with pytest.raises(TooFewSignatures):
        verified(SignedDocument(b"x", RELEASE_TYPE, (made, made)), RELEASE_TYPE, KEYS, threshold=2)
    both = sign(b"x", RELEASE_TYPE, PUBLISHER, DIRECTOR, STRANGER)
    assert signers(both, RELEASE_TYPE, KEYS, threshold=2) == (b"x", frozenset({PUBLISHER.keyid, DIRECTOR.keyid}))
    with pytest.raises(ValueError, match="unsigned"):
        verified(both, RELEASE_TYPE, KEYS, threshold=0)


def test_enough_good_signatures_outweigh_a_bad_one() -> None:
    good, bad = sign(b"x", RELEASE_TYPE, PUBLISHER, DIRECTOR).signatures
    doc = SignedDocument(b"x", RELEASE_TYPE, (Signature(bad.keyid, bytes(64)), good))
    assert verified(doc, RELEASE_TYPE, KEYS) == b"x"
    with pytest.raises(BadSignature):
        verified(doc, RELEASE_TYPE, KEYS, threshold=2)


def test_documents_are_bounded() -> None:
    many = sign(b"x", RELEASE_TYPE, *(key(n) for n in range(1, SIGNATURES_MAX + 2)))
    with pytest.raises(WrongDocument, match="at most 16 signatures, found 17"):
        verified(many, RELEASE_TYPE, KEYS)
    with pytest.raises(WrongDocument, match=f"at most {DOCUMENT_BYTES_MAX} bytes"):
        verified(sign(bytes(DOCUMENT_BYTES_MAX + 1), RELEASE_TYPE, PUBLISHER), RELEASE_TYPE, KEYS)


@given(
    payload=st.binary(max_size=50),
    kind=st.sampled_from([*TYPES, "", "x"]),
    signatures=st.lists(st.builds(Signature, st.sampled_from([*KEYS, "", "00"]), st.binary(max_size=70)), max_size=5),
)
def test_nothing_but_a_refusal_comes_out_of_forged_documents(
    payload: bytes, kind: str, signatures: list[Signature]
) -> None:
    with pytest.raises(Untrusted):
        verified(SignedDocument(payload, kind, tuple(signatures)), RELEASE_TYPE, KEYS)


def _with(doc: SignedDocument, *signatures: Signature) -> SignedDocument:
    return SignedDocument(doc.payload, doc.payload_type, signatures)
