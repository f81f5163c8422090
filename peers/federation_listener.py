"""The nameserver's federation face: every route that other peers and remote clients call, over TLS.

    POST /v1/join                  a bundle's token and a key → certificate         no certificate needed
    POST /v1/renew                 a certificate, even an expired one → a new one
    GET  /v1/edges/{uuid}/desired  the poll
    PUT  /v1/edges/{uuid}/report   the actual state
    …    /v1/edges/{uuid}/statements…    what waits for an edge (peers.waiting_routes)
    GET  /v1/root/{version}        a root record
    GET  /v1/uplink                WebSocket: statements and nudges for an INTERACTIVE edge
    POST /v1/query                 a statement, frames as JSON lines
    GET  /v1/whoami                who the caller is admitted as, and federation time
    /v2/                           the model repository

Decides nothing: admission, the poll's answer and every change are pure functions elsewhere. Rules: each request is
admitted anew against the roster, so a removal holds at once; kinds of request have limits of their own.
"""

from __future__ import annotations

import email.utils
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Final, Protocol

import msgspec
from aiohttp import web

from federation import commands
from federation.admission import Purpose, admit
from federation.certificate_reading import PeerCertificate
from federation.documents import (
    REPORT_BYTES_MAX,
    Admission,
    JoinRequest,
    SignedDocument,
    decode,
    encode,
)
from federation.errors import WrongRole
from federation.members import Member
from federation.names import PeerId, digest_of
from federation.polling import Director, Standing
from federation.reports import read_report
from federation.store import FederationStore
from peers.answers import TooBusy, body_of, not_found, stream_frames, told
from peers.failpoints import reach
from peers.presence import ContactBook
from peers.refusals import Refusals
from peers.requests import QUERY_BYTES_MAX, Origin, StatementRunner
from peers.throttle import Throttle
from peers.tls_site import shown_address
from peers.uplinks import FAREWELL_S, Uplinks
from query.declarations import Caller, Role
from query.errors import Problem, UnknownName, UserProblem

JOIN_BYTES_MAX: Final = 64 * 1024
JOINS_PER_S: Final = 20.0
JOINS_BURST: Final = 100
STANDING_SLACK: Final = 2  # remembered poll answers for each registered edge
CERTIFICATES_MAX: Final = 200_000  # parsed ones, remembered by serial number

log = logging.getLogger("peerage.federation")


class Issuer(Protocol):
    """Makes the certificate of an admitted key: PEM and its end, seconds since the epoch."""

    def issue(self, member: Member, *, now: float) -> tuple[str, int]: ...

    @property
    def authority(self) -> str:
        """The CA's certificate, PEM."""
        ...


class FederationListener:
    """The routes and what they need. ``application()`` is served by the composition."""

    def __init__(
        self,
        *,
        store: FederationStore,
        director: Director,
        issuer: Issuer,
        uplinks: Uplinks,
        contacts: ContactBook,
        statements: StatementRunner,
        refusals: Refusals,
        addresses: Callable[[], tuple[str, ...]],
        clock: Callable[[], float],
        waits_for: Callable[[PeerId], bool] = lambda uuid: False,
    ) -> None:
        """``waits_for``: whether statements wait for an edge, which its polls are told; a look-up."""
        self._waits_for = waits_for
        self._store = store
        self._director = director
        self._issuer = issuer
        self._uplinks = uplinks
        self._contacts = contacts
        self._statements = statements
        self._refusals = refusals
        self._addresses = addresses
        self._clock = clock
        self._repository: list[web.RouteDef] = []
        self._certificates: dict[str, PeerCertificate] = {}
        self._joins = Throttle(JOINS_PER_S, JOINS_BURST)
        self._date = (0, "")
        self._draw = random.Random().random  # noqa: S311 — jitter, not a secret
        self._standing: dict[str, tuple[float, Standing, str, PeerId]] = {}  # by edge
        self._poll_anew = told(self._answer_poll)

    def add_routes(self, routes: Iterable[web.RouteDef]) -> None:
        """Routes of another part, which admits its callers with :meth:`member`; before :meth:`application`."""
        self._repository.extend(routes)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=QUERY_BYTES_MAX)
        application.add_routes(
            [
                web.get("/v1/edges/{uuid}/desired", self._poll, allow_head=False),
                web.put("/v1/edges/{uuid}/report", told(self._report)),
                web.get("/v1/root/{version}", told(self._root)),
                web.get("/v1/whoami", told(self._whoami)),
                web.get("/v1/uplink", told(self._uplink)),
                web.post("/v1/query", told(self._query)),
                web.post("/v1/join", told(self._join)),
                web.post("/v1/renew", told(self._renew)),
                *self._repository,
            ]
        )
        application.router.add_route("*", "/{rest:.*}", told(self._unknown))
        application.on_response_prepare.append(self._tell_time)
        return application

    async def _tell_time(self, request: web.Request, response: web.StreamResponse) -> None:
        """Federation time is this peer's clock, also where its process was given another than the system's."""
        second = int(self._clock())
        if second != self._date[0]:
            self._date = (second, email.utils.formatdate(second, usegmt=True))
        response.headers["Date"] = self._date[1]

    # --- who calls ----------------------------------------------------------------------------------------------

    def member(self, request: web.Request, purpose: Purpose = Purpose.ORDINARY) -> Member:
        """The member that the request's certificate proves, admitted now. Raises a refusal with its class, noted."""
        now = self._clock()
        certificate: PeerCertificate | None = None
        try:
            certificate = self._certificate(request)
            return admit(certificate, self._store.state, now=now, purpose=purpose)
        except Problem as problem:
            uuid = certificate.uuid if certificate is not None else None
            known = self._store.state.member(uuid) if uuid is not None else None
            name = known.name if known is not None else None
            address = address_of(request)
            self._refusals.note(problem, name=name, uuid=uuid, address=address, path=request.path, now=now)
            raise

    def _certificate(self, request: web.Request) -> PeerCertificate | None:
        transport = request.transport
        shown = transport.get_extra_info("peercert") if transport is not None else None
        if not shown:
            return None
        known = self._certificates.get(shown["serialNumber"])
        if known is None:
            known = PeerCertificate.from_peercert(shown)
            if len(self._certificates) >= CERTIFICATES_MAX:
                self._certificates.clear()
            self._certificates[shown["serialNumber"]] = known
        return known

    def own_edge(self, request: web.Request) -> Member:
        """The edge that a request's path names, as which the caller is admitted now."""
        member = self.member(request)
        if member.uuid != request.match_info["uuid"] or member.kind != "edge":
            raise WrongRole(f'"{member.name}" may not speak for edge {request.match_info["uuid"][:64]}')
        return member

    # --- edges --------------------------------------------------------------------------------------------------

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        """A poll. What admission and director said last holds while certificate, log and window are the same: both
        are functions of these alone. So an unchanged poll is a look-up, with any number of edges.
        """
        now = self._clock()
        known = self._standing.get(request.match_info["uuid"])
        if known is not None and known[1].seq == self._store.state.seq and now < known[0]:
            serial, standing = known[2], known[1]
            headers = request.headers
            transport = request.transport
            shown = transport.get_extra_info("peercert") if transport is not None else None
            if shown and shown["serialNumber"] == serial and headers.get("If-None-Match") == standing.etag:
                after_s = standing.interval.wait_s(self._draw())
                self._contacts.polled(known[3], now, headers.get("Peerage-Status", ""), after_s)
                told_headers = {"ETag": standing.etag, "Poll-After": f"{after_s:.3f}"}
                if self._waits_for(known[3]):
                    told_headers["Peerage-Statements"] = "1"
                return web.Response(status=304, headers=told_headers)
        return await self._poll_anew(request)

    async def _answer_poll(self, request: web.Request) -> web.StreamResponse:
        member = self.own_edge(request)
        now = self._clock()
        headers = request.headers
        reply = self._director.answer(member.uuid, headers.get("If-None-Match"), now=now, draw=self._draw())
        self._contacts.polled(member.uuid, now, headers.get("Peerage-Status", ""), reply.poll_after_s)
        told_headers = {"ETag": reply.etag, "Poll-After": f"{reply.poll_after_s:.3f}"}
        if self._waits_for(member.uuid):
            told_headers["Peerage-Statements"] = "1"
        if reply.body is None:
            self._remember(request, member.uuid, now)
            return web.Response(status=304, headers=told_headers)
        reach("desired.signed")
        return web.Response(body=reply.body, headers=told_headers, content_type="application/json")

    def _remember(self, request: web.Request, uuid: PeerId, now: float) -> None:
        certificate = self._certificate(request)
        assert certificate is not None
        assert request.transport is not None
        standing = self._director.standing(uuid, now=now)
        serial = request.transport.get_extra_info("peercert")["serialNumber"]
        if len(self._standing) > STANDING_SLACK * max(1, self._store.state.edge_count):  # removed edges' too
            self._standing.clear()
        self._standing[uuid] = (min(standing.until, certificate.not_after), standing, serial, uuid)

    async def _report(self, request: web.Request) -> web.StreamResponse:
        member = self.own_edge(request)
        raw = await body_of(request, bytes_max=REPORT_BYTES_MAX)
        report = read_report(raw, member.uuid)
        now = self._clock()
        reach("report.received")
        self._store.histories.put(member.uuid, report.history)
        self._store.reports.put(member.uuid, raw, digest=digest_of(raw), now=now)
        reach("report.durable")
        self._contacts.seen(member.uuid, now=now)
        return web.Response(status=204)

    async def _root(self, request: web.Request) -> web.StreamResponse:
        self.member(request)
        text = request.match_info["version"]
        documents = self._store.state.root_documents
        if not text.isdecimal() or not 1 <= int(text) <= len(documents):
            raise UnknownName(f"no root record {text[:20]!r}: the newest is {len(documents)}")
        return web.Response(body=encode(documents[int(text) - 1]), content_type="application/json")

    async def _uplink(self, request: web.Request) -> web.StreamResponse:
        member = self.member(request)
        if member.kind != "edge":
            raise WrongRole(f'"{member.name}" is a {member.kind}; only an edge holds an uplink')
        self._uplinks.require_open()
        socket = web.WebSocketResponse(timeout=FAREWELL_S, heartbeat=20.0, max_msg_size=QUERY_BYTES_MAX, compress=False)
        await socket.prepare(request)
        log.info("uplink_open", extra={"edge": member.name})
        self._contacts.seen(member.uuid, now=self._clock())
        try:
            await self._uplinks.serve(member.uuid, socket)
        finally:
            self._contacts.seen(member.uuid, now=self._clock())
            log.info("uplink_closed", extra={"edge": member.name})
        return socket

    # --- statements ---------------------------------------------------------------------------------------------

    async def _whoami(self, request: web.Request) -> web.StreamResponse:
        member = self.member(request)
        who = {"name": member.name, "kind": member.kind, "role": member.role, "uuid": member.uuid}
        return web.json_response({**who, "time": self._clock()})

    async def _query(self, request: web.Request) -> web.StreamResponse:
        member = self.member(request)
        body = await body_of(request, bytes_max=QUERY_BYTES_MAX)
        carried = request.headers.get("Peerage-Envelope")
        try:
            envelope = decode(carried.encode(), SignedDocument) if carried else None
        except msgspec.MsgspecError as error:
            raise UserProblem(f"expected a signed envelope in Peerage-Envelope: {error}") from error
        origin = Origin(caller_of(member), envelope)
        query = self._statements.new_query()
        async with aclosing(self._statements.run(body, origin=origin, query=query)) as frames:
            return await stream_frames(request, frames, query=query)

    # --- joining ------------------------------------------------------------------------------------------------

    async def _join(self, request: web.Request) -> web.StreamResponse:
        if not self._joins.take(self._clock()):
            raise TooBusy("too many join attempts; try again shortly")
        raw = await body_of(request, bytes_max=JOIN_BYTES_MAX)
        try:
            asked = decode(raw, JoinRequest)
        except msgspec.MsgspecError as error:
            raise UserProblem(f"expected a join request: {error}") from error
        now = self._clock()
        state = self._store.state
        try:
            events = commands.join(state, asked, now=now)
        except Problem as refusal:
            log.warning("join_refused", extra={"peer_name": asked.name, "code": refusal.code})
            raise
        self._store.append(events, caller=asked.name, now=now)
        reach("join.durable")
        member = self._store.state.find_member(asked.name)
        log.info("joined", extra={"peer_name": member.name, "uuid": member.uuid})
        return self._admitted(member, now)[0]

    async def _renew(self, request: web.Request) -> web.StreamResponse:
        member = self.member(request, Purpose.RENEW)
        now = self._clock()
        answer, not_after = self._admitted(member, now)
        events = commands.renew(self._store.state, member.uuid, not_after=not_after)
        self._store.append(events, caller=member.name, now=now)
        log.info("renewed", extra={"peer_name": member.name, "uuid": member.uuid})
        return answer

    def _admitted(self, member: Member, now: float) -> tuple[web.Response, int]:
        certificate, not_after = self._issuer.issue(member, now=now)
        answer = Admission(
            federation=self._store.state.federation,
            uuid=PeerId(member.uuid),
            name=member.name,
            kind=member.kind,
            role=member.role,
            certificate=certificate,
            ca=self._issuer.authority,
            not_after=not_after,
            roots=tuple(self._store.state.root_documents),
            addresses=self._addresses(),
            time=now,
        )
        return web.Response(body=encode(answer), content_type="application/json"), not_after

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        self.member(request)
        return not_found(request)


def address_of(request: web.Request) -> str:
    """``host:port`` of who calls, empty once it is gone."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return shown_address(peer) if peer else ""


def caller_of(member: Member) -> Caller:
    """The caller that a member is on the nameserver, and wherever the director vouches for it."""
    return Caller(name=member.name, role=Role[member.role.upper()], uuid=member.uuid, key=member.key)
