"""What callers may change in a federation: state and arguments in, events out.

Decides every change and performs none. Rules: a command either returns all its events or raises and has done nothing;
a command that would change nothing returns no events; unknown names are told with the nearest existing one; every
count that a caller can make grow has a bound here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast, get_args

from msgspec import Struct

from federation.decisions import names_of
from federation.documents import (
    MODELS_PER_EDGE_MAX,
    ROOTS_BYTES_MAX,
    JoinRequest,
    Kind,
    Mode,
    RoleName,
    RootRecord,
    SignedDocument,
    encode,
)
from federation.entries import ALL, Group
from federation.events import (
    EdgeIntervalSet,
    EpochStarted,
    Event,
    Founded,
    GroupDeleted,
    GroupIntervalSet,
    GroupJoined,
    GroupLeft,
    Joined,
    ModeSet,
    PropertySet,
    Registered,
    Removed,
    Renewed,
    RootSet,
    TokenIssued,
)
from federation.intervals import DEFAULT_INTERVAL, parse_interval
from federation.members import Member, PropertyValue
from federation.names import PeerId, checked_name, fold
from federation.properties import OF_THE_FEDERATION
from federation.standing_needs import check_edge, check_group
from federation.state import FederationState
from query.errors import LimitExceeded, UserProblem, WrongArguments, unknown

MEMBERS_MAX: Final = 1_000_000
GROUPS_MAX: Final = 10_000
GROUPS_PER_EDGE_MAX: Final = 64
TAGS_MAX: Final = 32
TAG_LENGTH_MAX: Final = 63
PROPERTIES_MAX: Final = 64
PROPERTY_KEY_LENGTH_MAX: Final = 63
PROPERTY_TEXT_LENGTH_MAX: Final = 1024
TOKEN_LIFETIME_S: Final = 24 * 3600.0
ROOTS_RESERVE_BYTES: Final = 1024 * 1024  # what is sent beside all root records; for revocations eight times as much
ROOTS_RESERVE: Final = 64  # versions, for revocations
EPOCH_DIGITS: Final = 1_000_000  # the low digits of an epoch are random, the rest are seconds


class NameTaken(UserProblem):
    code = "peer_name_taken"


class NotAllowed(UserProblem):
    """A change that the rules of the federation exclude, whoever asks."""

    code = "not_allowed"


class Founder(Struct, frozen=True, kw_only=True):
    """A member that is there from the start, with the key that its home was made with."""

    uuid: PeerId
    name: str
    key: bytes
    publisher_key: bytes | None = None


# --- the federation --------------------------------------------------------------------------------------------------


def found(
    state: FederationState,
    federation: str,
    *,
    root: SignedDocument,
    nameserver: Founder,
    admin: Founder,
    now: float,
    draw: float,
    poll_interval: str = DEFAULT_INTERVAL,
) -> tuple[Event, ...]:
    """The events that begin a federation, to be appended as one: id, epoch, root record, nameserver, first admin."""
    if state.federation:
        raise NotAllowed(f'this store holds federation "{state.federation}" already')
    parse_interval(poll_interval)
    events: list[Event] = [
        Founded(federation, poll_interval),
        EpochStarted(mint_epoch(now=now, previous=0, draw=draw)),
        RootSet(root),
    ]
    founders: tuple[tuple[Founder, Kind], ...] = ((nameserver, "nameserver"), (admin, "client"))
    if fold(nameserver.name) == fold(admin.name):
        raise NameTaken(f'nameserver and admin are both named "{admin.name}": expected two names')
    for founder, kind in founders:
        if not (kind == "nameserver" and fold(founder.name) == "nameserver"):
            checked_name("peer", founder.name)
        publisher = founder.publisher_key is not None
        role: RoleName = "admin" if kind == "client" else "viewer"
        events.append(Registered(uuid=founder.uuid, name=founder.name, kind=kind, role=role, publisher=publisher))
        events.append(Joined(founder.uuid, founder.key, founder.publisher_key))
    return tuple(events)


def mint_epoch(*, now: float, previous: int, draw: float) -> int:
    """A new epoch, beyond ``now`` and ``previous``, the one in the backup; ``draw`` makes the low digits."""
    return max(int(now), previous // EPOCH_DIGITS + 1) * EPOCH_DIGITS + int(draw * EPOCH_DIGITS)


def start_epoch(
    state: FederationState, *, now: float, draw: float, beyond: int = 0, reason: str = ""
) -> tuple[Event, ...]:
    """For a store that was restored from a backup: what edges hold may be newer than what is here.

    ``beyond`` is another epoch that is known to have been, e.g. the store's ``newest_epoch``.
    """
    return (EpochStarted(mint_epoch(now=now, previous=max(state.epoch, beyond), draw=draw), reason),)


def set_root(state: FederationState, document: SignedDocument) -> tuple[Event, ...]:
    """The next root record, signed as the present one asks. The record in force once more changes nothing."""
    from federation.roots import advance

    if state.root_documents and state.root_documents[-1].payload == document.payload:
        return ()
    record: RootRecord = advance(state.root, document)
    if not record.directors:
        raise NotAllowed(f"root record {record.version} names no director: no edge could be told anything")
    _check_chain(len(state.root_documents) + 1, (*state.root_documents, document), record.revoked != state.root.revoked)
    return (RootSet(document),)


def _check_chain(count: int, documents: Sequence[SignedDocument], revokes: bool, /) -> None:
    """That every home can still read all root records. Keys can be revoked for longer than anything else changes."""
    from federation.roots import ROOT_RECORDS_MAX

    size = sum(len(encode(document)) for document in documents)
    bytes_max = ROOTS_BYTES_MAX - ROOTS_RESERVE_BYTES * (1 if revokes else 8)
    count_max = ROOT_RECORDS_MAX - (0 if revokes else ROOTS_RESERVE)
    if size > bytes_max or count > count_max:
        raise LimitExceeded(
            f"{count} root records of {size} bytes together: expected at most {count_max} of {bytes_max} bytes"
        )


# --- members ---------------------------------------------------------------------------------------------------------


def register(
    state: FederationState,
    name: str,
    *,
    uuid: PeerId,
    token_hash: str,
    now: float,
    kind: Kind = "edge",
    role: RoleName = "viewer",
    publisher: bool = False,
    tags: Sequence[str] = (),
    token_lifetime_s: float = TOKEN_LIFETIME_S,
    members_max: int = MEMBERS_MAX,
) -> tuple[Event, ...]:
    """A new member ``uuid``, or a new token for one that never joined and is asked for in the same kind and role.

    Raises :class:`~federation.names.BadName`, :class:`NameTaken`, :class:`~query.errors.LimitExceeded`.
    """
    checked_name("peer", name)
    expires = now + token_lifetime_s
    known = state.member_named(name)
    if known is not None:
        if known.joined is None and (known.kind, known.role, known.publisher) == (kind, role, publisher):
            return (TokenIssued(known.uuid, token_hash, expires),)
        raise NameTaken(
            f'the name "{known.name}" belongs to {_described(known)}',
            hint=f'take another name; edge:remove("{known.name}") ends that edge and frees its name'
            if known.kind == "edge"
            else None,
        )
    if kind == "nameserver":
        raise NotAllowed("a federation has one nameserver")
    if role not in get_args(RoleName):
        raise unknown("role", role, get_args(RoleName))
    if kind == "edge" and role != "viewer":
        raise NotAllowed(f'edge "{name}" cannot have the role {role}: an edge is a viewer of itself')
    if state.member_count >= members_max:
        raise LimitExceeded(f"the federation has {members_max} members, the most it can have")
    return (
        Registered(
            uuid=uuid,
            name=name,
            kind=kind,
            role=role,
            publisher=publisher,
            tags=_checked_tags(tags),
            token_hash=token_hash,
            token_expires=expires,
        ),
    )


def _described(member: Member) -> str:
    return f"{'an' if member.kind == 'edge' else 'a'} {member.kind}" + (
        "" if member.joined else " that has not joined yet"
    )


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    if len(tags) > TAGS_MAX:
        raise LimitExceeded(f"{len(tags)} tags: expected at most {TAGS_MAX}")
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= TAG_LENGTH_MAX:
            raise WrongArguments(f"a tag is a text of 1 to {TAG_LENGTH_MAX} characters, found {str(tag)[:80]!r}")
    return tuple(dict.fromkeys(tags))


def join(state: FederationState, request: JoinRequest, *, now: float) -> tuple[Event, ...]:
    """A member takes up its place with the keys it made. The same request once more, its answer lost, changes nothing.

    Raises the refusals of :func:`federation.bundles.check_join`.
    """
    from federation.bundles import check_join, token_hash

    owner = state.member_by_token(token_hash(request.token))
    if not check_join(request, owner, now=now) or owner is None:
        return ()
    if (request.publisher_key is not None) != owner.publisher:
        expected = "a publisher's key" if owner.publisher else "no publisher's key"
        raise NotAllowed(
            f'"{owner.name}" was registered {"as" if owner.publisher else "not as"} a publisher: expected {expected}'
        )
    return (Joined(owner.uuid, request.key, request.publisher_key),)


def renew(state: FederationState, uuid: PeerId, *, not_after: float) -> tuple[Event, ...]:
    """Note that a member has a new certificate."""
    member = state.member(uuid)
    return () if member is None or member.removed else (Renewed(uuid, not_after),)


def remove(state: FederationState, name: str) -> tuple[Event, ...]:
    """Take a member off the roster, at once; its name is free again."""
    member = state.find_member(name)
    if member.kind == "nameserver":
        raise NotAllowed(f'"{member.name}" is the nameserver and cannot be removed')
    return (Removed(member.uuid),)


def set_mode(state: FederationState, edge: str, mode: str) -> tuple[Event, ...]:
    """INTERACTIVE or ONLINE; AUTONOMOUS is refused with the reason."""
    member = state.find_edge(edge)
    wanted = mode.upper()
    if wanted not in get_args(Mode):
        raise WrongArguments(f'expected the mode INTERACTIVE or ONLINE, found "{mode[:80]}"')
    if wanted == "AUTONOMOUS":
        raise NotAllowed(
            f'"{member.name}" cannot be made AUTONOMOUS from here: an autonomous edge does not listen, so the mode is'
            " entered and left on the edge itself",
            hint='on the device: "peerage mode AUTONOMOUS --home DIR"',
        )
    return () if member.mode == wanted else (ModeSet(member.uuid, cast(Mode, wanted)),)


def set_property(state: FederationState, edge: str, key: str, value: PropertyValue | None) -> tuple[Event, ...]:
    """A property of an edge, as its operators know it; null removes it."""
    member = state.find_edge(edge)
    if key.casefold() in OF_THE_FEDERATION:
        raise NotAllowed(f'property "{key}" cannot be set', hint=OF_THE_FEDERATION[key.casefold()])
    if not 1 <= len(key) <= PROPERTY_KEY_LENGTH_MAX:
        raise WrongArguments(f"a property's key has 1 to {PROPERTY_KEY_LENGTH_MAX} characters, found {len(key)}")
    if value is not None and not isinstance(value, str | int | float | bool):
        raise WrongArguments(f'property "{key}" is a text, a number or a truth value, found {type(value).__name__}')
    if isinstance(value, str) and len(value) > PROPERTY_TEXT_LENGTH_MAX:
        raise LimitExceeded(
            f'property "{key}" has {len(value)} characters: expected at most {PROPERTY_TEXT_LENGTH_MAX}'
        )
    if isinstance(value, int) and abs(value) >= 2**63:
        raise LimitExceeded(f'property "{key}" is a number beyond 64 bits')
    if isinstance(value, float) and value - value != 0:
        raise WrongArguments(f'property "{key}" is not a finite number')
    before = member.properties.get(key)
    if before == value and type(before) is type(value):
        return ()
    if value is not None and key not in member.properties and len(member.properties) >= PROPERTIES_MAX:
        raise LimitExceeded(f'"{member.name}" has {PROPERTIES_MAX} properties, the most it can have')
    return (PropertySet(member.uuid, key, value),)


def set_poll_interval(state: FederationState, edge_or_group: str, interval: str) -> tuple[Event, ...]:
    """For an edge, a group, or ``all``, which is the federation. ``default`` takes the setting back."""
    text = None if fold(interval) == "default" else interval
    if text is not None:
        parse_interval(text)
    group = state.group(edge_or_group)
    if group is not None:
        if state.member_named(edge_or_group) is not None:
            raise WrongArguments(f'"{edge_or_group}" is both an edge and a group: expected a name of one of them')
        return () if group.interval == text else (GroupIntervalSet(group.name, text),)
    if state.member_named(edge_or_group) is None:
        raise unknown("edge or group", edge_or_group, (*state.names_like(edge_or_group), *state.groups()))
    member = state.find_edge(edge_or_group)
    return () if member.poll_interval == text else (EdgeIntervalSet(member.uuid, text),)


# --- groups ----------------------------------------------------------------------------------------------------------


def add_group(state: FederationState, edge: str, group: str) -> tuple[Event, ...]:
    """Make an edge a member of a group, which is made when it is missing. Twice changes nothing."""
    member = state.find_edge(edge)
    known = state.group(group)
    if known is None:
        checked_name("group", group)
        if len(state.groups()) > GROUPS_MAX:
            raise LimitExceeded(f"the federation has {GROUPS_MAX} groups, the most it can have")
    elif member.uuid in known.members:
        return ()
    before = state.groups_of(member.uuid)
    if len(before) > GROUPS_PER_EDGE_MAX:
        raise LimitExceeded(f'"{member.name}" is in {GROUPS_PER_EDGE_MAX} groups, the most an edge can be in')
    if known is not None:
        _check_models_of((*before, known), f'"{member.name}"')
        check_edge(state, member.uuid, (*before, known))
    return (GroupJoined(member.uuid, known.name if known else group),)


def remove_group(state: FederationState, edge: str, group: str) -> tuple[Event, ...]:
    """End a membership; the group stays. An edge that is not in the group changes nothing."""
    member = state.find_edge(edge)
    found_group = _ordinary(state, group, "left")
    if member.uuid not in found_group.members:
        return ()
    check_edge(state, member.uuid, [kept for kept in state.groups_of(member.uuid) if kept is not found_group])
    return (GroupLeft(member.uuid, found_group.name),)


def delete_group(state: FederationState, group: str) -> tuple[Event, ...]:
    """End a group with its memberships and assignments."""
    found_group = _ordinary(state, group, "deleted")
    check_group(state, found_group, None)
    return (GroupDeleted(found_group.name),)


def _ordinary(state: FederationState, group: str, verb: str) -> Group:
    found_group = state.find_group(group)
    if found_group.name == ALL:
        raise NotAllowed(f'"{ALL}" is every edge and cannot be {verb}')
    return found_group


def _check_models_of(groups: Sequence[Group], whose: str) -> None:
    names = names_of(groups)
    if len(names) > MODELS_PER_EDGE_MAX:
        raise LimitExceeded(f"{whose} would have {len(names)} models: expected at most {MODELS_PER_EDGE_MAX}")
