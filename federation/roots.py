"""The root record: which keys speak for the federation, from its first version on.

Owns the chain of versions. Refuses a version that the threshold of the one before it, or its own, did not sign; a
gap; another federation; and a record that contradicts itself.

Rules: version n+1 is signed by the threshold of n and by its own (The Update Framework's rotation, copied whole).
Root, director and publisher keys are all different keys, so that no single key makes a model run. A key that was
revoked stays so in every later version and has no part in one; a publisher's key leaves by being revoked and in no
other way, keeps its name, and once retired stays retired. A pin (in a bundle) is the digest of the payload of one
record; a chain is trusted when it holds that record. What changes from one version to the next is made in
:mod:`federation.revocation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from federation.documents import (
    ROOT_TYPE,
    KeyId,
    RevokedKey,
    RootRecord,
    SignedDocument,
    TrustedKey,
    decode,
    encode,
)
from federation.errors import AlreadyEndorsed, BadKeyChange, WrongDocument, WrongRoot
from federation.keys import PUBLIC_BYTES, PrivateKey, keyid_of
from federation.names import Digest, checked_name, digest_of
from federation.signing import sign, verified

ROOT_RECORDS_MAX: Final = 1024  # versions in one chain
ROOT_KEYS_MAX: Final = 16
PUBLISHERS_MAX: Final = 1024  # retired keys too
REVOKED_MAX: Final = 1024


def first_root(
    federation: str,
    *,
    roots: Sequence[PrivateKey],
    director: bytes,
    now: float,
    publishers: Mapping[str, bytes] | None = None,
    threshold: int = 1,
) -> SignedDocument:
    """Version 1, signed by all of ``roots``. ``director`` and the values of ``publishers`` (name → key) are public
    keys.
    """
    record = RootRecord(
        federation=federation,
        version=1,
        threshold=threshold,
        roots=_trusted({f"root-{n}": key.public for n, key in enumerate(roots, start=1)}),
        directors=_trusted({"director": director}),
        publishers=_trusted(publishers or {}),
        created=int(now),
    )
    return sign_root(record, *roots)


def endorse(root: RootRecord, *, publisher: str, key: bytes, now: float) -> RootRecord:
    """The next version, in which ``key`` may sign releases under the name ``publisher``; still to be signed.

    Raises :class:`AlreadyEndorsed` when the key is endorsed, or the name belongs to another key that is not retired,
    and :class:`BadKeyChange` for a key that was revoked.
    """
    checked_name("publisher", publisher)
    keyid = keyid_of(key)
    if keyid in root.publishers:
        raise AlreadyEndorsed(f'key {keyid[:16]} is endorsed already, as "{root.publishers[keyid].name}"')
    if keyid in root.revoked:
        raise BadKeyChange(
            f'key {keyid[:16]} of "{root.revoked[keyid].name}" was revoked: it never comes back',
            hint="make a new one: peerage keys rotate publisher --home DIR",
        )
    known = active_key(root, publisher)
    if known is not None:
        raise AlreadyEndorsed(
            f'publisher "{publisher}" is endorsed with key {known[:16]}, found key {keyid[:16]}',
            hint="endorse the new key under another name, or put it in place of the old one",
        )
    publishers = {**root.publishers, keyid: TrustedKey(key, publisher)}
    return checked(msgspec.structs.replace(root, version=root.version + 1, publishers=publishers, created=int(now)))


def sign_root(record: RootRecord, *keys: PrivateKey) -> SignedDocument:
    return sign(encode(checked(record)), ROOT_TYPE, *keys)


def advance(trusted: RootRecord, doc: SignedDocument) -> RootRecord:
    """The record in ``doc``, as the successor of ``trusted``.

    Raises the classes of :func:`federation.signing.verified`, and :class:`WrongRoot` for anything but the next
    version of the same federation.
    """
    payload = verified(doc, ROOT_TYPE, public_keys(trusted.roots), threshold=trusted.threshold)
    record = _self_signed(payload, doc)
    if record.federation != trusted.federation:
        raise WrongRoot(f"expected a root record of federation {trusted.federation}, found {record.federation[:64]}")
    if record.version != trusted.version + 1:
        raise WrongRoot(f"expected root record {trusted.version + 1}, found {record.version}")
    _check_kept(trusted, record)
    return record


def _check_kept(before: RootRecord, after: RootRecord) -> None:
    """What a successor may not take back, whoever signed it. Raises :class:`WrongRoot`."""
    for keyid, gone in before.revoked.items():
        now = after.revoked.get(keyid)
        if now is None or (now.key, now.name, now.revoked) != (gone.key, gone.name, gone.revoked):
            raise WrongRoot(
                f'root record {after.version} takes back that key {keyid[:16]} of "{gone.name}" was revoked'
            )
        if (gone.running, now.running) == ("stop", "keep"):
            raise WrongRoot(f"root record {after.version} lets releases of key {keyid[:16]} run that were stopped")
    for keyid, known in before.publishers.items():
        if keyid in after.revoked:
            if after.revoked[keyid].name != known.name:
                raise WrongRoot(f'root record {after.version} revokes key {keyid[:16]} of "{known.name}" as another\'s')
            continue
        kept = after.publishers.get(keyid)
        if kept is None:
            raise WrongRoot(f'root record {after.version} drops key {keyid[:16]} of "{known.name}" without revoking it')
        if kept.name != known.name:
            raise WrongRoot(f'root record {after.version} gives key {keyid[:16]} of "{known.name}" another name')
        if known.retired is not None and kept.retired != known.retired:
            raise WrongRoot(
                f'root record {after.version} takes back that key {keyid[:16]} of "{known.name}" was retired'
            )


def trust_chain(docs: Sequence[SignedDocument], pin: Digest) -> RootRecord:
    """The newest of consecutive root records, one of which is pinned. Raises subclasses of
    :class:`~federation.errors.Untrusted`.
    """
    if not 1 <= len(docs) <= ROOT_RECORDS_MAX:
        raise WrongRoot(f"expected 1 to {ROOT_RECORDS_MAX} root records, found {len(docs)}")
    if not any(digest_of(doc.payload) == pin for doc in docs):
        raise WrongRoot(f"none of {len(docs)} root records is the pinned one, {pin[:23]}")
    record = _self_signed(docs[0].payload, docs[0])
    for doc in docs[1:]:
        record = advance(record, doc)
    return record


def pin_of(doc: SignedDocument) -> Digest:
    """What a bundle carries of the root record in force."""
    return digest_of(doc.payload)


def public_keys(trusted: Mapping[KeyId, TrustedKey]) -> dict[KeyId, bytes]:
    return {keyid: entry.key for keyid, entry in trusted.items()}


def signing_keys(root: RootRecord) -> dict[KeyId, bytes]:
    """Every key that the record knows as a publisher's, retired and revoked ones too."""
    return {keyid: entry.key for keyid, entry in root.revoked.items()} | public_keys(root.publishers)


def active_key(root: RootRecord, publisher: str) -> KeyId | None:
    """The key that a publisher's new releases are signed with; None for a name that has none."""
    for keyid, trusted in root.publishers.items():
        if trusted.retired is None and trusted.name.casefold() == publisher.casefold():
            return keyid
    return None


def checked(record: RootRecord) -> RootRecord:
    """``record`` itself when it agrees with itself. Raises :class:`WrongRoot`."""
    groups: tuple[Mapping[KeyId, TrustedKey | RevokedKey], ...] = (
        record.roots,
        record.directors,
        record.publishers,
        record.revoked,
    )
    named = sum(len(group) for group in groups)
    if len(set().union(*groups)) != named:
        raise WrongRoot("a root record gives one key two parts: root, director, publisher and revoked keys must differ")
    for group in groups:
        for keyid, entry in group.items():
            if len(entry.key) != PUBLIC_BYTES or keyid_of(entry.key) != keyid:
                raise WrongRoot(f"a root record names a key {keyid[:16]} that is not the key beside it")
    if not 1 <= record.threshold <= len(record.roots):
        raise WrongRoot(f"a root record asks for {record.threshold} of {len(record.roots)} root keys")
    if len(record.roots) > ROOT_KEYS_MAX or len(record.directors) > ROOT_KEYS_MAX:
        raise WrongRoot(f"a root record names more than {ROOT_KEYS_MAX} root or director keys")
    if len(record.publishers) > PUBLISHERS_MAX:
        raise WrongRoot(f"a root record names {len(record.publishers)} publishers, expected at most {PUBLISHERS_MAX}")
    if len(record.revoked) > REVOKED_MAX:
        raise WrongRoot(f"a root record names {len(record.revoked)} revoked keys, expected at most {REVOKED_MAX}")
    active = [entry.name.casefold() for entry in record.publishers.values() if entry.retired is None]
    if len(set(active)) != len(active):
        raise WrongRoot("a root record gives one publisher's name two keys that are not retired")
    if record.version < 1:
        raise WrongRoot(f"expected a root record from version 1 on, found {record.version}")
    return record


def _self_signed(payload: bytes, doc: SignedDocument) -> RootRecord:
    """The record in ``payload``, once its own threshold has signed ``doc``.

    The payload of a first record is read before its signature is checked, because the keys stand in it: the pin is
    what is trusted then.
    """
    try:
        record = checked(decode(payload, RootRecord))
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a root record: {error}") from error
    verified(doc, ROOT_TYPE, public_keys(record.roots), threshold=record.threshold)
    return record


def _trusted(keys: Mapping[str, bytes]) -> dict[KeyId, TrustedKey]:
    return {keyid_of(key): TrustedKey(key, name) for name, key in keys.items()}
