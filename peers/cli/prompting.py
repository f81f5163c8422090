"""The command ``repl``: a prompt in a terminal, a script elsewhere."""

from __future__ import annotations

import argparse

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import Console


def add_commands(commands: Commands) -> None:
    repl = add_command(
        commands,
        "repl",
        run=run_repl,
        summary="ask a federation at a prompt",
        description="Enter runs a statement once it is whole; Tab completes names of the federation; \\help lists the\n"
        "commands; Ctrl-C cancels what runs, on every peer; Ctrl-D leaves. Where standard input or output is no\n"
        "terminal, statements and commands are read from standard input and answered in plain text.\n\n"
        "The default peer is --peer, else default_peer in the .peerage.toml of this folder or one above it.",
        examples="""\
peerage repl --home ns-admin
peerage repl --home ns-admin --peer line-1 --keys vi
echo '\\export csv' | cat story.pql - | peerage repl --home ns-admin""",
    )
    repl.add_argument(
        "--peer", metavar="NAME", help='default target: a peer, "a, b", "all", "group NAME" or "where CONDITION"'
    )
    repl.add_argument("--keys", choices=("emacs", "vi"), help="the keys of the prompt; default: as kept, else emacs")
    repl.add_argument(
        "--theme", choices=("auto", "dark", "light", "none"), help="the colours; default: as kept, else as the terminal"
    )
    add_home(repl, whose="the home to ask from")


def run_repl(arguments: argparse.Namespace, console: Console) -> int:
    from peers.repl.starting import run_session

    changes = {name: getattr(arguments, name) for name in ("keys", "theme") if getattr(arguments, name) is not None}
    return run_session(console, home_of(arguments, console), peer=arguments.peer, changes=changes)
