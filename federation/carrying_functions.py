"""Functions of the language that carry state to edges without a network and their reports back; at home on the
nameserver.

What an edge is to run leaves as the very bytes that its poll would be answered with. What comes back is taken only
under the signature of the edge that the roster knows, or under a key whose id an admin has compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from federation.carried_state import (
    Carried,
    check_typed_key,
    claimed,
    fingerprint,
    read_signed,
    verify_report,
)
from federation.documents import REPORT_BYTES_MAX, PollAnswer, SignedDocument, decode, encode
from federation.errors import UnknownKey
from federation.names import Digest, digest_of, shown
from federation.polling import Director
from federation.reports import moment
from query.declarations import Call, Effect, Example, Home, Role, function
from query.errors import WrongArguments

if TYPE_CHECKING:
    from federation.members import Member
    from federation.store import FederationStore

log = logging.getLogger("peerage.nameserver")


class CarryingFunctions:
    """Bind on the nameserver."""

    def __init__(self, store: FederationStore, director: Director) -> None:
        self._store = store
        self._director = director

    @function(
        "edge:export(String edge, Boolean groups?) -> Record",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,  # nothing here, but on a device that trusts what it is handed
        example=Example('edge:export("MY-EDGE-1")'),
    )
    def export(self, call: Call, edge: str, groups: bool = False) -> dict[str, Any]:
        """What `peerage export` writes beside the files of the releases: the signed answer that the edge's poll would
        get, all root records, and the fingerprint of the newest.

        With ``groups`` also the signed records of releases that other assignments of its groups hold, or held last.
        """
        state = self._store.state
        member = state.find_edge(edge)
        reply = self._director.answer(member.uuid, None, now=call.now.timestamp(), draw=0.5)
        assert reply.body is not None
        named = {digest_of(document.payload) for document in decode(reply.body, PollAnswer).releases}
        further = self._further(member, named) if groups else []
        log.info("exported", extra={"edge": member.name, "state": reply.etag, "by": call.caller.name})
        return {
            "edge": shown(member.name),
            "name": member.name,
            "uuid": member.uuid,
            "federation": state.federation,
            "state": reply.etag,
            "answer": reply.body.decode("utf-8"),
            "roots": [encode(document).decode("utf-8") for document in state.root_documents],
            "releases": [encode(document).decode("utf-8") for document in further],
            "root_version": state.root.version,
            "fingerprint": fingerprint(state.root_documents[-1]),
        }

    def _further(self, member: Member, named: set[Digest]) -> list[SignedDocument]:
        """The records of releases that the edge's groups hold although overtaken, or would go back to."""
        state = self._store.state
        found: dict[Digest, SignedDocument] = {}
        assignments = [
            assignment
            for group in state.groups_of(member.uuid)
            for assignment in (*group.assignments.values(), *group.before.values())
        ]
        held = [(one.name, one.version, one.record) for one in assignments]
        held += [(pin.name, pin.version, pin.record) for one in assignments for pin in one.needs]
        for name, version, record in held:
            release = state.release(name, version)
            if release is not None and release.digest == record and record not in named:
                found[record] = release.document
        return list(found.values())

    @function(
        "edge:take_report(String document, String key?) -> Record",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example("edge:take_report(:document)"),
    )
    def take_report(self, call: Call, document: str, key: str | None = None) -> dict[str, Any]:
        """Take the report of an AUTONOMOUS edge that was carried here: the text of the file that
        `peerage export --report` wrote.

        It must be signed by the edge's own key and newer than what is known. ``key`` is the id of the key, as the
        device shows it, for an edge that never joined and whose key nobody here knows.
        """
        doc = read_signed(document.encode("utf-8"))
        told = claimed(doc)
        state = self._store.state
        member = state.member(told.edge)
        if member is None or member.removed or member.kind != "edge":
            raise WrongArguments(
                f'the report says that it is of edge "{told.name[:64]}" ({told.edge[:64]}), whom nobody here knows'
            )
        if member.key is not None:
            trusted = member.key
        elif key is not None:
            check_typed_key(told.key, key)
            trusted = told.key
        else:
            raise UnknownKey(
                f'edge "{shown(member.name)}" never joined, so its key is not known here',
                hint='compare the id that "peerage keys show" tells on the device, and give it with --key ID',
            )
        latest, last = self._store.reports.latest(member.uuid), self._store.histories.last_carried(member.uuid)
        by_itself = latest is not None and (last is None or latest.time > last.taken)
        report = verify_report(
            doc,
            federation=state.federation,
            edge=member.uuid,
            key=trusted,
            last=last,
            newest=latest.actual.reported if latest is not None and by_itself else 0,
        )
        result = {"edge": shown(member.name), "sequence": told.sequence, "new": report is not None}
        if report is None:
            return result
        now = call.now.timestamp()
        body = encode(report.actual)
        assert len(body) <= REPORT_BYTES_MAX
        self._store.histories.put(member.uuid, report.actual.history, carried=True)
        self._store.reports.put(member.uuid, body, now=now, digest=digest_of(body))
        carried = Carried(report.sequence, digest_of(doc.payload))
        self._store.histories.put_carried(member.uuid, carried, log=report.log, now=now)
        log.info("report_carried", extra={"edge": member.name, "number": report.sequence, "by": call.caller.name})
        return result | {
            "models:loaded": [entry.label for entry in report.actual.loaded],
            "history": len(report.actual.history),
            "log": len(report.log),
        }

    @function(
        "edge:history(String edge) -> Bag of Record",
        home=Home.NAMESERVER,
        example=Example('edge:history("MY-EDGE-1")'),
    )
    def history(self, call: Call, edge: str) -> Iterator[dict[str, Any]]:
        """What an edge did while it was AUTONOMOUS, the oldest first: when by its own clock, what, to which model or
        file, and whether that came here by file.
        """
        member = self._store.state.find_edge(edge)
        for entry in self._store.histories.read(member.uuid):
            yield {
                "time": moment(entry.time),
                "event": entry.event,
                "detail": entry.detail,
                "carried": entry.carried,
            }

    @function(
        "edge:carried_log(String edge) -> Bag of String",
        home=Home.NAMESERVER,
        example=Example('edge:carried_log("MY-EDGE-1")'),
    )
    def carried_log(self, call: Call, edge: str) -> Iterator[str]:
        """The lines of log that came with the last report of an edge that was carried here, as JSON."""
        return iter(self._store.histories.carried_log(self._store.state.find_edge(edge).uuid))
