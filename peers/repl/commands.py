r"""The commands of the prompt: ``\peer``, ``\help``, ``\export`` …; what they take, say and do.

Owns the table that ``\help``, completion and docs/repl.md are made from. Rules: a command says what it expected and
found; one that asks a peer does so with a statement that could have been typed.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from peers.rendering import counted
from peers.repl.documentation import described
from peers.repl.editing import edited, editor_of
from peers.repl.exports import FORMATS, BadExport, format_named, write_file, written
from peers.repl.lines import explained
from peers.repl.preferences import Preferences, preferences_file, write_preferences
from query.durations import parse_duration
from query.errors import UnknownName, WrongArguments, nearest, unknown
from query.placement import Peers, parse_target
from query.text_form import to_text

if TYPE_CHECKING:
    from peers.repl.shell import Shell

HISTORY_SHOWN: Final = 20
LEARN_S_MAX: Final = 2.0  # that a command waits for what is being learned
_SWITCH: Final = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


@dataclass(frozen=True, slots=True)
class PromptCommand:
    """One command. ``takes`` says what completes it: ``peer``, ``function``, ``statement``, ``file``, or words."""

    name: str
    form: str
    summary: str
    run: Callable[[Shell, str], None]
    takes: str | tuple[str, ...] = ""
    also: tuple[str, ...] = ()


def run_command(shell: Shell, name: str, rest: str) -> None:
    command = BY_NAME.get(name)
    if command is None:
        close = nearest(name, BY_NAME)
        tail = f' — did you mean "\\{close}"?' if close else ""
        raise UnknownName(f'no command "\\{name[:40]}"{tail}', hint="\\help lists the commands")
    command.run(shell, rest)


# --- where statements go ----------------------------------------------------------------------------------------------


def _peer(shell: Shell, rest: str) -> None:
    words, save = _flag(rest, "--save")
    if not words:
        if save:
            _save_peer(shell, shell.default)
        shell.note(f"default peer: {shell.default or f'{shell.whom.name}, which is asked'}")
        return
    wanted = None if words in ("-", "none") else _known_target(shell, words)
    shell.default = wanted
    shell.learning.begin(wanted)
    shell.note(f"default peer: {wanted or f'{shell.whom.name}, which is asked'}")
    if save:
        _save_peer(shell, wanted)


def _known_target(shell: Shell, text: str) -> str:
    """A target in the words of ``//peer:``; names that the federation does not have are refused where it is known."""
    target = parse_target(text)
    shell.learning.begin(shell.default)
    shell.learning.wait(LEARN_S_MAX)
    from query.knowledge import Kind

    names = shell.learning.knowledge.of_kind(Kind.PEER)
    if not names or not isinstance(target, Peers):
        return text
    folded = {name.casefold(): name for name in (*names, "nameserver")}
    for name in target.names:
        if name.casefold() not in folded:
            raise unknown("peer", name, names)
    return ", ".join(folded[name.casefold()] for name in target.names)


def _save_peer(shell: Shell, peer: str | None) -> None:
    from peers.workspace import save_default_peer

    shell.note(f"kept in {save_default_peer(shell.folder, peer)}")


# --- what there is ----------------------------------------------------------------------------------------------------


def _help(shell: Shell, rest: str) -> None:
    name = rest.removeprefix("\\").strip()
    if not name:
        shell.out(help_text(shell.screen.width if shell.screen is not None else 100))
    elif (command := BY_NAME.get(name.casefold())) is not None:
        shell.out(f"{command.form}\n  {command.summary}")
    else:
        _doc(shell, name)


def help_text(width: int = 100) -> str:
    """The commands and keys, as ``\\help`` shows them."""
    commands = [(command.form, command.summary) for command in COMMANDS]
    left = max(len(form) for form, _ in commands)

    def lines(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
        for name, meaning in rows:
            first, *rest = textwrap.wrap(meaning, max(20, width - left - 5))
            yield f"  {name:{left}}  {first}"
            yield from (" " * (left + 4) + line for line in rest)

    return "\n".join(["commands", *lines(commands), "", "keys", *lines(KEYS)])


KEYS: Final = (
    ("Enter", "run what is whole, else begin a new line; an empty line at the end runs in any case"),
    ("Alt-Enter", "begin a new line"),
    ("Tab, Ctrl-Space", "complete: functions, names, versions, keys, directives"),
    ("Right, Ctrl-E", "take the suggestion from the history"),
    ("Up, Down, Ctrl-R", "go through the history, search it"),
    ("Ctrl-X Ctrl-E", "edit in $EDITOR; with vi keys also v"),
    ("Ctrl-C", "cancel what runs, on every peer; at the prompt, throw away what is typed"),
    ("Ctrl-D", "leave"),
)


def _doc(shell: Shell, rest: str) -> None:
    name = rest.strip().strip("\"'").removesuffix("()")
    if not name:
        raise WrongArguments("expected the name of a function", hint='\\doc edge:groups; apropos("group") finds some')
    declared = shell.learning.knowledge.catalogue.lookup(name)
    if not declared:
        shell.learning.begin(shell.default)
        shell.learning.wait(LEARN_S_MAX)
        declared = shell.learning.knowledge.catalogue.require(name)
    shell.out_lines(described(declared, width=shell.screen.width if shell.screen is not None else 100))


def _explain(shell: Shell, rest: str) -> None:
    shell.ask(explained(_statement(shell, rest)))


def _vars(shell: Shell, rest: str) -> None:
    variables = shell.connection.variables
    if not variables:
        shell.note("no variables: set :v = 1 sets one")
        return
    for name, value in sorted(variables.items()):
        text = to_text(value)
        shell.out(f":{name} = {text if len(text) <= 200 else text[:199] + '…'}")


def _history(shell: Shell, rest: str) -> None:
    found = [entry for entry in shell.typed if rest.casefold() in entry.casefold()]
    for entry in found[-HISTORY_SHOWN:]:
        shell.out(entry)


def _refresh(shell: Shell, rest: str) -> None:
    shell.learning.begin(shell.default, anew=True)
    shell.note("what is known is being fetched anew")


# --- the last answer, the last statement ------------------------------------------------------------------------------


def _export(shell: Shell, rest: str) -> None:
    words, replace = _flag(rest, "--replace")
    try:
        found = shlex.split(words)
    except ValueError as error:
        raise WrongArguments(f"{error}: \\export {rest}") from None
    if not found:
        raise BadExport("expected a format and a file", hint=f"formats are {', '.join(FORMATS)}: \\export csv FILE")
    form = format_named(found[0])
    if len(found) > 2:
        raise BadExport(f"expected a format and one file, found {len(found)} words", hint="quote a name with blanks")
    answer = shell.answer
    if answer.ledger is None:
        raise BadExport("there is no answer yet", hint="ask something first")
    if answer.cut:
        raise BadExport(
            f"the last answer was longer than a session keeps ({len(answer.rows)} rows)",
            hint="ask for less, or: peerage query --json … > FILE",
        )
    content = written(form, answer.columns, answer.rows)
    if len(found) == 1:
        if form == "parquet":
            raise BadExport("Parquet is no text: expected a file", hint="\\export parquet FILE")
        shell.out(content.decode("utf-8").rstrip("\n"))
        return
    path = Path(found[1]).expanduser()
    path = path if path.is_absolute() else shell.folder / path
    write_file(path, content, replace=replace)
    partial = "" if answer.ledger.complete else "; a partial answer"
    shell.note(f"{counted(len(answer.rows), 'row')} in {found[1]}{partial}")


def _edit(shell: Shell, rest: str) -> None:
    text = edited(rest or shell.statement, editor_of(shell.console.environment))
    if not text.strip():
        shell.note("nothing to run")
    elif shell.interactive:
        shell.draft = text
    else:
        shell.run(text)


_WATCHED: Final = re.compile(
    r"(?:(?P<every>[\d.]+(?:ms|s|m|h)?)(?=\s|\Z))?\s*(?:x(?P<times>\d{1,6})(?=\s|\Z))?\s*", re.ASCII
)


def _watch(shell: Shell, rest: str) -> None:
    from peers.repl.watching import EVERY_S, EVERY_S_MAX, EVERY_S_MIN, watch

    found = _WATCHED.match(rest)
    assert found is not None
    text = rest[found.end() :]
    if not text and found["every"] and not shell.statement:
        text = rest  # a number alone is a statement too
    every_s = EVERY_S if found["every"] is None else parse_duration(found["every"], longest_s=EVERY_S_MAX)
    if every_s < EVERY_S_MIN:
        raise WrongArguments(f"expected at least {EVERY_S_MIN:g} s between two answers, found {every_s:g} s")
    shell.statement = _statement(shell, text)
    watch(shell, shell.statement, every_s=every_s, times=int(found["times"]) if found["times"] else None)


def _statement(shell: Shell, rest: str) -> str:
    """The statement that a command is about: its own, else the last one."""
    if rest.strip():
        return rest
    if not shell.statement.strip():
        raise WrongArguments("expected a statement: none was asked yet")
    return shell.statement


def _run(shell: Shell, rest: str) -> None:
    if not rest:
        raise WrongArguments("expected a file", hint='\\run FILE, or < "FILE"')
    shell.run_file(Path(rest.strip("\"'")))


# --- what a person wants ----------------------------------------------------------------------------------------------


def _time(shell: Shell, rest: str) -> None:
    _prefer(shell, time=_switch(rest, now=shell.preferences.time))
    shell.note(f"time: {'on' if shell.preferences.time else 'off'}")


def _table(shell: Shell, rest: str) -> None:
    _prefer(shell, table=_switch(rest, now=shell.preferences.table))
    shell.note(f"table: {'on' if shell.preferences.table else 'off'}")


def _keys(shell: Shell, rest: str) -> None:
    _choose(shell, "keys", rest)


def _theme(shell: Shell, rest: str) -> None:
    _choose(shell, "theme", rest)


def _choose(shell: Shell, name: str, rest: str) -> None:
    """One of the words that a preference may be."""
    from typing import get_type_hints

    words = get_args(get_type_hints(Preferences)[name])
    if rest and rest.casefold() not in words:
        raise WrongArguments(f'expected {" or ".join(words)}, found "{rest[:40]}"')
    if rest:
        _prefer(shell, **{name: rest.casefold()})
    shell.note(f"{name}: {getattr(shell.preferences, name)}")


def _pager(shell: Shell, rest: str) -> None:
    if rest:
        _prefer(shell, pager="" if rest.casefold() == "on" else rest)
    shell.note(f"pager: {' '.join(shell.screen.pager) or 'off' if shell.screen else 'off'}")


def _converge(shell: Shell, rest: str) -> None:
    if rest:
        off = rest.casefold() in ("off", "0")
        _prefer(shell, converge=0.0 if off else parse_duration(rest, longest_s=3600.0))
    seconds = shell.preferences.converge
    shell.note(f"converge: {f'{seconds:g} s' if seconds else 'off'}")


def _save(shell: Shell, rest: str) -> None:
    path = preferences_file(shell.console.environment)
    write_preferences(path, shell.preferences)
    shell.note(f"kept in {path}")


def _prefer(shell: Shell, **changes: Any) -> None:
    shell.preferences = msgspec.structs.replace(shell.preferences, **changes)
    apply_preferences(shell)


def apply_preferences(shell: Shell) -> None:
    """Give the screen the palette and the pager that a person wants."""
    from peers.palettes import chosen_palette
    from peers.screens import pager_of

    if shell.screen is None:
        return
    wanted, environment = shell.preferences, shell.console.environment
    shell.screen.palette = chosen_palette(environment, theme=wanted.theme, background=shell.background)
    if wanted.pager.casefold() == "off":
        shell.screen.pager = ()
    else:
        try:
            shell.screen.pager = tuple(shlex.split(wanted.pager)) or pager_of(environment)
        except ValueError as error:
            raise WrongArguments(f"{error}: \\pager {wanted.pager}") from None


def _quit(shell: Shell, rest: str) -> None:
    shell.leaving = True


def _switch(rest: str, *, now: bool) -> bool:
    if not rest:
        return not now
    if rest.casefold() not in _SWITCH:
        raise WrongArguments(f'expected on or off, found "{rest[:40]}"')
    return _SWITCH[rest.casefold()]


def _flag(rest: str, flag: str) -> tuple[str, bool]:
    """The words without a flag at their end, and whether it was there."""
    words = rest.strip()
    if words == flag or words.endswith(f" {flag}"):
        return words.removesuffix(flag).strip(), True
    return words, False


COMMANDS: Final = (
    PromptCommand("peer", "\\peer [NAME] [--save]", "the default peer, as in //peer:; - for none; --save keeps it here",
                  _peer, takes="peer", also=("p",)),
    PromptCommand("help", "\\help [NAME]", "this list, one command, or the documentation of a function",
                  _help, takes="help", also=("h", "?")),
    PromptCommand("doc", "\\doc FUNCTION", "what a function does, takes and gives", _doc, takes="function"),
    PromptCommand("explain", "\\explain [STATEMENT]", "how a statement runs and who would answer it; else the last one",
                  _explain, takes="statement"),
    PromptCommand("export", "\\export FORMAT [FILE] [--replace]", "write the last answer as csv, json or parquet",
                  _export, takes=(*FORMATS, "file")),
    PromptCommand("edit", "\\edit [STATEMENT]", "edit the last statement in $EDITOR, then run it from the prompt",
                  _edit, takes="statement", also=("e",)),
    PromptCommand("watch", "\\watch [TIME] [xN] [STATEMENT]", "ask again every 2 s or TIME, N times or until Ctrl-C",
                  _watch, takes="statement", also=("w",)),
    PromptCommand("time", "\\time [on|off]", "show how long each answer took", _time, takes=("on", "off")),
    PromptCommand("table", "\\table [on|off]", "show records as a table, a column a key", _table, takes=("on", "off")),
    PromptCommand("run", "\\run FILE", 'run a script, like < "FILE"', _run, takes="file"),
    PromptCommand("vars", "\\vars", "the variables of this session", _vars),
    PromptCommand("history", "\\history [TEXT]", "what was typed last, or what of it has TEXT", _history),
    PromptCommand("refresh", "\\refresh", "learn functions and names of the federation anew", _refresh),
    PromptCommand("converge", "\\converge [TIME|off]", "how long to wait for edges that a statement gave models to",
                  _converge, takes=("off", "20s", "1m")),
    PromptCommand("pager", "\\pager [on|off|COMMAND]", "what shows answers that are longer than the screen",
                  _pager, takes=("on", "off", "less")),
    PromptCommand("keys", "\\keys [emacs|vi]", "the keys of the prompt", _keys, takes=("emacs", "vi")),
    PromptCommand("theme", "\\theme [auto|dark|light|none]", "the colours", _theme,
                  takes=("auto", "dark", "light", "none")),
    PromptCommand("save", "\\save", "keep keys, theme, pager, time, table and converge for next time", _save),
    PromptCommand("quit", "\\quit", "leave, as does Ctrl-D", _quit, also=("q", "exit")),
)  # fmt: skip

BY_NAME: Final = {name: command for command in COMMANDS for name in (command.name, *command.also)}
