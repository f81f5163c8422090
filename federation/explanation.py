"""Why an edge has a version of a model, or does not have it yet.

Pure: the assignments that apply, winner first, each with its source, time and author; then what stands between desired
and actual, of which the first that applies is told: not joined, on its own, silent, not asked since, failed, at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from federation.decisions import Candidate, Decision, decisions, needs_of
from federation.documents import ActualState, LoadedEntry
from federation.entries import Entry
from federation.members import Member
from federation.names import PeerId, shown
from federation.reports import Contact, moment
from federation.state import FederationState
from query.errors import unknown


class Waiting(Struct, frozen=True):
    """What stands between desired and actual: a stable reason, its words, since when, and what would change it."""

    reason: str
    message: str
    since: float | None = None
    hint: str | None = None


class Explanation(Struct, frozen=True):
    """One model on one edge; ``model`` is None for an edge that has none and that no group names one for.

    ``needs``: what the desired release needs, as it is decided for this edge.
    """

    model: str | None
    decision: Decision | None
    loaded: LoadedEntry | None
    waiting: Waiting | None
    needs: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """As ``edge:explain`` shows it."""
        candidates = self.decision.candidates if self.decision else ()
        records = [_candidate_record(candidate) for candidate in candidates]
        waiting = self.waiting
        return {
            "model": self.model,
            "desired": self.decision.winner.version if self.decision else None,
            "loaded": self.loaded.version if self.loaded else None,
            "loaded_by": self.loaded.origin if self.loaded else None,
            "winner": records[0] if records else None,
            "losers": records[1:],
            "needs": list(self.needs),
            "waits_for": None
            if waiting is None
            else {
                "reason": waiting.reason,
                "message": waiting.message,
                "since": moment(waiting.since),
                "hint": waiting.hint,
            },
        }


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    assignment, needed_by = candidate.assignment, candidate.needed_by
    source = {"source": "group"} if needed_by is None else {"source": "need", "needed_by": needed_by.label}
    return {
        **source,
        "group": candidate.group.name,
        "version": assignment.version,
        "assignment": assignment.seq,
        "time": moment(assignment.time),
        "by": assignment.by,
    }


def explain(
    state: FederationState,
    uuid: PeerId,
    model: str | None,
    *,
    actual: ActualState | None,
    contact: Contact,
    now: float,
) -> Iterator[Explanation]:
    """For a registered edge: every model that is desired or loaded there, by name, or the one that is asked for. Where
    there is none, one explanation that says what the edge itself waits for.

    Raises :class:`~query.errors.UnknownName` for a model that no release, assignment or edge's memory has.
    """
    entry = state.entry(uuid)
    if entry is None:
        raise unknown("edge", uuid, ())
    decided = {decision.name: decision for decision in decisions(state, uuid)}
    loaded = {one.name: one for one in actual.loaded} if actual else {}
    names = sorted({*decided, *loaded})
    if model is not None:
        if model not in decided and model not in loaded and not state.published.versions(model):
            raise unknown("model", model, {*names, *(release.record.name for release in state.releases())})
        names = [model]
    if not names:
        yield Explanation(None, None, None, _idle(entry, actual, contact, now=now))
    for name in names:
        decision, running = decided.get(name), loaded.get(name)
        waiting = _waiting(state, entry, name, decision, running, actual=actual, contact=contact, now=now)
        needs = needs_of(state, decision.winner) if decision else {}
        labels = tuple(decided[needed].winner.label for needed in sorted(needs) if needed in decided)
        yield Explanation(name, decision, running, waiting, labels)


def _idle(entry: Entry, actual: ActualState | None, contact: Contact, *, now: float) -> Waiting:
    """What an edge without any model waits for."""
    who = shown(entry.member.name)
    absent = absence(entry.member, actual, contact, now=now)
    return absent or Waiting("not_assigned", f"no group of {who} names a model", hint="edge:set_group_models assigns")


def _waiting(
    state: FederationState,
    entry: Entry,
    name: str,
    decision: Decision | None,
    running: LoadedEntry | None,
    *,
    actual: ActualState | None,
    contact: Contact,
    now: float,
) -> Waiting | None:
    member, who = entry.member, shown(entry.member.name)
    if decision is None:
        if running is None:
            return Waiting("not_assigned", f"no group of {who} names {name}", hint="edge:set_group_models assigns it")
        if running.origin != "group":
            return None
    elif running is not None and running.record == decision.winner.record:
        return None
    absent = absence(member, actual, contact, now=now)
    if absent is not None:
        return absent
    assert actual is not None
    behind = not_polled(state, member, actual, contact, now=now)
    if behind is not None:
        return behind
    if decision is None:
        return Waiting("unloading", f"{who} has been told that no group names {name} any more")
    label = decision.winner.label
    for error in actual.errors:
        if error.model == label:
            return Waiting(error.error, error.message, since=error.since)
    if running is not None and running.origin != "group":
        return Waiting(
            "loaded_by_hand",
            f"{running.label} was loaded by hand; the next answered poll replaces it, {_next_poll(contact, now)}",
            since=running.since,
        )
    return Waiting("in_progress", f"{who} has been told and is fetching, verifying or loading {label}")


def not_polled(
    state: FederationState, member: Member, actual: ActualState, contact: Contact, *, now: float
) -> Waiting | None:
    """That the edge has not been told of the latest change, if so."""
    generation = state.generation(member.uuid)
    if (actual.epoch, actual.generation) == (state.epoch, generation):
        return None
    return Waiting(
        "not_polled",
        f"{shown(member.name)} knows generation {actual.generation}, the latest is {generation};"
        f" {_next_poll(contact, now)}",
        since=contact.reported_at,
        hint="peerage poll on the edge asks at once",
    )


def absence(member: Member, actual: ActualState | None, contact: Contact, *, now: float) -> Waiting | None:
    """Why nothing that is decided here reaches the edge, if so."""
    who = shown(member.name)
    if member.joined is None:
        if member.token_expires is not None and now >= member.token_expires:
            again = f'edge:register("{member.name}") makes a new one'
            return Waiting("never_joined", f"{who} never joined and its bundle expired", member.token_expires, again)
        return Waiting("never_joined", f"{who} has not joined yet", member.registered, "give the edge its bundle")
    if actual is not None and actual.mode == "AUTONOMOUS":
        return Waiting(
            "autonomous",
            f"{who} is AUTONOMOUS and asks nobody",
            since=contact.reported_at,
            hint="give it signed state as a file, or end the mode on the edge",
        )
    if actual is None:
        return Waiting("no_report", f"{who} joined but reported nothing yet; {_seen(contact, now)}", member.joined)
    return None


def _seen(contact: Contact, now: float) -> str:
    if contact.connected:
        return "it is connected"
    if contact.last_seen is None:
        return "it was not seen since this nameserver started"
    return f"it was seen {max(0.0, now - contact.last_seen):.0f} s ago"


def _next_poll(contact: Contact, now: float) -> str:
    if contact.next_poll_at is None:
        return _seen(contact, now)
    ahead = contact.next_poll_at - now
    return f"next poll in {ahead:.0f} s" if ahead >= 0 else f"its poll is overdue by {-ahead:.0f} s"
