"""The parts that a nameserver is composed of, over its store, contacts and keys.

Each is an adapter to one port of the listeners, the language or the repository; none decides anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation import release_commands
from federation.documents import SignedDocument
from federation.events import Change, Event, Removed
from federation.keys import read_key
from federation.layout import ImageLayout
from federation.members import Member
from federation.names import PeerId
from federation.properties import EdgeProperties
from federation.release_checks import check_release
from federation.store import FederationStore
from federation.verification import verify_record
from peers.failpoints import reach
from peers.homes import Home
from peers.presence import ContactBook
from peers.uplinks import Uplinks
from query.errors import UnknownName

log = logging.getLogger("peerage.nameserver")


class NameserverStore(FederationStore):
    """The store, with the places where a test may kill it."""

    def append(self, events: Iterable[Event], *, caller: str, now: float) -> tuple[Change, ...]:
        reach("change.decided")
        changes = super().append(events, caller=caller, now=now)
        reach("change.durable")
        return changes


class Authority:
    """Issues certificates with the federation's CA key."""

    def __init__(self, home: Home, federation: str) -> None:
        self._pem = home.text(home.ca_crt)
        self._key = read_key(home.ca_key)
        self._federation = federation

    @property
    def authority(self) -> str:
        return self._pem

    def issue(self, member: Member, *, now: float) -> tuple[str, int]:
        from federation.certificate_reading import read_pem
        from federation.certificates import issue

        assert member.key is not None
        pem = issue(
            ca_pem=self._pem,
            ca_key=self._key,
            subject_key=member.key,
            federation=self._federation,
            kind=member.kind,
            uuid=member.uuid,
            now=now,
        )
        return pem, int(read_pem(pem).not_after)


class StateDirectory:
    """Whom statements may be sent to, read from the federation's state."""

    def __init__(self, store: FederationStore, name: str) -> None:
        self._store = store
        self._name = name
        self._properties = EdgeProperties(store)

    def here(self) -> str:
        return self._name

    def nameserver(self) -> str:
        return self._name

    def edges(self) -> tuple[str, ...]:
        return tuple(member.name for member in self._store.state.edges())

    def group(self, name: str) -> tuple[str, ...]:
        self._store.state.find_group(name)
        return tuple(member.name for member in self._store.state.members_of(name))

    def properties(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        return self._properties.of_all()

    def find(self, name: str) -> str:
        return self._store.state.find_member(name).name


class KnownEdges:
    """What the nameserver knows of a peer that is to be asked."""

    def __init__(self, store: FederationStore, contacts: ContactBook) -> None:
        self._store = store
        self._contacts = contacts

    def member_named(self, name: str) -> Member:
        return self._store.state.find_member(name)

    def mode(self, uuid: PeerId) -> str:
        report = self._store.reports.latest(uuid)
        if report is not None:
            return report.actual.mode
        member = self._store.state.member(uuid)
        if member is None:
            raise UnknownName(f"no peer with id {uuid}")
        return member.mode

    def last_seen(self, uuid: PeerId) -> float | None:
        seen = self._contacts.last_seen(uuid)
        if seen is not None:
            return seen
        report = self._store.reports.latest(uuid)
        return report.time if report is not None else None

    def next_poll_at(self, uuid: PeerId) -> float | None:
        return self._contacts.next_poll_at(uuid)


class Publishing:
    """What the repository tells of releases that were pushed to it. One at a time is read to be verified."""

    def __init__(self, store: FederationStore, layout: ImageLayout, clock: Callable[[], float]) -> None:
        self._store = store
        self._layout = layout
        self._clock = clock
        self._verifying = asyncio.Lock()

    def check_record(self, signed: SignedDocument, member: Member) -> None:
        """Raises unless an endorsed publisher, or for a development release the member, signed the record."""
        verify_record(signed, self._store.state.root, development_key=member.key)

    async def on_release(self, signed: SignedDocument, manifest: bytes, member: Member) -> None:
        """Register a release once its signature and every file hold. Raises the refusal's class."""
        reach("publish.stored")
        root = self._store.state.root
        record = verify_record(signed, root, development_key=member.key)
        key = member.key if record.development else None
        async with self._verifying:
            await asyncio.to_thread(check_release, self._layout.blobs, signed, root=root, development_key=key)
        if record.development:
            return
        events = release_commands.publish_release(self._store.state, signed)  # by the state and the root record of now
        self._store.append(events, caller=member.name, now=self._clock())
        reach("publish.durable")
        log.info("published", extra={"release": record.label, "by": member.name})


@dataclass(frozen=True, slots=True)
class Members:
    """The list of peers that ``peers()`` shows."""

    store: FederationStore

    def names(self) -> list[str]:
        return [member.name for member in self.store.state.members()]


class ChangeFollower:
    """After each change: nudge the edges it touches, drop those that were removed."""

    def __init__(self, store: FederationStore, uplinks: Uplinks, contacts: ContactBook) -> None:
        self._store = store
        self._uplinks = uplinks
        self._contacts = contacts
        self._dropping: set[asyncio.Task[None]] = set()

    def __call__(self, changes: tuple[Change, ...]) -> None:
        first = changes[0].seq
        state = self._store.state
        for uuid in self._uplinks.all_connected():
            if state.entry(uuid) is not None and state.generation(uuid) >= first:
                self._uplinks.nudge(uuid)
        for change in changes:
            match change.event:
                case Removed(uuid=uuid):
                    self._contacts.forget(uuid)
                    self._drop(uuid)
                case _:
                    pass

    def _drop(self, uuid: PeerId) -> None:
        task = asyncio.get_running_loop().create_task(self._uplinks.drop(uuid))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)
