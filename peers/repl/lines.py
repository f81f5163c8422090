r"""What was typed, before anything runs: statements, a command behind a backslash, a file to run, or not whole yet.

Pure. Rules: Enter runs what is whole and else begins a new line; a text is whole when every statement in it came to its
end, or when it is wrong in a way that no further line can mend; a select that names what it has from nowhere waits for
its clauses; an empty line at the end, or a ``;``, ends it in any case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from query import limits
from query.errors import EndsTooEarly, Problem
from query.parsing import parse, tokens
from query.syntax import (
    Body,
    Call,
    CreateFunction,
    DeleteFunction,
    Evaluate,
    Explain,
    Expression,
    Name,
    Node,
    Script,
    Select,
    children,
)

_COMMAND: Final = re.compile(r"\s*\\(\S*)[ \t]*(.*)\Z", re.DOTALL)
_INCLUDE: Final = re.compile(r"""\s*<\s*(?:"([^"]+)"|'([^']+)')\s*;?\s*\Z""")
STATEMENT_COMMANDS: Final = frozenset({"explain", "watch", "w"})  # which may be followed by one
_WATCH_TIMES: Final = re.compile(r"\A(?:[\d.]+(?:ms|s|m|h)?\s+)?(?:x\d+\s+)?")
_LEAVING: Final = frozenset({"quit", "exit", "quit;", "exit;", "quit()", "exit()"})


@dataclass(frozen=True, slots=True)
class Nothing:
    """Blanks and comments."""


@dataclass(frozen=True, slots=True)
class Command:
    r"""``\name rest``"""

    name: str
    rest: str


@dataclass(frozen=True, slots=True)
class Include:
    """``< "file.pql"``"""

    path: str


@dataclass(frozen=True, slots=True)
class Statements:
    text: str


Line: TypeAlias = Nothing | Command | Include | Statements


def read_line(text: str) -> Line:
    """What a whole text is."""
    command = _COMMAND.match(text)
    if command:
        return Command(command[1].casefold(), command[2].strip())
    if text.strip().casefold() in _LEAVING:
        return Command("quit", "")
    include = _INCLUDE.match(text)
    if include:
        return Include(include[1] or include[2])
    return Statements(text) if _says_something(text) else Nothing()


def _says_something(text: str) -> bool:
    try:
        return bool(tokens(text))
    except Problem:
        return True  # the peer says what is wrong


def is_whole(text: str) -> bool:
    """Whether Enter at the end of a text runs it; see the module."""
    command = _COMMAND.match(text)
    if command and command[1].casefold() in STATEMENT_COMMANDS:
        statement = _WATCH_TIMES.sub("", command[2], count=1)
        return not statement.strip() or is_whole(statement)
    if not text.strip() or command or _INCLUDE.match(text):
        return True
    if text.strip().casefold() in _LEAVING or ("\n" in text and not text.rpartition("\n")[2].strip()):
        return True
    try:
        script = parse(text, limit=limits.TEXT_BYTES_LOCAL_MAX)
    except EndsTooEarly:
        return False
    except Problem:
        return True
    if not script.statements:
        return False
    return text.rstrip().endswith(";") or not _waits_for_clauses(script.statements[-1].body)


def came_to_its_end(text: str) -> bool:
    """Whether no bracket, string, comment or clause is open; also of a text that is wrong, where no line mends it."""
    try:
        parse(text, limit=limits.TEXT_BYTES_LOCAL_MAX)
    except Problem as problem:
        return not isinstance(problem, EndsTooEarly)
    return True


def _waits_for_clauses(body: Body) -> bool:
    """Whether a select names what no ``from`` or ``where`` of it gives yet: these clauses are still to come."""
    value = body.body if isinstance(body, Explain) else body
    select = value.value if isinstance(value, Evaluate) else None
    if not isinstance(select, Select):
        return False
    if not select.sources:
        return any(_names_something(item.value) for item in select.items)
    return select.where is None and any(source.source is None for source in select.sources)


def _names_something(node: Node) -> bool:
    if isinstance(node, Select):
        return False
    return isinstance(node, Name) or any(_names_something(inner) for inner in children(node))


def explained(text: str) -> str:
    """A statement with ``explain`` before it, below its directives. Raises for what cannot be read."""
    found = tokens(text)
    if not found:
        return text
    first = found[0].tokens[0]
    return text if first.type == "EXPLAIN" else text[: first.start] + "explain " + text[first.start :]


def parsed(text: str) -> Script | None:
    """The statements of a text that is right."""
    try:
        return parse(text, limit=limits.TEXT_BYTES_LOCAL_MAX)
    except Problem:
        return None


MOVES_MODELS: Final = {
    "edge:set_group_models": 0,
    "edge:remove_group_models": 0,
    "edge:add_group": 0,
    "edge:remove_group": 0,
}
"""Functions after which edges have to do something, and which argument names those edges."""


def convergence_of(script: Script) -> str | None:
    """The statement that waits for what a script's last statement set going; None where it moves no models."""
    if not script.statements:
        return None
    last = script.statements[-1]
    call = last.body.value if isinstance(last.body, Evaluate) else None
    if not isinstance(call, Call) or call.name.casefold() not in MOVES_MODELS:
        return None
    place = MOVES_MODELS[call.name.casefold()]
    if len(call.arguments) <= place:
        return None
    argument: Expression = call.arguments[place]
    start, end = argument.place
    return f"edge:converged({script.source.text[start:end]}, :seconds)"


def changes_functions(script: Script) -> bool:
    """Whether users' functions come or go."""
    return any(isinstance(statement.body, CreateFunction | DeleteFunction) for statement in script)
