"""Introductions: what lets one member ask another without the nameserver between them, for a short time.

    own      the director's word on who asks: its name, role and key     shown to whom it asks, beside its envelope
    peer     the director's word on who is asked: its name and key       by which who asks knows whom it has reached

Both are credentials (:mod:`federation.envelopes`). Rules: an introduction is made for a member of the roster, to a
member of the roster that takes statements, and is good for :data:`INTRODUCTION_LIFETIME_S`. It shows no more than any
member may see, and is of no use without the key of who asks. A peer that was removed, or lost a role, is refused by the
others at the latest when its introduction has ended; through the nameserver it is at once.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from federation.documents import Credential, RootRecord, SignedDocument
from federation.envelopes import CLOCK_SKEW_S, credential, vouched
from federation.errors import UnknownPeer, WrongRole
from federation.keys import PrivateKey
from federation.members import Member

INTRODUCTION_LIFETIME_S: Final = 600.0
RENEW_AFTER: Final = 0.5  # of its life: then a newer one is asked for, and this one still serves


class Introduction(Struct, frozen=True, forbid_unknown_fields=True):
    """As it travels, and as it is kept."""

    own: SignedDocument
    peer: SignedDocument


class Introduced(Struct, frozen=True):
    """An introduction that was checked."""

    introduction: Introduction
    own: Credential
    peer: Credential

    def holds(self, now: float) -> bool:
        """Whether it can still be used, also by a clock that differs."""
        return now < min(self.own.expires, self.peer.expires) - CLOCK_SKEW_S

    def due(self, now: float) -> bool:
        """Whether it is time for a newer one."""
        return now >= self.own.issued + RENEW_AFTER * (self.own.expires - self.own.issued)


def introduce(caller: Member, peer: Member, *, director: PrivateKey, federation: str, now: float) -> Introduction:
    """Raises :class:`WrongRole` for a peer that takes no statements, :class:`UnknownPeer` for one that never joined."""
    if peer.kind != "edge":
        raise WrongRole(f'"{peer.name}" is a {peer.kind}: only edges are asked directly')
    if peer.key is None:
        raise UnknownPeer(f'"{peer.name}" has not joined yet: nobody can speak with it')

    def word(member: Member) -> SignedDocument:
        return credential(member, director=director, federation=federation, now=now, lifetime_s=INTRODUCTION_LIFETIME_S)

    return Introduction(word(caller), word(peer))


def checked(introduction: Introduction, *, caller: str, root: RootRecord, federation: str, now: float) -> Introduced:
    """An introduction of ``caller``, believed. Raises what :func:`federation.envelopes.vouched` does."""
    own = vouched(introduction.own, root=root, federation=federation, now=now)
    peer = vouched(introduction.peer, root=root, federation=federation, now=now)
    if own.uuid != caller:
        raise UnknownPeer(f'an introduction of "{own.name}": expected one of this peer')
    return Introduced(introduction, own, peer)
