"""What a command says, and where: data to standard output, the rest to standard error, an exit status at the end.

The one place besides a process's supervisor where every exception ends: a :class:`~query.errors.Problem` as one line
with its place underlined and its hint, an interruption as ``interrupted``, anything else as our own fault with its
trace.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TextIO
from unicodedata import combining, east_asian_width

import msgspec

from query.errors import ErrorRecord, InternalProblem, Problem, Span, WorldProblem

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PARTIAL: Final = 3

USAGE_CODES: Final = frozenset({"usage", "bad_setting"})
UNKNOWN_FAILURE: Final = "peerage failed in a way that it does not know; the lines above are for its makers"

LINE_LENGTH_MAX: Final = 160  # of a statement's line that is shown below an error
LINE_LENGTH_MIN: Final = 16  # of it, however narrow the terminal is


class UsageProblem(Problem):
    """The command line asks for something that makes no sense; exit status 2."""

    code = "usage"


class OutputNotWritten(WorldProblem):
    """Standard output takes no more, as on a full disk."""

    code = "output_not_written"


@dataclass(slots=True)
class Console:
    """The outside of a command. ``status`` is the exit status."""

    stdout: TextIO
    stderr: TextIO
    environment: Mapping[str, str]
    status: int = DONE

    def data(self, line: str) -> None:
        """A line of data, given at once."""
        try:
            self.stdout.write(line + "\n")
            self.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputNotWritten(f"cannot write the output: {error.strerror}") from error

    def json(self, value: Any) -> None:
        """A value as one line of JSON."""
        self.data(msgspec.json.encode(value).decode("utf-8"))

    def tell(self, line: str) -> None:
        """A line for people."""
        self.stderr.write(line + "\n")
        self.stderr.flush()

    def confirmed(self, question: str) -> bool:
        """Whether a person at the terminal answers yes. Raises :class:`UsageProblem` where there is none to ask."""
        if not sys.stdin.isatty():
            raise UsageProblem(
                "expected an answer, and standard input is no terminal", hint="--yes answers, --dry-run only tells"
            )
        self.stderr.write(f"{question} [y/N] ")
        self.stderr.flush()
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    def problem(self, record: ErrorRecord, *, text: str | None = None) -> None:
        """An error, with its place in ``text`` underlined."""
        self.tell("\n".join(problem_lines(record, text=text)))

    def tell_doubts(self, text: str) -> None:
        """Comments that were probably meant to be directives: the statements run without them."""
        from query.slips import doubtful_comments

        for doubt in doubtful_comments(text):
            self.tell("\n".join([f"note: {doubt.message}", *underlined(text, doubt.span)]))

    @contextmanager
    def telling_problems(self, *, as_json: bool) -> Iterator[None]:
        """Turn what is raised inside into words on standard error, JSON when asked, and an exit status."""
        try:
            yield
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            self.status = FAILED
            self.tell("interrupted")
        except Exception as error:  # noqa: BLE001 — the edge of the program
            problems = _problems(error)
            for problem in problems:
                self._tell_problem(problem, as_json=as_json)
            if not problems:
                self.tell(without_secrets(traceback.format_exc()))
                self._tell_problem(InternalProblem(UNKNOWN_FAILURE), as_json=as_json)
            self.status = USAGE if problems and problems[0].code in USAGE_CODES else FAILED

    def _tell_problem(self, problem: Problem, *, as_json: bool) -> None:
        if as_json:
            self.tell(msgspec.json.encode({"error": problem.record()}).decode("utf-8"))
        else:
            self.problem(problem.record())


def _problems(error: BaseException) -> list[Problem]:
    """The problems that an exception or a group of them is made of; none when there is anything else in it."""
    if isinstance(error, Problem):
        return [error]
    if not isinstance(error, BaseExceptionGroup):
        return []
    parts = [_problems(part) for part in error.exceptions]
    return [problem for part in parts for problem in part] if all(parts) else []


def without_secrets(text: str) -> str:
    from peers.logs import without_secrets as hidden

    return hidden(text)


def problem_lines(record: ErrorRecord, *, text: str | None = None, width: int | None = None) -> list[str]:
    """An error for people: its message, its place underlined within ``width``, and the next step."""
    peer = f"{record.peer}: " if record.peer else ""
    lines = [f"{peer}error({record.code}): {record.message}"]
    if text is not None and record.span is not None:
        lines += underlined(text, record.span, width=width)
    if record.hint:
        lines.append(f"  hint: {record.hint}")
    return lines


def underlined(text: str, span: Span, *, width: int | None = None) -> list[str]:
    """The first line of a place with marks below it; nothing for a place that the text does not have.

    Of a line that is longer than ``width``, the part around the place.
    """
    lines = text.split("\n")
    if not 1 <= span.line <= len(lines):
        return []
    line = lines[span.line - 1].rstrip("\r")
    if not 1 <= span.column <= len(line) + 1:
        return []
    end = span.end_column if span.end_line == span.line else len(line) + 1
    start = span.column - 1
    count = max(1, min(end - 1, len(line)) - start)
    number = f"{span.line}" if len(lines) > 1 else ""
    margin = f"  {number} | " if number else "  "
    room = LINE_LENGTH_MAX if width is None else max(LINE_LENGTH_MIN, min(LINE_LENGTH_MAX, width - len(margin)))
    cut = 0 if _cells(line[: start + count]) <= room else max(0, start - room // 2)
    shown = line[cut : cut + room]
    while _cells(shown) > room and cut + len(shown) > start + 1:
        shown = shown[:-1]
    before = "".join("\t" if letter == "\t" else " " * _cells(letter) for letter in shown[: start - cut])
    marks = "^" * max(1, _cells(shown[start - cut : start - cut + count]))
    return [margin + shown, " " * len(margin) + before + marks]


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)
