"""Introductions: what two members need to speak without the nameserver between, and for how long."""

from __future__ import annotations

import msgspec
import pytest

from federation.admission import admit_neighbour
from federation.certificate_reading import PeerCertificate
from federation.documents import CREDENTIAL_TYPE, Credential, decode, encode
from federation.envelopes import CLOCK_SKEW_S, NonceMemory, check, seal
from federation.errors import (
    CertificateExpired,
    EnvelopeExpired,
    NoCertificate,
    UnknownKey,
    UnknownPeer,
    WrongDocument,
    WrongFederation,
    WrongRole,
)
from federation.introductions import INTRODUCTION_LIFETIME_S, Introduction, checked, introduce
from federation.members import Member
from federation.names import PeerId
from federation.signing import sign
from query.declarations import Caller, Role
from tests.trust.material import DIRECTOR, EDGE, FEDERATION, NOW, OTHER_EDGE, ROOT_RECORD, STRANGER, key, member

ANNS_KEY = key(102)
ANN = member(
    uuid=PeerId("33333333-3333-4333-8333-333333333333"), name="Ann", kind="client", role="admin", key=ANNS_KEY.public
)
PRESS = member(uuid=EDGE, name="press", key=key(100).public)
LATHE = member(uuid=OTHER_EDGE, name="lathe", key=key(101).public)


def introduced(caller: Member = ANN, peer: Member = PRESS) -> Introduction:
    return introduce(caller, peer, director=DIRECTOR, federation=FEDERATION, now=NOW)


def believed(introduction: Introduction, *, caller: str = ANN.uuid, now: float = NOW) -> object:
    return checked(introduction, caller=caller, root=ROOT_RECORD, federation=FEDERATION, now=now)


def test_an_introduction_is_the_directors_word_on_both() -> None:
    found = checked(introduced(), caller=ANN.uuid, root=ROOT_RECORD, federation=FEDERATION, now=NOW)
    assert (found.own.name, found.own.role, found.own.key) == ("Ann", "admin", ANNS_KEY.public)
    assert (found.peer.uuid, found.peer.name, found.peer.key) == (EDGE, "press", PRESS.key)
    assert found.own.expires - found.own.issued == INTRODUCTION_LIFETIME_S


def test_an_edge_asks_others_as_a_viewer() -> None:
    strong = msgspec.structs.replace(LATHE, role="admin")
    found = checked(introduced(strong), caller=LATHE.uuid, root=ROOT_RECORD, federation=FEDERATION, now=NOW)
    assert found.own.role == "viewer"


def test_it_is_used_up_to_its_end_less_what_clocks_differ_and_renewed_half_way() -> None:
    found = checked(introduced(), caller=ANN.uuid, root=ROOT_RECORD, federation=FEDERATION, now=NOW)
    end = NOW + INTRODUCTION_LIFETIME_S
    assert found.holds(end - CLOCK_SKEW_S - 1)
    assert not found.holds(end - CLOCK_SKEW_S)
    assert not found.due(NOW + INTRODUCTION_LIFETIME_S / 2 - 1)
    assert found.due(NOW + INTRODUCTION_LIFETIME_S / 2)


def test_who_is_asked_refuses_it_once_it_has_ended() -> None:
    """So a member that was removed, whom this peer does not know to be, is shut out by then."""
    body = b'{"text":"models:unload(\\"m\\")"}'
    last = NOW + INTRODUCTION_LIFETIME_S + CLOCK_SKEW_S

    def run(now: float) -> Caller:
        envelope = seal(body, key=ANNS_KEY, federation=FEDERATION, caller=ANN.uuid, now=now, lifetime_s=30.0)
        return check(
            envelope,
            introduced().own,
            body,
            root=ROOT_RECORD,
            federation=FEDERATION,
            now=now,
            nonces=NonceMemory(),
        )

    assert run(last - 1).role is Role.ADMIN
    with pytest.raises(EnvelopeExpired, match='the credential of "Ann" is not valid now'):
        run(last)


def test_only_an_edge_that_joined_is_introduced() -> None:
    with pytest.raises(WrongRole, match='"Ann" is a client: only edges are asked directly'):
        introduced(PRESS, ANN)
    with pytest.raises(UnknownPeer, match='"press" has not joined yet'):
        introduced(ANN, msgspec.structs.replace(PRESS, key=None))


def test_what_is_not_the_directors_word_on_this_peer_is_not_believed() -> None:
    with pytest.raises(UnknownPeer, match='an introduction of "Ann"'):
        believed(introduced(), caller=LATHE.uuid)
    with pytest.raises(EnvelopeExpired):
        believed(introduced(), now=NOW + INTRODUCTION_LIFETIME_S + CLOCK_SKEW_S)
    with pytest.raises(UnknownKey):
        believed(introduce(ANN, PRESS, director=STRANGER, federation=FEDERATION, now=NOW))
    with pytest.raises(WrongFederation):
        believed(introduce(ANN, PRESS, director=DIRECTOR, federation="fed-2", now=NOW))
    other = introduced()
    garbage = sign(b"{}", CREDENTIAL_TYPE, DIRECTOR)
    with pytest.raises(WrongDocument):
        believed(Introduction(other.own, garbage))


def test_it_travels_as_json() -> None:
    made = introduced()
    assert decode(encode(made), Introduction) == made
    assert decode(made.peer.payload, Credential).name == "press"


CERTIFICATE = PeerCertificate(FEDERATION, "client", ANN.uuid, NOW - 10, NOW + 10)


def test_a_neighbour_shows_a_certificate_of_the_federation_that_has_not_expired() -> None:
    assert admit_neighbour(CERTIFICATE, federation=FEDERATION, now=NOW) is CERTIFICATE
    with pytest.raises(NoCertificate):
        admit_neighbour(None, federation=FEDERATION, now=NOW)
    with pytest.raises(WrongFederation):
        admit_neighbour(CERTIFICATE, federation="fed-2", now=NOW)
    with pytest.raises(CertificateExpired):
        admit_neighbour(CERTIFICATE, federation=FEDERATION, now=NOW + 10)
