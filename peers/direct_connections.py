"""Connections to other peers on which statements are brought to them directly, kept for a while.

Owns the dialling: which address is tried, whose certificate must answer, what a lost connection means. Refuses to send
anything before the other has proven the key of its introduction.

Rules: one session for each peer, anew when its introduction names another key, or this home has another certificate; an
address that did not answer is left alone for :data:`AWAY_S`. A connection that was kept and turns out to be gone is
replaced once, with the same bytes: if they had run, the other refuses their number.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from federation.certificate_reading import read_pem
from federation.errors import BadCertificate
from federation.introductions import Introduced
from federation.names import fold, shown
from peers.federation_client import ERROR_BYTES_MAX, BadAnswer, ErrorBody, frames_of
from query.errors import WorldProblem
from query.frames import Frame

DIAL_TIMEOUT_S: Final = 2.0  # a neighbour is near, or the nameserver is asked
AWAY_S: Final = 15.0
KEPT_S: Final = 30.0  # that a connection is kept while nothing is asked
SESSIONS_MAX: Final = 64


class NotReached(WorldProblem):
    """A peer did not take a statement that was brought to it directly: nothing ran there."""

    code = "not_reached"


class AnswerLost(WorldProblem):
    """The connection to a peer ended before its answer did: the statement may have run."""

    code = "answer_lost"


class Context(Protocol):
    """TLS with this home's certificate as it is now; see :func:`federation.tls.neighbour_context`."""

    def __call__(self, check: Callable[[bytes], None]) -> ssl.SSLContext: ...


@dataclass(slots=True)
class _Sending:
    """One request, as its tracing sees it."""

    reused: bool = False


class DirectConnections:
    """One peer's."""

    def __init__(self, context: Context, *, certificate: Path) -> None:
        """``certificate``: the file of this home's, whose change makes connections anew."""
        self._context = context
        self._certificate = certificate
        self._sessions: dict[str, tuple[Any, aiohttp.ClientSession]] = {}  # by folded name
        self._away: dict[str, float] = {}  # by address: time.monotonic() until which it is left alone

    def to_try(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """The addresses that were not silent a moment ago."""
        now = time.monotonic()
        self._away = {address: until for address, until in self._away.items() if until > now}
        return tuple(address for address in addresses if address not in self._away)

    async def close(self) -> None:
        for name in tuple(self._sessions):
            await self._drop(name)

    async def _drop(self, name: str) -> None:
        _, session = self._sessions.pop(name, (None, None))
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def ask(
        self, name: str, introduced: Introduced, addresses: Sequence[str], asked: bytes
    ) -> AsyncIterator[AsyncIterator[Frame]]:
        """The frames of a peer at the first of its addresses that answers. Raises :class:`NotReached` and
        :class:`AnswerLost`; leaving the block early cancels the statement.
        """
        problem = NotReached(f"no address of {shown(name)} is known")
        for address in self.to_try(addresses):
            try:
                response = await self._posted(name, introduced, address, asked)
            except NotReached as failed:
                self._away[address] = time.monotonic() + AWAY_S
                problem = failed
                continue
            async with response:
                if response.status != 200:
                    raise NotReached(f"{shown(name)} at {address} refused: {await _refusal(response)}")
                try:
                    yield frames_of(response)
                except (aiohttp.ClientError, OSError, BadAnswer) as error:
                    raise AnswerLost(f"the answer of {shown(name)} at {address} broke off: {error}") from error
            return
        raise problem

    async def _posted(
        self, name: str, introduced: Introduced, address: str, asked: bytes, *, again: bool = False
    ) -> aiohttp.ClientResponse:
        session = await self._session(name, introduced)
        sending = _Sending()
        try:
            return await session.post(
                f"https://{address}/v1/direct",
                data=io.BytesIO(asked),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=DIAL_TIMEOUT_S),
                trace_request_ctx=sending,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ssl.SSLError) as error:
            raise NotReached(f"{shown(name)} is not reached at {address}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            if not sending.reused or again:
                raise AnswerLost(f"the connection to {shown(name)} at {address} ended: {error}") from error
        await self._drop(fold(name))
        return await self._posted(name, introduced, address, asked, again=True)

    async def _session(self, name: str, introduced: Introduced) -> aiohttp.ClientSession:
        folded = fold(name)
        whose = (introduced.peer.uuid, introduced.peer.key, self._certificate.stat().st_mtime_ns)
        known, session = self._sessions.get(folded, (None, None))
        if session is not None and known == whose:
            return session
        await self._drop(folded)
        while len(self._sessions) >= SESSIONS_MAX:
            await self._drop(next(iter(self._sessions)))
        connector = aiohttp.TCPConnector(ssl=self._context(_checking(introduced)), keepalive_timeout=KEPT_S)
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        session = aiohttp.ClientSession(
            connector=connector, trust_env=False, auto_decompress=False, trace_configs=[tracing]
        )
        self._sessions[folded] = whose, session
        return session


async def _note_reuse(session: object, context: Any, told: object) -> None:
    context.trace_request_ctx.reused = True


def _checking(introduced: Introduced) -> Callable[[bytes], None]:
    """Checks that a certificate is of the peer of an introduction, by id and key."""
    meant = introduced.peer

    def check(der: bytes) -> None:
        try:
            found = read_pem(ssl.DER_cert_to_PEM_cert(der))
        except BadCertificate as problem:
            raise ssl.SSLError(1, problem.message) from problem
        if (found.federation, found.uuid, found.key) != (meant.federation, meant.uuid, meant.key):
            words = f'another peer answers: expected "{meant.name}", found {found.kind} {found.uuid}'
            raise ssl.SSLError(1, words)

    return check


async def _refusal(response: aiohttp.ClientResponse) -> str:
    try:
        raw = await response.content.read(ERROR_BYTES_MAX)
        return msgspec.json.decode(raw, type=ErrorBody).error.message
    except (aiohttp.ClientError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return f"status {response.status}"
