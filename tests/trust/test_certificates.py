"""Certificates: what the authority issues, and how a peer reads them without it."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from federation.certificate_reading import (
    CERTIFICATE_BYTES_MAX,
    PeerCertificate,
    check_issued,
    issued_by,
    read_pem,
    spiffe_id,
)
from federation.certificates import issue, make_authority
from federation.errors import BadCertificate, ForeignCertificate
from federation.names import PeerId
from tests.trust.material import AUTHORITY, DAY, EDGE, FEDERATION, NOW, STRANGER, key

CA = make_authority(FEDERATION, AUTHORITY, now=NOW)
FOREIGN_CA = make_authority(FEDERATION, STRANGER, now=NOW)
OWN = key(100)


def certificate(**fields: Any) -> str:
    given: dict[str, Any] = {
        "ca_pem": CA,
        "ca_key": AUTHORITY,
        "subject_key": OWN.public,
        "federation": FEDERATION,
        "kind": "edge",
        "uuid": EDGE,
        "now": NOW,
        **fields,
    }
    return issue(**given)


def test_a_certificate_says_who_and_how_long() -> None:
    assert read_pem(certificate()) == PeerCertificate(
        FEDERATION, "edge", EDGE, not_before=NOW - 2 * DAY, not_after=NOW + 30 * DAY, key=OWN.public
    )
    for kind in ("edge", "nameserver", "client"):
        assert read_pem(certificate(kind=kind)).kind == kind


def test_the_nameservers_has_its_names() -> None:
    made = x509.load_pem_x509_certificate(
        certificate(kind="nameserver", dns=["ns.example"], ips=["127.0.0.1", "::1"]).encode()
    )
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://fed-1/nameserver/{EDGE}"]
    assert names.get_values_for_type(x509.DNSName) == ["nameserver.peerage.internal", "ns.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    edge = x509.load_pem_x509_certificate(certificate().encode())
    of_edge = edge.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert of_edge.get_values_for_type(x509.DNSName) == []


def test_a_certificate_never_carries_a_private_key() -> None:
    for text in (CA, certificate()):
        der = ssl.PEM_cert_to_DER_cert(text)
        assert AUTHORITY.seed not in der
        assert OWN.seed not in der


@pytest.mark.parametrize("part", ["", "a b", "a/b", "ä", "x" * 129, "../x"])
def test_what_cannot_be_in_an_id_is_refused(part: str) -> None:
    with pytest.raises(BadCertificate):
        spiffe_id(part, "edge", EDGE)
    with pytest.raises(BadCertificate):
        certificate(uuid=PeerId(part))


def test_an_authority_issues_with_its_own_key() -> None:
    with pytest.raises(BadCertificate, match="not of the authority's key"):
        certificate(ca_key=STRANGER)


# --- issued by ------------------------------------------------------------------------------------------------------


def test_a_peer_knows_its_authority_before_it_dials() -> None:
    assert issued_by(certificate(), CA)
    assert issued_by(CA, CA)
    assert check_issued(certificate(), CA).uuid == EDGE
    foreign = certificate(ca_pem=FOREIGN_CA, ca_key=STRANGER)
    assert not issued_by(foreign, CA)
    assert not issued_by(certificate(), certificate())
    with pytest.raises(ForeignCertificate, match="issued by another authority") as caught:
        check_issued(foreign, CA)
    assert "join again" in str(caught.value.hint)


def test_an_authority_of_the_same_name_is_another() -> None:
    """The federations' names are equal; the keys are what differs."""
    other = make_authority("fed-2", AUTHORITY, now=NOW)
    assert not issued_by(certificate(), FOREIGN_CA)
    assert not issued_by(certificate(), other)


def test_every_byte_of_a_certificate_counts() -> None:
    genuine = ssl.PEM_cert_to_DER_cert(certificate())
    for at in range(len(genuine)):
        for flip in (0x01, 0x80, 0xFF):
            der = bytearray(genuine)
            der[at] ^= flip
            altered = ssl.DER_cert_to_PEM_cert(bytes(der))
            with contextlib.suppress(BadCertificate):
                assert not issued_by(altered, CA), (at, flip)
            with contextlib.suppress(BadCertificate):
                read_pem(altered)


@given(cut=st.integers(0, 300), tail=st.binary(max_size=20))
def test_a_cut_or_continued_certificate_is_named(cut: int, tail: bytes) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificate())
    for other in (der[:cut] + tail, der + (tail or b"\0")):
        with pytest.raises(BadCertificate):
            read_pem(ssl.DER_cert_to_PEM_cert(other))


@given(raw=st.binary(max_size=400))
def test_random_bytes_are_no_certificate(raw: bytes) -> None:
    with pytest.raises(BadCertificate):
        read_pem(ssl.DER_cert_to_PEM_cert(raw))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        AUTHORITY.pem,
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----",
        ssl.DER_cert_to_PEM_cert(b"\x30\x80" + bytes(100)),
        ssl.DER_cert_to_PEM_cert(b"\x30" * 1000),
        ssl.DER_cert_to_PEM_cert(b"\x30\x83\x00\x50\x00" + bytes(20 * 1024)),
        ssl.DER_cert_to_PEM_cert(bytes(5 * CERTIFICATE_BYTES_MAX)),
    ],
)
def test_what_is_no_certificate_is_named(text: str) -> None:
    with pytest.raises(BadCertificate):
        read_pem(text)


def test_another_algorithm_is_refused() -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    template = x509.load_pem_x509_certificate(certificate().encode())
    made = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.subject)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .sign(own, hashes.SHA256())
    )
    text = made.public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(BadCertificate, match="another algorithm than Ed25519"):
        read_pem(text)
    with pytest.raises(BadCertificate):
        issued_by(certificate(), text)


def test_a_certificate_without_an_id_is_refused() -> None:
    with pytest.raises(BadCertificate, match="found none"):
        read_pem(CA)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"subjectAltName": (("URI", f"spiffe://{FEDERATION}/edge/{EDGE}"),)},
        {"subjectAltName": 5, "notBefore": "x", "notAfter": "y"},
        {
            "subjectAltName": (("URI", f"spiffe://{FEDERATION}/edge/{EDGE}"), ("URI", "spiffe://x/edge/1")),
            "notBefore": "Jan  1 00:00:00 2026 GMT",
            "notAfter": "Jan  1 00:00:00 2027 GMT",
        },
        {
            "subjectAltName": (("DNS", f"spiffe://{FEDERATION}/edge/{EDGE}"),),
            "notBefore": "Jan  1 00:00:00 2026 GMT",
            "notAfter": "Jan  1 00:00:00 2027 GMT",
        },
    ],
)
def test_what_tls_has_not_proven_is_refused(shown: dict[str, Any]) -> None:
    with pytest.raises(BadCertificate):
        PeerCertificate.from_peercert(shown)


def test_times_after_2049_are_read() -> None:
    late = read_pem(certificate(valid_days=365 * 40))
    assert late.not_after == NOW + 365 * 40 * DAY


def test_an_edge_reads_certificates_and_speaks_tls_without_cryptography() -> None:
    """What an edge process imports of trust is light."""
    program = (
        "import sys, federation.certificate_reading, federation.tls, federation.admission, federation.verification,"
        " federation.envelopes, federation.bundles, federation.roots;"
        "heavy = {'cryptography', 'aiohttp', 'sqlite_utils', 'numpy', 'oras', 'onnxruntime', 'zeroconf', 'lark'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
