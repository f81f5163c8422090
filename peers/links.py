"""The ways a client reaches a peer: over its Unix socket or port, or by being a short-lived peer itself."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from peers.federation_client import BadAnswer, ErrorBody, frames_of
from peers.homes import Home, default_home
from peers.requests import StatementRequest, encode_request
from peers.settings import ClientSettings, read_settings
from query.errors import Problem, WorldProblem
from query.frames import Frame
from query.values import encode_value

if TYPE_CHECKING:
    from peers.client_peer import ClientPeer

CONNECT_TIMEOUT_S = 5.0
ERROR_BYTES_MAX = 64 * 1024


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

    async def close(self) -> None:
        await self._session.close()

    async def frames(
        self, text: str, *, params: Mapping[str, Any], peer: str | None, timeout_s: float | None
    ) -> AsyncGenerator[Frame, None]:
        request = StatementRequest(
            text=text,
            params={name: encode_value(value) for name, value in params.items()},
            targets=peer,
            timeout=timeout_s,
        )
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._session.post(
                f"{self._url}/v1/query", data=io.BytesIO(encode_request(request)), headers=self._headers, timeout=limits
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                async for frame in frames_of(response):
                    yield frame
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise NotRunning(f"no peer answers at {self._where}", hint="is it running?") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BadAnswer(f"the answer from {self._where} broke off: {error}") from error


async def home_link(folder: Path | None) -> HttpLink | ClientPeer:
    """The link to the peer that runs in a home; for a client's home, a peer in this process."""
    home = Home(folder or default_home())
    membership = home.membership()
    if membership.kind == "client":
        from peers.client_peer import open_client

        return await open_client(home, read_settings(home, ClientSettings, environment=os.environ, flags={}))
    run = home.read_run()
    if run is None or run.socket is None:
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
