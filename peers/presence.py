"""What the nameserver remembers of edges between their reports: in memory only, so that a poll writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.names import PeerId
from peers.uplinks import Uplinks

STATUS_BYTES_MAX: Final = 200


@dataclass(slots=True)
class Contact:
    """The last contact of one edge: when, what its status header said, when it was told to poll again."""

    seen: float
    status: str
    poll_after_s: float


class ContactBook:
    """Last contacts by edge, and who is connected now (``federation.presence.Presence``)."""

    def __init__(self, uplinks: Uplinks) -> None:
        self._uplinks = uplinks
        self._contacts: dict[PeerId, Contact] = {}

    def polled(self, uuid: PeerId, now: float, status: str, poll_after_s: float) -> None:
        contact = self._contacts.get(uuid)
        if contact is None:
            self._contacts[uuid] = Contact(now, status[:STATUS_BYTES_MAX], poll_after_s)
        else:
            contact.seen = now
            contact.status = status[:STATUS_BYTES_MAX]
            contact.poll_after_s = poll_after_s

    def seen(self, uuid: PeerId, *, now: float) -> None:
        """Contact other than a poll."""
        contact = self._contacts.get(uuid)
        if contact is None:
            self._contacts[uuid] = Contact(now, "", 0.0)
        else:
            contact.seen = max(contact.seen, now)

    def forget(self, uuid: PeerId) -> None:
        self._contacts.pop(uuid, None)

    def last_seen(self, uuid: PeerId) -> float | None:
        contact = self._contacts.get(uuid)
        return contact.seen if contact else None

    def connected(self, uuid: PeerId) -> bool:
        return self._uplinks.connected(uuid)

    def status(self, uuid: PeerId) -> str | None:
        contact = self._contacts.get(uuid)
        return contact.status if contact else None

    def next_poll_at(self, uuid: PeerId) -> float | None:
        """When the edge was told to poll again; None before its first poll since this nameserver started."""
        contact = self._contacts.get(uuid)
        return contact.seen + contact.poll_after_s if contact and contact.poll_after_s else None
