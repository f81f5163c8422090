"""Issuing X.509 certificates: the nameserver as the federation's authority. The only module that imports cryptography.

A certificate only carries a key to TLS: Ed25519, 30 days, back-dated 48 h against slow clocks. Its SPIFFE id, a URI
in the subject alternative name, is ``spiffe://FEDERATION/KIND/UUID``; never a name, so that a name given again is
another identity. The nameserver's own also has the DNS name ``nameserver.peerage.internal`` and what it is configured
with.

Refuses to issue under an authority whose key it was not given.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.certificate_reading import spiffe_id
from federation.documents import Kind
from federation.errors import BadCertificate
from federation.keys import PrivateKey
from federation.names import PeerId
from federation.tls import NAMESERVER_HOSTNAME

VALID_DAYS: Final = 30
BACKDATE_H: Final = 48
AUTHORITY_DAYS: Final = 20 * 365
_COMMON_NAME_LENGTH_MAX: Final = 64  # X.520


def make_authority(federation: str, key: PrivateKey, *, now: float, backdate_h: int = BACKDATE_H) -> str:
    """The self-signed CA certificate of a federation, PEM."""
    public = Ed25519PublicKey.from_public_bytes(key.public)
    name = _name(f"peerage {federation}")
    key_id = x509.SubjectKeyIdentifier.from_public_key(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - backdate_h * 3600))
        .not_valid_after(_moment(now + AUTHORITY_DAYS * 86400))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
    )
    return _pem(builder.sign(_private(key), algorithm=None))


def issue(
    *,
    ca_pem: str,
    ca_key: PrivateKey,
    subject_key: bytes,
    federation: str,
    kind: Kind,
    uuid: PeerId,
    now: float,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    valid_days: float = VALID_DAYS,
    backdate_h: float = BACKDATE_H,
) -> str:
    """A certificate for a member's key (32 bytes), for both ends of TLS, PEM. ``dns`` and ``ips``: further names of a
    nameserver.
    """
    authority = x509.load_pem_x509_certificate(ca_pem.encode("ascii"))
    authority_key = authority.public_key()
    if not isinstance(authority_key, Ed25519PublicKey) or authority_key.public_bytes_raw() != ca_key.public:
        raise BadCertificate("the authority's certificate is not of the authority's key")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(federation, kind, uuid))]
    if kind == "nameserver":
        names.append(x509.DNSName(NAMESERVER_HOSTNAME))
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ips]
    public = Ed25519PublicKey.from_public_bytes(subject_key)
    authority_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(uuid))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - backdate_h * 3600))
        .not_valid_after(_moment(now + valid_days * 86400))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
    )
    return _pem(builder.sign(_private(ca_key), algorithm=None))


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: PrivateKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.seed)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_COMMON_NAME_LENGTH_MAX])])


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
