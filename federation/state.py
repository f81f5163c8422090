"""The nameserver's state: a fold over the log of changes.

Owns who is a member, the groups, the assignments, the releases by name and version, and the root records. Refuses to
decide: commands check, this applies. Rules:

- :meth:`FederationState.apply` is the only mutator; a change is applied once, in the order of the log.
- ``generation(edge)`` is the highest sequence number that touches the edge: its record and memberships, its groups and
  deleted groups it was in, ``all``, federation settings, the root record. It costs O(groups of the edge).
- Nothing here grows with the length of the log. An edge costs one record and one entry; removed members stay, so that
  they can be refused by their right name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, assert_never

import msgspec

from federation.documents import RootRecord, SignedDocument, decode
from federation.entries import (
    ALL,
    Assignment,
    Entry,
    Facts,
    Group,
    Release,
    changed,
    published,
    registered,
)
from federation.events import (
    Change,
    EpochStarted,
    Event,
    Founded,
    GroupDeleted,
    GroupIntervalSet,
    GroupJoined,
    GroupLeft,
    MemberEvent,
    ModelsAssigned,
    ModelsUnassigned,
    Registered,
    ReleaseDeleted,
    ReleaseDeprecated,
    ReleasePublished,
    Removed,
    Renewed,
    RootSet,
)
from federation.members import Member
from federation.names import PeerId, fold
from federation.published import PublishedReleases
from query.errors import Problem, UnknownName, UserProblem, unknown

SUGGESTIONS_SCANNED_MAX: Final = 2000  # names compared letter by letter for a "did you mean"


class WrongKind(UserProblem):
    """A peer of another kind than the call is for."""

    code = "wrong_kind"


class BrokenLog(Problem):
    """The log is not the sequence of changes that its numbers promise."""

    code = "broken_log"


class FederationState:
    """See the module. Lookups return values that callers must not change."""

    def __init__(self) -> None:
        self._facts = Facts()
        self._shared = 0
        self._entries: dict[PeerId, Entry] = {}
        self._by_name: dict[str, PeerId] = {}
        self._by_token: dict[str, PeerId] = {}
        self._all = Group(ALL)
        self._groups: dict[str, Group] = {ALL: self._all}
        self.published = PublishedReleases()
        self._roots: list[SignedDocument] = []
        self._root: RootRecord | None = None

    @classmethod
    def restored(
        cls,
        facts: Facts,
        *,
        members: Iterable[tuple[Member, int]],
        groups: Iterable[Group],
        memberships: Iterable[tuple[PeerId, str]],
        assignments: Iterable[tuple[str, Assignment]],
        published_releases: PublishedReleases,
        roots: Iterable[SignedDocument],
    ) -> FederationState:
        """The state that the rows of the projections describe. Groups are named by their folded names."""
        state = cls()
        for member, touched in members:
            state._put(Entry(member, touched))
        for group in groups:
            if group.name == ALL:
                state._all.touched, state._all.interval = group.touched, group.interval
                state._all.interval_seq, state._all.before = group.interval_seq, group.before
            else:
                state._groups[fold(group.name)] = group
        for uuid, folded in memberships:
            entry, group = state._entries[uuid], state._groups[folded]
            entry.groups = (*entry.groups, group)
            group.members.add(uuid)
        for folded, assignment in assignments:
            state._groups[folded].assignments[assignment.name] = assignment
        state.published = published_releases
        for document in roots:
            state._put_root(document)
        state._facts, state._shared = facts, facts.shared
        return state

    # --- the federation -----------------------------------------------------------------------------------------

    @property
    def federation(self) -> str:
        """The federation's id; empty until it is founded."""
        return self._facts.federation

    @property
    def epoch(self) -> int:
        return self._facts.epoch

    @property
    def seq(self) -> int:
        """The sequence number of the last change that was applied."""
        return self._facts.seq

    @property
    def facts(self) -> Facts:
        return self._facts

    @property
    def poll_interval(self) -> str:
        """The federation's: as set for ``all``, else as founded."""
        return self._all.interval or self._facts.poll_interval

    @property
    def root(self) -> RootRecord:
        """The root record in force. Raises :class:`UnknownName` before there is one."""
        if self._root is None:
            raise UnknownName("no root record: the federation is not founded yet")
        return self._root

    @property
    def root_documents(self) -> tuple[SignedDocument, ...]:
        """All root records, version 1 first."""
        return tuple(self._roots)

    # --- members ------------------------------------------------------------------------------------------------

    def member(self, uuid: str) -> Member | None:
        """Also a removed one."""
        entry = self._entries.get(PeerId(uuid))
        return entry.member if entry else None

    def member_named(self, name: str) -> Member | None:
        """The member that holds the name now, whatever the spelling."""
        uuid = self._by_name.get(fold(name))
        return self._entries[uuid].member if uuid else None

    def member_by_token(self, token_hash: str) -> Member | None:
        """Whose one-time token this is or was, until the member's first renewal."""
        uuid = self._by_token.get(token_hash)
        return self._entries[uuid].member if uuid else None

    def members(self, *, removed: bool = False) -> Iterator[Member]:
        """In the order of registration; those that were removed are among them when they are asked for."""
        return (entry.member for entry in self._entries.values() if removed or not entry.member.removed)

    def edges(self) -> Iterator[Member]:
        """All edges, in the order of registration."""
        return (member for member in self.members() if member.kind == "edge")

    @property
    def edge_count(self) -> int:
        return len(self._all.members)

    @property
    def member_count(self) -> int:
        return len(self._by_name)

    def entry(self, uuid: PeerId) -> Entry | None:
        """An edge's record, groups and last touch in one look-up; None for anything but a registered edge."""
        entry = self._entries.get(uuid)
        return entry if entry is not None and uuid in self._all.members else None

    def generation(self, uuid: PeerId) -> int:
        """Raises KeyError for an identity that never was."""
        entry = self._entries[uuid]
        latest = self._shared if self._shared > entry.touched else entry.touched
        for group in entry.groups:
            latest = max(latest, group.touched)
        return latest

    def interval(self, entry: Entry) -> str:
        """The poll interval in force: the edge's own, else the one set last among its groups, else the federation's."""
        if entry.member.poll_interval is not None:
            return entry.member.poll_interval
        if entry.groups:
            latest = max(entry.groups, key=lambda group: group.interval_seq if group.interval else -1)
            if latest.interval:
                return latest.interval
        return self._all.interval or self._facts.poll_interval

    # --- groups -------------------------------------------------------------------------------------------------

    def groups(self) -> tuple[str, ...]:
        """The names of all groups, ``all`` first, then in the order of creation."""
        return tuple(group.name for group in self._groups.values())

    def group(self, name: str) -> Group | None:
        return self._groups.get(fold(name))

    def group_objects(self) -> tuple[Group, ...]:
        return tuple(self._groups.values())

    def groups_of(self, uuid: PeerId) -> tuple[Group, ...]:
        """The groups of an edge in the order of joining, then ``all``; nothing for who is not a registered edge."""
        entry = self.entry(uuid)
        return (*entry.groups, self._all) if entry else ()

    def members_of(self, group: str) -> tuple[Member, ...]:
        """The edges of a group, by name; nothing for a group that does not exist."""
        found = self.group(group)
        members = [self._entries[uuid].member for uuid in found.members] if found else []
        return tuple(sorted(members, key=lambda member: fold(member.name)))

    # --- releases -----------------------------------------------------------------------------------------------

    def release(self, name: str, version: str) -> Release | None:
        return self.published.get(name, version)

    def releases(self) -> tuple[Release, ...]:
        """All, by name and then in the order of publishing."""
        return self.published.all()

    # --- look-ups that name what is missing ----------------------------------------------------------------------

    def find_member(self, name: str) -> Member:
        """Raises :class:`UnknownName` with the nearest existing name."""
        member = self.member_named(name)
        if member is None:
            group = self.group(name)
            hint = f"a group is written: //peer: group {group.name}" if group else "peers() lists who there is"
            raise unknown("peer", name, self.names_like(name), hint=hint)
        return member

    def find_edge(self, name: str) -> Member:
        """Raises :class:`UnknownName` with the nearest edge, :class:`WrongKind` for a peer that is no edge."""
        member = self.member_named(name)
        if member is None:
            hint = 'edge:list() lists the edges; "peerage register NAME" makes one'
            if self.group(name) is not None:
                hint = f'"{name}" is a group: the edge stands first, the group behind it'
            raise unknown("edge", name, self.names_like(name, edges_only=True), hint=hint)
        if member.kind != "edge":
            raise WrongKind(f'"{member.name}" is a {member.kind}, expected an edge')
        return member

    def find_group(self, name: str) -> Group:
        """Raises :class:`UnknownName` with the nearest existing group."""
        group = self.group(name)
        if group is None:
            problem = unknown("group", name, islice((g.name for g in self._groups.values()), SUGGESTIONS_SCANNED_MAX))
            problem.hint = 'edge:add_group("edge", "group") makes a group; edge:all_groups() lists them'
            raise problem
        return group

    def find_release(self, name: str, version: str) -> Release:
        """Raises :class:`UnknownName` that says whether the model or only the version is missing."""
        return self.published.find(name, version)

    def names_like(self, name: str, *, edges_only: bool = False) -> list[str]:
        """Candidates for a suggestion: everybody while they are few, else those that begin or end alike."""
        start, end = fold(name)[:2], fold(name)[-2:]
        few = len(self._by_name) <= SUGGESTIONS_SCANNED_MAX
        members = (
            self._entries[uuid].member
            for folded, uuid in self._by_name.items()
            if few or folded.startswith(start) or folded.endswith(end)
        )
        names = (member.name for member in members if member.kind == "edge" or not edges_only)
        return list(islice(names, SUGGESTIONS_SCANNED_MAX))

    # --- the fold -----------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take up a change that a command allowed. A change out of order is a fault of ours."""
        if change.seq != self._facts.seq + 1:
            raise BrokenLog(f"change {change.seq} follows {self._facts.seq} in the log")
        self._apply(change, change.event)
        self._facts = msgspec.structs.replace(self._facts, seq=change.seq, shared=self._shared)

    def _apply(self, change: Change, event: Event) -> None:
        seq = change.seq
        match event:
            case Founded():
                self._facts = msgspec.structs.replace(
                    self._facts, federation=event.federation, poll_interval=event.poll_interval
                )
                self._shared = seq
            case EpochStarted():
                self._facts = msgspec.structs.replace(self._facts, epoch=event.epoch)
            case RootSet():
                self._put_root(event.document)
                self._shared = seq
            case ReleasePublished():
                self.published.put(published(change, event))
            case ReleaseDeprecated():
                self.published.deprecate(event)
            case ReleaseDeleted():
                self.published.delete(event)
            case ModelsAssigned() | ModelsUnassigned() | GroupIntervalSet() | GroupDeleted():
                self._apply_to_group(change, event)
            case _:
                self._apply_to_member(change, event)

    def _apply_to_group(
        self, change: Change, event: ModelsAssigned | ModelsUnassigned | GroupIntervalSet | GroupDeleted
    ) -> None:
        group = self._groups[fold(event.group)]
        match event:
            case ModelsAssigned():
                for model in event.models:
                    self._end(group, group.assignments.get(model.name), change.time, unless=model.record)
                    told = (model.name, model.version, model.repo, model.record)
                    assigned = Assignment(*told, change.seq, change.time, change.caller, model.needs)
                    group.assignments[model.name] = assigned
            case ModelsUnassigned():
                for name in event.names:
                    self._end(group, group.assignments.pop(name, None), change.time)
            case GroupIntervalSet():
                group.interval, group.interval_seq = event.interval, change.seq
            case GroupDeleted():
                del self._groups[fold(event.group)]
                for assignment in group.assignments.values():
                    self.published.let_go(assignment, change.time)
                for uuid in group.members:
                    entry = self._entries[uuid]
                    entry.groups = tuple(kept for kept in entry.groups if kept is not group)
                    entry.touched = change.seq
            case _:
                assert_never(event)
        group.touched = change.seq
        if group is self._all:
            self._shared = change.seq

    def _end(self, group: Group, was: Assignment | None, time: float, *, unless: str | None = None) -> None:
        if was is not None:
            self.published.let_go(was, time)
            group.before |= {was.name: was} if was.record != unless else {}

    def _apply_to_member(self, change: Change, event: MemberEvent) -> None:
        if isinstance(event, Registered):
            self._put(Entry(registered(change, event), change.seq))
            return
        entry = self._entries[event.uuid]
        before = entry.member
        match event:
            case GroupJoined():
                group = self._groups.setdefault(fold(event.group), Group(event.group, touched=change.seq))
                group.members.add(event.uuid)
                entry.groups = (*entry.groups, group)
            case GroupLeft():
                group = self._groups[fold(event.group)]
                group.members.discard(event.uuid)
                entry.groups = tuple(kept for kept in entry.groups if kept is not group)
            case Removed():
                for group in entry.groups:
                    group.members.discard(event.uuid)
                self._all.members.discard(event.uuid)
                entry.groups = ()
                del self._by_name[fold(before.name)]
                entry.member = changed(before, change, event)
            case _:
                entry.member = changed(before, change, event)
        if entry.member.token_hash != before.token_hash:
            self._by_token.pop(before.token_hash or "", None)
            if entry.member.token_hash:
                self._by_token[entry.member.token_hash] = event.uuid
        if not isinstance(event, Renewed):  # a certificate is no part of the desired state
            entry.touched = change.seq

    def _put(self, entry: Entry) -> None:
        member = entry.member
        self._entries[member.uuid] = entry
        if member.token_hash:
            self._by_token[member.token_hash] = member.uuid
        if member.removed:
            return
        folded = fold(member.name)
        self._by_name[member.name if folded == member.name else folded] = member.uuid  # one string, not two alike
        if member.kind == "edge":
            self._all.members.add(member.uuid)

    def _put_root(self, document: SignedDocument) -> None:
        self._root = decode(document.payload, RootRecord)
        self._roots.append(document)
