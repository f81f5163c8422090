"""The records that the nameserver's state is made of, and how an event makes each from the one before.

Pure values, but for :class:`Group` and :class:`Entry`: these are changed in place by the
:class:`~federation.state.FederationState` that holds them, and by nobody else.
"""

from __future__ import annotations

from typing import Final, assert_never

import msgspec
from msgspec import Struct

from federation.documents import ReleaseRecord, SignedDocument, decode
from federation.events import (
    Change,
    EdgeIntervalSet,
    Joined,
    ModeSet,
    PinnedRelease,
    PropertySet,
    PublisherKeyOffered,
    Registered,
    ReleasePublished,
    Removed,
    Renewed,
    TokenIssued,
)
from federation.intervals import DEFAULT_INTERVAL
from federation.members import Member
from federation.names import Digest, PeerId, digest_of

ALL: Final = "all"


class Assignment(Struct, frozen=True, gc=False):
    """A version of a model that a group asks for. ``seq`` is its recency; ``time`` and ``by`` say when and who."""

    name: str
    version: str
    repo: str
    record: Digest
    seq: int
    time: float
    by: str
    needs: tuple[PinnedRelease, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Release(Struct, frozen=True):
    """A published release. ``digest`` is that of the payload of its signed record; ``deprecated`` the reason why it
    should not be chosen any more; ``named_until`` when an assignment that named it, or needed it, ended last.
    """

    record: ReleaseRecord
    digest: Digest
    document: SignedDocument
    seq: int
    time: float
    by: str
    deprecated: str | None = None
    named_until: float | None = None


class Group:
    """A group of edges; changed only by the state that holds it. ``all`` is one whose members are every edge.

    ``before``: of each model, the assignment that the group had before the present one, or before it had none: what
    somebody who rolls back goes to. One of the same release once more is no other.
    """

    __slots__ = ("assignments", "before", "interval", "interval_seq", "members", "name", "touched")

    def __init__(self, name: str, *, touched: int = 0, interval: str | None = None, interval_seq: int = 0) -> None:
        self.name = name
        self.members: set[PeerId] = set()
        self.assignments: dict[str, Assignment] = {}
        self.before: dict[str, Assignment] = {}
        self.touched = touched
        self.interval = interval
        self.interval_seq = interval_seq


class Entry:
    """A member with what the poll needs beside it: its last touch and its groups (without ``all``)."""

    __slots__ = ("groups", "member", "touched")

    def __init__(self, member: Member, touched: int, groups: tuple[Group, ...] = ()) -> None:
        self.member = member
        self.touched = touched
        self.groups = groups


class Facts(Struct, frozen=True):
    """What concerns the federation as a whole. ``shared`` is the last change that touches every edge."""

    federation: str = ""
    poll_interval: str = DEFAULT_INTERVAL
    epoch: int = 0
    seq: int = 0
    shared: int = 0


def registered(change: Change, event: Registered) -> Member:
    """The member that a registration makes."""
    return Member(
        uuid=event.uuid,
        name=event.name,
        kind=event.kind,
        role=event.role,
        publisher=event.publisher,
        tags=event.tags,
        token_hash=event.token_hash,
        token_expires=event.token_expires,
        registered=change.time,
    )


def changed(
    member: Member,
    change: Change,
    event: TokenIssued | Joined | Renewed | Removed | ModeSet | EdgeIntervalSet | PropertySet | PublisherKeyOffered,
) -> Member:
    """The member after an event that concerns it alone."""
    match event:
        case TokenIssued():
            return msgspec.structs.replace(member, token_hash=event.token_hash, token_expires=event.token_expires)
        case Joined():
            return msgspec.structs.replace(member, key=event.key, publisher_key=event.publisher_key, joined=change.time)
        case Renewed():
            if member.token_expires is None or change.time < member.token_expires:
                return member  # kept for its lifetime, so that a second use is told from an unknown token
            return msgspec.structs.replace(member, token_hash=None, token_expires=None)
        case Removed():
            return msgspec.structs.replace(member, removed=True)
        case PublisherKeyOffered():
            return msgspec.structs.replace(member, publisher_key=event.key)
        case ModeSet():
            return msgspec.structs.replace(member, mode=event.mode)
        case EdgeIntervalSet():
            return msgspec.structs.replace(member, poll_interval=event.interval)
        case PropertySet():
            properties = {key: value for key, value in member.properties.items() if key != event.key}
            if event.value is not None:
                properties[event.key] = event.value
            return msgspec.structs.replace(member, properties=properties)
        case _:
            assert_never(event)


def published(change: Change, event: ReleasePublished) -> Release:
    """The release that a publication makes. Its signature was verified before it came into the log."""
    record = decode(event.document.payload, ReleaseRecord)
    return Release(record, digest_of(event.document.payload), event.document, change.seq, change.time, change.caller)
