"""Who may call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.admission import Purpose, admit, require_role
from federation.certificate_reading import PeerCertificate
from federation.errors import (
    CertificateExpired,
    NoCertificate,
    Refused,
    RemovedPeer,
    UnknownPeer,
    WrongFederation,
    WrongKey,
    WrongRole,
)
from federation.members import Member
from tests.trust.material import DAY, EDGE, FEDERATION, NOW, OTHER_EDGE, STRANGER, Roster, member

CERTIFICATE = PeerCertificate(FEDERATION, "edge", EDGE, not_before=NOW - 2 * DAY, not_after=NOW + 30 * DAY)
ROSTER = Roster((member(),))


@pytest.mark.parametrize("purpose", Purpose)
def test_a_member_is_admitted(purpose: Purpose) -> None:
    assert admit(CERTIFICATE, ROSTER, now=NOW, purpose=purpose) == member()
    with_key = replace(CERTIFICATE, key=member().key)
    assert admit(with_key, ROSTER, now=NOW, purpose=purpose) == member()


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize(
    ("certificate", "known", "expected", "message"),
    [
        (None, member(), NoCertificate, "found none"),
        (replace(CERTIFICATE, federation="fed-2"), member(), WrongFederation, "fed-1, found one of fed-2"),
        (replace(CERTIFICATE, uuid=OTHER_EDGE), member(), UnknownPeer, f"no edge with id {OTHER_EDGE}"),
        (CERTIFICATE, member(removed=True), RemovedPeer, '"Edge-1" was removed'),
        (CERTIFICATE, member(key=None, joined=None), UnknownPeer, "is no edge that has joined"),
        (replace(CERTIFICATE, kind="nameserver"), member(), UnknownPeer, "is no nameserver"),
        (replace(CERTIFICATE, key=STRANGER.public), member(), WrongKey, "another key"),
    ],
)
def test_each_refusal_has_its_class(
    certificate: PeerCertificate | None, known: Member, expected: type[Refused], message: str, purpose: Purpose
) -> None:
    with pytest.raises(expected, match=message):
        admit(certificate, Roster((known,)), now=NOW, purpose=purpose)


def test_an_expired_certificate_renews_and_does_nothing_else() -> None:
    for late in (CERTIFICATE.not_after, CERTIFICATE.not_after + 1000 * DAY):
        assert admit(CERTIFICATE, ROSTER, now=late, purpose=Purpose.RENEW) == member()
        with pytest.raises(CertificateExpired, match='"Edge-1" expired'):
            admit(CERTIFICATE, ROSTER, now=late)
    assert admit(CERTIFICATE, ROSTER, now=CERTIFICATE.not_after - 0.001) == member()


def test_a_removed_peer_does_not_renew_its_expired_certificate() -> None:
    with pytest.raises(RemovedPeer):
        admit(CERTIFICATE, Roster((member(removed=True),)), now=NOW + 99 * DAY, purpose=Purpose.RENEW)


def test_a_name_registered_again_is_another_identity() -> None:
    again = member(uuid=OTHER_EDGE)
    with pytest.raises(RemovedPeer):
        admit(CERTIFICATE, Roster((member(removed=True), again)), now=NOW)


def test_a_certificate_from_a_clock_ahead_is_admitted() -> None:
    assert admit(CERTIFICATE, ROSTER, now=CERTIFICATE.not_before - DAY) == member()


def test_a_higher_role_includes_the_lower_ones() -> None:
    for role in ("viewer", "operator"):
        require_role(member(role="operator"), role, to="look")
    with pytest.raises(WrongRole, match='"Edge-1" may not push a release: expected role operator, found viewer'):
        require_role(member(), "operator", to="push a release")


def test_codes_are_the_classes_of_a_403() -> None:
    refusals = Refused.__subclasses__()
    codes = {refusal.code for refusal in refusals}
    assert len(codes) == len(refusals)
    assert {"no_certificate", "wrong_federation", "unknown_peer", "removed", "certificate_expired"} <= codes
