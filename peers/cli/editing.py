"""The command for editors: ``lsp``."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from importlib.metadata import version

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem


def add_commands(commands: Commands) -> None:
    lsp = add_command(
        commands,
        "lsp",
        run=run_lsp,
        summary="serve an editor: the Language Server Protocol over standard input and output",
        description="An editor starts it for files of the query language (.pql): diagnostics, completion, hover,\n"
        "signature help, definition, rename, formatting, and code lenses that run statements. It asks the peer\n"
        "that runs in the home, or as the client whose home it is, and works without one. Statements that\n"
        "nothing else sends anywhere go to --peer, else to the default_peer of the nearest .peerage.toml.",
        examples="""\
peerage lsp
peerage lsp --home ns-admin --peer nameserver""",
    )
    lsp.add_argument(
        "--peer", metavar="NAME", help='default target: a peer, "a, b", "all", "group NAME" or "where CONDITION"'
    )
    lsp.add_argument("--stdio", action="store_true", help="as without it; editors add it")
    add_home(lsp, whose="the home to ask from")


def run_lsp(arguments: argparse.Namespace, console: Console) -> int:
    from peers.client import connect_async
    from peers.lsp.protocol import log_to_stderr
    from peers.lsp.server import serve

    if sys.stdin.isatty():
        raise UsageProblem("expected to be started by an editor, found a terminal", hint="see docs/editor.md")
    log_to_stderr()
    home = home_of(arguments, console).path
    try:
        asyncio.run(
            serve(
                lambda: connect_async(home),
                os.fdopen(os.dup(sys.stdin.fileno()), "rb", 0),  # which it closes in the end
                os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0),
                version=version("peerage"),
                peer=arguments.peer,
            )
        )
    except (ValueError, PermissionError) as error:
        raise UsageProblem(f"expected pipes or sockets as standard input and output: {error}") from error
    return DONE
