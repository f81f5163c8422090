"""The parent's side of a trial: a child process with limits, one at a time, and what its end means.

The child gets an empty working directory, an environment without this peer's settings, and a wall clock; it limits
its own memory and processor time (:mod:`engine.trial`). Nothing that it writes is trusted beyond its size: at most
``ANSWER_BYTES_MAX`` of answer and ``SAID_BYTES_MAX`` of complaint are read. It is killed when the trial is cancelled.

A child that ended without an answer was stopped by a limit (:class:`OverTime`, :class:`OverMemory`), by a fault of the
model (:class:`ModelCrashed`), or could not be held at all (:class:`TrialFailed`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.errors import ModelCrashed, OverMemory, OverTime, TrialFailed
from engine.trial import Answer, Task
from query.errors import Problem

ANSWER_BYTES_MAX: Final = 1024 * 1024
SAID_BYTES_MAX: Final = 4096
CHUNK_BYTES: Final = 1024 * 1024

ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
OUT_OF_MEMORY_SIGNS: Final = (b"bad_alloc", b"MemoryError", b"Cannot allocate memory", b"out of memory")
_TIME_SIGNALS: Final = frozenset({signal.SIGXCPU, signal.SIGALRM})
_FAULTS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGXFSZ}
)


async def confined(task: Task, model: bytes, vectors: Sequence[bytes], *, wall_s: float) -> Answer:
    """The child's answer, or one that says how it ended. Raises only when cancelled."""
    with tempfile.TemporaryDirectory(prefix="peerage-trial-", ignore_cleanup_errors=True) as empty:
        try:
            return await _held(task, (model, *vectors), wall_s=wall_s, folder=empty)
        except Problem as problem:
            return Answer(error=problem.record())
        except OSError as error:
            return Answer(error=TrialFailed(f"the trial's process could not be started: {error}").record())


async def _held(task: Task, parts: Sequence[bytes], *, wall_s: float, folder: str) -> Answer:
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    # One thread: a pool of idle threads would reserve address space that the model should have.
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": folder, "HOME": folder}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "engine.trial",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        async with asyncio.timeout(wall_s), asyncio.TaskGroup() as tasks:
            tasks.create_task(_told(child.stdin, task, parts))
            answer = tasks.create_task(_bounded(child.stdout, ANSWER_BYTES_MAX))
            said = tasks.create_task(_bounded(child.stderr, SAID_BYTES_MAX))
            ended = tasks.create_task(child.wait())
    except TimeoutError:
        raise OverTime(f"the trial took longer than {wall_s:g} s and was ended") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return _answer(ended.result(), answer.result(), said.result(), task)


async def _told(pipe: asyncio.StreamWriter, task: Task, parts: Sequence[bytes]) -> None:
    header = msgspec.json.encode(task)
    try:
        pipe.write(len(header).to_bytes(8, "big") + header)
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(part), CHUNK_BYTES):
                pipe.write(view[start : start + CHUNK_BYTES])
                await pipe.drain()
        await pipe.drain()
        pipe.close()
    except (BrokenPipeError, ConnectionResetError):
        return  # it ended before it had read everything; its answer or its status says why


async def _bounded(pipe: asyncio.StreamReader, size_max: int) -> bytes:
    """What a pipe brings, to its end; what is past ``size_max`` is read and dropped, so that the writer goes on."""
    kept = bytearray()
    while chunk := await pipe.read(64 * 1024):
        kept += chunk[: size_max - len(kept)]
    return bytes(kept)


def _answer(status: int, answer: bytes, said: bytes, task: Task) -> Answer:
    if status == 0:
        try:
            return msgspec.json.decode(answer, type=Answer)
        except msgspec.MsgspecError as error:
            raise TrialFailed(f"the trial's answer cannot be read: {error}") from error
    last = said.decode(errors="replace").strip().rpartition("\n")[2][:200]
    stopped_by = -status if status < 0 else 0
    if stopped_by in _TIME_SIGNALS:
        raise OverTime(f"the model needs more than {task.cpu_s} s of processor time")
    if stopped_by == signal.SIGKILL or any(sign in said for sign in OUT_OF_MEMORY_SIGNS):
        raise OverMemory(f"the model needs more than {task.memory_bytes} bytes of memory")
    if stopped_by in _FAULTS:
        raise ModelCrashed(f"the model ended the trial's process by {signal.Signals(stopped_by).name}: {last}")
    raise TrialFailed(f"the trial's process ended with status {status}: {last}")
