"""The face on which an edge can be asked by other members directly, where its owner opens it.

    POST /v1/direct     {"body", "time_left_s", "envelope", "credential"} → frames as JSON lines
    everything else     404

TLS 1.3 with the edge's own certificate; who calls shows one too. A statement runs as it does when an uplink brings it
(:mod:`peers.carried`): under the same envelope and the director's word on its caller, here or not at all.

Rules: who calls is who signed, so that what one peer was given to run is of no use to it at another. Without an
envelope and a credential nothing is taken, and no session variables beside them: nobody is a mere carrier here. A
member that was removed is refused once the director's word on it has ended, since this peer knows no roster. Bodies,
and statements at once, in all and for each caller, are bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
from aiohttp import web

from federation.admission import admit_neighbour
from federation.certificate_reading import PeerCertificate
from federation.documents import Credential, SignedDocument, decode
from federation.errors import WrongDocument, WrongKey
from peers.answers import TooBusy, body_of, not_found, stream_frames, told
from peers.requests import TIMEOUT_S_MAX
from peers.uplink_messages import StatementMessage
from query.errors import UserProblem
from query.frames import Frame

DIRECT_BYTES_MAX: Final = 8 * 1024 * 1024  # of a statement with its parameters; what is longer goes by the nameserver
STATEMENTS_MAX: Final = 64
STATEMENTS_PER_PEER_MAX: Final = 16
READING_S: Final = 3.0  # for the end of an answer, past the statement's own time; then it is cut off

log = logging.getLogger("peerage.direct")


class DirectStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sent: one statement, as a request's exact bytes, and what proves on whose behalf."""

    body: bytes
    time_left_s: float
    envelope: SignedDocument
    credential: SignedDocument


class Executor(Protocol):
    """What runs a statement that another peer brought here."""

    def carried(self, message: StatementMessage) -> AsyncIterator[Frame]: ...


class DirectFace:
    """The routes; the composition serves them."""

    def __init__(self, *, federation: str, executor: Executor, federation_time: Callable[[], float]) -> None:
        self._federation = federation
        self._executor = executor
        self._now = federation_time
        self._running: Counter[str] = Counter()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=DIRECT_BYTES_MAX)
        application.router.add_post("/v1/direct", told(self._direct))
        application.router.add_route("*", "/{rest:.*}", told(self._unknown))
        return application

    def _caller(self, request: web.Request) -> PeerCertificate:
        """Who calls, as TLS has proven it. Raises a refusal with its class."""
        transport = request.transport
        shown = transport.get_extra_info("peercert") if transport is not None else None
        certificate = PeerCertificate.from_peercert(shown) if shown else None
        return admit_neighbour(certificate, federation=self._federation, now=self._now())

    async def _direct(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        with self._place(caller.uuid):
            asked = _read(await body_of(request, bytes_max=DIRECT_BYTES_MAX))
            if _claimed(asked.credential) != caller.uuid:
                raise WrongKey("a statement that another member signed: expected one of who brings it")
            message = StatementMessage(
                id=0,
                body=asked.body,
                index=0,
                time_left_s=asked.time_left_s,
                envelope=asked.envelope,
                credential=asked.credential,
            )
            frames = self._executor.carried(message)
            try:
                async with asyncio.timeout(asked.time_left_s + READING_S):
                    return await stream_frames(request, frames, query="")
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                log.info("direct_not_read", extra={"caller": caller.uuid})
                return web.Response()  # which nobody sees
            finally:
                close = getattr(frames, "aclose", None)
                if close is not None:
                    await close()

    @contextmanager
    def _place(self, caller: str) -> Iterator[None]:
        if self._running.total() >= STATEMENTS_MAX or self._running[caller] >= STATEMENTS_PER_PEER_MAX:
            raise TooBusy(
                f"{self._running.total()} statements were brought here directly and run, {self._running[caller]} of "
                "them by this caller: no more fit"
            )
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        return not_found(request)


def _read(raw: bytes) -> DirectStatement:
    try:
        asked = decode(raw, DirectStatement, bytes_max=DIRECT_BYTES_MAX)
    except msgspec.MsgspecError as error:
        raise UserProblem(f"expected a statement with its envelope and credential: {error}") from error
    if not 0 < asked.time_left_s <= TIMEOUT_S_MAX:
        raise UserProblem(f"expected a time left of more than 0 and at most {TIMEOUT_S_MAX:g} s")
    return asked


def _claimed(credential: SignedDocument) -> str:
    """Whom a credential is about, unproven: whether it holds is checked before anything runs."""
    try:
        return decode(credential.payload, Credential).uuid
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a credential: {error}") from error
