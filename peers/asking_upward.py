"""Asking the nameserver for a statement that runs elsewhere, from any other peer: its answer, and its end when it is
cancelled here.

Owns one statement's way up. Rules: leaving cancels it everywhere, without a word; who cancels it waits a moment for the
nameserver's ledger, which knows who had answered and whom it stopped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from federation.documents import SignedDocument, encode
from peers.answering import Answering
from peers.federation_client import FederationClient, frames_of
from peers.requests import StatementRequest, encode_request
from query.errors import Cancelled, Problem
from query.frames import ErrorFrame, Frame

QUERY_HEADER: Final = "Peerage-Query"
CANCEL_S_MAX: Final = 1.5  # for the nameserver's ledger; a front end waits a little longer
LIFETIME_S: Final = 30.0  # of the envelope of a cancel


class Seal(Protocol):
    """Signs a request with this home's identity."""

    def __call__(self, body: bytes, *, lifetime_s: float) -> SignedDocument: ...


class AskedUpward:
    """One statement at the nameserver; :meth:`ask` once."""

    def __init__(self, client: FederationClient, seal: Seal, answering: Answering) -> None:
        self._client = client
        self._seal = seal
        self._answering = answering
        self._query: str | None = None
        self._begun = asyncio.Event()
        self._cancelling = False

    async def ask(
        self, body: bytes, envelope: SignedDocument, *, placed: Callable[[Frame], Frame], stopped: Callable[[], bool]
    ) -> None:
        """Pass the answer on as it comes. ``stopped``: whether a cancellation was somebody's wish."""
        reading = asyncio.create_task(self._read(body, envelope, placed))
        try:
            await asyncio.wait([reading])
            reading.result()
        except asyncio.CancelledError:
            if stopped():
                with suppress(TimeoutError, Problem):
                    async with asyncio.timeout(CANCEL_S_MAX):
                        await self._cancel()
                        await asyncio.wait([reading])
            raise
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, body: bytes, envelope: SignedDocument, placed: Callable[[Frame], Frame]) -> None:
        headers = {"Content-Type": "application/json", "Peerage-Envelope": encode(envelope).decode("ascii")}
        async with self._client.request("POST", "/v1/query", body=body, headers=headers, endless=True) as response:
            self._query = response.headers.get(QUERY_HEADER)
            self._begun.set()
            async for frame in frames_of(response):
                if self._cancelling and isinstance(frame, ErrorFrame) and frame.error.code == Cancelled.code:
                    continue  # who cancelled it tells that
                await self._answering.relay(placed(frame))

    async def _cancel(self) -> None:
        self._cancelling = True
        await self._begun.wait()
        if self._query is None:
            return
        text = f"//peer: nameserver\nquery:cancel({json.dumps(self._query)})"
        body = encode_request(StatementRequest(text=text, timeout=CANCEL_S_MAX))
        async with self._client.query(body, envelope=self._seal(body, lifetime_s=LIFETIME_S)) as frames:
            async for _ in frames:
                pass
