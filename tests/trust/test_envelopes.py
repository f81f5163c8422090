"""A statement that another peer carries keeps its caller's role, and no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.documents import CREDENTIAL_TYPE, STATEMENT_TYPE, Credential, SignedDocument, StatementEnvelope, encode
from federation.envelopes import (
    CLOCK_SKEW_S,
    CREDENTIAL_LIFETIME_S,
    ENVELOPE_LIFETIME_S_MAX,
    NONCE_LENGTH_MAX,
    WAITING_LIFETIME_S_MAX,
    KnownWords,
    NonceMemory,
    check,
    check_waiting,
    claimed_caller,
    credential,
    new_nonce,
    role_abroad,
    seal,
)
from federation.errors import (
    BadSignature,
    EnvelopeExpired,
    NonceReused,
    NoncesFull,
    UnknownKey,
    WrongBody,
    WrongDocument,
    WrongFederation,
    WrongKey,
)
from federation.keys import PrivateKey
from federation.names import PeerId, digest_of
from federation.signing import sign
from query.declarations import Caller, Role
from query.errors import Problem
from tests.trust.material import DIRECTOR, FEDERATION, NOW, PUBLISHER, ROOT, ROOT_RECORD, STRANGER, key, member

BODY = b'{"text":"models:unload(\\"m\\")"}'
ANN = PeerId("33333333-3333-4333-8333-333333333333")
ANNS_KEY = key(102)
MEMBER = member(uuid=ANN, name="Ann", kind="client", role="operator", key=ANNS_KEY.public)


def envelope(own: PrivateKey = ANNS_KEY, **fields: Any) -> SignedDocument:
    given = StatementEnvelope(
        federation=FEDERATION, caller=ANN, body=digest_of(BODY), issued=NOW, lifetime_s=30.0, nonce="n1"
    )
    return sign(encode(msgspec.structs.replace(given, **fields)), STATEMENT_TYPE, own)


def vouched(director: PrivateKey = DIRECTOR, **fields: Any) -> SignedDocument:
    given = Credential(
        federation=FEDERATION,
        uuid=ANN,
        name="Ann",
        role="operator",
        key=ANNS_KEY.public,
        issued=NOW,
        expires=NOW + 120,
    )
    return sign(encode(msgspec.structs.replace(given, **fields)), CREDENTIAL_TYPE, director)


def checked(
    sealed: SignedDocument | None = None,
    word: SignedDocument | None = None,
    *,
    body: bytes = BODY,
    now: float = NOW,
    nonces: NonceMemory | None = None,
    lasting: NonceMemory | None = None,
    use: str = "",
) -> Caller:
    return check(
        sealed or envelope(),
        word or vouched(),
        body,
        root=ROOT_RECORD,
        federation=FEDERATION,
        now=now,
        nonces=NonceMemory() if nonces is None else nonces,
        lasting=lasting,
        use=use,
    )


def test_a_caller_keeps_its_role() -> None:
    sealed = seal(BODY, key=ANNS_KEY, federation=FEDERATION, caller=ANN, now=NOW, lifetime_s=30)
    word = credential(MEMBER, director=DIRECTOR, federation=FEDERATION, now=NOW)
    assert checked(sealed, word) == Caller("Ann", Role.OPERATOR, ANN, ANNS_KEY.public)
    assert claimed_caller(sealed) == ANN


def test_a_peer_never_lends_its_role() -> None:
    assert role_abroad("client", "admin") == "admin"
    for kind in ("edge", "nameserver"):
        assert role_abroad(kind, "admin") == "viewer"
        word = credential(
            msgspec.structs.replace(MEMBER, kind=kind, role="admin"), director=DIRECTOR, federation=FEDERATION, now=NOW
        )
        assert checked(None, word).role is Role.VIEWER


def test_nobody_is_vouched_for_without_a_key_or_after_removal() -> None:
    for fields in ({"key": None}, {"removed": True}):
        with pytest.raises(ValueError, match="no member with a key"):
            credential(msgspec.structs.replace(MEMBER, **fields), director=DIRECTOR, federation=FEDERATION, now=NOW)


@pytest.mark.parametrize("signer", [ROOT, PUBLISHER, STRANGER, ANNS_KEY])
def test_only_a_director_vouches(signer: PrivateKey) -> None:
    with pytest.raises(UnknownKey):
        checked(None, vouched(signer))


def test_only_the_callers_own_key_seals() -> None:
    with pytest.raises(UnknownKey):
        checked(envelope(STRANGER))
    with pytest.raises(UnknownKey):
        checked(envelope(DIRECTOR))
    with pytest.raises(WrongKey, match="different callers"):
        checked(envelope(caller=PeerId("someone-else")))
    with pytest.raises(UnknownKey):
        checked(None, vouched(key=STRANGER.public))


@pytest.mark.parametrize(
    "fields",
    [
        {"federation": "fed-2"},
        {"caller": PeerId("x")},
        {"body": digest_of(b"x")},
        {"issued": NOW + 1},
        {"lifetime_s": 60.0},
        {"nonce": "n2"},
        {"waits": True},
    ],
)
def test_every_field_of_an_envelope_is_signed(fields: dict[str, Any]) -> None:
    fields_signed = {"federation", "caller", "body", "issued", "lifetime_s", "nonce", "waits"}
    assert set(StatementEnvelope.__struct_fields__) == fields_signed
    with pytest.raises(BadSignature):
        checked(SignedDocument(envelope(**fields).payload, STATEMENT_TYPE, envelope().signatures))


@pytest.mark.parametrize(
    "fields",
    [
        {"federation": "fed-2"},
        {"uuid": PeerId("x")},
        {"name": "Bob"},
        {"role": "admin"},
        {"key": STRANGER.public},
        {"issued": NOW + 1},
        {"expires": NOW + 999},
    ],
)
def test_every_field_of_a_credential_is_signed(fields: dict[str, Any]) -> None:
    assert set(Credential.__struct_fields__) == {"federation", "uuid", "name", "role", "key", "issued", "expires"}
    with pytest.raises(BadSignature):
        checked(None, SignedDocument(vouched(**fields).payload, CREDENTIAL_TYPE, vouched().signatures))


def test_another_body_or_federation_is_refused() -> None:
    for body in (b"", BODY + b" ", BODY.replace(b"unload", b"UNLOAD")):
        with pytest.raises(WrongBody, match='not the one that "Ann" signed'):
            checked(body=body)
    with pytest.raises(WrongFederation):
        checked(envelope(federation="fed-2"))
    with pytest.raises(WrongFederation):
        checked(None, vouched(federation="fed-2"))


def test_documents_of_another_kind_are_refused() -> None:
    with pytest.raises(WrongDocument):
        checked(vouched(), vouched())
    with pytest.raises(WrongDocument):
        checked(envelope(), envelope())
    with pytest.raises(WrongDocument, match="expected a credential"):
        checked(None, sign(b"{}", CREDENTIAL_TYPE, DIRECTOR))
    with pytest.raises(WrongDocument, match="expected a statement's envelope"):
        checked(sign(b"{}", STATEMENT_TYPE, ANNS_KEY))
    with pytest.raises(WrongDocument):
        claimed_caller(sign(b"{}", STATEMENT_TYPE, ANNS_KEY))


# --- time -----------------------------------------------------------------------------------------------------------


def test_clocks_may_differ_a_little() -> None:
    for now in (NOW - CLOCK_SKEW_S, NOW + 30 + CLOCK_SKEW_S - 0.001):
        assert checked(now=now).name == "Ann"
    for now in (NOW - CLOCK_SKEW_S - 0.001, NOW + 30 + CLOCK_SKEW_S):
        with pytest.raises(EnvelopeExpired):
            checked(now=now)


def test_a_credential_is_short() -> None:
    word = credential(MEMBER, director=DIRECTOR, federation=FEDERATION, now=NOW)
    last = NOW + CREDENTIAL_LIFETIME_S + CLOCK_SKEW_S
    assert checked(envelope(lifetime_s=600.0), word, now=last - 0.001).name == "Ann"
    for now in (last, NOW - CLOCK_SKEW_S - 0.001):
        with pytest.raises(EnvelopeExpired, match='the credential of "Ann" is not valid now'):
            checked(envelope(lifetime_s=600.0), word, now=now)


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, ENVELOPE_LIFETIME_S_MAX + 1, 1e300])
def test_a_lifetime_is_bounded(lifetime_s: float) -> None:
    with pytest.raises(EnvelopeExpired):
        checked(envelope(lifetime_s=lifetime_s))


# --- once -----------------------------------------------------------------------------------------------------------


def test_an_envelope_is_good_once() -> None:
    nonces = NonceMemory()
    checked(nonces=nonces)
    with pytest.raises(NonceReused):
        checked(nonces=nonces, now=NOW + 30 + CLOCK_SKEW_S - 0.001)
    assert checked(envelope(nonce="n2"), nonces=nonces).name == "Ann"
    assert len(nonces) == 2


def test_each_statement_of_a_request_is_good_once() -> None:
    nonces = NonceMemory()
    for use in ("0", "1"):
        checked(nonces=nonces, use=use)
    for use in ("0", "1"):
        with pytest.raises(NonceReused):
            checked(nonces=nonces, use=use)


def test_a_refused_envelope_uses_no_memory() -> None:
    nonces = NonceMemory()
    for sealed, body in ((envelope(STRANGER), BODY), (envelope(), b""), (envelope(issued=NOW - 999), BODY)):
        with pytest.raises(Problem):
            checked(sealed, body=body, nonces=nonces)
    assert len(nonces) == 0


@pytest.mark.parametrize("length", [0, NONCE_LENGTH_MAX + 1])
def test_a_nonce_has_a_length(length: int) -> None:
    with pytest.raises(WrongDocument, match="expected a nonce of 1 to 64 characters"):
        checked(envelope(nonce="n" * length))


def remember(
    nonces: NonceMemory, nonce: str, *, caller: str = "a", expires: float = NOW + 10, now: float = NOW
) -> None:
    nonces.use(nonce, caller=caller, expires=expires, now=now, issued=now)


def test_memory_is_bounded_in_all_and_for_each_caller_and_freed_by_time() -> None:
    nonces = NonceMemory(nonces_max=3, nonces_per_caller_max=2)
    remember(nonces, "1")
    remember(nonces, "2")
    with pytest.raises(NoncesFull):
        remember(nonces, "3")
    remember(nonces, "1", caller="b")
    with pytest.raises(NoncesFull, match="3 forwarded statements are remembered here"):
        remember(nonces, "2", caller="b")
    with pytest.raises(NonceReused):
        remember(nonces, "1", now=NOW + 9.999)
    remember(nonces, "1", now=NOW + 10, expires=NOW + 20)
    assert len(nonces) == 1


def test_a_new_memory_knows_what_an_old_one_gave_or_refuses_what_it_cannot_know() -> None:
    old = NonceMemory()
    remember(old, "1")
    again = NonceMemory(old.entries)
    with pytest.raises(NonceReused):
        remember(again, "1")
    fresh = NonceMemory(since=NOW + 1)
    with pytest.raises(EnvelopeExpired, match="before this peer started"):
        remember(fresh, "1")
    remember(fresh, "2", now=NOW + 1)


def test_an_envelope_that_waits_lives_longer_and_is_remembered_elsewhere() -> None:
    sealed = envelope(waits=True, lifetime_s=WAITING_LIFETIME_S_MAX)
    late = NOW + WAITING_LIFETIME_S_MAX - 1
    ordinary, lasting = NonceMemory(), NonceMemory()
    with pytest.raises(WrongDocument, match="an envelope that waits: this peer takes none"):
        checked(sealed, vouched(issued=late, expires=late + 120), now=late, nonces=ordinary)
    word = vouched(issued=late, expires=late + 120)
    assert checked(sealed, word, now=late, nonces=ordinary, lasting=lasting).role is Role.OPERATOR
    assert (len(ordinary), len(lasting)) == (0, 1)
    with pytest.raises(NonceReused):
        checked(sealed, word, now=late, nonces=ordinary, lasting=lasting)
    with pytest.raises(EnvelopeExpired):
        checked(envelope(waits=True, lifetime_s=WAITING_LIFETIME_S_MAX + 1), lasting=lasting)
    checked(nonces=ordinary, lasting=lasting)
    assert (len(ordinary), len(lasting)) == (1, 1)


def test_who_keeps_a_statement_checks_it_first() -> None:
    sealed = envelope(waits=True, lifetime_s=7200.0)

    def kept(document: SignedDocument = sealed, **fields: Any) -> StatementEnvelope:
        given: dict[str, Any] = {"key": ANNS_KEY.public, "caller": ANN, "federation": FEDERATION, "now": NOW}
        return check_waiting(document, fields.pop("body", BODY), **{**given, **fields})

    assert kept().lifetime_s == 7200.0
    for fields, refusal in (
        ({"body": BODY + b" "}, WrongBody),
        ({"key": STRANGER.public}, UnknownKey),
        ({"caller": "someone-else"}, WrongKey),
        ({"federation": "fed-2"}, WrongFederation),
        ({"now": NOW + 7200 + CLOCK_SKEW_S}, EnvelopeExpired),
    ):
        with pytest.raises(refusal):
            kept(**fields)
    with pytest.raises(EnvelopeExpired, match="its envelope says that it does not"):
        kept(envelope())
    with pytest.raises(WrongDocument):
        kept(sign(b"{}", STATEMENT_TYPE, ANNS_KEY))


@given(
    uses=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.integers(1, 9), st.integers(0, 3)), max_size=40
    )
)
def test_no_nonce_is_taken_twice_before_it_expires(uses: list[tuple[int, str, int, int]]) -> None:
    nonces = NonceMemory(nonces_max=6, nonces_per_caller_max=4)
    valid: dict[tuple[str, str], float] = {}
    now = NOW
    for nonce, caller, lifetime, step in uses:
        now += step
        expires = now + lifetime
        held = {name: end for name, end in valid.items() if end > now}
        name = (caller, str(nonce))
        try:
            remember(nonces, str(nonce), caller=caller, expires=expires, now=now)
        except NonceReused:
            assert name in held
        except NoncesFull:
            assert name not in held
            assert len(held) == 6 or sum(known == caller for known, _ in held) == 4
        else:
            assert name not in held
            valid[name] = expires
        assert len(nonces) <= 6


class TestKnownWords:
    """What was verified once is looked at anew each time, but for its signature."""

    def run(self, known: KnownWords, credential: SignedDocument, **options: Any) -> Caller:
        given = {"root": ROOT_RECORD, "federation": FEDERATION, "now": NOW, **options}
        return check(envelope(nonce=new_nonce()), credential, BODY, nonces=NonceMemory(), known=known, **given)

    def test_a_word_is_known_after_it_held(self) -> None:
        known = KnownWords()
        word = vouched()
        assert self.run(known, word) == self.run(known, word)
        assert len(known) == 1

    def test_a_known_word_still_expires_and_is_of_one_federation(self) -> None:
        known = KnownWords()
        word = vouched()
        self.run(known, word)
        with pytest.raises(EnvelopeExpired, match="the credential"):
            self.run(known, word, now=NOW + CREDENTIAL_LIFETIME_S + CLOCK_SKEW_S + 1)
        with pytest.raises(WrongFederation):
            self.run(known, word, federation="another")

    def test_another_signature_over_a_known_word_is_checked(self) -> None:
        known = KnownWords()
        word = vouched()
        self.run(known, word)
        (signature,) = word.signatures
        forged = msgspec.structs.replace(signature, sig=bytes(64))
        with pytest.raises(BadSignature):
            self.run(known, msgspec.structs.replace(word, signatures=(forged,)))
        with pytest.raises(BadSignature):
            self.run(known, msgspec.structs.replace(word, payload=word.payload + b" "))
        assert len(known) == 1

    def test_a_new_root_record_forgets(self) -> None:
        known = KnownWords()
        word = vouched()
        self.run(known, word)
        with pytest.raises(UnknownKey):
            self.run(known, word, root=msgspec.structs.replace(ROOT_RECORD, directors={}))
        assert len(known) == 0

    def test_the_memory_is_bounded(self) -> None:
        known = KnownWords(words_max=3)
        for number in range(10):
            self.run(known, vouched(issued=NOW - number))
        assert len(known) == 3
