"""What is carried by file between a nameserver and a device without a network: the documents, and what must hold.

    export      contents (a listing), all root records, the answer to a poll, the signed records of further releases
    report      an edge's actual state and history, signed with its identity key, under a number that only grows

Owns the form of both and the fingerprint by which a person ties a device to a federation. Pure. Refuses a report that
another key signed, that is older than what is known, or that passes a bound.

Rules: an export carries the very bytes that a poll would be answered with, so that generation and window never fork;
nothing of its listing is evidence. A fingerprint is typed from what the nameserver's side shows, never shown from the
file: :func:`pinned` says only whether it fits. ``sequence`` of a report begins at the time of its making, so that a
device that lost its number goes on above it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from federation.documents import (
    DOCUMENT_BYTES_MAX,
    REPORT_BYTES_MAX,
    ActualState,
    SignedDocument,
    decode,
    encode,
)
from federation.errors import Fork, Replay, UnknownKey, WrongDocument, WrongRecipient, WrongRoot
from federation.keys import PUBLIC_BYTES, PrivateKey, keyid_of
from federation.names import Digest, PeerId, digest_of
from federation.signing import sign, verified
from query.errors import UserProblem

CARRIED_TYPE: Final = "application/vnd.peerage.carried-report.v1+json"
LOG_LINES_MAX: Final = 2_000
LOG_BYTES_MAX: Final = 1024 * 1024
FINGERPRINT_DIGITS_MIN: Final = 32  # 128 bits: nobody makes a root record that fits
_GROUP: Final = 4  # digits between two spaces of a fingerprint


class BadFingerprint(UserProblem):
    """What was typed is no fingerprint."""

    code = "bad_fingerprint"


class CarriedContents(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first part of an export: for whom it is, and the digests of its documents. Every word is held against what is
    signed.
    """

    form: int
    federation: str
    edge: PeerId
    name: str
    etag: str
    answer: Digest
    roots: Digest
    releases: Digest


class CarriedReport(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device signs. ``key`` is its public key, for a nameserver that has not heard of it."""

    federation: str
    edge: PeerId
    name: str
    sequence: Annotated[int, Meta(ge=1)]
    key: bytes
    actual: ActualState
    log: tuple[str, ...] = ()


class Carried(Struct, frozen=True):
    """What is known of an edge's last carried report; ``taken``: when it was, in federation time."""

    sequence: int
    digest: Digest
    taken: float = 0.0


# --- fingerprints ---------------------------------------------------------------------------------------------------


def fingerprint(root: SignedDocument) -> str:
    """Of a root record, for people: the digest of its payload in groups of four digits."""
    digits = digest_of(root.payload).removeprefix("sha256:")
    return " ".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))


def typed_fingerprint(text: str) -> str:
    """The digits of what a person typed. Raises :class:`BadFingerprint`."""
    digits = re.sub(r"[\s:-]", "", text.strip().casefold().removeprefix("sha256:"))
    if not re.fullmatch(r"[0-9a-f]*", digits) or not FINGERPRINT_DIGITS_MIN <= len(digits) <= 64:
        raise BadFingerprint(
            f"expected {FINGERPRINT_DIGITS_MIN} to 64 hexadecimal digits, found {len(digits)} characters",
            hint='the nameserver\'s side shows it: "peerage keys show" in the admin\'s home, or "peerage export"',
        )
    return digits


def pinned(roots: Sequence[SignedDocument], typed: str) -> Digest:
    """The digest of the root record that a typed fingerprint names. Raises :class:`WrongRoot`, which does not tell what
    would have fitted.
    """
    digits = typed_fingerprint(typed)
    for root in roots:
        digest = digest_of(root.payload)
        if digest.removeprefix("sha256:").startswith(digits):
            return digest
    raise WrongRoot(
        f"none of the file's {len(roots)} root records has the fingerprint that was typed",
        hint="type what the nameserver's own side shows (peerage keys show --home ns-admin); if it was typed right, "
        "this file is of another federation or was tampered with",
    )


# --- reports --------------------------------------------------------------------------------------------------------


def seal_report(report: CarriedReport, key: PrivateKey) -> SignedDocument:
    """Signed, within :data:`DOCUMENT_BYTES_MAX`: the oldest lines of the log go first."""
    log = report.log[-LOG_LINES_MAX:]
    while sum(len(line.encode()) for line in log) > LOG_BYTES_MAX:
        log = log[len(log) // 8 + 1 :]
    return sign(encode(msgspec.structs.replace(report, log=log)), CARRIED_TYPE, key)


def claimed(doc: SignedDocument) -> CarriedReport:
    """What an unverified report says of itself: for the choice of the key alone."""
    return _read(doc.payload)


def verify_report(
    doc: SignedDocument, *, federation: str, edge: PeerId, key: bytes, last: Carried | None, newest: int
) -> CarriedReport | None:
    """What an edge says, in a report signed with ``key``; None for the very report that was taken last.

    ``newest`` is when the newest report was made that the edge told by itself since ``last``: numbers order what is
    carried, also when the device's clock was put back in between. Raises the classes of
    :func:`federation.signing.verified`, :class:`WrongRecipient`, :class:`Replay` and :class:`Fork`.
    """
    report = _read(verified(doc, CARRIED_TYPE, {keyid_of(key): key}))
    if report.federation != federation:
        raise WrongRecipient(f"expected a report to federation {federation}, found {report.federation[:64]}")
    if report.edge != edge or report.actual.edge != edge:
        raise WrongRecipient(f"expected a report of edge {edge}, found {report.edge[:64]}")
    if report.key != key:
        raise UnknownKey("the report names another key than the one that signed it")
    if last is not None and report.sequence <= last.sequence:
        same = digest_of(doc.payload) == last.digest
        if same and report.sequence == last.sequence:
            return None
        if report.sequence == last.sequence:
            raise Fork(f"two reports under number {report.sequence}: {last.digest} and {digest_of(doc.payload)}")
        raise Replay(f"expected a report after number {last.sequence}, found {report.sequence}")
    if report.actual.reported < newest:
        raise Replay(
            f"the report is {newest - report.actual.reported} s older than what the edge has told since",
            hint="the edge reports by itself again, or a newer file came before this one",
        )
    return report


def check_typed_key(key: bytes, typed: str) -> None:
    """That a report's key is the one whose id a person has compared. Raises :class:`UnknownKey`."""
    digits = re.sub(r"[\s:-]", "", typed.casefold())
    if len(digits) < FINGERPRINT_DIGITS_MIN or not keyid_of(key).startswith(digits):
        raise UnknownKey(
            f"the report is not signed with a key whose id begins with {typed[:80]!r} "
            f"(at least {FINGERPRINT_DIGITS_MIN} digits)",
            hint='the device shows its id: "peerage keys show" there, the line "identity"',
        )


def _read(payload: bytes) -> CarriedReport:
    try:
        report = decode(payload, CarriedReport)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected the report of an edge: {error}") from error
    if len(report.key) != PUBLIC_BYTES or len(report.log) > LOG_LINES_MAX:
        raise WrongDocument(f"a report with a key of {len(report.key)} bytes and {len(report.log)} lines of log")
    if len(encode(report.actual)) > REPORT_BYTES_MAX:
        raise WrongDocument(f"an actual state of more than {REPORT_BYTES_MAX} bytes in a carried report")
    return report


def read_signed(raw: bytes) -> SignedDocument:
    """A report's file. Raises :class:`WrongDocument`."""
    try:
        return decode(raw[: DOCUMENT_BYTES_MAX + 1], SignedDocument)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a signed report as an edge exports it: {error}") from error
