"""One piece of work with a registry, seen from outside: where the registry is, how long it may take, how it is ended.

The work blocks, so it has a thread of its own (:func:`aside`). It can be ended from outside at any point, also inside a
read, a handshake or a body that drips: its connections are shut, and whatever waits on one wakes up. The same ends what
takes longer than its time. Nothing here knows the protocol; that is :mod:`peers.oci_registry`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from peers.oci_errors import RegistryStalled
from peers.remote_credentials import Credentials
from query.declarations import Progress, silent
from query.errors import Cancelled, Problem

PROGRESS_BYTES: Final = 1024 * 1024
ENDING_S: Final = 5.0  # for a thread whose connections were shut
WATCH_S: Final = 1.0  # how often it is asked whether work may go on, whatever it waits for
CONNECTIONS_MAX: Final = 32  # that can be shut from outside: the first one, and the latest

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Times of one request: to connect, of silence inside an answer (a registry syncs a blob before it answers), for a
    small answer in all, and for a blob its ``grace_s`` and the rate below which it is given up.
    """

    connect_s: float = 5.0
    read_s: float = 60.0
    answer_s: float = 60.0
    grace_s: float = 60.0
    bytes_per_s_min: int = 8 * 1024
    disk_reserve_bytes: int = 16 * 1024 * 1024

    def blob_s(self, size: int) -> float:
        return self.grace_s + size / self.bytes_per_s_min


USUAL_LIMITS: Final = TransferLimits()


def always() -> None:
    """For a peer that may open connections."""


def no_credentials() -> Credentials | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a registry is and how it is met.

    ``ca`` replaces the system's authorities; ``certificate`` and ``key`` are shown to it; ``hostname`` is what its own
    certificate must name when that is not the address. ``ours``: a nameserver of this federation, whose errors come in
    our own classes. ``credentials`` are read when it asks for some.
    """

    address: str
    scheme: str = "https"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    hostname: str | None = None
    ours: bool = False
    credentials: Callable[[], Credentials | None] = no_credentials

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.address}"


class Connections:
    """The connections of one piece of work, so that another thread can shut them whatever they are doing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._twins: list[socket.socket] = []
        self._shut = False

    def __len__(self) -> int:
        return len(self._twins)

    def add(self, connection: socket.socket) -> None:
        twin = socket.socket(fileno=os.dup(connection.fileno()))  # TLS takes the original's number away
        with self._lock:
            self._twins.append(twin)
            if len(self._twins) > CONNECTIONS_MAX:  # a registry that ends each after an answer; few are still in use
                self._twins.pop(1).close()
            if self._shut:
                _shut(twin)

    def shut(self, *, for_good: bool = False) -> None:
        with self._lock:
            self._shut = self._shut or for_good
            for twin in self._twins:
                _shut(twin)

    def forget(self) -> None:
        with self._lock:
            for twin in self._twins:
                twin.close()
            self._twins.clear()


class Transfer:
    """The progress of one piece of work over all its bytes, and the ways to end it early.

    ``may_go`` raises once this peer may have no connection any more; it is asked all the time.
    """

    def __init__(
        self,
        label: str,
        *,
        progress: Progress = silent,
        limits: TransferLimits = USUAL_LIMITS,
        may_go: Callable[[], None] = always,
    ) -> None:
        self.label = label
        self._may_go = may_go
        self.limits = limits
        self.connections = Connections()
        self.total: int | None = None
        self._progress = progress
        self._stop = threading.Event()
        self._done = 0
        self._told = 0

    def stop(self) -> None:
        """End it, from any thread."""
        self._stop.set()
        self.connections.shut(for_good=True)

    def check(self) -> None:
        if self._stop.is_set():
            raise Cancelled(f"{self.label} was stopped")
        self._may_go()

    def moved(self, size: int, *, whole: bool = False) -> None:
        """``size`` bytes more are through. Raises :class:`Cancelled` once it was ended."""
        self.check()
        self._done += size
        if whole or self._done - self._told >= PROGRESS_BYTES:
            self._told = self._done
            self._progress(self.label, self._done, self.total, "bytes")

    @contextlib.contextmanager
    def within(self, seconds: float, what: str) -> Iterator[None]:
        """Whatever is raised inside after ``seconds`` is the class of being too slow; what waits then is woken."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.connections.shut()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Problem as problem:
            self.check()
            if late.is_set():
                raise RegistryStalled(f"{what}: not done within {seconds:g} s") from problem
            raise
        else:
            if late.is_set():  # what was cut looks like an early end
                self.check()
                raise RegistryStalled(f"{what}: not done within {seconds:g} s")
        finally:
            timer.cancel()


async def aside(transfer: Transfer, work: Callable[[], _T]) -> _T:
    """Run blocking work on a thread of its own, which ends with the caller, or when the work may not go on."""
    threads = ThreadPoolExecutor(1, thread_name_prefix="registry")
    ended = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        while not (await asyncio.wait([ended], timeout=WATCH_S))[0]:
            transfer.check()
        return ended.result()
    except (asyncio.CancelledError, Problem):
        transfer.stop()
        await asyncio.wait([ended], timeout=ENDING_S)
        if ended.done() and not ended.cancelled():
            ended.exception()  # seen
        raise
    finally:
        threads.shutdown(wait=False)


def in_loop(progress: Progress) -> Progress:
    """A progress that may be told from another thread than the running loop's."""
    loop = asyncio.get_running_loop()

    def told(label: str, done: int, total: int | None, unit: str) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(progress, label, done, total, unit)

    return told


def _shut(twin: socket.socket) -> None:
    with contextlib.suppress(OSError):
        twin.shutdown(socket.SHUT_RDWR)
