"""The commands that run statements: ``query`` and ``poll``.

Rows go to standard output in the text form, errors with their place underlined, progress and the ledger to standard
error. The ledger is shown where it matters: when several peers were asked, or one did not answer.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from query.durations import parse_duration

if TYPE_CHECKING:
    from peers.client import Connection
    from peers.rendering import View

TEXT_BYTES_MAX: Final = 1024 * 1024
TIMEOUT_S_MAX: Final = 24 * 3600.0
LEDGER_S_MAX: Final = 2.0  # that an interrupted answer may take to its ledger


def add_commands(commands: Commands) -> None:
    query = add_command(
        commands,
        "query",
        run=run_query,
        summary="run statements of the query language",
        description="A statement goes where its //peer: directive says, else to the home of its functions, else to\n"
        "--peer, else to the default_peer of the nearest .peerage.toml above FILE or the present folder, else to\n"
        "the peer that runs in the home. A client's home is itself a short-lived peer, set by its peerage.toml\n"
        "and the environment: PEERAGE_NAMESERVER=HOST:PORT says where the nameserver is.",
        examples="""\
peerage query --home ns-admin 'edge:list()'
peerage query --home ns-admin '//peer: all
models:loaded()'
peerage query --home ns-admin --peer E1 'models:loaded()'
peerage query --home ns-admin --timeout 5s -f story.pql
echo '1 + 1' | peerage query --home e1 -""",
        json="print the frames of the answer as JSON lines",
    )
    query.add_argument("text", metavar="TEXT", nargs="?", help='statements; "-" reads standard input')
    query.add_argument("-f", "--file", metavar="FILE", help="read the statements from a file")
    query.add_argument(
        "--peer", metavar="NAME", help='default target: a peer, "a, b", "all", "group NAME" or "where CONDITION"'
    )
    query.add_argument("--timeout", metavar="TIME", help="longest time for the whole text, as in 500ms, 5s or 2m")
    query.add_argument(
        "--budget", metavar="BUDGET", help='what a statement may use on each peer, as in "1000 rows, 4MiB, 5s"'
    )
    add_home(query, whose="the home to ask from")
    poll = add_command(
        commands,
        "poll",
        run=run_poll,
        summary="make the edge that runs in a home poll its nameserver at once",
        examples="peerage poll --home e1",
        json="print the generation and the models that the edge should run as JSON",
    )
    add_home(poll, whose="the edge's home")


def run_query(arguments: argparse.Namespace, console: Console) -> int:
    text = _text(arguments)
    if not text.strip():
        raise UsageProblem("expected statements, found an empty text", hint="as in: peerage query 'edge:list()'")
    console.tell_doubts(text)
    return ask(
        console,
        arguments=arguments,
        text=text,
        peer=arguments.peer if arguments.peer is not None else _workspace_peer(arguments.file),
        timeout_s=_seconds(arguments.timeout),
        budget=arguments.budget,
    )


def _workspace_peer(file: str | None) -> str | None:
    """The default peer of the workspace that the file lies in, else of the one that the command was typed in."""
    from peers.workspace import default_peer

    try:
        return default_peer(Path(file).resolve().parent if file is not None else Path.cwd())
    except OSError:  # the folder is gone
        return None


def ask(
    console: Console,
    *,
    arguments: argparse.Namespace,
    text: str,
    peer: str | None,
    timeout_s: float | None,
    budget: str | None = None,
) -> int:
    """Run a text, showing its answer as it arrives; the exit status."""
    from peers.client import connect

    view = view_of(console, text, as_json=arguments.json)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = home_of(arguments, console).path
    with closing(view), connect(home) as connection, stopped_by_signals(connection) as stopped:
        for frame in connection.frames(text, peer=peer, timeout_s=timeout_s, budget=budget):
            view.show(frame)
    if stopped():
        raise KeyboardInterrupt
    return view.status


@contextmanager
def stopped_by_signals(connection: Connection) -> Iterator[Callable[[], tuple[int, ...]]]:
    """The first SIGINT or SIGTERM cancels what runs, on every peer, so that the answer ends with its ledger.

    The second, or an answer that does not end in time, interrupts. Gives those that came.
    """
    numbers: list[int] = []

    def stop(number: int, _: object) -> None:
        numbers.append(number)
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(other, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, LEDGER_S_MAX)
        connection.cancel()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: tuple(numbers)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def run_poll(arguments: argparse.Namespace, console: Console) -> int:
    from peers.client import connect

    home = home_of(arguments, console)
    membership = home.membership()
    if membership.kind != "edge":
        raise UsageProblem(f"{home} is the home of {membership.kind} {membership.name}: expected an edge's home")
    with connect(home.path) as edge:
        answer = edge.value("edge:poll()", peer=membership.name)
    if arguments.json:
        console.json({"edge": membership.name, **answer})
    else:
        models = ", ".join(answer["models"]) or "none"
        console.data(f"{membership.name} polled: generation {answer['generation']}, models {models}")
    return DONE


def view_of(console: Console, text: str, *, as_json: bool) -> View:
    """Who shows an answer: to a program its frames, in a terminal all that it can show, elsewhere plain text."""
    from peers.rendering import JsonView, TextView

    if as_json:
        return JsonView(console)
    if not console.stdout.isatty():
        return TextView(console, text)
    from peers.palettes import chosen_palette
    from peers.screens import Screen
    from peers.terminal_view import TerminalView

    return TerminalView(console, Screen(console.stdout, palette=chosen_palette(console.environment)), text)


def _text(arguments: argparse.Namespace) -> str:
    if arguments.file is not None and arguments.text is not None:
        raise UsageProblem("expected either TEXT or -f FILE, found both")
    if arguments.file is not None:
        try:
            with Path(arguments.file).open("rb") as file:
                return _decoded(file.read(TEXT_BYTES_MAX + 1), arguments.file)
        except OSError as error:
            raise UsageProblem(f"cannot read {arguments.file}: {error.strerror}") from error
    if arguments.text in (None, "-"):
        if arguments.text is None and sys.stdin.isatty():
            raise UsageProblem('expected statements: TEXT, -f FILE, or "-" for standard input')
        return _decoded(sys.stdin.buffer.read(TEXT_BYTES_MAX + 1), "standard input")
    return str(arguments.text)


def _decoded(raw: bytes, whence: str) -> str:
    if len(raw) > TEXT_BYTES_MAX:
        raise UsageProblem(f"{whence} is longer than {TEXT_BYTES_MAX} bytes", hint="data does not travel as text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{whence} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}") from error


def _seconds(text: str | None) -> float | None:
    from query.durations import BadDuration

    try:
        return None if text is None else parse_duration(text, longest_s=TIMEOUT_S_MAX)
    except BadDuration as error:
        raise UsageProblem(f"--timeout: {error.message}") from error
