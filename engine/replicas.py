"""Processes of their own that run the models of a pipeline, so that a limit of memory holds and a fault stays there.

Owns starting, feeding, ending and replacing them. A run takes the process that was idle last; one that is ended by its
limits is replaced with the next run, and what ended it is told to who asked.

Rules:
- The peer never waits for a process longer than for a run: past its deadline a run is asked to end, and ``GRACE_S``
  later its process is ended, so that also a single endless operator stops.
- A process that ended is started again with the next run that no other is there for. One that ended twice in a row
  waits for ``BACKOFF_S``, doubled with each further end up to ``BACKOFF_S_MAX``; meanwhile runs are refused
  (:class:`ReplicaLost`).
- Nothing that a process writes is trusted: see :mod:`engine.tensor_frames`.
- Closing ends every process, and so does the end of the peer, however it comes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import msgspec

from engine import inspection
from engine.confinement import ENVIRONMENT, OUT_OF_MEMORY_SIGNS
from engine.errors import InputProblem, ModelFailed, OverMemory, OverTime, ReplicaLost
from engine.providers import CPU, Provider
from engine.replica import OUT_OF_MEMORY, Opened, OpenedGraph, Task
from engine.sessions import HALF_A_PAIR
from engine.signature import Array
from engine.tensor_frames import BadFrame, Head, receive, send, send_bytes
from federation.documents import TensorSpec
from federation.names import Digest
from query.errors import Problem

GRACE_S: Final = 0.5
LOOK_S: Final = 0.05  # between two looks at a run's deadline
BACKOFF_S: Final = 0.1
BACKOFF_S_MAX: Final = 30.0
SAID_BYTES_MAX: Final = 4096
END_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """``count`` processes; ``memory_bytes`` and ``threads`` (:mod:`engine.thread_choice`) of each. ``start_s``: until
    it has read its graphs.
    """

    count: int
    memory_bytes: int
    threads: int = 1
    providers: tuple[Provider, ...] = CPU
    start_s: float = 120.0


class ReplicaSet:
    """Thread-safe. The graphs of one pipeline, by their digests."""

    def __init__(self, graphs: Mapping[Digest, bytes], settings: ReplicaSettings) -> None:
        """Starts every process. Raises what building a session raises, and a :class:`PassingProblem`."""
        self.settings = settings
        self._graphs = dict(graphs)
        self._readings = {digest: inspection.read(graph) for digest, graph in graphs.items()}
        self._idle: list[_Replica] = []
        self._returned = threading.Condition()
        self._replicas = [_Replica(list(self._graphs.values()), settings) for _ in range(settings.count)]
        self._closed = False
        # Also when nobody has the set any more, and at the end of the peer.
        self._ending = weakref.finalize(self, _end_beside, tuple(self._replicas))
        try:
            for replica in self._replicas:
                replica.start()
        except BaseException:
            self.close()
            raise
        self._idle.extend(self._replicas)
        self.restarts = 0

    def session(self, graph: Digest) -> ReplicaSession:
        """A graph of the set, to be run like any session. It keeps the processes alive."""
        at = list(self._graphs).index(graph)
        return ReplicaSession(self, at, self._readings[graph], self._replicas[0].opened.graphs[at])

    def run(self, graph: int, feed: dict[str, Array], options: Any) -> dict[str, Array]:
        """Raises what a run raises, and :class:`ReplicaLost`."""
        replica = self._taken(options)
        try:
            if not replica.alive:
                replica.start_again()
                self.restarts += 1
            return replica.run(graph, feed, options)
        finally:
            with self._returned:
                self._idle.append(replica)
                self._returned.notify()
            if self._closed:
                replica.end()

    @property
    def process_ids(self) -> tuple[int, ...]:
        return tuple(replica.process_id for replica in self._replicas if replica.alive)

    def close(self) -> None:
        """Ends the processes; a run that is on fails."""
        self._closed = True
        if self._ending.detach() is not None:
            _end_all(self._replicas)

    def _taken(self, options: Any) -> _Replica:
        """The process that was idle last, one that is alive before one that is not."""
        with self._returned:
            while not self._closed:
                if self._idle:
                    found = next((one for one in reversed(self._idle) if one.alive), self._idle[0])
                    self._idle.remove(found)
                    return found
                self._returned.wait(LOOK_S)
                if options is not None and options.terminate:
                    raise OverTime("the run waited longer for a process than allowed and was ended")
        raise ReplicaLost("the processes of the model were ended")


class ReplicaSession:
    """A :class:`~engine.sessions.GraphSession` in the processes of a set."""

    waits = True

    def __init__(self, replicas: ReplicaSet, graph: int, reading: inspection.Reading, opened: OpenedGraph) -> None:
        self.replicas = replicas
        self._graph = graph
        self.reading = reading
        self.inputs: tuple[TensorSpec, ...] = opened.inputs
        self.outputs: tuple[TensorSpec, ...] = opened.outputs
        self.output_names = [spec.name for spec in opened.outputs]
        self.providers: tuple[Provider, ...] = opened.providers

    def run(self, feed: dict[str, Array], options: Any = None) -> list[Array]:
        outputs = self.replicas.run(self._graph, feed, options)
        try:
            return [outputs[name] for name in self.output_names]
        except KeyError as error:
            raise ModelFailed(f"the model's process left out the output {error}") from error


class _Replica:
    """One process. Used by one thread at a time, but for :meth:`end`."""

    def __init__(self, graphs: list[bytes], settings: ReplicaSettings) -> None:
        self._graphs = graphs
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._ends = 0  # in a row
        self._not_before = 0.0
        self.opened = Opened(())

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None and self._socket is not None

    @property
    def process_id(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Raises what building a session raises, and a :class:`PassingProblem`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with theirs:
            try:
                self._start_process(ours, theirs)
            except OSError as error:
                ours.close()
                self._count_end()
                raise ReplicaLost(f"the model's process could not be started: {error}") from error
        head, _ = self._exchanged(self._hand_over, _Patience(ours, until=monotonic() + self._settings.start_s))
        if head.kind != "ready":
            self._lost()
            raise _failure(head)
        self.opened = msgspec.json.decode(head.about, type=Opened)

    def start_again(self) -> None:
        wait_s = self._not_before - monotonic()
        if wait_s > 0:
            raise ReplicaLost(
                f"the model's process ended {self._ends} times in a row; the next is started in {wait_s:.1f} s"
            )
        self.end()  # what is left of the one before
        self.start()

    def run(self, graph: int, feed: dict[str, Array], options: Any) -> dict[str, Array]:
        ours = self._socket
        if ours is None:
            raise ReplicaLost("the processes of the model were ended")
        patience = _Patience(ours, options)
        head, outputs = self._exchanged(
            lambda: send(ours, Head(kind="run", graph=graph), feed, wait=patience.to_write), patience
        )
        if head.kind == "answer":
            self._ends = 0
            return outputs
        raise _failure(head)

    def kill(self) -> None:
        """Tells the process to end, whatever it does; :meth:`end` waits for that."""
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Ends the process, and what was kept for it."""
        with self._lock:
            process, self._process = self._process, None
            ours, self._socket = self._socket, None
            folder, self._folder = self._folder, None
        if ours is not None:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            ours.close()
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            if process.stderr is not None:
                process.stderr.close()
        if folder is not None:
            folder.cleanup()

    def _start_process(self, ours: socket.socket, theirs: socket.socket) -> None:
        folder = tempfile.TemporaryDirectory(prefix="peerage-replica-", ignore_cleanup_errors=True)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": folder.name, "HOME": folder.name}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.replica"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder.name,
            env=environment,
            start_new_session=True,
        )
        with self._lock:
            self._process, self._socket, self._folder = process, ours, folder

    def _hand_over(self) -> None:
        """Gives a process that has just started its task and its graphs."""
        ours = self._socket
        assert ours is not None
        patience = _Patience(ours, until=monotonic() + self._settings.start_s)
        task = Task(
            graph_sizes=tuple(map(len, self._graphs)),
            memory_bytes=self._settings.memory_bytes,
            providers=self._settings.providers,
            threads=self._settings.threads,
        )
        header = msgspec.json.encode(task)
        for part in (len(header).to_bytes(8, "big") + header, *self._graphs):
            send_bytes(ours, part, wait=patience.to_write)

    def _exchanged(self, write: Callable[[], None], patience: _Patience) -> tuple[Head, dict[str, Array]]:
        """The frame that answers what is written. The process does not outlive a time that is over."""
        try:
            write()
            found = receive(patience.to, wait=patience.to_read)
        except OverTime:
            self._lost()
            raise
        except UnicodeEncodeError as error:  # before anything was written
            raise InputProblem(HALF_A_PAIR) from error
        except MemoryError as error:  # ours: what came cannot be taken, so neither can what follows it
            self._lost()
            raise OverMemory("the answer of the model's process needs more memory than there is here") from error
        except BadFrame as error:
            self._lost()
            raise ModelFailed(f"the model's process answered what cannot be read: {error}") from error
        except OSError:
            found = None
        if found is None:
            raise self._ended()
        return found

    def _ended(self) -> Problem:
        """Why the process is gone."""
        process = self._process
        if process is None:
            return ReplicaLost("the processes of the model were ended")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        status = process.returncode
        said = b"" if process.stderr is None else _said(process.stderr.fileno())
        self._lost()
        limit = self._settings.memory_bytes
        if status in (OUT_OF_MEMORY, -signal.SIGKILL) or any(sign in said for sign in OUT_OF_MEMORY_SIGNS):
            return OverMemory(
                f"running the model needs more than the {limit} bytes of memory that its process may have"
            )
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:200]
        how = f"by {signal.Signals(-status).name}" if status is not None and status < 0 else f"with status {status}"
        return ModelFailed(f"the model ended its process {how}{': ' if last else ''}{last}")

    def _lost(self) -> None:
        self._count_end()
        self.end()

    def _count_end(self) -> None:
        self._ends += 1
        if self._ends > 1:
            self._not_before = monotonic() + min(BACKOFF_S * 2 ** min(self._ends - 2, 16), BACKOFF_S_MAX)


class _Patience:
    """How long one exchange with a process may wait: ``until`` a time, or as a run's options say."""

    def __init__(self, to: socket.socket, options: Any = None, *, until: float | None = None) -> None:
        self.to = to
        self._options = options
        self._until = until

    def to_write(self, event: int) -> None:
        """Raises ``OverTime``."""
        self._wait(event, asks=False)

    def to_read(self, event: int) -> None:
        """As :meth:`to_write`, after the process was asked to end its run."""
        self._wait(event, asks=True)

    def _wait(self, event: int, *, asks: bool) -> None:
        poll = select.poll()
        poll.register(self.to, event)
        while not poll.poll(LOOK_S * 1000):
            if self._until is None and self._options is not None and self._options.terminate:
                self._until = monotonic()
                if asks:
                    self._until += GRACE_S
                    with contextlib.suppress(OSError):
                        send(self.to, Head(kind="abort"))
            if self._until is not None and monotonic() >= self._until:
                raise OverTime("the run took longer than allowed and its process was ended")


def _end_all(replicas: Sequence[_Replica]) -> None:
    for replica in replicas:
        replica.kill()
    for replica in replicas:
        replica.end()


def _end_beside(replicas: Sequence[_Replica]) -> None:
    """The same where nobody should wait for it: whoever let go of the set last may be the event loop."""
    for replica in replicas:
        replica.kill()
    try:
        threading.Thread(target=_end_all, args=(replicas,), name="replicas-ending", daemon=True).start()
    except RuntimeError:  # no thread can be started, as at the end of the peer
        _end_all(replicas)


def _failure(head: Head) -> Problem:
    if head.error is None:
        return ModelFailed("the model's process failed without a word")
    return Problem.from_record(head.error)


def _said(handle: int) -> bytes:
    """The end of what a process that is gone complained about."""
    os.set_blocking(handle, False)
    said = bytearray()
    with contextlib.suppress(OSError):
        while chunk := os.read(handle, 65536):
            said = (said + chunk)[-SAID_BYTES_MAX:]
    return bytes(said)
