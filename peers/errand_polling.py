"""The edge's way to the statements that wait for it where no uplink brings them: told by a poll, fetched, answered.

    GET /v1/edges/{uuid}/statements        the ids of what is open for this edge
    GET /v1/edges/{uuid}/statements/{id}   one of them, as it would come down an uplink
    PUT /v1/edges/{uuid}/statements/{id}   its whole answer; durable before 204

Rules: what is not on the list any more is stopped where it runs, and its answer forgotten; what fails on the way is
asked for again at the next poll, since the nameserver still says that it waits. Nothing is dialled that a poll did not
cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from federation.documents import SignedDocument
from federation.names import PeerId
from peers.errands import Errands
from peers.federation_client import BadAnswer, FederationClient, PollReply
from peers.uplink_messages import StatementMessage
from query.errors import Problem, UnknownName

LIST_BYTES_MAX: Final = 64 * 1024
MESSAGE_BYTES_MAX: Final = 1024 * 1024
FETCHED_AT_ONCE: Final = 16  # more than run at once: what waits for its turn holds up no other caller's

_T = TypeVar("_T")

log = logging.getLogger("peerage.errands")


class ErrandList(msgspec.Struct, frozen=True):
    """Body of the list. ``more``: there are more than it says."""

    open: tuple[str, ...]
    more: bool = False


class TellingNameserver:
    """The calls of an edge's turn, with an ear on what a poll's answer says of statements that wait."""

    def __init__(self, client: FederationClient, told: Callable[[], None]) -> None:
        self._client = client
        self._told = told

    async def poll(self, uuid: PeerId, *, etag: str | None, status: str) -> PollReply:
        reply = await self._client.poll(uuid, etag=etag, status=status)
        if reply.errands:
            self._told()
        return reply

    async def report(self, uuid: PeerId, body: bytes) -> None:
        await self._client.report(uuid, body)

    async def root(self, version: int) -> SignedDocument:
        return await self._client.root(version)


class Executor(Protocol):
    """What runs a statement that waits, or gives the answer that it kept."""

    def errand(self, message: StatementMessage) -> Awaitable[bytes]: ...


class ErrandCalls:
    """The three calls, for one edge."""

    def __init__(self, client: FederationClient, uuid: PeerId) -> None:
        self._client = client
        self._path = f"/v1/edges/{uuid}/statements"

    async def listed(self) -> ErrandList:
        return _read(await self._get(self._path, LIST_BYTES_MAX), ErrandList)

    async def message(self, errand: str) -> StatementMessage:
        return _read(await self._get(f"{self._path}/{errand}", MESSAGE_BYTES_MAX), StatementMessage)

    async def answer(self, errand: str, whole: bytes) -> None:
        async with self._client.request("PUT", f"{self._path}/{errand}", body=whole):
            pass

    async def _get(self, path: str, bytes_max: int) -> bytes:
        body = bytearray()
        async with self._client.request("GET", path) as response:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise BadAnswer(f"an answer of more than {bytes_max} bytes")
        return bytes(body)


class ErrandPolling:
    """Use :meth:`run` as one task of the edge; :meth:`told` when a poll says that statements wait."""

    def __init__(self, calls: ErrandCalls, executor: Executor, errands: Errands) -> None:
        self._calls = calls
        self._executor = executor
        self._errands = errands
        self._wake = asyncio.Event()
        self._under_way: set[str] = set()
        self._gate = asyncio.Semaphore(FETCHED_AT_ONCE)

    def told(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Fetch, run and answer what waits, whenever a poll tells of it; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    known = self._errands.known()  # before the list is made: what comes meanwhile is not missing on it
                    listed = await self._calls.listed()
                    if not listed.more:
                        self._errands.done(known - frozenset(listed.open))
                except Problem as problem:
                    log.info("errands_not_listed", extra={"code": problem.code, "reason": problem.message})
                    continue
                for errand in listed.open:
                    if errand not in self._under_way:
                        self._under_way.add(errand)
                        tasks.create_task(self._one(errand))

    async def _one(self, errand: str) -> None:
        try:
            async with self._gate:
                message = await self._calls.message(errand)
                if message.errand != errand:
                    raise BadAnswer(f"asked for the statement {errand}, got {message.errand[:64]!r}")
                whole = await self._executor.errand(message)
                await self._calls.answer(errand, whole)
                self._errands.done([errand])
        except UnknownName:  # it is over, or was cancelled, meanwhile
            self._errands.done([errand])
        except Problem as problem:
            log.info("errand_not_answered", extra={"code": problem.code, "reason": problem.message})
        finally:
            self._under_way.discard(errand)


def _read(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadAnswer(f"expected {kind.__name__}, found {raw[:80]!r}: {error}") from error
