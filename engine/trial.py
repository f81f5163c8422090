"""The trial of a model, run as ``python -m engine.trial`` in a child process that can be lost.

Standard input: eight bytes, big-endian, the length of a JSON :class:`Task`; the task; the model; each file of test
vectors. Standard output: a JSON :class:`Answer`. The child limits itself before it reads the model: address space
(what it has after importing the runtime, and what the task allows on top), processor seconds, no core file, no file
written. The parent keeps the wall clock and gives it an empty working directory.

Order: inspect, build, compare with the signed signature, answer the test vectors, measure pace and peak memory.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO, Final

import msgspec

from federation.documents import ReleaseRecord, TensorSpec
from query.errors import ErrorRecord, Problem

IMPORT_BYTES_MAX: Final = 4 * 1024**3  # address space while the runtime is imported, before anything foreign is read
SLACK_BYTES: Final = 128 * 1024**2  # address space that threads and allocators reserve without using it


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """``record`` is None when a model is only to be described."""

    record: ReleaseRecord | None
    model_size: int
    vector_sizes: tuple[int, ...] = ()
    memory_bytes: int
    cpu_s: int
    run_s: float


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``peak_bytes``: resident memory at its highest, over that before the model was read."""

    error: ErrorRecord | None = None
    peak_bytes: int = 0
    load_ms: float = 0.0
    p99_us: float = 0.0
    vectors: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    opset: dict[str, int] = {}


def main() -> None:
    incoming = sys.stdin.buffer
    task = msgspec.json.decode(_exactly(incoming, int.from_bytes(_exactly(incoming, 8), "big")), type=Task)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    # The kernel asks by SIGXCPU at the soft limit and kills at the hard one; equal, it would only kill.
    resource.setrlimit(resource.RLIMIT_CPU, (task.cpu_s, task.cpu_s + 5))
    _limit(resource.RLIMIT_AS, IMPORT_BYTES_MAX)
    import onnxruntime  # noqa: F401 — its own memory is not the model's

    from engine import warming  # noqa: F401 — nor is ours

    size, resident = _memory()
    _limit(resource.RLIMIT_AS, size + task.memory_bytes + SLACK_BYTES)
    try:
        answer = _tried(task, incoming)
    except Problem as problem:
        answer = Answer(error=problem.record())
    except MemoryError:
        answer = Answer(error=ErrorRecord("over_memory", "the model needs more memory than the trial allows"))
    answer = msgspec.structs.replace(answer, peak_bytes=max(0, _peak() - resident))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.buffer.flush()
    os._exit(0)  # a broken model may hang or crash while it is torn down; the answer is given


def _tried(task: Task, incoming: BinaryIO) -> Answer:
    from engine.sessions import GraphSession, Session, require_signature
    from engine.stateful import StatefulSession
    from engine.vectors import read_vectors
    from engine.warming import SLOW, measured_pace, require_vectors

    started = perf_counter()
    session = Session(_exactly(incoming, task.model_size))
    load_ms = (perf_counter() - started) * 1e3
    described = Answer(load_ms=load_ms, inputs=session.inputs, outputs=session.outputs, opset=session.reading.opset)
    if task.record is None:
        return described
    shown: GraphSession = StatefulSession(session, task.record.states) if task.record.states else session
    require_signature(task.record, shown)

    def run(feed: dict[str, Any]) -> list[Any]:
        return _bounded(shown, feed, task.run_s)

    vectors = tuple(
        vector
        for size in task.vector_sizes
        for vector in read_vectors(_exactly(incoming, size), inputs=shown.inputs, outputs=shown.outputs)
    )
    require_vectors(shown, run, vectors, label=task.record.label)
    pace = measured_pace(shown, run, vectors)
    # JSON has no infinity: a pace that could not be measured is told as none.
    p99_us = pace.p99_us if pace.p99_us != SLOW else 0.0
    return msgspec.structs.replace(described, p99_us=p99_us, vectors=len(vectors))


def _bounded(session: Any, feed: dict[str, Any], run_s: float) -> list[Any]:
    from engine.sessions import run_options

    options = run_options()
    timer = threading.Timer(run_s, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return session.run(feed, options)  # type: ignore[no-any-return]
    finally:
        timer.cancel()


def _exactly(incoming: BinaryIO, size: int) -> bytes:
    content = incoming.read(size)
    if len(content) != size:
        raise SystemExit(f"expected {size} bytes on standard input, found {len(content)}")
    return content


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _memory() -> tuple[int, int]:
    """Bytes of address space and of resident memory of this process."""
    size, resident, *_ = Path("/proc/self/statm").read_text().split()
    page = resource.getpagesize()
    return int(size) * page, int(resident) * page


def _peak() -> int:
    """Bytes of resident memory at its highest. getrusage would tell the parent's, from before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
