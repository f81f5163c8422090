"""A person at a real terminal: keys go in, a screen comes out, and all of it is recorded as an asciicast.

The terminal answers what programs ask it (cursor, attributes), so that a prompt behaves as it does before a person.
The recording has a time of its own, so that it looks as if somebody typed, on a quick machine and a slow one alike.
"""

import json
import os
import re
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pyte

KEY_S = 0.06
ANSWER_S = 0.12
READING_S = 1.6
WAIT_S_MAX = 30.0
RUNNING_S = 1.0  # until a statement that was entered runs
_QUESTIONS = re.compile(r"\x1b\[6n|\x1b\[c|\x1b\]11;\?\x1b\\")


class Screen(pyte.HistoryScreen):
    """A screen that answers, and reports which lines have left it at the top."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines, history=5000, ratio=0.01)
        self.answers: list[str] = []

    def write_process_input(self, data: str) -> None:
        self.answers.append(data)

    def report_device_attributes(self, mode: int = 0, **kwargs: Any) -> None:
        if not mode and not kwargs.get("private"):
            super().report_device_attributes(mode)

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.display]

    @property
    def everything(self) -> list[str]:
        """All lines since the start, without blank ones at the end."""
        before = ["".join(line[x].data for x in range(self.columns)).rstrip() for line in self.history.top]
        found = [*before, *self.shown]
        while found and not found[-1]:
            found.pop()
        return found


@dataclass
class Typist:
    """``burst``: how many keys come at once; a recording wants them one by one. ``now`` is the recording's own time."""

    process: Any
    screen: Screen
    events: list[tuple[float, str]] = field(default_factory=list)
    raw: str = ""
    burst: int = 1
    now: float = 0.5

    def __post_init__(self) -> None:
        self._stream = pyte.Stream(self.screen)

    def type(self, keys: str) -> None:
        """Type at a person's pace, showing what each key does."""
        for part in re.split(r"([\t\r])", keys):
            for start in range(0, len(part), self.burst):
                self.press(part[start : start + self.burst])

    def press(self, keys: str) -> None:
        self.process.send(keys)
        self.now += KEY_S
        self._take(0.02)

    def until(self, wanted: str, *, prompt: bool = True) -> str:
        """Wait until a text is on the screen, and below it a prompt that waits; what is on the screen then.

        ``wanted`` is looked for below the last line that was waited for before.
        """
        ends = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < ends:
            self._take(0.05)
            shown = "\n".join(self.screen.shown)
            if re.search(wanted, shown) and (not prompt or self.waits):
                self.now += READING_S
                return shown
        raise AssertionError(f"waited for {wanted!r}, and the screen shows\n" + "\n".join(self.screen.shown))

    def interrupt(self) -> None:
        """Press Ctrl-C once what was typed runs: a prompt that still has the terminal would take it for a key."""
        ends = time.monotonic() + WAIT_S_MAX
        while not termios.tcgetattr(self.process.child_fd)[3] & termios.ICANON:
            assert time.monotonic() < ends, "the prompt does not give the terminal back"
            self._take(0.05)
        self._take(RUNNING_S)
        self.press("\x03")

    @property
    def waits(self) -> bool:
        """Whether the cursor stands behind an empty prompt."""
        line = self.screen.shown[self.screen.cursor.y]
        return bool(re.fullmatch(r"[\w-]+(:[\w, -]+)?>", line))

    def ended(self) -> int:
        """The exit status, once the program has ended."""
        self.process.expect(pexpect.EOF, timeout=WAIT_S_MAX)
        self._show(self.process.before or "")
        self.process.close()
        return int(self.process.exitstatus if self.process.exitstatus is not None else -1)

    def _take(self, wait_s: float) -> None:
        try:
            while True:
                self._show(self.process.read_nonblocking(65536, timeout=wait_s))
        except pexpect.TIMEOUT:
            pass
        except pexpect.EOF:
            pass

    def _show(self, text: str) -> None:
        if not text:
            return
        self.raw += text
        self._stream.feed(text)
        for answer in self.screen.answers:
            self.process.send(answer)
        self.screen.answers.clear()
        shown = _QUESTIONS.sub("", text)
        if shown:
            self.now += ANSWER_S
            self.events.append((round(self.now, 3), shown))

    def cast(self, title: str) -> str:
        """The recording in version 2 of asciinema's format."""
        head = {"version": 2, "width": self.screen.columns, "height": self.screen.lines, "title": title}
        lines = [json.dumps(head), *(json.dumps([at, "o", text], ensure_ascii=False) for at, text in self.events)]
        return "\n".join(lines) + "\n"


def typist(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], columns: int = 90, lines: int = 28
) -> Typist:
    process = pexpect.spawn(
        command[0],
        list(command[1:]),
        cwd=str(folder),
        env={**os.environ, **environment, "TERM": "xterm-256color"},
        dimensions=(lines, columns),
        encoding="utf-8",
        timeout=WAIT_S_MAX,
    )
    process.delaybeforesend = None
    return Typist(process, Screen(columns, lines))


def replayed(cast: str) -> list[str]:
    """The lines that a recording leaves on its screen and above it."""
    head, *events = map(json.loads, cast.splitlines())
    screen = Screen(head["width"], head["height"])
    stream = pyte.Stream(screen)
    for _, kind, text in events:
        if kind == "o":
            stream.feed(text)
    return screen.everything


_VARIES = (
    (re.compile(r"\d+(\.\d+)? (ms|s)\b"), "… ms"),
    (re.compile(r"peerage \d\S*"), "peerage …"),
    (re.compile(r"sha256:[0-9a-f]+"), "sha256:…"),
    (re.compile(r"\|20\d\d-[^|]*\|"), "|…|"),
)


def told(lines: Sequence[str]) -> list[str]:
    """Lines without what differs from run to run; peers in the order of their names where they answer together."""
    found = []
    for line in lines:
        for pattern, instead in _VARIES:
            line = pattern.sub(instead, line)  # noqa: PLW2901
        found.append(line)
    at = 0
    while at < len(found):
        end = at
        while end < len(found) and re.match(r"LINE-\d", found[end]):
            end += 1
        found[at:end] = sorted(found[at:end])
        at = max(at + 1, end)
    return found
