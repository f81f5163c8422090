"""What the documentation shows, taken out of its fences, so that it can be run and compared.

    ```console     "$ command", "> " for its further lines, then what it prints; "&" at the end: it stays
    ```pql         statements, each followed by "// → answer" lines: a row each, or an error's code and message
    ```python      a program, run in the folder of the session; a ```text fence right after it is what it prints

In what is printed, "…" stands for anything within a line, a line "..." for any lines.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSWER = "// → "
ENDED = re.compile(r"^(?!\s*//).*;\s*((//|--).*)?$")


@dataclass(frozen=True)
class Fence:
    language: str
    text: str
    line: int


@dataclass
class Typed:
    """A command as it is typed, and what is shown below it."""

    command: str
    shown: list[str] = field(default_factory=list)

    @property
    def stays(self) -> bool:
        return self.command.endswith(" &")


@dataclass
class Asked:
    """A statement with its directives, and the answers shown below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def fences(path: Path) -> list[Fence]:
    text = path.read_text("utf-8")
    return [Fence(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def console(path: Path) -> list[Fence]:
    """The session of a page."""
    return [fence for fence in fences(path) if fence.language == "console"]


def typed(fence: Fence) -> Iterator[Typed]:
    now: Typed | None = None
    for line in fence.text.splitlines():
        if line.startswith("$ "):
            if now:
                yield now
            now = Typed(line[2:])
        elif now and line.startswith("> ") and not now.shown:
            now.command += "\n" + line[2:]
        elif now:
            now.shown.append(line)
    if now:
        yield now


def asked(fence: Fence) -> Iterator[Asked]:
    now: Asked | None = None
    lines: list[str] = []
    for line in fence.text.splitlines():
        if line.startswith(ANSWER):
            assert now, f"an answer before a statement: {line}"
            now.shown.append(line.removeprefix(ANSWER))
            continue
        lines.append(line)
        if ENDED.match(line):
            if now:
                yield now
            now, lines = Asked("\n".join(lines).strip()), []
    assert not "".join(lines).strip(), f"a statement without its semicolon: {lines}"
    if now:
        yield now


def as_shown(shown: list[str], found: list[str]) -> bool:
    """Whether what was printed is what the page shows."""
    pattern = ""
    for line in shown:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(map(re.escape, line.rstrip().split("…"))) + r"[ ]*\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in found)) is not None
