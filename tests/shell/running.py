"""Real processes for the tests: a nameserver, edges and commands on 127.0.0.1, ports chosen by the system."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
STOP_S_MAX = 5.0
NAMESERVER = ("--federation-host", LOOPBACK, "--federation-port", "0", "--poll-interval", "1s")
ANY = ("--application-port", "0", "--zeroconf-interface", LOOPBACK)
PEERAGE = (sys.executable, "-m", "peers.cli")


def environment() -> dict[str, str]:
    """This process's, without settings of its own, with the tree to be imported, looking for peers here alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "PEERAGE_ZEROCONF_INTERFACE": LOOPBACK}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


@dataclass
class Federation:
    """Homes below one folder, and the processes that run in them."""

    folder: Path
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def peerage(self, *arguments: str | Path, stdin: str | None = None) -> Ended:
        """Run a command to its end, in the folder."""
        ran = subprocess.run(
            [*PEERAGE, *(str(argument) for argument in arguments)],
            cwd=self.folder,
            env=environment(),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    def begin(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Run a command beside the test, which waits for its end; what it says goes to one pipe."""
        return subprocess.Popen(
            [*PEERAGE, *(str(argument) for argument in arguments)],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start(self, name: str, *arguments: str) -> dict[str, Any]:
        """Start a process that stays; what it printed once it was ready."""
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [*PEERAGE, *arguments, "--home", name, *ANY, "--json"],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.running[name] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{name} did not start:\n{self.log(name)}"
        facts: dict[str, Any] = json.loads(line)
        return facts

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def stop(self, name: str, *, by: signal.Signals = signal.SIGTERM) -> int:
        """Signal a process and wait for its end; its exit status. Raises when it takes longer than people are told."""
        process = self.running.pop(name)
        process.send_signal(by)
        try:
            return process.wait(timeout=STOP_S_MAX)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def member(self, name: str, *options: str) -> Ended:
        """Register and join, in a home of that name."""
        made = self.peerage("register", name, *options, "--home", "ns-admin", "--out", f"{name}.bundle")
        assert made.status == 0, made.err
        return self.peerage("join", "--home", name, f"{name}.bundle", "--json")


@contextmanager
def federation(folder: Path) -> Iterator[Federation]:
    """A nameserver that runs in the home ``ns``, and whatever the test starts beside it.

    The name of the federation is made up, so that tests that run at once do not discover each other.
    """
    made = Federation(folder)
    try:
        made.start("ns", "nameserver", *NAMESERVER)
        yield made
    finally:
        for name in list(made.running):
            made.stop(name, by=signal.SIGKILL)
