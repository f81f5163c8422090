r"""Completion at the prompt: of statements from what is known of the federation, of commands from their table.

Pure. Rules: a statement is completed by :mod:`query.completion`, also behind ``\explain`` and ``\watch``; only what
stands before the cursor is replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.repl.commands import BY_NAME, COMMANDS
from query.completion import Shape, completions
from query.knowledge import Kind, Knowledge

FILES_MAX: Final = 200
SHAPES: Final = {
    Shape.FUNCTION: "function",
    Shape.NAME: "string",
    Shape.KEY: "key",
    Shape.VARIABLE: "variable",
    Shape.LOCAL: "name",
    Shape.DIRECTIVE: "directive",
    Shape.KEYWORD: "keyword",
    Shape.TYPE: "keyword",
}
_COMMAND: Final = re.compile(r"\s*\\(\S*)(\s+)?")
_INCLUDE: Final = re.compile(r"\s*<\s*[\"']([^\"']*)\Z")
_BEFORE_STATEMENT: Final = re.compile(r"(?:[\d.]+(?:ms|s|m|h)?\s+)?(?:x\d+\s+)?")


@dataclass(frozen=True, slots=True)
class Offer:
    """What may stand in the place of the last ``length`` characters. ``part`` is a class of a palette."""

    text: str
    length: int
    label: str
    meaning: str = ""
    part: str = ""


def offers(text: str, offset: int, knowledge: Knowledge, *, folder: Path) -> Iterator[Offer]:
    """What may stand at ``offset``; nothing for what is not known."""
    before = text[:offset]
    command = _COMMAND.match(before)
    if command is not None:
        yield from _of_command(text, offset, command, knowledge, folder=folder)
        return
    include = _INCLUDE.match(before)
    if include is not None:
        yield from _files(include[1], folder)
        return
    yield from _of_statement(text, offset, knowledge)


def _of_statement(text: str, offset: int, knowledge: Knowledge) -> Iterator[Offer]:
    for one in completions(text, offset, knowledge):
        if one.start > offset or (text[offset : one.end] and not one.insert.endswith(text[offset : one.end])):
            continue
        insert = one.insert.removesuffix(text[offset : one.end]) if one.end > offset else one.insert
        detail = one.detail if one.detail != one.label else ""
        yield Offer(insert, offset - one.start, one.label, detail, SHAPES.get(one.shape, ""))


def _of_command(text: str, offset: int, found: re.Match[str], knowledge: Knowledge, *, folder: Path) -> Iterator[Offer]:
    if found[2] is None:
        typed = found[1]
        for command in COMMANDS:
            if command.name.startswith(typed.casefold()):
                yield Offer(command.name, len(typed), f"\\{command.name}", command.summary, "keyword")
        return
    known = BY_NAME.get(found[1].casefold())
    if known is None:
        return
    rest = text[found.end() : offset]
    match known.takes:
        case "statement":
            shift = found.end()
            if known.name == "watch" and (times := _BEFORE_STATEMENT.match(rest)):
                shift += times.end()
            yield from _of_statement(text[shift:], offset - shift, knowledge)
        case "peer":
            yield from _words(rest, (*knowledge.of_kind(Kind.PEER), "nameserver", "all", "--save"), "peer")
        case "function":
            yield from _words(rest, knowledge.catalogue.names(), "function")
        case "help":
            names = (*(command.name for command in COMMANDS), *knowledge.catalogue.names())
            yield from _words(rest, names, "function")
        case "file":
            yield from _files(rest, folder)
        case tuple(words):
            first, blank, file = rest.partition(" ")
            if "file" in words and blank:
                yield from _files(file.lstrip(), folder)
            elif not blank:
                yield from _words(first, [word for word in words if word != "file"], "keyword")


def _words(typed: str, known: Iterable[str], part: str) -> Iterator[Offer]:
    folded = typed.casefold()
    matching = [name for name in known if folded in name.casefold()]
    for name in sorted(matching, key=lambda name: (not name.casefold().startswith(folded), name.casefold())):
        yield Offer(name, len(typed), name, "", part)


def _files(typed: str, folder: Path) -> Iterator[Offer]:
    head, _, tail = typed.rpartition("/")
    where = Path(head + "/" if head or typed.startswith("/") else ".").expanduser()
    try:
        with os.scandir(where if where.is_absolute() else folder / where) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name.startswith(tail))
    except OSError:
        return
    for name, is_folder in found[:FILES_MAX]:
        if not name.startswith(".") or tail.startswith("."):
            shown = name + "/" * is_folder
            yield Offer(shown, len(tail), shown, "folder" if is_folder else "", "string")
