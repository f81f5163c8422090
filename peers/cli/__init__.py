"""The command ``peerage``: what people and scripts type.

Owns words and flags, exit statuses and what is printed where. Decides nothing: commands read settings, call the parts
that do the work, and tell how it went.

Rules: data goes to standard output, everything else to standard error; ``--json`` prints data as JSON, one object a
line; exit status 0 done, 1 failed, 2 usage, 3 a partial answer. No command shows a key, or a token except in the
bundle that it was asked to make. Modules are imported when their command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. The entry point of ``peerage``."""
    from peers.cli.arguments import command_parser
    from peers.cli.console import FAILED, Console

    os.umask(0o077)
    console = Console(stdout=sys.stdout, stderr=sys.stderr, environment=os.environ)
    try:
        arguments = command_parser().parse_args(argv)
        with console.telling_problems(as_json=getattr(arguments, "json", False)):
            console.status = arguments.run(arguments, console)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read our output has gone; Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return console.status
