"""The ways a client reaches a peer: over its Unix socket or port, or by being a short-lived peer itself."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec

from peers.federation_client import BadAnswer, ErrorBody, frames_of
from peers.homes import Home, default_home
from peers.link_variables import LinkVariables, ValuesAsked, asking_values, mentioned
from peers.requests import StatementRequest, encode_request
from peers.settings import ClientSettings, read_settings
from query.errors import Problem, WorldProblem
from query.frames import Frame, RowFrame
from query.values import encode_value

if TYPE_CHECKING:
    from peers.client_peer import ClientPeer

CONNECT_TIMEOUT_S = 5.0
ERROR_BYTES_MAX = 64 * 1024
QUERY_HEADER: Final = "Peerage-Query"
CANCEL: Final = "query:cancel(:query)"


class NotRunning(WorldProblem):
    """No peer runs in a home, or nothing answers at an address."""

    code = "not_running"


class HttpLink:
    """A peer's application face: ``url`` with the token of its home, or its Unix socket."""

    def __init__(self, url: str, *, token: str | None = None, socket: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._where = str(socket or url)
        connector = aiohttp.UnixConnector(str(socket)) if socket else aiohttp.TCPConnector()
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        self._running: dict[object, str | None] = {}  # what runs there for this link: its id, once the head told it
        self._cancelled: set[object] = set()
        self._kept = LinkVariables()
        self._here: str | None = None  # the peer's name, once it was needed

    @property
    def variables(self) -> Mapping[str, Any]:
        return self._kept.decoded()

    async def close(self) -> None:
        await self._session.close()

    async def cancel(self) -> None:
        for request, query in tuple(self._running.items()):
            self._cancelled.add(request)
            if query is not None:
                await self._cancel(query)

    async def _cancel(self, query: str) -> None:
        with suppress(Problem):  # it ended meanwhile, or the peer did
            async for _ in self._frames(CANCEL, params={"query": query}, timeout_s=CONNECT_TIMEOUT_S):
                pass

    async def frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any],
        peer: str | None,
        timeout_s: float | None,
        budget: str | None = None,
    ) -> AsyncGenerator[Frame, None]:
        request = object()
        self._running[request] = None
        said = mentioned(text)
        values = ValuesAsked(said, self._kept)

        async def started(query: str) -> None:
            self._running[request] = query
            if request in self._cancelled:
                await self._cancel(query)

        try:
            if said.set:
                text = asking_values(text, said, here=await self._name() if peer else None)
            given = self._kept.for_text(said, {name: encode_value(value) for name, value in params.items()})
            frames = self._frames(text, params=given, peer=peer, timeout_s=timeout_s, budget=budget, started=started)
            async with aclosing(frames):
                async for frame in frames:
                    for told in values.take(frame):
                        yield told
        finally:
            del self._running[request]
            self._cancelled.discard(request)

    async def _name(self) -> str:
        """The peer's own name, in the words of ``//peer:``."""
        if self._here is None:
            async for frame in self._frames("this_peer()", params={}, timeout_s=CONNECT_TIMEOUT_S):
                if isinstance(frame, RowFrame):
                    self._here = str(frame.values[0])
        return self._here or "nameserver"

    async def _frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any],
        peer: str | None = None,
        timeout_s: float | None,
        budget: str | None = None,
        started: Callable[[str], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[Frame, None]:
        request = StatementRequest(
            text=text,
            params=dict(params),
            targets=peer,
            timeout=timeout_s,
            budget=budget,
        )
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._session.post(
                f"{self._url}/v1/query", data=io.BytesIO(encode_request(request)), headers=self._headers, timeout=limits
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                if started is not None and QUERY_HEADER in response.headers:
                    await started(response.headers[QUERY_HEADER])
                async for frame in frames_of(response):
                    yield frame
        except aiohttp.ClientConnectorCertificateError as error:
            fault = error.certificate_error
            raise BadAnswer(
                f"the certificate of {self._where} is not trusted: {getattr(fault, 'verify_message', fault)}",
                hint="SSL_CERT_FILE names a CA; a peer's own certificate names no host: set application_certificate",
            ) from error
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise NotRunning(f"no peer answers at {self._where}", hint="is it running?") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BadAnswer(f"the answer from {self._where} broke off: {error}") from error


async def home_link(folder: Path | None) -> HttpLink | ClientPeer:
    """The link to the peer that runs in a home; for a client's home, a peer in this process."""
    home = Home(folder or default_home())
    run = home.read_run() if home.path.is_dir() else None
    membership = home.read_membership()
    if membership is None:
        if run is None:
            home.membership()  # raises: nobody's home
    elif membership.kind == "client":
        from peers.client_peer import open_client

        return await open_client(home, read_settings(home, ClientSettings, environment=os.environ, flags={}))
    if run is None or run.socket is None:
        assert membership is not None
        raise NotRunning(
            f"{membership.name} is not running in {home}",
            hint=f"start it: peerage {membership.kind} --home {home}",
        )
    return HttpLink("http://localhost", socket=Path(run.socket))


async def _refusal(response: aiohttp.ClientResponse) -> Problem:
    raw = await response.content.read(ERROR_BYTES_MAX)
    try:
        return Problem.from_record(msgspec.json.decode(raw, type=ErrorBody).error)
    except msgspec.MsgspecError:
        return BadAnswer(f"status {response.status} from {response.url}")
