"""A session from its start to its end: whom it asks, what it looks like, and who types.

Rules: a prompt needs a terminal at both ends; anything else is read as a script and answered in plain text, with the
exit status of ``peerage query``. The default peer is the one on the command line, else the workspace's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.homes import Home, Membership
from peers.palettes import chosen_palette
from peers.repl.commands import apply_preferences
from peers.repl.history import HistoryFile, history_file
from peers.repl.learning import Learning, Whom
from peers.repl.preferences import Preferences, preferences_file, read_preferences
from peers.repl.shell import Shell, scripted
from query.errors import Problem
from query.placement import parse_target

if TYPE_CHECKING:
    from peers.cli.console import Console

PLAIN: Final = frozenset({"dumb", ""})


def run_session(console: Console, home: Home, *, peer: str | None, changes: dict[str, str]) -> int:
    """Open a session in a home; the exit status. ``changes``: preferences of the command line, by name."""
    from peers.client import connect

    folder = Path.cwd()
    told: list[Problem] = []
    preferences = _preferences(console, changes, told)
    default = peer if peer is not None else _workspace_peer(folder, told)
    if default is not None:
        parse_target(default)  # raises
    typed_at = sys.stdin.isatty() and console.stdout.isatty()
    with connect(home.path) as connection:
        whom = _whom(home)
        shell = Shell(
            console,
            connection,
            whom,
            Learning(connection, whom),
            preferences=preferences,
            interactive=typed_at,
            folder=folder,
            default=default,
        )
        if console.stdout.isatty():
            from peers.screens import Screen

            shell.screen = Screen(console.stdout, palette=chosen_palette(console.environment, theme=preferences.theme))
        for problem in told:
            shell.problem(problem)
        try:
            if typed_at:
                _prompt(shell, home, console)
                return 0
            return _script(shell)
        finally:
            shell.learning.stop()


def _prompt(shell: Shell, home: Home, console: Console) -> None:
    from prompt_toolkit.input import create_input
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.input.vt100_parser import Vt100Parser
    from prompt_toolkit.key_binding.key_processor import KeyPress

    from peers.repl.prompting import read_and_run
    from peers.repl.terminals import ask_background, without_marks

    if shell.preferences.theme == "auto":
        shell.background, typed = ask_background(console.environment)
        presses: list[KeyPress] = []
        Vt100Parser(presses.append).feed_and_flush(typed)
        store_typeahead(create_input(), presses)
    apply_preferences(shell)
    authority = home.ca_crt.read_bytes() if home.ca_crt.exists() else b""
    history = HistoryFile(history_file(console.environment, federation=shell.whom.federation, authority=authority))
    shell.note(_greeting(shell.whom))
    with without_marks():
        read_and_run(shell, history)


def _greeting(whom: Whom) -> str:
    from importlib.metadata import version

    role = f", {whom.role}" if whom.kind == "client" else ""
    return f"peerage {version('peerage')} · federation {whom.federation} · {whom.name} ({whom.kind}{role}) · \\help"


def _script(shell: Shell) -> int:
    """Run what standard input says; the worst of the exit statuses."""
    worst = 0
    for part in scripted(sys.stdin.read()):
        shell.run(part)
        worst = max(worst, shell.status) if shell.status != 1 else 1
        shell.status = 0
        if shell.leaving:
            break
    return worst


def _whom(home: Home) -> Whom:
    membership: Membership | None = home.read_membership()
    if membership is not None:
        return Whom(membership.federation, membership.name.upper(), membership.kind, membership.role)
    run = home.read_run()
    if run is None:
        return Whom("peerage", "NOBODY", "client")
    return Whom("peerage", run.name.upper(), run.kind)


def _preferences(console: Console, changes: dict[str, str], told: list[Problem]) -> Preferences:
    import msgspec

    try:
        kept = read_preferences(preferences_file(console.environment))
    except Problem as problem:
        told.append(problem)
        kept = Preferences()
    return msgspec.structs.replace(kept, **changes)


def _workspace_peer(folder: Path, told: list[Problem]) -> str | None:
    from peers.workspace import default_peer

    try:
        return default_peer(folder)
    except Problem as problem:
        told.append(problem)
        return None
