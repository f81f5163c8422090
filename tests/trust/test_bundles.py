"""Bundles, and what a peer shows to join."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import documents
from federation.bundles import (
    ADDRESSES_MAX,
    BUNDLE_TEXT_LENGTH_MAX,
    check_join,
    check_proof,
    decode,
    encode,
    join_request,
    new_token,
    token_hash,
)
from federation.documents import Bundle, JoinRequest, Kind
from federation.errors import (
    BadBundle,
    BadProof,
    Refused,
    RemovedPeer,
    TokenExpired,
    TokenReused,
    TokenUnknown,
    WrongName,
)
from federation.keys import PrivateKey
from federation.members import Member
from federation.roots import pin_of
from tests.trust.material import DAY, FEDERATION, NOW, ROOT_DOCUMENT, STRANGER, key, member

TOKEN = "t" * 43
KEY, PUBLISHER_KEY = key(100), key(101)
BUNDLE = Bundle(
    federation=FEDERATION,
    addresses=("127.0.0.1:35021", "ns.example:35021", "[::1]:35021"),
    ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    root=pin_of(ROOT_DOCUMENT),
    name="Edge-1",
    kind="edge",
    role="viewer",
    publisher=False,
    token=TOKEN,
    expires=int(NOW + DAY),
)


def test_a_bundle_survives_its_text_and_a_mail_program() -> None:
    text = encode(BUNDLE)
    assert "\n" not in text
    assert decode(text) == BUNDLE
    wrapped = "\r\n  ".join(text[at : at + 60] for at in range(0, len(text), 60))
    assert decode(f"\n  {wrapped}\n\n") == BUNDLE


@given(cut=st.integers(12, len(encode(BUNDLE)) - 1))
def test_a_truncated_bundle_is_named(cut: int) -> None:
    text = encode(BUNDLE).rstrip("=")
    with pytest.raises(BadBundle, match=r"truncated|garbage"):
        decode(text[: min(cut, len(text) - 2)])


def test_a_bundle_cut_in_the_middle_is_truncated() -> None:
    text = encode(BUNDLE)
    for cut in (40, 41, 42, 43, len(text) // 2, len(text) - 5):
        with pytest.raises(BadBundle, match="the bundle is truncated: it ends in the middle, after"):
            decode(text[:cut])


@pytest.mark.parametrize(
    "text", ["hello", "äöü", "{}", "e30", "=" * 40, "AAAA", "\0\0", base64.b64encode(b"{x}").decode()]
)
def test_garbage_is_named(text: str) -> None:
    with pytest.raises(BadBundle, match=r"the bundle is (garbage|truncated|not one)"):
        decode(text)
    assert "garbage" in str(_refusal("hello world"))


def test_an_oversize_and_an_empty_bundle_are_named() -> None:
    with pytest.raises(BadBundle, match=f"oversize: expected at most {BUNDLE_TEXT_LENGTH_MAX}"):
        decode("A" * (BUNDLE_TEXT_LENGTH_MAX + 1))
    for text in ("", "  \n"):
        with pytest.raises(BadBundle, match="empty"):
            decode(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"addresses": ()},
        {"addresses": ("h:1",) * (ADDRESSES_MAX + 1)},
        {"addresses": ("no-port",)},
        {"addresses": ("h:1/x",)},
        {"addresses": ("a b:1",)},
        {"root": "sha256:1"},
        {"name": "all"},
        {"name": ""},
        {"token": "short"},
        {"token": "x" * 129},
        {"token": "with blank " * 4},
        {"ca": ""},
        {"ca": "-----BEGIN PRIVATE KEY-----"},
        {"federation": ""},
    ],
)
def test_a_damaged_bundle_is_refused(fields: dict[str, Any]) -> None:
    text = encode(msgspec.structs.replace(BUNDLE, **fields))
    refusal = _refusal(text)
    assert TOKEN not in str(refusal)


def test_a_bundle_of_another_version_is_refused() -> None:
    raw = documents.encode(BUNDLE)
    for other in (raw[:-1] + b',"more":1}', b"{}", raw.replace(b'"edge"', b'"thing"')):
        with pytest.raises(BadBundle, match="not one of this version"):
            decode(base64.b64encode(other).decode())


@given(text=st.text(max_size=300))
def test_any_text_is_a_bundle_or_named(text: str) -> None:
    with pytest.raises(BadBundle):
        decode(text)


def test_tokens_are_long_and_differ_and_only_their_hash_is_kept() -> None:
    first, second = new_token(), new_token()
    assert first != second
    assert len(base64.urlsafe_b64decode(first + "=")) == 32
    assert token_hash(first) == token_hash(first) != token_hash(second)
    assert first not in token_hash(first)
    assert len(token_hash(first)) == 64


# --- joining --------------------------------------------------------------------------------------------------------


def invited(**fields: Any) -> Member:
    return member(
        **{"key": None, "joined": None, "token_hash": token_hash(TOKEN), "token_expires": NOW + DAY, **fields}
    )


def request(
    *, name: str = "edge-1", token: str = TOKEN, own: PrivateKey = KEY, publisher: bytes | None = None
) -> JoinRequest:
    return join_request(name=name, token=token, key=own, publisher_key=publisher)


def test_a_peer_joins_with_its_token_and_its_own_key() -> None:
    assert check_join(request(), invited(), now=NOW)
    assert check_join(request(publisher=PUBLISHER_KEY.public), invited(), now=NOW + DAY - 1)


@pytest.mark.parametrize(
    ("asked", "owner", "expected", "message"),
    [
        (request(), None, TokenUnknown, 'the token that "edge-1" sent'),
        (request(token="u" * 43), invited(), TokenUnknown, "no bundle"),
        (request(), member(), TokenUnknown, "no bundle"),
        (request(name="edge-2"), invited(), WrongName, 'another peer than "edge-2"'),
        (request(), invited(removed=True), RemovedPeer, '"Edge-1" was removed'),
        (request(), invited(key=STRANGER.public), TokenReused, 'the bundle of "Edge-1" was used before'),
        (
            request(publisher=STRANGER.public),
            invited(key=KEY.public, publisher_key=PUBLISHER_KEY.public),
            TokenReused,
            "used before",
        ),
        (request(), invited(token_expires=NOW), TokenExpired, '"Edge-1" expired 0 s ago'),
        (request(), invited(token_expires=NOW - 60), TokenExpired, '"Edge-1" expired 60 s ago'),
    ],
)
def test_each_refusal_to_join_has_its_class(
    asked: JoinRequest, owner: Member | None, expected: type[Refused], message: str
) -> None:
    with pytest.raises(expected, match=message) as caught:
        check_join(asked, owner, now=NOW)
    assert TOKEN not in str(caught.value) + str(caught.value.hint)


@pytest.mark.parametrize(("kind", "function"), [("edge", "edge:remove"), ("client", "peer:remove")])
def test_a_used_bundle_names_the_calls_that_make_a_new_one(kind: Kind, function: str) -> None:
    with pytest.raises(TokenReused) as caught:
        check_join(request(), invited(key=STRANGER.public, kind=kind), now=NOW)
    assert caught.value.hint == (
        'another device takes a name of its own: "peerage register NAME"; for a new one in the place of "Edge-1", '
        f'{function}("Edge-1") first'
    )


def test_a_lost_answer_can_be_asked_for_again_by_the_same_key() -> None:
    """Also after the token's end: nobody else can sign with that key."""
    joined = invited(key=KEY.public)
    assert not check_join(request(), joined, now=NOW)
    assert not check_join(request(), joined, now=NOW + 9 * DAY)


CHANGES = {
    "token": "u" * 43,
    "key": STRANGER.public,
    "publisher_key": STRANGER.public,
    "proof": bytes(64),
}


@pytest.mark.parametrize("field", CHANGES)
def test_who_sees_a_request_cannot_join_with_it(field: str) -> None:
    altered = msgspec.structs.replace(request(publisher=PUBLISHER_KEY.public), **{field: CHANGES[field]})
    with pytest.raises(BadProof):
        check_proof(altered)
    with pytest.raises(Refused):
        check_join(altered, invited(), now=NOW)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_have_one_length(size: int) -> None:
    for field in ("key", "publisher_key"):
        with pytest.raises(BadProof, match=f"public keys of 32 bytes, found {size}"):
            check_proof(msgspec.structs.replace(request(), **{field: bytes(size)}))


def test_a_proof_is_no_other_signature() -> None:
    """It is made over a type of its own, so a document's signature cannot serve as one."""
    bare = KEY.sign_bytes(TOKEN.encode() + KEY.public)
    with pytest.raises(BadProof):
        check_proof(msgspec.structs.replace(request(), proof=bare))


def _refusal(text: str) -> BadBundle:
    with pytest.raises(BadBundle) as caught:
        decode(text)
    return caught.value
