"""How the keys in a root record change from one version to the next, and what a revoked key means where it was used.

Owns the makers of the next record, each pure and still to be signed, and the judgement of what an edge runs. Refuses a
key that has a part already or was revoked, a federation without a director, and a threshold that nobody can meet.

    endorse          a publisher's first key (:func:`federation.roots.endorse`)
    replace_…        a new key in, the old one out; of a publisher the old one is retired: what it signed stays good
    set_roots        root keys in and out, and how many of them must sign
    revoke           a publisher's keys are trusted no more; ``running`` says what becomes of releases that run

Rules: a revocation is final. ``keep``: what a device runs may go on there, also over a restart, and nothing else of
the key is accepted. ``stop``: it is taken out of memory. Both are shown as ``revoked_key`` for as long as a group wants
such a release or one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from federation.actual import MESSAGE_LENGTH_MAX, Actual, Run, Stop, Verdict
from federation.documents import (
    RELEASE_TYPE,
    KeyId,
    LoadedEntry,
    LoadError,
    MemberEntry,
    ReleaseRecord,
    RevokedKey,
    RootRecord,
    SignedDocument,
    TrustedKey,
    decode,
)
from federation.errors import (
    BadKeyChange,
    BadProof,
    KeyRetired,
    KeyRevoked,
    NeedsMoreSignatures,
    TooFewSignatures,
    Untrusted,
)
from federation.keys import PUBLIC_BYTES, PrivateKey, keyid_of, signed_by
from federation.members import Member
from federation.names import Digest, PeerId
from federation.outcomes import without
from federation.roots import active_key, advance, checked, sign_root, signing_keys
from federation.signing import pae, signers
from query.errors import unknown

Running = Literal["keep", "stop"]
Standing = Literal["endorsed", "retired", "revoked", "unknown"]

KEYID_PREFIX_LENGTH_MIN: Final = 6
OFFER_TYPE: Final = "application/vnd.peerage.publisher-key.v1"


# --- finding keys ---------------------------------------------------------------------------------------------------


def publisher_keys(root: RootRecord, wanted: str) -> tuple[KeyId, ...]:
    """The publisher keys that a name or the beginning of a key id means, revoked ones too; the latest last.

    Raises :class:`~query.errors.UnknownName`.
    """
    known = {keyid: key.name for keyid, key in root.revoked.items()}
    known |= {keyid: key.name for keyid, key in root.publishers.items()}
    named = tuple(keyid for keyid, name in known.items() if name.casefold() == wanted.casefold())
    if named:
        return named
    begins = tuple(keyid for keyid in known if keyid.startswith(wanted.casefold()))
    if len(wanted) >= KEYID_PREFIX_LENGTH_MIN and len(begins) == 1:
        return begins
    problem = unknown("publisher or key", wanted[:64], tuple(known.values()))
    problem.hint = f"peerage keys show lists them; an id needs its first {KEYID_PREFIX_LENGTH_MIN} digits"
    raise problem


def root_named(root: RootRecord, wanted: str) -> KeyId:
    """The root key that the beginning of an id, or its name, means."""
    by_name = [keyid for keyid, key in root.roots.items() if key.name == wanted]
    if len(by_name) == 1:
        return by_name[0]
    found = [keyid for keyid in root.roots if keyid.startswith(wanted.casefold())]
    if len(found) != 1:
        told = ", ".join(keyid[:16] for keyid in root.roots)
        raise BadKeyChange(f"expected one root key, found {len(found)} of {told}", hint="name it by its id")
    return found[0]


# --- the next record ------------------------------------------------------------------------------------------------


def replace_publisher(root: RootRecord, *, publisher: str, key: bytes, now: float) -> RootRecord:
    """``key`` signs what ``publisher`` makes from now on; its present key is retired. Raises :class:`BadKeyChange`."""
    old = active_key(root, publisher)
    if old is None:
        raise BadKeyChange(f'publisher "{publisher}" has no key to be replaced', hint="endorse its first key")
    retired = replace(root.publishers[old], retired=int(now))
    added = _fresh(root, key, root.publishers[old].name)
    return _following(root, now, publishers={**root.publishers, old: retired, **added})


def revoke(root: RootRecord, keyids: Sequence[KeyId], *, running: Running, now: float) -> RootRecord:
    """These publisher keys are trusted no more. One that was revoked with ``keep`` can be revoked again with ``stop``.

    Raises :class:`BadKeyChange` when nothing would change, or a key is not a publisher's.
    """
    publishers, revoked = dict(root.publishers), dict(root.revoked)
    for keyid in keyids:
        known = publishers.pop(keyid, None)
        before = revoked.get(keyid)
        if known is not None:
            revoked[keyid] = RevokedKey(known.key, known.name, int(now), running)
        elif before is None:
            raise BadKeyChange(f"key {keyid[:16]} is no publisher's key", hint="root and director keys are rotated")
        elif (before.running, running) == ("keep", "stop"):
            revoked[keyid] = replace(before, running=running)
    if revoked == root.revoked:
        told = ", ".join(f"{keyid[:16]} ({root.revoked[keyid].running})" for keyid in keyids) or "none"
        raise BadKeyChange(f"these keys were revoked before: {told}", hint="what was stopped cannot be let run again")
    return _following(root, now, publishers=publishers, revoked=revoked)


def replace_director(root: RootRecord, *, key: bytes, now: float, old: KeyId | None = None) -> RootRecord:
    """``key`` directs from this record on, in place of ``old``, or of all director keys where there is none named."""
    gone = set(root.directors) if old is None else {old}
    name = next((root.directors[keyid].name for keyid in root.directors if keyid in gone), "director")
    kept = {keyid: known for keyid, known in root.directors.items() if keyid not in gone}
    return _following(root, now, directors=kept | _fresh(root, key, name))


def replace_root(root: RootRecord, *, old: KeyId, key: bytes, now: float) -> RootRecord:
    """A new root key in place of ``old``. Both sign, each as its own version asks."""
    if old not in root.roots:
        raise BadKeyChange(f"key {old[:16]} is no root key of {root.federation}")
    kept = {keyid: known for keyid, known in root.roots.items() if keyid != old}
    return _following(root, now, roots=kept | _fresh(root, key, root.roots[old].name))


def set_roots(
    root: RootRecord,
    *,
    add: Sequence[bytes] = (),
    remove: Sequence[KeyId] = (),
    threshold: int | None = None,
    now: float,
) -> RootRecord:
    """Root keys in and out, and how many of them sign the record after this one."""
    roots = dict(root.roots)
    for keyid in remove:
        if roots.pop(keyid, None) is None:
            raise BadKeyChange(f"key {keyid[:16]} is no root key of {root.federation}")
    for key in add:
        taken = {known.name for known in roots.values()}
        name = next(f"root-{n}" for n in range(1, len(taken) + 2) if f"root-{n}" not in taken)
        roots |= _fresh(root, key, name)
    wanted = root.threshold if threshold is None else threshold
    if not 1 <= wanted <= len(roots):
        raise BadKeyChange(f"{wanted} of {len(roots)} root keys cannot sign: expected a threshold of 1 to {len(roots)}")
    if roots == root.roots and wanted == root.threshold:
        raise BadKeyChange("nothing would change: name a key to add or remove, or another threshold")
    return _following(root, now, roots=roots, threshold=wanted)


def sign_following(root: RootRecord, following: RootRecord, keys: Iterable[PrivateKey]) -> SignedDocument:
    """``following``, signed by those of ``keys`` that it or ``root`` names, once these are enough for both.

    Raises :class:`NeedsMoreSignatures` with the keys that could sign it too.
    """
    parts = root.roots | following.roots
    chosen = {key.keyid: key for key in keys if key.keyid in parts}
    signed = sign_root(following, *chosen.values())
    for record in (root, following):
        have = [keyid for keyid in record.roots if keyid in chosen]
        if len(have) < record.threshold:
            open_keys = ", ".join(
                f"{key.name} {keyid[:16]}" for keyid, key in record.roots.items() if keyid not in have
            )
            raise NeedsMoreSignatures(
                f"root record {following.version} needs {record.threshold} signatures of the root keys of version"
                f" {record.version}, found {len(have)}: others are {open_keys or 'none'}",
                hint="name every root folder that is needed: --root-home DIR --root-home DIR",
            )
    advance(root, signed)
    return signed


def told_changes(before: RootRecord, after: RootRecord) -> tuple[str, ...]:
    """What the next record changes, a line each, for who is asked whether to sign it."""
    lines = []
    for kind, old, new in (
        ("root", before.roots, after.roots),
        ("director", before.directors, after.directors),
        ("publisher", before.publishers, after.publishers),
    ):
        for keyid in new.keys() - old.keys():
            lines.append(f'{kind} key {keyid[:16]} of "{new[keyid].name}" comes in')
        for keyid in old.keys() - new.keys() - after.revoked.keys():
            lines.append(f'{kind} key {keyid[:16]} of "{old[keyid].name}" goes out')
        for keyid in old.keys() & new.keys():
            if old[keyid].retired != new[keyid].retired:
                lines.append(
                    f'{kind} key {keyid[:16]} of "{new[keyid].name}" is retired: what it signed stays good, nothing new'
                    " is published with it"
                )
    for keyid, gone in after.revoked.items():
        if before.revoked.get(keyid) != gone:
            rest = "may go on where they run" if gone.running == "keep" else "are unloaded everywhere"
            lines.append(f'publisher key {keyid[:16]} of "{gone.name}" is revoked for ever: its releases {rest}')
    if before.threshold != after.threshold:
        lines.append(f"{after.threshold} root keys must sign from then on, instead of {before.threshold}")
    return tuple(lines)


def _following(root: RootRecord, now: float, **changes: Any) -> RootRecord:
    return checked(replace(root, version=root.version + 1, created=int(now), **changes))


def _fresh(root: RootRecord, key: bytes, name: str) -> dict[KeyId, TrustedKey]:
    """A key that has no part yet. Raises :class:`BadKeyChange`."""
    keyid = keyid_of(key)
    if keyid in root.revoked:
        raise BadKeyChange(f"key {keyid[:16]} was revoked: it never comes back", hint="make a new one")
    if any(keyid in group for group in (root.roots, root.directors, root.publishers)):
        raise BadKeyChange(f"key {keyid[:16]} has a part in the root record already: expected a new key")
    return {keyid: TrustedKey(key, name)}


# --- what a release's signature is worth ----------------------------------------------------------------------------


def standing_of(document: SignedDocument, root: RootRecord) -> tuple[Standing, KeyId | None]:
    """What the best signature of a release record is worth now, and its key: endorsed, else retired, else revoked."""
    try:
        valid = signers(document, RELEASE_TYPE, signing_keys(root))[1]
    except Untrusted:
        return "unknown", None
    for standing, group in (
        ("endorsed", [keyid for keyid, key in root.publishers.items() if key.retired is None]),
        ("retired", [keyid for keyid, key in root.publishers.items() if key.retired is not None]),
        ("revoked", list(root.revoked)),
    ):
        for keyid in group:
            if keyid in valid:
                return standing, keyid  # type: ignore[return-value]  # the words of the table
    return "unknown", None


def check_new(document: SignedDocument, root: RootRecord, label: str) -> KeyId:
    """The key under which a release may be published now. Raises :class:`KeyRetired` and :class:`KeyRevoked`."""
    standing, keyid = standing_of(document, root)
    if standing == "retired" and keyid is not None:
        raise KeyRetired(
            f'{label} is signed with key {keyid[:16]} of publisher "{root.publishers[keyid].name}", which was replaced:'
            " nothing new is published with it",
            hint="make the release anew, under another version: it is signed with the new key then",
        )
    return check_assignable(document, root, label)


def check_assignable(document: SignedDocument, root: RootRecord, label: str) -> KeyId:
    """The key under which a release may be assigned now. Raises :class:`KeyRevoked`."""
    standing, keyid = standing_of(document, root)
    if keyid is None:
        raise TooFewSignatures(f"{label} is signed by no publisher that the root record names")
    if standing == "revoked":
        gone = root.revoked[keyid]
        raise KeyRevoked(
            f'{label} is signed with key {keyid[:16]} of publisher "{gone.name}", which was revoked',
            hint="publish it anew with a good key, and assign that",
        )
    for member in _members(document):
        lost = _revoked(member, root)
        if lost is not None:
            raise KeyRevoked(
                f"{member.label}, a model of {label}, is signed with key {keyid_of(lost.key)[:16]} of publisher"
                f' "{lost.name}", which was revoked',
                hint="pipeline:replace_model_step with a model that a good key signed, and deploy that",
            )
    return keyid


def revocation_of(document: SignedDocument, root: RootRecord) -> RevokedKey | None:
    """The revocation that a release record falls under, or a model of a pipeline, the strictest of them; None where
    another good key signed it too.
    """
    standing, keyid = standing_of(document, root)
    found = [root.revoked[keyid]] if standing == "revoked" and keyid is not None else []
    found += [gone for gone in (_revoked(member, root) for member in _members(document)) if gone is not None]
    return max(found, key=lambda gone: gone.running == "stop", default=None)


def _members(document: SignedDocument) -> tuple[MemberEntry, ...]:
    """The models that a record names; whether it may be believed is told by its signature."""
    try:
        return decode(document.payload, ReleaseRecord).members
    except msgspec.MsgspecError:
        return ()


def _revoked(member: MemberEntry, root: RootRecord) -> RevokedKey | None:
    """The revocation that a model of a pipeline falls under, by the keys that signed it."""
    if any(keyid in root.publishers for keyid in member.keys):
        return None
    return max(
        (root.revoked[keyid] for keyid in member.keys if keyid in root.revoked),
        key=lambda gone: gone.running == "stop",
        default=None,
    )


# --- what becomes of what runs --------------------------------------------------------------------------------------


def judged(
    actual: Actual,
    root: RootRecord,
    record: Callable[[Digest], SignedDocument | None],
    *,
    now: float,
    shown: Mapping[str, LoadError] = MappingProxyType({}),
) -> Actual:
    """An edge after it looked at what it runs under ``root``: what is to stop gets a goal, all of it an error.

    ``record`` finds the signed record of a release that was loaded; ``shown`` are the errors of before, whose time
    stays. Twice is as once.
    """
    if not root.revoked:
        return actual
    present: dict[str, LoadedEntry | Run] = {**actual.restoring, **actual.loaded}
    for name, entry in present.items():
        document = record(entry.record)
        gone = None if document is None else revocation_of(document, root)
        if gone is None:
            continue
        own = document is not None and standing_of(document, root)[0] == "revoked"
        what = entry.label if own else f"a model in {entry.label}"
        known = actual.errors.get(entry.label) or shown.get(entry.label)
        actual = _told(actual, LoadError(entry.label, KeyRevoked.code, _message(what, gone), int(now)), known)
        if gone.running == "stop":
            actual = _stopped(actual, name, entry)
    return actual


def _told(actual: Actual, error: LoadError, known: LoadError | None) -> Actual:
    if known is not None and known.error == error.error:
        error = replace(error, since=known.since)
    if actual.errors.get(error.model) == error:
        return actual
    return replace(actual, errors=actual.errors | {error.model: error})


def _message(what: str, gone: RevokedKey) -> str:
    rest = "keeps answering until it is replaced" if gone.running == "keep" else "is unloaded"
    said = f'the key {keyid_of(gone.key)[:16]} of publisher "{gone.name}", which signed {what}, was revoked: it {rest}'
    return said[:MESSAGE_LENGTH_MAX]


def _stopped(actual: Actual, name: str, entry: LoadedEntry | Run) -> Actual:
    """To be taken out of memory, and not tried again under this root record."""
    message = actual.errors[entry.label].message
    verdict = Verdict(entry.record, actual.runtime, KeyRevoked.code, message, actual.root_version)
    actual = replace(actual, verdicts=actual.verdicts | {entry.record: verdict})
    if entry.origin != "group":  # shown until it is unloaded or replaced, as what could not be restored
        kept = LoadedEntry(name, entry.version, entry.record, entry.origin, entry.since)
        actual = replace(actual, lost=actual.lost | {name: kept})
    if isinstance(entry, Run):
        return replace(actual, restoring=without(actual.restoring, name))
    goal = actual.goals.get(name)
    if isinstance(goal, Run):  # its successor takes its place all the same, also where no other poll comes
        then = goal if goal.origin == "group" and goal.record != entry.record else None
    else:
        then = None if goal is None else goal.then
    return replace(actual, goals=actual.goals | {name: Stop(name, "manual", then)})


def stopping(signed: Mapping[str, Collection[KeyId]], root: RootRecord) -> tuple[str, ...]:
    """Of what a peer without an agent runs, the names to take out of memory. ``signed``: the keys under which each was
    verified, one a model of a pipeline and its own.
    """
    stopped = {keyid for keyid, gone in root.revoked.items() if gone.running == "stop"}
    return tuple(name for name, keyids in signed.items() if not stopped.isdisjoint(keyids))


def check_offer(key: bytes, proof: bytes, *, member: Member, root: RootRecord) -> None:
    """A publisher's new key may wait for the root record. Raises :class:`BadProof` and :class:`BadKeyChange`."""
    if not signed_by(key, offer_claim(root.federation, member.uuid, key), proof):
        raise BadProof("the offered key was not proven: its owner must sign the offer with it")
    if keyid_of(key) != active_key(root, member.name):
        _fresh(root, key, member.name)


def offer_claim(federation: str, uuid: PeerId, key: bytes) -> bytes:
    """What a new key signs to show that its offerer has it."""
    return pae(OFFER_TYPE, f"{federation} {uuid} ".encode() + key)


def public_key(text: str) -> bytes:
    """The 32 bytes of a public key in hexadecimal. Raises :class:`BadKeyChange`."""
    try:
        public = bytes.fromhex(text)
    except ValueError:
        public = b""
    if len(public) != PUBLIC_BYTES:
        raise BadKeyChange(f"expected a public key as 64 hexadecimal digits, found {text[:80]!r}")
    return public
