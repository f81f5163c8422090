"""What an edge reported, as the language shows it, and how a report is read from the wire.

Pure. The record of :func:`state_record` has exactly three keys in this order, as the object-stream reference has it;
everything else about an edge is in :func:`status_record`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from federation.documents import REPORT_BYTES_MAX, ActualState, DesiredState, decode
from federation.members import Member
from federation.names import PeerId, shown
from query.errors import PeerProblem, UserProblem


class NoReport(UserProblem):
    code = "no_report"


class BadReport(PeerProblem):
    """A body that is not a report of the edge that sent it."""

    code = "bad_report"


class Contact(Struct, frozen=True):
    """What is known of an edge's presence, and of its last report, at one moment. ``connected`` is None where nobody
    remembers.
    """

    last_seen: float | None = None
    connected: bool | None = False
    next_poll_at: float | None = None
    reported_at: float | None = None


def read_report(body: bytes, edge: PeerId) -> ActualState:
    """Raises :class:`BadReport`, naming what was expected, for another form, edge or size."""
    if len(body) > REPORT_BYTES_MAX:
        raise BadReport(f"a report of {len(body)} bytes: expected at most {REPORT_BYTES_MAX}")
    try:
        actual = decode(body, ActualState)
    except msgspec.MsgspecError as error:
        raise BadReport(f"expected an actual state: {error}") from error
    if actual.edge != edge:
        raise BadReport(f"expected a report of edge {edge}, found one of {actual.edge[:64]}")
    return actual


def moment(seconds: float | None) -> datetime | None:
    """A time of the log or a document as a value of the language."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def state_record(actual: ActualState) -> dict[str, Any]:
    """``{"models:loaded": [label, …], "last_load_errors": [record, …], "edge_mode": mode}``."""
    return {
        "models:loaded": [entry.label for entry in actual.loaded],
        "last_load_errors": [
            {"model": error.model, "error": error.error, "message": error.message, "since": moment(error.since)}
            for error in actual.errors
        ],
        "edge_mode": actual.mode,
    }


def converged(desired: DesiredState, actual: ActualState | None) -> bool:
    """Whether the edge says that it runs what it should, and knows of the latest change."""
    if actual is None or (actual.epoch, actual.generation) != (desired.epoch, desired.generation):
        return False
    loaded = {(entry.name, entry.record) for entry in actual.loaded}
    return all((model.name, model.record) in loaded for model in desired.models)


def status_record(
    member: Member, desired: DesiredState, actual: ActualState | None, contact: Contact, *, lag_s: float
) -> dict[str, Any]:
    """One edge for ``edge:status``. ``lag_s``: seconds since the change that the edge has not taken up yet, else 0."""
    return {
        "id": shown(member.name),
        "joined": moment(member.joined),
        "connected": contact.connected,
        "last_seen": moment(contact.last_seen),
        "next_poll": moment(contact.next_poll_at),
        "reported_at": moment(contact.reported_at),
        "mode": desired.mode,
        "edge_mode": actual.mode if actual else None,
        "poll_interval": desired.poll_interval,
        "generation": desired.generation,
        "reported_generation": actual.generation if actual else None,
        "lag": lag_s,
        "converged": converged(desired, actual),
        "models:desired": [model.label for model in desired.models],
        "models:loaded": [entry.label for entry in actual.loaded] if actual else [],
        "errors": len(actual.errors) if actual else 0,
        "alarms": list(actual.alarms) if actual else [],
        "tags": list(member.tags),
    }
