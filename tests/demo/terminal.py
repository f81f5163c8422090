"""A terminal as the documentation's sessions use it: a folder, commands one after another, some that stay."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.demo.sessions import as_shown, console, typed

COMMAND_S_MAX = 60.0
QUESTIONS_MAX = 60  # an edge that waits to ask a nameserver that was gone waits up to 15 s
READY = "  socket "  # the last line that a peer prints when it listens
LOCAL = {
    "PEERAGE_FEDERATION_HOST": "127.0.0.1",
    "PEERAGE_FEDERATION_PORT": "0",
    "PEERAGE_APPLICATION_PORT": "0",
    "PEERAGE_ZEROCONF_INTERFACE": "127.0.0.1",
    "PEERAGE_LOG_LEVEL": "error",
}


@dataclass
class Terminal:
    """Commands find ``peerage`` and ``python`` of this environment; peers keep to 127.0.0.1 and to free ports."""

    folder: Path
    _staying: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
        return own | LOCAL | {"PATH": path, "HOME": str(self.folder)}

    def play(self, page: Path) -> None:
        """Type every command of a page and compare what it prints.

        A person types slower than edges connect and load, so a question is asked again when the answer is not yet
        there.
        """
        for fence in console(page):
            for one in typed(fence):
                found = self.run(one.command)
                tries = QUESTIONS_MAX if one.command.startswith("peerage query") else 1
                while not as_shown(one.shown, found) and (tries := tries - 1):
                    found = self.run(one.command)
                assert as_shown(one.shown, found), f"{page.name}: {one.command}\n" + "\n".join(found)

    def run(self, command: str) -> list[str]:
        """What a command prints, on both its outputs as they come."""
        if command.endswith(" &"):
            return self._stay(command.removesuffix(" &"))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        return done.stdout.splitlines()

    def _stay(self, command: str) -> list[str]:
        """Start a peer and read what it prints until it listens."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._staying.append(process)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        printed = []
        while (line := lines.get(timeout=COMMAND_S_MAX)) is not None:
            printed.append(line)
            if line.startswith(READY):
                return printed
        raise AssertionError(f"{command} ended: {printed}")

    def close(self) -> None:
        for process in self._staying:
            process.send_signal(signal.SIGTERM)
        for process in self._staying:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def terminal(folder: Path) -> Iterator[Terminal]:
    opened = Terminal(folder)
    try:
        yield opened
    finally:
        opened.close()


def _read(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line.rstrip("\n"))
    lines.put(None)
