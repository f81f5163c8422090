"""What can happen in a federation: the events of the nameserver's log, and their stored form.

An event is a JSON object whose ``event`` is the name of its kind; a :class:`Change` adds its sequence number, its
time and who caused it. Rules: an event says everything that is needed to apply it; it never carries a token or a
private key, and of a token only the hash. A kind of event, once released, keeps its fields; new fields have defaults.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from federation.documents import Kind, Mode, RoleName, SignedDocument
from federation.members import PropertyValue
from federation.names import Digest, PeerId


class Founded(Struct, frozen=True, tag_field="event", tag="founded"):
    federation: str
    poll_interval: str


class EpochStarted(Struct, frozen=True, tag_field="event", tag="epoch_started"):
    """A store was created or restored: cursors of another epoch mean nothing from here on."""

    epoch: int
    reason: str = ""


class Registered(Struct, frozen=True, kw_only=True, tag_field="event", tag="registered"):
    uuid: PeerId
    name: str
    kind: Kind
    role: RoleName
    publisher: bool = False
    tags: tuple[str, ...] = ()
    token_hash: str | None = None
    token_expires: float | None = None


class TokenIssued(Struct, frozen=True, tag_field="event", tag="token_issued"):
    """A new bundle for a member that never joined; its earlier bundle is worth nothing any more."""

    uuid: PeerId
    token_hash: str
    token_expires: float


class Joined(Struct, frozen=True, tag_field="event", tag="joined"):
    uuid: PeerId
    key: bytes
    publisher_key: bytes | None = None


class Renewed(Struct, frozen=True, tag_field="event", tag="renewed"):
    uuid: PeerId
    not_after: float


class Removed(Struct, frozen=True, tag_field="event", tag="removed"):
    uuid: PeerId


class GroupJoined(Struct, frozen=True, tag_field="event", tag="group_joined"):
    """Creates the group when it is missing; it keeps the spelling of its first event."""

    uuid: PeerId
    group: str


class GroupLeft(Struct, frozen=True, tag_field="event", tag="group_left"):
    uuid: PeerId
    group: str


class GroupDeleted(Struct, frozen=True, tag_field="event", tag="group_deleted"):
    group: str


class PinnedRelease(Struct, frozen=True):
    """A release by the digest of its record, as name and version stood for it when that was written."""

    name: str
    version: str
    record: Digest

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class AssignedModel(Struct, frozen=True, omit_defaults=True):
    """``record`` is the digest of the release record that name and version stood for.

    ``needs``: every release that it needs, directly or through others, those that others need first.
    """

    name: str
    version: str
    repo: str
    record: Digest
    needs: tuple[PinnedRelease, ...] = ()


class ModelsAssigned(Struct, frozen=True, tag_field="event", tag="models_assigned"):
    group: str
    models: tuple[AssignedModel, ...]


class ModelsUnassigned(Struct, frozen=True, tag_field="event", tag="models_unassigned"):
    group: str
    names: tuple[str, ...]


class ModeSet(Struct, frozen=True, tag_field="event", tag="mode_set"):
    uuid: PeerId
    mode: Mode


class EdgeIntervalSet(Struct, frozen=True, tag_field="event", tag="edge_interval_set"):
    """``interval`` None goes back to what the groups or the federation say."""

    uuid: PeerId
    interval: str | None


class GroupIntervalSet(Struct, frozen=True, tag_field="event", tag="group_interval_set"):
    """For the group ``all`` this is the federation's setting."""

    group: str
    interval: str | None


class PropertySet(Struct, frozen=True, tag_field="event", tag="property_set"):
    """``value`` None removes the property."""

    uuid: PeerId
    key: str
    value: PropertyValue | None


class ReleasePublished(Struct, frozen=True, tag_field="event", tag="release_published"):
    """``document`` is the signed release record; the files are in the model repository, not in the log."""

    document: SignedDocument


class ReleaseDeprecated(Struct, frozen=True, tag_field="event", tag="release_deprecated"):
    """``reason`` None takes the deprecation back."""

    name: str
    version: str
    reason: str | None


class ReleaseDeleted(Struct, frozen=True, tag_field="event", tag="release_deleted"):
    """The version stays taken by ``manifest``: other content never comes to have its name."""

    name: str
    version: str
    manifest: Digest


class PublisherKeyOffered(Struct, frozen=True, tag_field="event", tag="publisher_key_offered"):
    """A publisher made a new key; the root record decides whether it counts."""

    uuid: PeerId
    key: bytes


class RootSet(Struct, frozen=True, tag_field="event", tag="root_set"):
    document: SignedDocument


Event: TypeAlias = (
    Founded
    | EpochStarted
    | Registered
    | TokenIssued
    | Joined
    | Renewed
    | Removed
    | GroupJoined
    | GroupLeft
    | GroupDeleted
    | ModelsAssigned
    | ModelsUnassigned
    | ModeSet
    | EdgeIntervalSet
    | GroupIntervalSet
    | PropertySet
    | ReleasePublished
    | ReleaseDeprecated
    | ReleaseDeleted
    | PublisherKeyOffered
    | RootSet
)


MemberEvent: TypeAlias = (
    Registered
    | TokenIssued
    | Joined
    | Renewed
    | Removed
    | GroupJoined
    | GroupLeft
    | ModeSet
    | EdgeIntervalSet
    | PropertySet
    | PublisherKeyOffered
)
"""What concerns one member alone."""


class Change(Struct, frozen=True):
    """One entry of the log. ``caller`` is the name of who caused it, ``time`` seconds since the epoch."""

    seq: int
    time: float
    caller: str
    event: Event


_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_ENCODER = msgspec.json.Encoder()


def encode_event(event: Event) -> bytes:
    return _ENCODER.encode(event)


def decode_event(raw: bytes) -> Event:
    """Raises ``msgspec.MsgspecError`` on anything that is not an event of this version."""
    return _DECODER.decode(raw)
