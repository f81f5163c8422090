"""How a statement keeps its caller's role when another peer carries it.

    envelope     the caller's signature over the digest of the request's exact bytes, its time, lifetime and a nonce
    credential   the director's word on the caller: name, role and key, for a short time

Together they let an executor that knows only the root record run a statement under its caller's own role. Refuses one
without the other, another body than the signed one, and the same envelope twice.

Rules: roles live in the roster; the director copies a caller's role into a credential when it forwards. An edge or a
nameserver acts on other peers as a viewer (:func:`role_abroad`), so a peer never lends a role. All times are
federation time; clocks may differ by CLOCK_SKEW_S. The time remaining, which travels beside an envelope, can only
shorten; it is the carrier's matter. An envelope that waits may live for longer, and its nonce is used up in a
memory that outlives the executor's process; no other memory takes it.
"""

from __future__ import annotations

import heapq
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from federation.documents import (
    CREDENTIAL_TYPE,
    STATEMENT_TYPE,
    Credential,
    Kind,
    RoleName,
    RootRecord,
    SignedDocument,
    StatementEnvelope,
    decode,
    encode,
)
from federation.errors import (
    EnvelopeExpired,
    NonceReused,
    NoncesFull,
    WrongBody,
    WrongDocument,
    WrongFederation,
    WrongKey,
)
from federation.keys import PrivateKey, keyid_of
from federation.members import Member
from federation.names import PeerId, digest_of
from federation.roots import public_keys
from federation.signing import sign, verified
from query.declarations import Caller, Role

CLOCK_SKEW_S: Final = 10.0  # by which peers' ideas of federation time may differ
ENVELOPE_LIFETIME_S_MAX: Final = 3600.0  # an envelope must outlive its statement's deadline, not more
WAITING_LIFETIME_S_MAX: Final = 7 * 24 * 3600.0 + 3600.0  # the longest wait, and the time to run
CREDENTIAL_LIFETIME_S: Final = 120.0
KNOWN_WORDS_MAX: Final = 64
NONCE_LENGTH_MAX: Final = 64
NONCES_MAX: Final = 65_536
NONCES_PER_CALLER_MAX: Final = 16_384


def role_abroad(kind: Kind, role: RoleName) -> RoleName:
    """The role in which a member acts on other peers: only people and programs have one above viewer."""
    return role if kind == "client" else "viewer"


def new_nonce() -> str:
    return secrets.token_hex(16)


def seal(
    body: bytes,
    *,
    key: PrivateKey,
    federation: str,
    caller: PeerId,
    now: float,
    lifetime_s: float,
    nonce: str | None = None,
    waits: bool = False,
) -> SignedDocument:
    """The caller's signature over a request: its exact bytes, good once, from ``now`` for ``lifetime_s``."""
    envelope = StatementEnvelope(
        federation=federation,
        caller=caller,
        body=digest_of(body),
        issued=now,
        lifetime_s=lifetime_s,
        nonce=nonce or new_nonce(),
        waits=waits,
    )
    return sign(encode(envelope), STATEMENT_TYPE, key)


def credential(
    member: Member,
    *,
    director: PrivateKey,
    federation: str,
    now: float,
    lifetime_s: float = CREDENTIAL_LIFETIME_S,
) -> SignedDocument:
    """The director's word on a member of the roster, with the role it has abroad. The member must have joined."""
    if member.key is None or member.removed:
        raise ValueError(f"{member.name} is no member with a key")
    vouched = Credential(
        federation=federation,
        uuid=member.uuid,
        name=member.name,
        role=role_abroad(member.kind, member.role),
        key=member.key,
        issued=now,
        expires=now + lifetime_s,
    )
    return sign(encode(vouched), CREDENTIAL_TYPE, director)


def claimed(envelope: SignedDocument) -> StatementEnvelope:
    """What an envelope says, unproven: to look things up, and for nothing else."""
    try:
        return decode(envelope.payload, StatementEnvelope)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a statement's envelope: {error}") from error


def claimed_caller(envelope: SignedDocument) -> PeerId:
    """Whom an envelope says it is from, unproven."""
    return claimed(envelope).caller


class Nonces(Protocol):
    """Which envelopes were used here."""

    def use(self, nonce: str, *, caller: str, expires: float, now: float, issued: float) -> None:
        """Use a nonce up. Raises when it was used before, or that cannot be told."""
        ...


def check_waiting(
    envelope: SignedDocument, body: bytes, *, key: bytes, caller: str, federation: str, now: float
) -> StatementEnvelope:
    """The envelope of a statement that is to wait, as who keeps it checks it before anybody waits.

    ``caller`` and ``key`` are of the member who brought it. Raises as :func:`check` does, and uses nothing up.
    """
    payload = verified(envelope, STATEMENT_TYPE, {keyid_of(key): key})
    try:
        sealed = decode(payload, StatementEnvelope)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a statement's envelope: {error}") from error
    if sealed.federation != federation:
        raise WrongFederation(f"expected a statement for federation {federation}, found {sealed.federation[:64]}")
    if sealed.caller != caller:
        raise WrongKey(f"an envelope of {sealed.caller[:64]}: expected the caller's own, {caller}")
    if sealed.body != digest_of(body):
        raise WrongBody("the request is not the one that its envelope was signed for")
    if not sealed.waits:
        raise EnvelopeExpired("the statement waits, and its envelope says that it does not: sign it as one that waits")
    _expiry(sealed, "the caller", now)
    return sealed


class KnownWords:
    """The directors' words whose signatures held under one root record, byte for byte: they need not be checked again
    while that record is in force. Whom they are about, and when, is looked at each time. Bounded.
    """

    def __init__(self, *, words_max: int = KNOWN_WORDS_MAX) -> None:
        self._root: RootRecord | None = None
        self._said: dict[SignedDocument, Credential] = {}
        self._words_max = words_max

    def __len__(self) -> int:
        return len(self._said)

    def said(self, credential: SignedDocument, root: RootRecord) -> Credential:
        """The content of a director's word. Raises the classes of :func:`federation.signing.verified`."""
        if root is not self._root:
            self._root = root
            self._said.clear()
        known = self._said.get(credential)
        if known is None:
            known = _said(credential, root)
            if len(self._said) >= self._words_max:
                del self._said[next(iter(self._said))]  # the oldest
            self._said[credential] = known
        return known


def _said(credential: SignedDocument, root: RootRecord) -> Credential:
    try:
        return decode(verified(credential, CREDENTIAL_TYPE, public_keys(root.directors)), Credential)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a credential: {error}") from error


def vouched(
    credential: SignedDocument, *, root: RootRecord, federation: str, now: float, known: KnownWords | None = None
) -> Credential:
    """What a director says of a member, when it is a director of ``root`` and says it for now.

    Raises :class:`WrongFederation`, :class:`EnvelopeExpired` and the classes of
    :func:`federation.signing.verified`.
    """
    said = _said(credential, root) if known is None else known.said(credential, root)
    if said.federation != federation:
        raise WrongFederation(f"expected a credential of federation {federation}, found {said.federation[:64]}")
    if not said.issued - CLOCK_SKEW_S <= now < said.expires + CLOCK_SKEW_S:
        raise EnvelopeExpired(f'the credential of "{said.name}" is not valid now: check the clocks')
    return said


def check(
    envelope: SignedDocument,
    credential: SignedDocument,
    body: bytes,
    *,
    root: RootRecord,
    federation: str,
    now: float,
    nonces: Nonces,
    lasting: Nonces | None = None,
    use: str = "",
    known: KnownWords | None = None,
) -> Caller:
    """The caller under whose role ``body`` may run here, and the nonce is used up.

    A request of several statements is carried one statement at a time: ``use`` says which, and each is good once.
    ``lasting``: where the nonces of envelopes that wait are used up; None takes no such envelope. ``known``: the words
    of directors that were checked before.

    Raises :class:`WrongFederation`, :class:`WrongBody`, :class:`WrongKey`, :class:`EnvelopeExpired`,
    :class:`NonceReused`, :class:`NoncesFull` and the classes of :func:`federation.signing.verified`.
    """
    caller = vouched(credential, root=root, federation=federation, now=now, known=known)
    payload = verified(envelope, STATEMENT_TYPE, {keyid_of(caller.key): caller.key})
    try:
        sealed = decode(payload, StatementEnvelope)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a statement's envelope: {error}") from error
    if sealed.federation != federation:
        raise WrongFederation(f"expected a statement for federation {federation}, found {sealed.federation[:64]}")
    if sealed.caller != caller.uuid:
        raise WrongKey(f'an envelope and a credential of different callers: {sealed.caller[:64]} and "{caller.name}"')
    if sealed.body != digest_of(body):
        raise WrongBody(f'the request is not the one that "{caller.name}" signed')
    expires = _expiry(sealed, caller.name, now)
    memory = lasting if sealed.waits else nonces
    if memory is None:
        raise WrongDocument("an envelope that waits: this peer takes none")
    memory.use(nonce_of(sealed, use), caller=sealed.caller, expires=expires, now=now, issued=sealed.issued)
    return Caller(name=caller.name, role=Role[caller.role.upper()], uuid=caller.uuid, key=caller.key)


def nonce_of(sealed: StatementEnvelope, use: str) -> str:
    """What is used up when statement ``use`` of a request runs."""
    return f"{use}:{sealed.nonce}"


def _expiry(sealed: StatementEnvelope, name: str, now: float) -> float:
    """When the envelope may be forgotten. Raises :class:`EnvelopeExpired` unless it is valid at ``now``."""
    longest_s = WAITING_LIFETIME_S_MAX if sealed.waits else ENVELOPE_LIFETIME_S_MAX
    if not 0 < sealed.lifetime_s <= longest_s:
        raise EnvelopeExpired(f"expected a lifetime of at most {longest_s:.0f} s, found {sealed.lifetime_s:.0f} s")
    if now < sealed.issued - CLOCK_SKEW_S:
        raise EnvelopeExpired(f'"{name}" signed this statement {sealed.issued - now:.0f} s from now: check the clocks')
    expires = sealed.issued + sealed.lifetime_s + CLOCK_SKEW_S
    if now >= expires:
        raise EnvelopeExpired(f'the statement of "{name}" expired {now - expires:.0f} s ago')
    if not 0 < len(sealed.nonce) <= NONCE_LENGTH_MAX:
        raise WrongDocument(f"expected a nonce of 1 to {NONCE_LENGTH_MAX} characters, found {len(sealed.nonce)}")
    return expires


class NonceMemory:
    """Which envelopes were used, until each expires. Bounded, in all and for each caller; a full memory refuses and
    never forgets early.

    ``since``: the federation time from which on this memory is whole; what was issued before, it cannot tell apart
    and refuses; it is set anew when the idea of federation time is corrected. ``entries``: what an earlier memory gave
    as :attr:`entries`, which makes it whole again; then leave ``since`` at 0.
    """

    def __init__(
        self,
        entries: Iterable[tuple[float, str, str]] = (),
        *,
        since: float = 0.0,
        nonces_max: int = NONCES_MAX,
        nonces_per_caller_max: int = NONCES_PER_CALLER_MAX,
    ) -> None:
        self._queue = list(entries)  # a heap of (expiry, caller, nonce)
        heapq.heapify(self._queue)
        self._used = {(caller, nonce) for _, caller, nonce in self._queue}
        self._counts = Counter(caller for _, caller, _ in self._queue)
        self.since = since
        self._nonces_max = nonces_max
        self._nonces_per_caller_max = nonces_per_caller_max

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def entries(self) -> tuple[tuple[float, str, str], ...]:
        return tuple(self._queue)

    def use(self, nonce: str, *, caller: str, expires: float, now: float, issued: float) -> None:
        """Use a nonce up. Raises :class:`NonceReused`, :class:`EnvelopeExpired` or :class:`NoncesFull`."""
        while self._queue and self._queue[0][0] <= now:
            _, gone, old = heapq.heappop(self._queue)
            self._used.discard((gone, old))
            self._counts[gone] -= 1
            if not self._counts[gone]:
                del self._counts[gone]
        if issued < self.since:
            raise EnvelopeExpired(
                "the statement was signed before this peer started", hint="send it again, with a new envelope"
            )
        if (caller, nonce) in self._used:
            raise NonceReused("this statement was run here before, under the same envelope")
        if len(self._queue) >= self._nonces_max or self._counts[caller] >= self._nonces_per_caller_max:
            raise NoncesFull(
                f"{len(self._queue)} forwarded statements are remembered here, no more fit: try again later"
            )
        heapq.heappush(self._queue, (expires, caller, nonce))
        self._used.add((caller, nonce))
        self._counts[caller] += 1
