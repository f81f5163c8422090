"""What the nameserver knows of an edge beside what it wants of it: its last report, and when it was seen.

Reads the log of reports and, through a port, what is remembered of edges between their reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from federation.documents import ActualState
from federation.members import Member
from federation.names import PeerId
from federation.reports import Contact

if TYPE_CHECKING:
    from federation.store import FederationStore


class Presence(Protocol):
    """What is remembered of edges between their reports. Times are seconds since the epoch."""

    def last_seen(self, uuid: PeerId) -> float | None: ...

    def connected(self, uuid: PeerId) -> bool: ...

    def next_poll_at(self, uuid: PeerId) -> float | None: ...


def last_report(store: FederationStore, presence: Presence, member: Member) -> tuple[ActualState | None, Contact]:
    """An edge's last report and what is known of its presence now."""
    report = store.reports.latest(member.uuid)
    contact = Contact(
        last_seen=presence.last_seen(member.uuid),
        connected=presence.connected(member.uuid),
        next_poll_at=presence.next_poll_at(member.uuid),
        reported_at=report.time if report else None,
    )
    return (report.actual if report else None), contact
