"""Bundles and the proof that a new peer shows for one: what joining is made of.

A bundle's text is base64 of the JSON of :class:`~federation.documents.Bundle`, without line breaks. Owns its form,
its one-time token and the checks of a join request. Refuses a text that is not a whole bundle, and a request whose
token is unknown, used, expired or for another name.

Rules: the token is 32 random bytes; a roster keeps only its hash. The proof binds token and keys together, so that
who sees a request cannot join with a key of its own. Nothing here shows a token in an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import Final

import msgspec

from federation import documents
from federation.documents import JOIN_TYPE, Bundle, JoinRequest
from federation.errors import BadBundle, BadProof, RemovedPeer, TokenExpired, TokenReused, TokenUnknown, WrongName
from federation.keys import PUBLIC_BYTES, PrivateKey, signed_by
from federation.members import Member
from federation.names import BadName, checked_digest, checked_name, fold
from federation.signing import pae

BUNDLE_TEXT_LENGTH_MAX: Final = 64 * 1024
TOKEN_BYTES: Final = 32
TOKEN_LENGTH_MAX: Final = 128
ADDRESSES_MAX: Final = 64

_TOKEN: Final = re.compile(rf"[A-Za-z0-9_-]{{16,{TOKEN_LENGTH_MAX}}}")
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%a-z]{2,64}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}")
_CA: Final = re.compile(r"\s*-----BEGIN CERTIFICATE-----\s.*-----END CERTIFICATE-----\s*", re.DOTALL)


def new_token() -> str:
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """What a roster keeps of a token. A token is random enough that its hash needs no salt."""
    return hashlib.sha256(b"peerage join token\0" + token.encode("utf-8", "surrogatepass")).hexdigest()


# --- the bundle -----------------------------------------------------------------------------------------------------


def encode(bundle: Bundle) -> str:
    """The text that a person is handed, once. Secret until used."""
    return base64.b64encode(documents.encode(bundle)).decode("ascii")


def decode(text: str) -> Bundle:
    """The bundle in ``text``; blanks and line breaks around and inside do not matter.

    Raises :class:`BadBundle` for a text that is too long, cut off, or something else.
    """
    if len(text) > BUNDLE_TEXT_LENGTH_MAX:
        raise BadBundle(
            f"the bundle is oversize: expected at most {BUNDLE_TEXT_LENGTH_MAX} characters, found {len(text)}"
        )
    packed = "".join(text.split())
    if not packed:
        raise BadBundle("the bundle is empty", hint="give the text that edge:register or peerage register printed")
    whole = len(packed) - len(packed) % 4
    try:
        raw = base64.b64decode(packed[:whole], validate=True)
    except (binascii.Error, ValueError):
        raise _garbage() from None
    if not raw.startswith(b"{"):
        raise _garbage()
    if whole != len(packed):
        raise _truncated(len(packed))
    try:
        bundle = documents.decode(raw, Bundle)
    except msgspec.ValidationError as error:
        raise BadBundle(f"the bundle is not one of this version: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        if raw.rstrip().endswith(b"}"):
            raise _garbage() from None
        raise _truncated(len(packed)) from None
    return _checked(bundle)


def _ago(seconds: float) -> str:
    hours = seconds / 3600.0
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} h" if hours >= 2 else f"{seconds:.0f} s"


def _garbage() -> BadBundle:
    return BadBundle(
        "the bundle is garbage: expected the base64 text of a bundle, found something else",
        hint="give the text that edge:register or peerage register printed, whole and unchanged",
    )


def _truncated(length: int) -> BadBundle:
    return BadBundle(
        f"the bundle is truncated: it ends in the middle, after {length} characters", hint="copy the whole text again"
    )


def _checked(bundle: Bundle) -> Bundle:
    try:
        checked_name("peer", bundle.name)
        checked_digest(bundle.root)
    except BadName as error:
        raise BadBundle(f"the bundle is damaged: {error.message}") from None
    if not 1 <= len(bundle.addresses) <= ADDRESSES_MAX:
        raise BadBundle(f"the bundle has {len(bundle.addresses)} addresses, expected 1 to {ADDRESSES_MAX}")
    for address in bundle.addresses:
        if not _ADDRESS.fullmatch(address):
            raise BadBundle(f"the bundle is damaged: expected host:port, found {address[:80]!r}")
    if not _TOKEN.fullmatch(bundle.token) or not _CA.fullmatch(bundle.ca) or not bundle.federation:
        raise BadBundle("the bundle is damaged: expected a federation, its CA certificate and a token")
    return bundle


# --- joining --------------------------------------------------------------------------------------------------------


def join_request(*, name: str, token: str, key: PrivateKey, publisher_key: bytes | None = None) -> JoinRequest:
    """What a new peer sends: its public keys, and the proof that it owns ``key`` and the token."""
    return JoinRequest(
        name=name,
        token=token,
        key=key.public,
        publisher_key=publisher_key,
        proof=key.sign_bytes(_claim(token, key.public, publisher_key)),
    )


def check_proof(request: JoinRequest) -> None:
    """Raises :class:`BadProof` unless the sender owns the key that it asks a certificate for."""
    for key in (request.key, request.publisher_key):
        if key is not None and len(key) != PUBLIC_BYTES:
            raise BadProof(f"expected public keys of {PUBLIC_BYTES} bytes, found {len(key)}")
    claim = _claim(request.token, request.key, request.publisher_key)
    if len(request.token) > TOKEN_LENGTH_MAX or not signed_by(request.key, claim, request.proof):
        raise BadProof("the join request is not signed by the key that it names")


def check_join(request: JoinRequest, owner: Member | None, *, now: float) -> bool:
    """Whether ``request`` joins ``owner``, the member whose token it carries (None when nobody has it).

    True for a first join; False for the repetition of one that was done, by the same key: its answer may have been
    lost, and it is given again. Raises :class:`TokenUnknown`, :class:`WrongName`, :class:`RemovedPeer`,
    :class:`BadProof`, :class:`TokenReused`, :class:`TokenExpired`.
    """
    if owner is None or owner.token_hash != token_hash(request.token):
        raise TokenUnknown(
            f'no bundle of this federation has the token that "{request.name[:63]}" sent',
            hint="a removed peer, or a store restored from a backup, needs a new bundle",
        )
    if fold(owner.name) != fold(request.name):
        raise WrongName(f'this bundle is for another peer than "{request.name[:63]}"')
    if owner.removed:
        raise RemovedPeer(f'"{owner.name}" was removed from the federation', hint="register it again for a new bundle")
    check_proof(request)
    if owner.key is not None:
        if owner.key == request.key and owner.publisher_key == request.publisher_key:
            return False
        function = "edge:remove" if owner.kind == "edge" else "peer:remove"
        raise TokenReused(
            f'the bundle of "{owner.name}" was used before',
            hint='another device takes a name of its own: "peerage register NAME"; for a new one in the place of '
            f'"{owner.name}", {function}("{owner.name}") first',
        )
    if owner.token_expires is not None and now >= owner.token_expires:
        raise TokenExpired(
            f'the bundle of "{owner.name}" expired {_ago(now - owner.token_expires)} ago',
            hint=f'a new one is good for 24 hours: "peerage register {owner.name}"',
        )
    return True


def _claim(token: str, key: bytes, publisher_key: bytes | None) -> bytes:
    """What the proof signs; both keys are of fixed length, which :func:`check_proof` has seen to."""
    return pae(JOIN_TYPE, token.encode("utf-8", "surrogatepass") + key + (publisher_key or b""))
