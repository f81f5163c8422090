"""Reading certificates of peers with the standard library alone: an edge checks its own before it dials.

Owns the reading of the SPIFFE id ``spiffe://FEDERATION/KIND/UUID``, and a bounded DER reader that knows just enough
of RFC 5280: one level of nesting at a time, definite lengths, inputs of at most CERTIFICATE_BYTES_MAX. Refuses what
is not Ed25519.

Rules: :meth:`PeerCertificate.from_peercert` is for what TLS has proven. :func:`read_pem` proves nothing;
:func:`issued_by` checks one signature and no times, and that is enough for a peer to say that its certificate is not
of the CA in its home.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, cast, get_args

from federation.documents import Kind
from federation.errors import BadCertificate, ForeignCertificate
from federation.keys import PUBLIC_BYTES, SIGNATURE_BYTES, signed_by
from federation.names import PeerId

CERTIFICATE_BYTES_MAX: Final = 16 * 1024
_FEDERATION: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_SPIFFE: Final = re.compile(
    rf"spiffe://(?P<federation>{_FEDERATION})/(?P<kind>{'|'.join(get_args(Kind))})/(?P<uuid>[A-Za-z0-9-]{{1,64}})"
)
_PEM: Final = re.compile(r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_ED25519: Final = bytes.fromhex("06032b6570")  # 1.3.101.112
_SUBJECT_ALTERNATIVE_NAME: Final = bytes.fromhex("0603551d11")  # 2.5.29.17
_SEQUENCE, _BIT_STRING, _OCTET_STRING, _BOOLEAN = 0x30, 0x03, 0x04, 0x01
_UTC_TIME, _GENERALIZED_TIME, _URI, _VERSION, _EXTENSIONS = 0x17, 0x18, 0x86, 0xA0, 0xA3


def spiffe_id(federation: str, kind: Kind, uuid: PeerId) -> str:
    """Raises :class:`BadCertificate` for parts that such an id cannot carry."""
    uri = f"spiffe://{federation}/{kind}/{uuid}"
    if not _SPIFFE.fullmatch(uri):
        raise BadCertificate(f"{uri[:200]!r} cannot name a peer: expected spiffe://FEDERATION/KIND/UUID")
    return uri


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a peer's certificate says. Times are seconds since the epoch; ``key`` is None where TLS did not tell it."""

    federation: str
    kind: Kind
    uuid: PeerId
    not_before: float
    not_after: float
    key: bytes | None = None

    @classmethod
    def from_peercert(cls, shown: Mapping[str, Any]) -> Self:
        """From ``getpeercert()``, which is empty unless the chain was verified. Raises :class:`BadCertificate`."""
        try:
            uris = [value for kind, value in shown.get("subjectAltName", ()) if kind == "URI"]
            return cls._of(
                uris,
                not_before=float(ssl.cert_time_to_seconds(shown["notBefore"])),
                not_after=float(ssl.cert_time_to_seconds(shown["notAfter"])),
                key=None,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise BadCertificate(f"expected a verified certificate: {error!r}") from error

    @classmethod
    def _of(cls, uris: list[str], *, not_before: float, not_after: float, key: bytes | None) -> Self:
        matches = [match for match in map(_SPIFFE.fullmatch, uris) if match]
        if len(uris) != 1 or not matches:
            found = ", ".join(uris)[:200] or "none"
            raise BadCertificate(f"expected one id spiffe://FEDERATION/KIND/UUID in a certificate, found {found}")
        match = matches[0]
        return cls(match["federation"], cast("Kind", match["kind"]), PeerId(match["uuid"]), not_before, not_after, key)


def read_pem(cert_pem: str) -> PeerCertificate:
    """What the first certificate in a PEM says, key included, unproven. Raises :class:`BadCertificate`."""
    parts = _parts(cert_pem)
    try:
        uris = list(_uris(parts.extensions))
    except (ValueError, IndexError) as error:
        raise BadCertificate(f"expected the extensions of a certificate: {error}") from error
    return PeerCertificate._of(uris, not_before=parts.not_before, not_after=parts.not_after, key=parts.key)


def public_key(cert_pem: str) -> bytes:
    """The key that a certificate is for, also an authority's. Raises :class:`BadCertificate`."""
    return _parts(cert_pem).key


def issued_by(cert_pem: str, ca_pem: str) -> bool:
    """Whether the key of the certificate ``ca_pem`` signed ``cert_pem`` and is named its issuer. No times are checked.

    Raises :class:`BadCertificate` when either is not an Ed25519 certificate.
    """
    certificate, authority = _parts(cert_pem), _parts(ca_pem)
    return certificate.issuer == authority.subject and signed_by(
        authority.key, certificate.signed, certificate.signature
    )


def check_issued(cert_pem: str, ca_pem: str) -> PeerCertificate:
    """The certificate, when it is of this authority; :class:`ForeignCertificate` before anything is dialled
    otherwise.
    """
    if not issued_by(cert_pem, ca_pem):
        raise ForeignCertificate(
            "this home's certificate was issued by another authority than the CA beside it",
            hint="identity.crt and ca.crt are of two federations: join again with a new bundle, in a new home",
        )
    return read_pem(cert_pem)


# --- DER ------------------------------------------------------------------------------------------------------------


class _Element(NamedTuple):
    tag: int
    whole: bytes
    content: bytes


class _Parts(NamedTuple):
    signed: bytes
    signature: bytes
    issuer: bytes
    subject: bytes
    not_before: float
    not_after: float
    key: bytes
    extensions: bytes


def _parts(pem: str) -> _Parts:
    match = _PEM.match(pem[: 4 * CERTIFICATE_BYTES_MAX])
    if match is None:
        raise BadCertificate("expected the PEM of a certificate, found something else")
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True)
        if len(der) > CERTIFICATE_BYTES_MAX:
            raise ValueError(f"{len(der)} bytes, expected at most {CERTIFICATE_BYTES_MAX}")
        return _certificate(der)
    except (ValueError, IndexError, binascii.Error) as error:
        raise BadCertificate(f"expected an Ed25519 certificate: {error}") from error


def _certificate(der: bytes) -> _Parts:
    outer = _elements(der)
    if len(outer) != 1:
        raise ValueError("bytes after the certificate")
    signed, algorithm, signature = _sequence(outer[0])
    fields = _sequence(signed)
    if fields[0].tag == _VERSION:
        fields = fields[1:]
    _serial, algorithm_again, issuer, validity, subject, public, *rest = fields
    for named in (algorithm, algorithm_again):
        if named.tag != _SEQUENCE or named.content != _ED25519:
            raise ValueError("signed with another algorithm than Ed25519")
    key_algorithm, key = _sequence(public)
    if key_algorithm.content != _ED25519:
        raise ValueError("a key of another algorithm than Ed25519")
    starts, ends = _sequence(validity)
    return _Parts(
        signed=signed.whole,
        signature=_bits(signature, SIGNATURE_BYTES),
        issuer=issuer.whole,
        subject=subject.whole,
        not_before=_seconds(starts),
        not_after=_seconds(ends),
        key=_bits(key, PUBLIC_BYTES),
        extensions=next((element.content for element in rest if element.tag == _EXTENSIONS), b""),
    )


def _uris(extensions: bytes) -> Iterator[str]:
    for holder in _elements(extensions):
        for extension in _sequence(holder):
            name, *flags, value = _sequence(extension)
            if name.whole != _SUBJECT_ALTERNATIVE_NAME:
                continue
            if value.tag != _OCTET_STRING or any(flag.tag != _BOOLEAN for flag in flags):
                raise ValueError("found something else")
            for names in _elements(value.content):
                for entry in _sequence(names):
                    if entry.tag == _URI:
                        yield entry.content.decode("ascii", "replace")


def _elements(der: bytes) -> list[_Element]:
    """The elements that ``der`` is a row of. Raises ValueError or IndexError on anything else."""
    found = []
    at = 0
    while at < len(der):
        tag, length, start = der[at], der[at + 1], at + 2
        if tag & 0x1F == 0x1F:
            raise ValueError("a tag of several bytes")
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 3:
                raise ValueError("a length that is indefinite or too long")
            length = int.from_bytes(der[start : start + count], "big")
            start += count
        end = start + length
        if end > len(der):
            raise ValueError("cut off")
        found.append(_Element(tag, der[at:end], der[start:end]))
        at = end
    return found


def _sequence(element: _Element) -> list[_Element]:
    if element.tag != _SEQUENCE:
        raise ValueError(f"expected a sequence, found tag {element.tag:#04x}")
    return _elements(element.content)


def _bits(element: _Element, size_bytes: int) -> bytes:
    if element.tag != _BIT_STRING or len(element.content) != size_bytes + 1 or element.content[0] != 0:
        raise ValueError(f"expected {size_bytes} bytes as a bit string")
    return element.content[1:]


def _seconds(element: _Element) -> float:
    """RFC 5280: UTCTime to 2049, GeneralizedTime after, both with seconds and Z."""
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME and re.fullmatch(r"\d{12}Z", text):
        text = ("20" if int(text[:2]) < 50 else "19") + text
    elif element.tag != _GENERALIZED_TIME or not re.fullmatch(r"\d{14}Z", text):
        raise ValueError("expected a time")
    year, month, day, hour, minute, second = (
        int(text[start:end]) for start, end in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14))
    )
    return float(calendar.timegm((year, month, day, hour, minute, second)))
