"""The folders and processes of the demo: a home for each peer below one folder, a process for each that runs.

Owns starting, killing and stopping them, and running commands. A process counts as started when it has printed where
it listens. Each has a session of its own, so that Ctrl-C reaches the demo alone, which then stops them; its log is
kept beside its home. Settings of the surroundings (``PEERAGE_…``) do not reach them.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from query.errors import WorldProblem

START_S_MAX: Final = 20.0
COMMAND_S_MAX: Final = 30.0
STOP_S_MAX: Final = 6.0
LAST_WORDS_LINES: Final = 15

PEERAGE: Final = (sys.executable, "-m", "peers.cli")


class NotStarted(WorldProblem):
    """A process of the demo did not come up."""

    code = "demo_not_started"


class CommandFailed(WorldProblem):
    """A command of the demo ended with another exit status than 0."""

    code = "demo_command_failed"


@dataclass(slots=True)
class Stage:
    """See the module. ``examples``: where the model folders of the story lie."""

    folder: Path
    examples: Path
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        return self.folder / name

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start(self, name: str, *arguments: str) -> None:
        """Start a peer in the home of that name and wait until it listens. Raises :class:`NotStarted`."""
        command = [*PEERAGE, *arguments, "--home", str(self.home(name)), "--log-format", "text", "--json"]
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        self._processes[name] = process
        line = _first_line(process, within_s=START_S_MAX)
        if not line:
            raise NotStarted(f"{name} did not start within {START_S_MAX:.0f} s", hint=f"see {self.log(name)}")
        self.records[name] = msgspec.json.decode(line)

    def kill(self, name: str) -> int:
        """Kill -9, as a crash would; the process that was."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        _close(process)
        return process.pid

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def command(self, *arguments: str) -> str:
        """Run a command; what it printed. Raises :class:`CommandFailed` with what it complained about."""
        try:
            done = subprocess.run(
                [*PEERAGE, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=_environment(),
                timeout=COMMAND_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"peerage {arguments[0]} took more than {COMMAND_S_MAX:.0f} s") from None
        if done.returncode != 0:
            complaint = done.stderr.strip() or done.stdout.strip()
            raise CommandFailed(f"peerage {' '.join(arguments)} ended with status {done.returncode}: {complaint}")
        return done.stdout

    def script(self, path: Path, *arguments: str) -> str:
        """Run one of the example programs; what it printed. Raises :class:`CommandFailed`."""
        command = [sys.executable, str(path), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), timeout=COMMAND_S_MAX, check=False
        )
        if done.returncode != 0:
            raise CommandFailed(f"{path} ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def stop(self) -> None:
        """Stop every process that runs: asked first, then killed."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process)
        self._processes.clear()

    def last_words(self) -> dict[str, str]:
        """The end of each log, for whoever looks for a cause."""
        words = {}
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text("utf-8", "replace").splitlines()
            words[log.stem] = "\n".join(lines[-LAST_WORDS_LINES:])
        return words


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
    return kept | {"PYTHONUNBUFFERED": "1", "PEERAGE_ZEROCONF_INTERFACE": "127.0.0.1"}


def _first_line(process: subprocess.Popen[bytes], *, within_s: float) -> bytes:
    """The first line that a process prints; empty when it ends or says nothing in time."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(within_s) else b""


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
