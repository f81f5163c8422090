"""A federation of real processes that can be told where to die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from peers.client import connect
from peers.failpoints import VARIABLE
from query.errors import Problem

LOOPBACK = "127.0.0.1"
DEATH_S_MAX = 20.0
CONVERGE_POLLS_MAX = 100
LISTENING_S_MAX = 60.0  # more than an uplink's longest pause
COMMAND = (sys.executable, "-m", "peers.cli")


def free_port() -> int:
    """A port below those that the system hands out, so that it is still free when a process comes back to it."""
    random = Random(os.getpid())
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


class Federation:
    """``ns``, ``ns-admin``, ``ada`` (a publisher) and ``E1`` are homes below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._running: dict[str, subprocess.Popen[str]] = {}

    def found(self) -> None:
        self.start("ns")
        self.command("register", "E1", "--home", "ns-admin", "--out", "E1.bundle")
        self.command("join", "--home", "E1", "E1.bundle")
        self.command(
            "register", "ada", "--role", "operator", "--publisher", "--home", "ns-admin", "--out", "ada.bundle"
        )
        self.command("join", "--home", "ada", "ada.bundle")
        self.command("keys", "endorse", "ada", "--root-home", "ns-root", "--home", "ns-admin")

    def start(self, name: str, *, fail_at: str | None = None, below: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start the peer of a home, ``below`` another program if wanted; returns when it is ready, or gone."""
        settings = [f"--federation-port={self.port}", "--poll-interval=1s"] if name == "ns" else []
        settings += [f"--federation-host={LOOPBACK}"] if name == "ns" else [f"--nameserver={LOOPBACK}:{self.port}"]
        kind = "nameserver" if name == "ns" else "edge"
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [*below, *COMMAND, kind, "--home", name, "--application-port=0", "--no-zeroconf", "--json", *settings],
                cwd=self.folder,
                env=_environment() | ({VARIABLE: fail_at} if fail_at else {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # what it is below is ended with it
            )
        self._running[name] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line or fail_at, f"{name} did not start:\n{self.log(name)}"
        return process

    def process(self, name: str) -> subprocess.Popen[str]:
        """The running process of a home."""
        return self._running[name]

    def runs(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def killed(self, name: str) -> None:
        """Wait until a peer has died at its fail point."""
        process = self._running.pop(name)
        try:
            assert process.wait(timeout=DEATH_S_MAX) == -signal.SIGKILL, self.log(name)
        finally:
            _end(process)

    def stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=DEATH_S_MAX)
            finally:
                _end(process)

    def close(self) -> None:
        for process in self._running.values():
            _end(process)
        self._running = {}

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def command(self, *words: str) -> str:
        done = subprocess.run(
            [*COMMAND, *words], cwd=self.folder, env=_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, home: str, text: str, **params: Any) -> list[Any]:
        """The values of a statement, or its first error."""
        with connect(self.folder / home) as connection:
            return [row.value for row in connection.query(text, params=params or None).checked().rows]

    def attempt(self, home: str, text: str) -> Problem | None:
        """How a statement failed; its nameserver or edge may die of it."""
        try:
            self.ask(home, text)
        except Problem as problem:
            return problem
        return None

    def write_model(self, name: str) -> None:
        """A model of functions alone, in the publisher's home."""
        folder = self.folder / "ada" / "models" / name
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(f'name = "{name}"\nkind = "functions"\nfunctions = ["f.pql"]\n')
        (folder / "f.pql").write_text(f"create function {name}_answer() -> Number as 42;\n")

    def publish(self, name: str, version: str) -> None:
        self.ask("ada", f'models:create_release("{name}", "{version}"); models:publish("{name}", "{version}")')

    def assign(self, name: str, version: str, *, group: str = "all") -> None:
        self.ask("ns", f'edge:set_group_models("{group}", [{{"name": "{name}", "version": "{version}"}}])')

    def run_model(self, name: str, version: str) -> None:
        """Have the edge run a model of functions alone; nothing more is under way then."""
        self.write_model(name)
        self.publish(name, version)
        self.assign(name, version)
        self.start("E1")
        self.converged(lambda state: state["models:loaded"] == [f"{name}@{version}"])

    def actual(self) -> dict[str, Any]:
        """What the edge has now."""
        (state,) = self.ask("E1", "edge:actual_state()")
        return dict(state)

    def converged(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Have the edge poll until its state is as wanted, and the nameserver has heard of it."""
        seen: Any = None
        for _ in range(CONVERGE_POLLS_MAX):
            self.attempt("E1", "edge:poll()")
            seen = self.actual()
            if wanted(seen) and self.reported() == seen:
                return
        raise AssertionError(f"the edge has {seen}, the nameserver heard of {self.reported()}:\n{self.log('E1')}")

    def listens(self) -> None:
        """Wait until the edge holds its uplink again, which after a killed nameserver it does with back-off."""
        ends = time.monotonic() + LISTENING_S_MAX
        while time.monotonic() < ends:
            self.attempt("E1", "edge:poll()")  # ends when it was answered, which also ends the uplink's pause
            if self.ask("ns", 'edge:listening("E1")') == [True]:
                return
        raise AssertionError(f"the edge holds no uplink:\n{self.log('E1')}")

    def reported(self) -> Any:
        try:
            (state,) = self.ask("ns", 'edge:actual_state("E1")')
        except Problem as problem:
            return problem.message
        return dict(state)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])}


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # a program that it was started below may have ended before it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def facts(path: Path) -> Any:
    return json.loads(path.read_text())
