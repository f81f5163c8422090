"""Load on HTTP servers over loopback: connections that ask the same question again as soon as it is answered.

The request is ready bytes and of the answer only its status line and its length are looked at, so that who asks costs
little beside who is asked. An answer that is not a 200 ends the measurement.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, cast

AFTER_S: Final = 0.02  # what is still under way arrives, and does not count for the next
CONNECT_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Question:
    """One request; ``content`` is its whole bytes. ``expected`` stands in the body of every right answer."""

    port: int
    content: bytes
    expected: bytes = b""


def post(port: int, path: str, body: bytes, *, headers: str = "", expected: bytes = b"") -> Question:
    """A POST of ``body``; ``headers`` are whole lines, each with its end of line."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return Question(port, head.encode() + body, expected)


class Asking(asyncio.Protocol):
    """One connection. ``latencies``: seconds of each answer since :meth:`go`."""

    def __init__(self, question: Question) -> None:
        self.latencies: list[float] = []
        self.running = False
        self.failed: str | None = None
        self._question = question
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._awaited = 0  # bytes of the answer under way; 0 while its head is not whole
        self._asked_at = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.running:
            self.failed = f"the connection was closed: {error}"

    def go(self) -> None:
        self.latencies = []
        self.running = True
        if not self._waiting:
            self._ask()

    def close(self) -> None:
        self.running = False
        if self._transport is not None:
            self._transport.close()

    def _ask(self) -> None:
        assert self._transport is not None
        self._waiting = True
        self._asked_at = time.perf_counter()
        self._transport.write(self._question.content)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._awaited:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._awaited = end + 4 + _length(bytes(self._buffer[:end]).lower())
        if len(self._buffer) < self._awaited:
            return
        answer = bytes(self._buffer)
        self._buffer.clear()
        self._awaited = 0
        self._waiting = False
        if not answer.startswith(b"HTTP/1.1 200") or self._question.expected not in answer:
            self.failed = answer[:600].decode(errors="replace")
            self.running = False
            return
        self.latencies.append(time.perf_counter() - self._asked_at)
        if self.running:
            self._ask()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


async def connected(question: Question, connections: int) -> list[Asking]:
    """That many connections to one server."""
    asking = []
    for _ in range(connections):
        _, one = await asyncio.get_running_loop().create_connection(
            lambda: Asking(question), "127.0.0.1", question.port
        )
        asking.append(one)
    return asking


@dataclass(frozen=True, slots=True)
class Round:
    """Answers a second, and the latencies in seconds, sorted."""

    rate: float
    latencies: tuple[float, ...]


async def asked(asking: list[Asking], seconds: float) -> Round:
    """Ask over all connections for that long. Raises RuntimeError with the answer that was no 200."""
    began = time.perf_counter()
    for one in asking:
        one.go()
    await asyncio.sleep(seconds)
    for one in asking:
        one.running = False
    elapsed = time.perf_counter() - began
    latencies = sorted(latency for one in asking for latency in one.latencies)
    for one in asking:
        if one.failed is not None:
            raise RuntimeError(f"expected 200 of port {one._question.port}, found {one.failed}")
    await asyncio.sleep(AFTER_S)
    return Round(len(latencies) / elapsed, tuple(latencies))


async def answering(question: Question) -> None:
    """Wait until a server answers its question with 200. Raises TimeoutError with what it said last."""
    said = "nothing"
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            while True:
                try:
                    (one,) = await connected(question, 1)
                    await asked([one], 0.1)
                    if one.latencies:
                        one.close()
                        return
                except (OSError, RuntimeError) as error:
                    said = str(error)
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise TimeoutError(f"port {question.port} did not answer within {CONNECT_S_MAX:g} s: {said}") from None
