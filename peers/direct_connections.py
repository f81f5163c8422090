"""Connections to other peers on which statements are brought to them directly, kept for a while.

Owns the dialling: which address is tried, whose certificate must answer, what a lost connection means. Refuses to send
anything before the other has proven the key of its introduction.

Rules: one session for each peer, anew when its introduction names another key, or this home has another certificate; an
address that did not answer is left alone for :data:`AWAY_S`. A connection that was kept and turns out to be gone is
replaced once, with the same bytes: if they had run, the other refuses their number; after that nothing is certain but
an answer. A session that is replaced ends with the last answer that comes on it.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import aiohttp
import msgspec

from federation.certificate_reading import read_pem
from federation.errors import BadCertificate
from federation.introductions import Introduced
from federation.names import fold, shown
from peers.federation_client import ERROR_BYTES_MAX, ErrorBody, frames_of
from query.errors import WorldProblem
from query.frames import Frame

DIAL_TIMEOUT_S: Final = 2.0  # a neighbour is near, or the nameserver is asked
AWAY_S: Final = 15.0
KEPT_S: Final = 30.0  # that a connection is kept while nothing is asked
SESSIONS_MAX: Final = 64
READ_OUT_S: Final = 0.5  # for the end of a connection's answer, past the answer's own


class NotReached(WorldProblem):
    """A peer did not take a statement that was brought to it directly: nothing ran there."""

    code = "not_reached"


class _Silent(NotReached):
    """Nobody who was meant answers at an address."""


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


@dataclass(slots=True)
class _Session:
    """``whose`` tells when it is of use no more; ``used``: answers under way on it."""

    whose: tuple[Any, ...]
    client: aiohttp.ClientSession
    used: int = 0
    kept: bool = True

    async def left(self) -> None:
        """Close it, when nobody comes and nobody is there."""
        if not self.kept and not self.used:
            await self.client.close()


class Brought(NamedTuple):
    """A statement that the other took. ``again``: it was brought before, on a connection that was lost."""

    frames: AsyncIterator[Frame]
    again: bool


class DirectConnections:
    """One peer's."""

    def __init__(self, context: Context, *, certificate: Path) -> None:
        """``certificate``: the file of this home's, whose change makes connections anew."""
        self._context = context
        self._certificate = certificate
        self._sessions: dict[str, _Session] = {}  # by folded name
        self._away: dict[str, float] = {}  # by address: time.monotonic() until which it is left alone

    def to_try(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """The addresses that were not silent a moment ago."""
        now = time.monotonic()
        self._away = {address: until for address, until in self._away.items() if until > now}
        return tuple(address for address in addresses if address not in self._away)

    async def close(self) -> None:
        for name in tuple(self._sessions):
            session = self._sessions[name]
            self._drop(name, session)
            await session.client.close()

    def _drop(self, name: str, session: _Session) -> None:
        """Have the next statement go by another session; see :meth:`_Session.left`."""
        session.kept = False
        if self._sessions.get(name) is session:
            del self._sessions[name]

    @asynccontextmanager
    async def ask(
        self, name: str, introduced: Introduced, addresses: Sequence[str], asked: bytes
    ) -> AsyncIterator[Brought]:
        """The frames of a peer at the first of its addresses that answers. Raises :class:`NotReached` and
        :class:`AnswerLost`; leaving the block early cancels the statement.
        """
        problem = NotReached(f"no address of {shown(name)} is known")
        for address in self.to_try(addresses):
            try:
                async with self._brought(name, introduced, address, asked) as brought:
                    yield brought
                return
            except _Silent as failed:
                self._away[address] = time.monotonic() + AWAY_S
                problem = NotReached(failed.message)
        raise problem

    @asynccontextmanager
    async def _brought(
        self, name: str, introduced: Introduced, address: str, asked: bytes, *, again: bool = False
    ) -> AsyncIterator[Brought]:
        async with self._session(name, introduced) as session:
            sending = _Sending()
            try:
                response = await session.client.post(
                    f"https://{address}/v1/direct",
                    data=io.BytesIO(asked),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=DIAL_TIMEOUT_S),
                    trace_request_ctx=sending,
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ssl.SSLError) as error:
                if again:
                    raise _lost(name, address, error) from error
                raise _Silent(f"{shown(name)} is not reached at {address}: {error}") from error
            except (aiohttp.ClientError, OSError) as error:
                if not sending.reused or again:
                    raise _lost(name, address, error) from error
                self._drop(fold(name), session)
            else:
                async with response:
                    if response.status != 200:
                        refusal = f"{shown(name)} at {address} refused: {await _refusal(response)}"
                        raise AnswerLost(refusal) if again else NotReached(refusal)
                    try:
                        yield Brought(frames_of(response), again)
                    except (aiohttp.ClientError, OSError) as error:
                        raise AnswerLost(f"the answer of {shown(name)} at {address} broke off: {error}") from error
                    await _read_out(response)
                return
        async with self._brought(name, introduced, address, asked, again=True) as brought:
            yield brought

    @asynccontextmanager
    async def _session(self, name: str, introduced: Introduced) -> AsyncIterator[_Session]:
        folded = fold(name)
        whose = (introduced.peer.uuid, introduced.peer.key, self._certificate.stat().st_mtime_ns)
        session = self._sessions.get(folded)
        replaced: list[_Session] = []
        if session is None or session.whose != whose:
            if session is not None:
                replaced.append(session)
            elif len(self._sessions) >= SESSIONS_MAX:
                replaced.append(next(iter(self._sessions.values())))
            for one in replaced:
                self._drop(next(name for name, kept in self._sessions.items() if kept is one), one)
            session = self._sessions[folded] = _Session(whose, self._opened(introduced))
        session.used += 1
        try:
            for one in replaced:
                await one.left()
            yield session
        finally:
            session.used -= 1
            await session.left()

    def _opened(self, introduced: Introduced) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self._context(_checking(introduced)), keepalive_timeout=KEPT_S)
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=connector, trust_env=False, auto_decompress=False, trace_configs=[tracing]
        )


async def _read_out(response: aiohttp.ClientResponse) -> None:
    """Let an answer that has ended leave its connection to the next one; who says more loses it."""
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(READ_OUT_S):
            await response.content.readany()


def _lost(name: str, address: str, error: Exception) -> AnswerLost:
    return AnswerLost(f"the connection to {shown(name)} at {address} ended: {error}")


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
