"""A process that runs models for a peer, held to a memory limit: ``python -m engine.replica``.

Standard input is a local stream socket to the peer. First come eight bytes, big-endian, the length of a JSON
:class:`Task`, the task and the graphs; the answer is a frame (:mod:`engine.tensor_frames`) ``ready`` with an
:class:`Opened`, or ``failure``. Then each frame ``run`` is answered by ``answer`` or ``failure``, one after another; a
frame ``abort`` ends the run that is on, as far as the runtime lets it.

The process limits itself before it reads a graph: address space, on top of what it has after importing the runtime; no
core file, no file written. It ends when the socket does, also in the middle of a run; the kernel's signal at the death
of a parent would come at the end of the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import socket
import threading
from typing import Any, Final

import msgspec

from engine.providers import Provider
from federation.documents import TensorSpec
from query.errors import ErrorRecord, Problem

IMPORT_BYTES_MAX: Final = 4 * 1024**3  # address space while the runtime is imported, before anything foreign is read
SLACK_BYTES: Final = 64 * 1024**2  # address space that threads and allocators reserve without using it
OUT_OF_MEMORY: Final = 3  # exit status


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """``memory_bytes``: address space for the graphs and their runs. ``threads``: of one run, where they pay."""

    graph_sizes: tuple[int, ...]
    memory_bytes: int
    providers: tuple[Provider, ...]
    threads: int


class OpenedGraph(msgspec.Struct, frozen=True):
    """The signature of a graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    providers: tuple[Provider, ...]


class Opened(msgspec.Struct, frozen=True):
    graphs: tuple[OpenedGraph, ...]


def main() -> None:
    try:
        _main()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # at once: an orderly end needs memory too


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is for the peer, which ends this process
    peer = socket.socket(fileno=0)
    with peer.makefile("rb", buffering=0) as incoming:
        task = msgspec.json.decode(_exactly(incoming, int.from_bytes(_exactly(incoming, 8), "big")), type=Task)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_AS, IMPORT_BYTES_MAX)
        from engine.sessions import load_runtime

        load_runtime()
        import engine.tensor_frames  # noqa: F401 — its memory is not the models'

        _limit(resource.RLIMIT_AS, _address_space() + task.memory_bytes + SLACK_BYTES)
        graphs = [_exactly(incoming, size) for size in task.graph_sizes]
    serve(peer, task, graphs)


def serve(peer: socket.socket, task: Task, graphs: list[bytes]) -> None:
    """Answers runs until the socket ends, which ends the process."""
    from engine.providers import SessionSettings
    from engine.tensor_frames import Head, send
    from engine.thread_choice import quickest

    settings = SessionSettings(task.providers, task.threads)
    try:
        sessions = [quickest(graph, settings) for graph in graphs]
    except (Problem, MemoryError) as error:
        send(peer, Head(kind="failure", error=_told(error)))
        return
    del graphs[:]
    opened = Opened(tuple(OpenedGraph(one.inputs, one.outputs, one.providers) for one in sessions))
    send(peer, Head(kind="ready", about=msgspec.json.encode(opened)))
    runs = _Runs(peer)
    threading.Thread(target=runs.read, daemon=True).start()
    while True:
        head, feed, options = runs.next()
        try:
            session = sessions[head.graph]
            outputs = dict(zip(session.output_names, session.run(feed, options), strict=True))
        except (Problem, MemoryError) as error:
            send(peer, Head(kind="failure", error=_told(error)))
            continue
        send(peer, Head(kind="answer"), outputs)
        del outputs, feed


class _Runs:
    """What the peer asks, read in a thread of its own, so that an end is heard while a run is on."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._asked: queue.SimpleQueue[tuple[Any, Any, Any]] = queue.SimpleQueue()
        self._options: Any = None

    def read(self) -> None:
        from engine.sessions import run_options
        from engine.tensor_frames import BadFrame, receive

        while True:
            try:
                found = receive(self._peer)
            except (OSError, BadFrame):
                found = None
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            if found is None:
                with contextlib.suppress(OSError):
                    os.rmdir(os.getcwd())  # noqa: PTH106, PTH109 — a peer that was killed leaves nothing behind
                os._exit(0)  # nobody waits for what runs
            head, feed = found
            if head.kind == "abort" and self._options is not None:
                self._options.terminate = True
            elif head.kind == "run":
                self._options = run_options()
                self._asked.put((head, feed, self._options))

    def next(self) -> tuple[Any, Any, Any]:
        return self._asked.get()


def _told(error: Problem | MemoryError) -> ErrorRecord:
    if isinstance(error, Problem):
        return error.record()
    return ErrorRecord("over_memory", "the model needs more memory than its process may have")


def _exactly(incoming: Any, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        chunk = incoming.read(size - len(parts))
        if not chunk:
            raise SystemExit(0)  # the peer is gone
        parts += chunk
    return bytes(parts)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 — pathlib would be one import more
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
