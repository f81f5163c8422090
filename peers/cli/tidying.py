"""The command ``fmt``: scripts of the query language in one style, files, folders or standard input.

Rules: a file is replaced whole or not at all, keeps its mode, and is not touched when nothing changes; of what does
not parse, the place is told and the file stays as it is, and the others go on. In a folder, files named ``*.pql`` are
meant, also below, without hidden folders and without following links to folders.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from peers.cli.arguments import Commands, add_command
from peers.cli.console import DONE, FAILED, Console, UsageProblem
from query import limits
from query.errors import Problem, UserProblem
from query.limits import over

SUFFIX: Final = ".pql"
STANDARD_INPUT: Final = "-"
_MARK: Final = "\ufeff"  # some editors begin a file so


class NotText(UserProblem):
    """A file whose bytes are no UTF-8."""

    code = "not_text"


def add_commands(commands: Commands) -> None:
    fmt = add_command(
        commands,
        "fmt",
        run=run_fmt,
        summary="format scripts of the query language",
        description="Rewrites files, and every *.pql below folders, in one style. What they say stays, and so does\n"
        "every comment and directive. Without PATH or with -, formats standard input to standard output.",
        examples="""\
peerage fmt story.pql models/
peerage fmt --check .
peerage fmt --diff story.pql
echo 'select  x from x in  [1,2]' | peerage fmt -""",
    )
    fmt.add_argument("paths", metavar="PATH", nargs="*", help='files and folders; "-" is standard input')
    fmt.add_argument("--check", action="store_true", help="change nothing; exit status 1 when a file would change")
    fmt.add_argument("--diff", action="store_true", help="change nothing; print what would change")


def run_fmt(arguments: argparse.Namespace, console: Console) -> int:
    paths = arguments.paths or [STANDARD_INPUT]
    if not arguments.paths and sys.stdin.isatty():
        raise UsageProblem('expected files, folders or "-", found none', hint="peerage fmt . formats what is here")
    if STANDARD_INPUT in paths:
        if len(paths) > 1:
            raise UsageProblem('"-" stands alone: standard input is formatted to standard output')
        return _standard_input(arguments, console)
    return _files(arguments, console, [Path(path) for path in paths])


def _standard_input(arguments: argparse.Namespace, console: Console) -> int:
    named = "standard input"
    raw = sys.stdin.buffer.read(limits.TEXT_BYTES_LOCAL_MAX + 1)
    written = _formatted(named, raw, console)
    if written is None:
        return FAILED
    text = _text(named, raw)
    if arguments.diff:
        _show_difference(named, text, written, console)
    elif not arguments.check:
        console.stdout.write(written)
        console.stdout.flush()
    return FAILED if arguments.check and written != text else DONE


def _files(arguments: argparse.Namespace, console: Console, paths: list[Path]) -> int:
    changed = same = failed = 0
    for path in _found(paths):
        raw = _read(path, console)
        written = None if raw is None else _formatted(str(path), raw, console)
        if raw is None or written is None:
            failed += 1
        elif written.encode() == raw:
            same += 1
        else:
            changed += 1
            if arguments.diff:
                _show_difference(str(path), _text(str(path), raw), written, console)
            else:
                console.data(str(path))
            if not (arguments.check or arguments.diff):
                _replace(path, written)
    would = "would be formatted" if arguments.check or arguments.diff else "formatted"
    told = [f"{changed} {would}", f"{same} as they should be", *([f"{failed} left as they are"] if failed else [])]
    console.tell(", ".join(told))
    return FAILED if failed or (changed and arguments.check) else DONE


def _found(paths: list[Path]) -> Iterator[Path]:
    """The files that are meant, each once, a folder's in the order of their names."""
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UsageProblem(f"no file or folder {path}")
        for file in _below(path) if path.is_dir() else (path,):
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in sorted(files) if name.endswith(SUFFIX)):
            if path.is_file() or not path.exists():  # a link that leads nowhere is told
                yield path


def _read(path: Path, console: Console) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            console.tell(f'cannot read {path}: expected a regular file; "-" is standard input')
            return None
        with path.open("rb") as file:
            return file.read(limits.TEXT_BYTES_LOCAL_MAX + 1)
    except OSError as error:
        console.tell(f"cannot read {path}: {error.strerror}")
        return None


def _text(named: str, raw: bytes) -> str:
    if len(raw) > limits.TEXT_BYTES_LOCAL_MAX:
        raise over(named, limits.TEXT_BYTES_LOCAL_MAX, "more", "bytes")
    try:
        return raw.decode("utf-8").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        raise NotText(f"{named} is no UTF-8 text: byte {error.start} is {raw[error.start]:#04x}") from None


def _formatted(named: str, raw: bytes, console: Console) -> str | None:
    """What the bytes are in one style; None when they cannot be read, which was told then."""
    from query.layout import format_text

    text = None
    try:
        text = _text(named, raw)
        return format_text(text)
    except Problem as problem:
        span = problem.span
        console.tell(f"{named}:{span.line}:{span.column}" if span is not None else named)
        console.problem(problem.record(), text=text)
        return None


def _show_difference(named: str, text: str, written: str, console: Console) -> None:
    """As a patch. A carriage return belongs to its line, so that also a change of line ends alone is shown."""
    for line in difflib.unified_diff(_lines(text), _lines(written), named, f"{named}, formatted"):
        console.data(line.removesuffix("\n"))
        if not line.endswith("\n"):
            console.data("\\ No newline at end of file")


def _lines(text: str) -> list[str]:
    return io.StringIO(text, newline="\n").readlines()


def _replace(path: Path, written: str) -> None:
    from peers.homes import write_whole

    target = path.resolve()  # a link stays one
    mode = stat.S_IMODE(target.stat().st_mode)
    write_whole(target, written.encode(), mode=mode)
    target.chmod(mode)  # what the umask took away
