"""Who may call: one pure decision over the certificate that TLS proved and the roster of now.

Refuses, each with its class: no certificate, another federation's, an unknown, removed or never joined peer, a key
that is not the roster's, an expired certificate. Rules: it is asked on every request, so a removal holds at once.
Expiry alone does not shut a peer out: it may still renew, and nothing else. A certificate that starts later than now
is admitted: clocks differ, and the nameserver itself issued it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from federation.documents import RoleName
from federation.errors import (
    CertificateExpired,
    NoCertificate,
    RemovedPeer,
    UnknownPeer,
    WrongFederation,
    WrongKey,
    WrongRole,
)
from federation.names import PeerId

if TYPE_CHECKING:
    from federation.certificate_reading import PeerCertificate
    from federation.members import Member

_RANK: dict[RoleName, int] = {"viewer": 1, "operator": 2, "admin": 3}


class Purpose(enum.Enum):
    ORDINARY = "ordinary"
    RENEW = "renew"


class Roster(Protocol):
    """Who belongs to the federation, as far as admission asks."""

    @property
    def federation(self) -> str: ...

    def member(self, uuid: PeerId) -> Member | None: ...


def admit(
    certificate: PeerCertificate | None, roster: Roster, *, now: float, purpose: Purpose = Purpose.ORDINARY
) -> Member:
    """The member that calls, or the class of the refusal. ``certificate`` is what TLS has proven; ``now`` is
    federation time.
    """
    if certificate is None:
        raise NoCertificate(
            "expected a certificate of this federation, found none", hint="join first: peerage join with a bundle"
        )
    if certificate.federation != roster.federation:
        raise WrongFederation(
            f"expected a certificate of federation {roster.federation}, found one of {certificate.federation[:64]}"
        )
    member = roster.member(certificate.uuid)
    if member is None:
        raise UnknownPeer(f"no {certificate.kind} with id {certificate.uuid[:64]} in this federation")
    if member.removed:
        raise RemovedPeer(f'"{member.name}" was removed from the federation', hint="to come back it needs a new bundle")
    if member.kind != certificate.kind or member.key is None:
        raise UnknownPeer(f'"{member.name}" is no {certificate.kind} that has joined')
    if certificate.key is not None and certificate.key != member.key:
        raise WrongKey(f'"{member.name}" is known with another key than its certificate has')
    if now >= certificate.not_after and purpose is not Purpose.RENEW:
        raise CertificateExpired(
            f'the certificate of "{member.name}" expired {now - certificate.not_after:.0f} s ago',
            hint="POST /v1/renew still takes it",
        )
    return member


def admit_neighbour(certificate: PeerCertificate | None, *, federation: str, now: float) -> PeerCertificate:
    """The certificate of a member that asks a peer without the nameserver between them, as far as that peer can tell
    without the roster: that the member still belongs, and its role, its credential says.
    """
    if certificate is None:
        raise NoCertificate(
            "expected a certificate of this federation, found none", hint="join first: peerage join with a bundle"
        )
    if certificate.federation != federation:
        raise WrongFederation(
            f"expected a certificate of federation {federation}, found one of {certificate.federation[:64]}"
        )
    if now >= certificate.not_after:
        raise CertificateExpired(
            f"the certificate of {certificate.kind} {certificate.uuid} expired {now - certificate.not_after:.0f} s ago",
            hint="the nameserver's POST /v1/renew still takes it",
        )
    return certificate


def require_role(member: Member, role: RoleName, *, to: str) -> None:
    """Raises :class:`WrongRole` unless ``member`` has ``role`` or a higher one. ``to``: what it asked for, as in
    "push a release".
    """
    if _RANK[member.role] < _RANK[role]:
        raise WrongRole(
            f'"{member.name}" may not {to}: expected role {role}, found {member.role}',
            hint="use the home of a member with that role (--home)",
        )
