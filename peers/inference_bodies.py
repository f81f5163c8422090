"""Bodies of inference requests: read whole, within bounds of size, time and of what all of them hold together.

Owns reading and unpacking a body, and the threads beside the event loop that long ones are worked on in.

Rules: a body that is there already costs nothing but taking it. One that comes in parts has ``BASE_S`` seconds, and one
second more for each ``BYTES_PER_S`` that came: whoever trickles is ended. All bodies on their way hold at most
``held_bytes_max``, and so do those that wait for their answer; the one that would hold more is refused, and may be sent
again. ``bytes_max`` counts what came and, for a compressed body, what comes out of it. Long answers that wait to be
read hold at most as much as bodies do. What long bodies took is given back to the system ``RETURN_S`` after the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from aiohttp import hdrs, web

from engine.returning import FreedMemory
from peers.answers import TooBusy
from peers.content_coding import coding_of, decompressed
from peers.whole_answers import TOGETHER_BYTES_MAX
from query.errors import DeadlinePassed, LimitExceeded

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
HELD_BYTES_MAX: Final = 256 * 1024 * 1024  # by bodies that have not come to their end, and by those not answered yet
RETURN_S: Final = 5.0
BASE_S: Final = 15.0
BYTES_PER_S: Final = 1024 * 1024
LONG_BYTES: Final = 64 * 1024  # of JSON or packed data, which is worked on beside the loop from here on
THREADS: Final = 1  # such work holds the interpreter: a second thread would only contend for it
WAITING_MAX: Final = 32  # pieces of long work that wait for a thread

T = TypeVar("T")


class HeldAnswer:
    """Counts one long answer until it was written, or is dropped because nobody reads it any more."""

    def __init__(self, bodies: Bodies, size: int) -> None:
        self._bodies = bodies
        self._size = size
        bodies.answered_bytes += size

    def release(self) -> None:
        self._bodies.answered_bytes -= self._size
        self._size = 0

    def __del__(self) -> None:
        self.release()


class Bodies:
    """Used from one event loop."""

    def __init__(
        self,
        *,
        bytes_max: int = BODY_BYTES_MAX,
        held_bytes_max: int = HELD_BYTES_MAX,
        base_s: float = BASE_S,
        bytes_per_s: int = BYTES_PER_S,
        return_s: float = RETURN_S,
    ) -> None:
        self.bytes_max = bytes_max
        self._held_bytes_max = held_bytes_max
        self._base_s = base_s
        self._bytes_per_s = bytes_per_s
        self.held_bytes = 0  # by bodies on their way
        self.asked_bytes = 0  # by long bodies that were not answered yet
        self.freed = FreedMemory()
        self._return_s = return_s
        self._returning: asyncio.TimerHandle | None = None
        self.answered_bytes = 0  # by long answers that were not read yet
        self._waiting = 0
        self._threads: ThreadPoolExecutor | None = None

    def at_once(self, request: web.BaseRequest) -> bytes | None:
        """The body when it is there already and as it was meant; None for :meth:`read`."""
        content = request.content
        if not content.is_eof() or hdrs.CONTENT_ENCODING in request.headers:
            return None
        body = content.read_nowait()
        if len(body) > self.bytes_max:
            self._too_long(len(body))
        return body

    async def read(self, request: web.BaseRequest) -> bytes:
        """The body as it was meant, unpacked.

        Raises :class:`~query.errors.LimitExceeded`, :class:`~query.errors.DeadlinePassed`, ``TooBusy``, and
        ``UnknownCoding`` or ``BadCoding``.
        """
        content = request.content
        coding = coding_of(request.headers.get(hdrs.CONTENT_ENCODING))
        body = content.read_nowait() if content.is_eof() else await self._arriving(request)
        if len(body) > self.bytes_max:
            self._too_long(len(body))
        if coding is None:
            return body
        if len(body) < LONG_BYTES // 64:  # cannot become long enough to hold up the loop
            return decompressed(body, coding, bytes_max=self.bytes_max)
        with self.holding(body):
            return await self.aside(lambda: decompressed(body, coding, bytes_max=self.bytes_max))

    @contextmanager
    def holding(self, body: bytes) -> Iterator[None]:
        """A place for a long body that has come until it was answered. Raises ``TooBusy`` when all hold too much."""
        size = len(body)
        if self.asked_bytes and self.asked_bytes + size > self._held_bytes_max:
            raise TooBusy(f"expected all requests under way to hold at most {self._held_bytes_max} bytes, found more")
        self.asked_bytes += size
        try:
            yield
        finally:
            self.asked_bytes -= size
            loop = asyncio.get_running_loop()
            if self._returning is not None:
                self._returning.cancel()
            self._returning = loop.call_later(self._return_s, self.freed.passed)

    def hold_answer(self, size: int) -> HeldAnswer | None:
        """A place for an answer of ``size`` bytes until it has left; short ones need none.

        Raises ``TooBusy`` when those that wait to be read hold too much.
        """
        if size <= TOGETHER_BYTES_MAX:
            return None
        if self.answered_bytes and self.answered_bytes + size > self._held_bytes_max:
            raise TooBusy(
                f"expected all answers on their way to hold at most {self._held_bytes_max} bytes, found more",
                hint="read answers as they come, or ask for fewer rows at once",
            )
        return HeldAnswer(self, size)

    async def aside(self, work: Callable[[], T]) -> T:
        """``work()`` in a thread. Raises ``TooBusy`` when much of it waits already."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bodies")
        if self._waiting >= WAITING_MAX + THREADS:
            raise TooBusy(f"expected at most {WAITING_MAX} long requests to wait for being read or written, found more")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        if self._returning is not None:
            self._returning.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _arriving(self, request: web.BaseRequest) -> bytes:
        declared = request.content_length
        if declared is not None and declared > self.bytes_max:
            self._too_long(declared)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout_at(begun + self._base_s) as limit:
                while piece := await request.content.readany():
                    pieces.append(piece)
                    size += len(piece)
                    self.held_bytes += len(piece)
                    if size > self.bytes_max:
                        self._too_long(size)
                    if self.held_bytes > self._held_bytes_max:
                        raise TooBusy(
                            f"expected all bodies on their way to hold at most {self._held_bytes_max} bytes, found more"
                        )
                    limit.reschedule(begun + self._base_s + size / self._bytes_per_s)
        except TimeoutError as error:
            raise DeadlinePassed(
                f"the body did not end within {loop.time() - begun:.1f} s; {size} bytes came"
            ) from error
        finally:
            self.held_bytes -= size
        return b"".join(pieces)

    def _too_long(self, found: int) -> None:
        raise LimitExceeded(f"expected a body of at most {self.bytes_max} bytes, found {found} or more")
