"""A peer's side of the federation face: one mutually authenticated HTTP client to the nameserver.

Owns the connection, the list of addresses to try, and the estimate of federation time. Decides nothing: it returns
what the nameserver said, or raises what went wrong in the classes of :mod:`query.errors`.

Rules: TLS 1.3 with the federation's CA and ``nameserver.peerage.internal`` as the expected name, whatever address
is dialled; no proxy, no redirect; every call has a time limit; every body read has a bound.
"""

from __future__ import annotations

import asyncio
import email.utils
import io
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import msgspec

from federation.documents import (
    DOCUMENT_BYTES_MAX,
    ROOTS_BYTES_MAX,
    Admission,
    JoinRequest,
    SignedDocument,
    decode,
    encode,
)
from federation.names import PeerId
from peers.addresses import HINT, Addresses, Look, Remember, words_of_tls
from query.errors import ErrorRecord, PeerProblem, Problem, WorldProblem
from query.frames import Frame, decode_frame

SERVER_HOSTNAME: Final = "nameserver.peerage.internal"
CONNECT_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 30.0
READ_TIMEOUT_S: Final = 30.0
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
ERROR_BYTES_MAX: Final = 64 * 1024
_T = TypeVar("_T")

CLOCK_TOLERANCE_S: Final = 2.0  # the Date header has whole seconds, and travels


class Unreachable(WorldProblem):
    """No address answered."""

    code = "nameserver_unreachable"


class UntrustedNameserver(PeerProblem):
    """What answered does not have a certificate of this federation's CA."""

    code = "wrong_ca"


class BadAnswer(WorldProblem):
    """What answered does not speak as a nameserver does."""

    code = "bad_answer"


class Told(msgspec.Struct, frozen=True):
    """Of ``/v1/whoami``: federation time."""

    time: float


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of every refusal and failure on the federation face."""

    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class PollReply:
    """``body``: a ``PollAnswer`` on 200, None on 304; ``poll_after_s`` is jittered; ``errands``: statements wait."""

    status: int
    etag: str
    body: bytes | None
    poll_after_s: float | None
    errands: bool = False


class FederationClient:
    """One peer's connection to its nameserver. Use as an async context manager, inside a running loop.

    ``addresses`` are ``host:port``, tried in order, the last one that worked first.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        context: ssl.SSLContext,
        *,
        clock: Callable[[], float] = time.time,
        clock_offset_s: float = 0.0,
        look: Look | None = None,
        remember: Remember | None = None,
    ) -> None:
        """``look``, ``remember``: see :mod:`peers.addresses`."""
        self._addresses = Addresses(addresses, look=look, remember=remember)
        self._context = context
        self._clock = clock
        self.clock_offset_s = clock_offset_s
        self.last_contact: float | None = None  # federation time of the last answer, whatever it said
        self._session: aiohttp.ClientSession | None = None
        self._former: aiohttp.ClientSession | None = None  # with the certificate before, for what is under way on it
        self._sealed: Callable[[], Problem] | None = None
        self.first: Callable[[], Awaitable[None]] | None = None  # to be done before the first call; may call itself

    async def __aenter__(self) -> Self:
        self._session = self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=16, keepalive_timeout=300)
        return aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False)

    async def close(self) -> None:
        for session in (self._session, self._former):
            if session is not None:
                await session.close()
        self._session = self._former = None

    async def seal(self, why: Callable[[], Problem] | None) -> None:
        """Dial no more: what is under way is cut, everything else raises ``why()``. None ends that."""
        self._sealed = why
        await self.close()

    def check_open(self) -> None:
        """Raises why nothing may be dialled; for whoever dials the nameserver in another way too."""
        if self._sealed is not None:
            raise self._sealed()

    async def use_context(self, context: ssl.SSLContext) -> None:
        """Connect with another certificate from now on (after a renewal).

        What is under way ends as it began: an uplink is not cut, nor the queries on it.
        """
        if self._former is not None:
            await self._former.close()
        self._former, self._session = self._session, None
        self._context = context

    def use_addresses(self, addresses: Sequence[str]) -> None:
        """Put newly discovered addresses in front of the known ones."""
        self._addresses.put_first(addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses.known

    def federation_time(self) -> float:
        """This peer's clock, corrected by what the nameserver told."""
        return self._clock() + self.clock_offset_s

    async def begin(self) -> None:
        """Do what was set as ``first``, once; for whoever dials the nameserver in another way too."""
        first, self.first = self.first, None
        if first is not None:
            await first()

    async def hear_the_time(self) -> None:
        """Before the first word of a peer whose clock may be wrong, ask what time it is. Raises as every call does."""
        if self.last_contact is None:
            async with self.request("GET", "/v1/whoami") as response:
                told = _decoded(await _read(response, ERROR_BYTES_MAX), Told, "who this peer is")
            self.clock_offset_s = told.time - self._clock()

    # --- the calls ----------------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> Admission:
        """``POST /v1/join``. Raises the refusal's own class."""
        return await self._admission("/v1/join", encode(request))

    async def renew(self) -> Admission:
        """``POST /v1/renew``: a new certificate for the same key; also with an expired one."""
        return await self._admission("/v1/renew", b"")

    async def poll(self, uuid: PeerId, *, etag: str | None, status: str) -> PollReply:
        """``GET /v1/edges/{uuid}/desired``. ``status`` is the Peerage-Status header, at most 200 bytes."""
        headers = {"Peerage-Status": status}
        if etag:
            headers["If-None-Match"] = etag
        async with self.request("GET", f"/v1/edges/{uuid}/desired", headers=headers) as response:
            after = response.headers.get("Poll-After")
            body = None if response.status == 304 else await _read(response, DOCUMENT_BYTES_MAX)
            return PollReply(
                status=response.status,
                etag=response.headers.get("ETag", ""),
                body=body,
                poll_after_s=_seconds(after),
                errands="Peerage-Statements" in response.headers,
            )

    async def report(self, uuid: PeerId, body: bytes) -> None:
        """``PUT /v1/edges/{uuid}/report``; returns once it is durable there."""
        async with self.request("PUT", f"/v1/edges/{uuid}/report", body=body):
            pass

    async def root(self, version: int) -> SignedDocument:
        """``GET /v1/root/{version}``."""
        async with self.request("GET", f"/v1/root/{version}") as response:
            return _decoded(await _read(response, DOCUMENT_BYTES_MAX), SignedDocument, "a root record")

    @asynccontextmanager
    async def query(
        self, body: bytes, *, envelope: SignedDocument | None = None
    ) -> AsyncIterator[AsyncIterator[Frame]]:
        """``POST /v1/query``; gives the frames as they arrive. Leaving the block early cancels the statement."""
        headers = {"Content-Type": "application/json"}
        if envelope is not None:
            headers["Peerage-Envelope"] = encode(envelope).decode("ascii")  # JSON without line breaks
        async with self.request("POST", "/v1/query", body=body, headers=headers, endless=True) as response:
            yield frames_of(response)

    @asynccontextmanager
    async def stream(
        self, path: str, *, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A ``GET`` whose body the caller reads and bounds itself. Statuses from 400 on raise."""
        async with self.request("GET", path, headers=headers, endless=True) as response:
            yield response

    @asynccontextmanager
    async def uplink(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The WebSocket that carries queries and nudges. Raises as every other call does."""
        problem: Problem = Unreachable("no nameserver address is known", hint=HINT)
        for address in self._addresses.known:
            try:
                socket = await self._connected().ws_connect(
                    f"wss://{address}/v1/uplink",
                    server_hostname=SERVER_HOSTNAME,
                    heartbeat=20.0,
                    max_msg_size=FRAME_BYTES_MAX,
                    autoping=True,
                    timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                )
            except aiohttp.WSServerHandshakeError as error:
                if error.status == 403:
                    # The handshake's body is gone; an ordinary call reads the class of the same refusal.
                    async with self.request("GET", "/v1/whoami"):
                        pass
                raise BadAnswer(f"{address} refused the uplink with status {error.status}") from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                problem = _translated(error, address)
                continue
            self._addresses.worked(address)
            async with socket:
                yield socket
            return
        raise problem

    # --- requests -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        endless: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One call. A body that was sent to one address is not sent to another: only dialling is tried in turn."""
        limits = aiohttp.ClientTimeout(
            total=None if endless else CALL_TIMEOUT_S,
            connect=CONNECT_TIMEOUT_S,
            sock_read=None if endless else READ_TIMEOUT_S,
        )
        self.check_open()
        await self.begin()
        problem: Problem = Unreachable("no nameserver address is known", hint=HINT)
        async for address in self._addresses.to_try():
            try:
                response = await self._connected().request(
                    method,
                    f"https://{address}{path}",
                    data=io.BytesIO(body) if body is not None else None,
                    headers=headers,
                    server_hostname=SERVER_HOSTNAME,
                    allow_redirects=False,
                    timeout=limits,
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                problem = _translated(error, address)
                continue
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise _translated(error, address) from error
            self._addresses.worked(address)
            self._learn_time(response)
            self.last_contact = self.federation_time()
            try:
                if response.status >= 300 and response.status != 304:
                    raise await _refusal(response)
                yield response
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _translated(error, address) from error
            finally:
                response.release()
            return
        raise problem

    async def _admission(self, path: str, body: bytes) -> Admission:
        async with self.request("POST", path, body=body) as response:
            raw = await _read(response, ROOTS_BYTES_MAX)  # it brings all root records
            admission = _decoded(raw, Admission, "an admission", bytes_max=ROOTS_BYTES_MAX)
        self.clock_offset_s = admission.time - self._clock()
        return admission

    def _connected(self) -> aiohttp.ClientSession:
        self.check_open()
        if self._session is None:
            self._session = self._open()
        return self._session

    def _learn_time(self, response: aiohttp.ClientResponse) -> None:
        told = response.headers.get("Date")
        if told is None:
            return
        try:
            offset = email.utils.parsedate_to_datetime(told).timestamp() + 0.5 - self._clock()
        except ValueError:
            return
        if abs(offset - self.clock_offset_s) > CLOCK_TOLERANCE_S:
            self.clock_offset_s = offset


async def frames_of(response: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    """The frames of an answer, one line each. Raises :class:`BadAnswer` when it ends inside a line."""
    pending = bytearray()
    async for chunk in response.content.iter_any():
        pending += chunk
        if b"\n" in chunk:
            *lines, rest = pending.split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                if line:
                    try:
                        yield decode_frame(bytes(line))
                    except msgspec.MsgspecError as error:
                        raise BadAnswer(f"expected a frame, found {bytes(line[:80])!r}: {error}") from error
        if len(pending) > FRAME_BYTES_MAX:
            raise BadAnswer(f"a frame of more than {FRAME_BYTES_MAX} bytes")
    if pending.strip():
        raise BadAnswer("the answer ended inside a frame")


def _decoded(raw: bytes, kind: type[_T], what: str, *, bytes_max: int = DOCUMENT_BYTES_MAX) -> _T:
    try:
        return decode(raw, kind, bytes_max=bytes_max)
    except msgspec.MsgspecError as error:
        raise BadAnswer(f"expected {what}, found {raw[:80]!r}: {error}") from error


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise BadAnswer(f"an answer of more than {bytes_max} bytes")
    return bytes(body)


async def _refusal(response: aiohttp.ClientResponse) -> Problem:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            raw = await _read(response, ERROR_BYTES_MAX)
        return Problem.from_record(msgspec.json.decode(raw, type=ErrorBody).error)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, BadAnswer):
        return BadAnswer(f"status {response.status} from {response.url.host}:{response.url.port}{response.url.path}")


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None


def _translated(error: BaseException, address: str) -> Problem:
    """A foreign exception as one of ours, naming the address."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            reason = getattr(cause, "verify_message", None) or cause.reason or str(cause)
            message, hint = words_of_tls(address, cause.reason, reason)
            return UntrustedNameserver(message, hint=hint)
    if isinstance(error, TimeoutError):
        return Unreachable(f"no answer from {address} in time", hint=HINT)
    failed = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    # asyncio's own words are only "Connect call failed": the number says why
    reasons = [os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror for cause in failed]
    return Unreachable(f"cannot reach {address}: {reasons[-1] if reasons else error}", hint=HINT)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from. aiohttp's own are wrappers that only look like what they wrap."""
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, aiohttp.ClientError):
            yield cause
        cause = cause.__cause__ or getattr(cause, "os_error", None) or getattr(cause, "certificate_error", None)
