"""Many real edges: each a process that runs the command ``peerage edge``, forked from one that has imported it.

    python -m tests.many.crowd NAMESERVER NAME…       homes of these names lie in the working folder

prints ``NAME PID`` a line for each process that it forked, ends them when it is told to, and takes them along when it
dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
START_S_MAX = 60.0


class Crowd:
    """The edges' processes, and what can be done to them. A context manager."""

    def __init__(self, folder: Path, nameserver: str, names: Sequence[str]) -> None:
        self._folder = folder
        self._words = [sys.executable, "-m", "tests.many.crowd", nameserver, *names]
        self._names = names
        self.pids: dict[str, int] = {}
        self._forker: subprocess.Popen[str] | None = None

    def __enter__(self) -> Crowd:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
        self._forker = subprocess.Popen(
            self._words,
            cwd=self._folder,
            env=kept | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._forker.stdout is not None
        for _ in self._names:
            name, pid = self._forker.stdout.readline().split()
            self.pids[name] = int(pid)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._forker is not None
        self._forker.terminate()
        self._forker.wait(START_S_MAX)
        assert self._forker.stdout is not None
        self._forker.stdout.close()

    def kill(self, name: str) -> None:
        os.kill(self.pids[name], signal.SIGKILL)


def _fork(nameserver: str, name: str, parent: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    log = os.open(f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from peers.cli import main

    words = ["edge", "--home", name, "--application-port=0", "--no-zeroconf", f"--nameserver={nameserver}", "--json"]
    status = 1
    try:
        status = main(words)
    finally:
        os._exit(status)


def _serve(nameserver: str, names: Sequence[str]) -> None:
    import peers.cli.serving
    import peers.edge_peer  # noqa: F401 — once for all of them

    parent = os.getpid()
    children = [_fork(nameserver, name, parent) for name in names]
    for name, pid in zip(names, children, strict=True):
        print(name, pid, flush=True)
    ended = asyncio.Event()

    async def until_told() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()

    asyncio.run(until_told())
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
