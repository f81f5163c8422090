"""The root record: who may say which keys speak for the federation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from federation.commands import ROOTS_RESERVE, ROOTS_RESERVE_BYTES, set_root
from federation.documents import (
    DOCUMENT_BYTES_MAX,
    ROOT_TYPE,
    ROOTS_BYTES_MAX,
    RevokedKey,
    RootRecord,
    SignedDocument,
    TrustedKey,
    encode,
)
from federation.errors import (
    AlreadyEndorsed,
    BadSignature,
    TooFewSignatures,
    UnknownKey,
    Untrusted,
    WrongDocument,
    WrongRoot,
)
from federation.keys import PrivateKey
from federation.names import BadName, digest_of
from federation.revocation import revoke
from federation.roots import (
    PUBLISHERS_MAX,
    REVOKED_MAX,
    ROOT_KEYS_MAX,
    ROOT_RECORDS_MAX,
    advance,
    endorse,
    first_root,
    pin_of,
    sign_root,
    trust_chain,
)
from federation.signing import sign
from peers.homes import Home
from query.errors import LimitExceeded
from tests.trust.material import DIRECTOR, FEDERATION, NOW, PUBLISHER, ROOT, ROOT_DOCUMENT, ROOT_RECORD, STRANGER, key


def test_the_first_record_is_trusted_by_its_pin() -> None:
    record = trust_chain([ROOT_DOCUMENT], pin_of(ROOT_DOCUMENT))
    assert record.version == 1
    assert record.roots == {ROOT.keyid: TrustedKey(ROOT.public, "root-1")}
    assert record.directors == {DIRECTOR.keyid: TrustedKey(DIRECTOR.public, "director")}
    assert record.publishers == {PUBLISHER.keyid: TrustedKey(PUBLISHER.public, "ann")}


def test_another_federation_does_not_fit_the_pin() -> None:
    foreign = first_root(FEDERATION, roots=[STRANGER], director=DIRECTOR.public, now=NOW)
    with pytest.raises(WrongRoot, match="none of 1 root records is the pinned one"):
        trust_chain([foreign], pin_of(ROOT_DOCUMENT))
    with pytest.raises(UnknownKey):
        trust_chain([ROOT_DOCUMENT, foreign], pin_of(ROOT_DOCUMENT))
    with pytest.raises(WrongRoot, match="found 0"):
        trust_chain([], pin_of(ROOT_DOCUMENT))


def test_a_pinned_record_still_needs_its_own_signature() -> None:
    unsigned = SignedDocument(ROOT_DOCUMENT.payload, ROOT_TYPE, ())
    with pytest.raises(UnknownKey):
        trust_chain([unsigned], pin_of(ROOT_DOCUMENT))


def test_endorsing_makes_the_next_version() -> None:
    record = endorse(ROOT_RECORD, publisher="bob", key=STRANGER.public, now=NOW + 5)
    second = sign_root(record, ROOT)
    assert advance(ROOT_RECORD, second) == record
    assert record.version == 2
    assert record.publishers[STRANGER.keyid].name == "bob"
    assert trust_chain([ROOT_DOCUMENT, second], pin_of(ROOT_DOCUMENT)) == record
    assert trust_chain([ROOT_DOCUMENT, second], pin_of(second)) == record
    assert trust_chain([second], pin_of(second)) == record


def test_endorsing_twice_or_ambiguously_is_refused() -> None:
    with pytest.raises(AlreadyEndorsed, match='already, as "ann"'):
        endorse(ROOT_RECORD, publisher="other", key=PUBLISHER.public, now=NOW)
    with pytest.raises(AlreadyEndorsed, match='publisher "Ann" is endorsed with key'):
        endorse(ROOT_RECORD, publisher="Ann", key=STRANGER.public, now=NOW)
    with pytest.raises(BadName):
        endorse(ROOT_RECORD, publisher="no good", key=STRANGER.public, now=NOW)


@pytest.mark.parametrize("signer", [DIRECTOR, PUBLISHER, STRANGER])
def test_only_root_keys_make_a_root_record(signer: PrivateKey) -> None:
    record = endorse(ROOT_RECORD, publisher="bob", key=key(50).public, now=NOW)
    with pytest.raises(UnknownKey):
        advance(ROOT_RECORD, sign_root(record, signer))


def test_a_gap_a_repetition_and_another_federation_are_refused() -> None:
    with pytest.raises(WrongRoot, match="expected root record 2, found 1"):
        advance(ROOT_RECORD, ROOT_DOCUMENT)
    for version in (0, 3):
        with pytest.raises(WrongRoot):
            advance(ROOT_RECORD, _signed(version=version))
    with pytest.raises(WrongRoot, match="of federation fed-1, found fed-2"):
        advance(ROOT_RECORD, _signed(federation="fed-2"))
    with pytest.raises(WrongDocument, match="expected a root record"):
        advance(ROOT_RECORD, sign(b"{}", ROOT_TYPE, ROOT))


def test_rotation_needs_both_thresholds() -> None:
    new = key(60)
    record = msgspec.structs.replace(ROOT_RECORD, version=2, roots={new.keyid: TrustedKey(new.public, "root-2")})
    with pytest.raises(UnknownKey):
        advance(ROOT_RECORD, sign_root(record, new))
    with pytest.raises(UnknownKey):
        advance(ROOT_RECORD, sign_root(record, ROOT))
    rotated = advance(ROOT_RECORD, sign_root(record, ROOT, new))
    third = msgspec.structs.replace(rotated, version=3)
    with pytest.raises(UnknownKey):
        advance(rotated, sign_root(third, ROOT))
    assert advance(rotated, sign_root(third, new)).version == 3


def test_a_threshold_of_two_needs_two_keys() -> None:
    second = key(61)
    doc = first_root(FEDERATION, roots=[ROOT, second], director=DIRECTOR.public, threshold=2, now=NOW)
    record = trust_chain([doc], pin_of(doc))
    following = msgspec.structs.replace(record, version=2)
    with pytest.raises(TooFewSignatures):
        advance(record, sign_root(following, ROOT))
    assert advance(record, sign_root(following, ROOT, second)).version == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda record: {"publishers": record.directors},
        lambda record: {"publishers": record.roots},
        lambda record: {"directors": record.roots},
        lambda record: {"publishers": {"00" * 32: TrustedKey(PUBLISHER.public, "ann")}},
        lambda record: {"publishers": {STRANGER.keyid: TrustedKey(PUBLISHER.public, "ann")}},
        lambda record: {"threshold": 2},
        lambda record: {"roots": {}},
        lambda record: {"version": 0},
        lambda record: {"roots": _keys(200, ROOT_KEYS_MAX + 1)},
        lambda record: {"directors": _keys(200, ROOT_KEYS_MAX + 1)},
        lambda record: {"publishers": _keys(2000, PUBLISHERS_MAX + 1)},
        lambda record: {
            "revoked": {i: RevokedKey(k.key, k.name, 1, "stop") for i, k in _keys(4000, REVOKED_MAX + 1).items()}
        },
    ],
)
def test_a_record_that_contradicts_itself_is_neither_made_nor_taken(
    change: Callable[[RootRecord], dict[str, object]],
) -> None:
    record = msgspec.structs.replace(ROOT_RECORD, **{"version": 2, **change(ROOT_RECORD)})
    with pytest.raises(WrongRoot):
        sign_root(record, ROOT)
    with pytest.raises(Untrusted):
        advance(ROOT_RECORD, sign(encode(record), ROOT_TYPE, ROOT))


def test_a_chain_is_bounded() -> None:
    with pytest.raises(WrongRoot, match=f"expected 1 to {ROOT_RECORDS_MAX} root records"):
        trust_chain([ROOT_DOCUMENT] * (ROOT_RECORDS_MAX + 1), pin_of(ROOT_DOCUMENT))


def test_every_byte_of_a_root_record_counts() -> None:
    for at in range(0, len(ROOT_DOCUMENT.payload), 7):
        altered = bytearray(ROOT_DOCUMENT.payload)
        altered[at] ^= 1
        doc = SignedDocument(bytes(altered), ROOT_TYPE, ROOT_DOCUMENT.signatures)
        with pytest.raises(Untrusted):
            trust_chain([doc], pin_of(ROOT_DOCUMENT))
        with pytest.raises(BadSignature):
            advance(ROOT_RECORD, doc)
        with pytest.raises(Untrusted):
            trust_chain([doc], digest_of(bytes(altered)))


def _signed(**fields: object) -> SignedDocument:
    return sign(encode(msgspec.structs.replace(ROOT_RECORD, **{"version": 2, **fields})), ROOT_TYPE, ROOT)


def _keys(first: int, count: int) -> dict[str, TrustedKey]:
    made = [key(first + n) for n in range(count)]
    return {entry.keyid: TrustedKey(entry.public, f"k{n}") for n, entry in enumerate(made)}


def test_many_publishers_later_every_home_reads_all_root_records(tmp_path: Path) -> None:
    """Each record names every key: three hundred endorsements are far more than a document may be."""
    documents, record = [ROOT_DOCUMENT], ROOT_RECORD
    for number in range(300):
        record = endorse(record, publisher=f"publisher-{number}", key=key(1000 + number).public, now=NOW)
        documents.append(sign_root(record, ROOT))
    assert sum(len(encode(document)) for document in documents) > DOCUMENT_BYTES_MAX
    home = Home(tmp_path / "home").prepare()
    home.write_roots(tuple(documents))
    assert trust_chain(home.roots(), pin_of(documents[0])) == record


def test_more_root_records_than_homes_read_are_not_put_in_force() -> None:
    following = sign_root(endorse(ROOT_RECORD, publisher="new", key=key(999).public, now=NOW), ROOT)
    other = msgspec.structs.replace(ROOT_DOCUMENT, payload=b"another")
    revoking = sign_root(revoke(ROOT_RECORD, [PUBLISHER.keyid], running="keep", now=NOW), ROOT)

    def state(count: int) -> Any:
        return SimpleNamespace(root_documents=[other] * count, root=ROOT_RECORD)

    full = ROOT_RECORDS_MAX - ROOTS_RESERVE
    assert set_root(state(full - 1), following)
    with pytest.raises(LimitExceeded, match=f"expected at most {full}"):
        set_root(state(full), following)
    assert set_root(state(ROOT_RECORDS_MAX - 1), revoking)
    with pytest.raises(LimitExceeded, match=f"expected at most {ROOT_RECORDS_MAX}"):
        set_root(state(ROOT_RECORDS_MAX), revoking)
    large = msgspec.structs.replace(ROOT_DOCUMENT, payload_type="x" * (ROOTS_BYTES_MAX - 4 * ROOTS_RESERVE_BYTES))
    heavy = SimpleNamespace(root_documents=[large], root=ROOT_RECORD)
    with pytest.raises(LimitExceeded, match="bytes"):
        set_root(heavy, following)  # type: ignore[arg-type]
    assert set_root(heavy, revoking)  # type: ignore[arg-type]
