"""The command ``mode``, and how commands ask the edge on this device.

Owns nothing. A running edge is asked over its Unix socket; of one that does not run the files in its home are changed,
under its lock.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from peers.device_mode import MODES, checked_mode, read_mode
from peers.homes import BadHome, Home
from peers.settings import EdgeSettings, read_settings
from query.errors import WrongArguments

if TYPE_CHECKING:
    from peers.homes import RunRecord
    from query.declarations import Progress

PROGRESS_S: Final = 2.0


def add_commands(commands: Commands) -> None:
    mode = add_command(
        commands,
        "mode",
        run=run_mode,
        summary="show or change the mode of the edge on this device",
        description="AUTONOMOUS: the edge opens no connection, listens on this device alone and announces nothing; it\n"
        "runs what it has, over restarts, until the mode is left here. Leaving renews the certificate at the\n"
        "nameserver first. Works on a running edge, at once, and on a stopped one. INTERACTIVE and ONLINE are the\n"
        "nameserver's to choose: edge:set_mode.",
        examples="""\
peerage mode --home e1
peerage mode AUTONOMOUS --home e1
peerage mode ONLINE --home e1""",
        json="print the mode as JSON",
    )
    mode.add_argument("mode", metavar="MODE", nargs="?", help=f"one of {', '.join(MODES)}; default: show it")
    add_home(mode, whose="the edge's home")


def run_mode(arguments: argparse.Namespace, console: Console) -> int:
    home = home_of(arguments, console)
    try:
        wanted = checked_mode(arguments.mode) if arguments.mode else None
    except WrongArguments as problem:
        raise UsageProblem(problem.message) from problem
    settings = read_settings(home, EdgeSettings, environment=console.environment, flags={})
    check_edge(home, fresh=wanted == "AUTONOMOUS")
    run = home.read_run() if home.path.is_dir() else None
    if run is not None:
        text = "edge:mode()" if wanted is None else "edge:mode(:mode)"
        told = asked(console, run, text, {"mode": wanted} if wanted else {})
        present, since = told["mode"], told["since"]
    else:
        present, since = _stopped_mode(home, wanted, settings)
    if arguments.json:
        console.json({"mode": present, "since": since.timestamp() if since else None, "running": run is not None})
        return DONE
    console.data(f"{present} since {since:%Y-%m-%d %H:%M} UTC" if since else present)
    if wanted not in (None, "AUTONOMOUS") and settings.mode == "AUTONOMOUS":
        console.tell("the setting mode still says AUTONOMOUS: the edge enters it again at its next start")
    return DONE


def _stopped_mode(home: Home, wanted: str | None, settings: EdgeSettings) -> tuple[str, Any]:
    from federation.reports import moment
    from peers import device_mode
    from peers.edge_store import EdgeStore
    from peers.history import Journal
    from peers.own_mode import decided_elsewhere, leave_stopped

    home.prepare()
    with home.occupy():
        store = EdgeStore.open(home.state_db)
        try:
            journal = Journal(store, recording=True)
            desired = store.read().desired
            fact = read_mode(home)
            if wanted == "AUTONOMOUS" and fact is None:
                device_mode.check_local(settings.application_host)
                fact = device_mode.enter(home, now=time.time())
                journal.note("autonomous", now=fact.since)
            elif wanted not in (None, "AUTONOMOUS") and fact is not None:
                asyncio.run(leave_stopped(home, settings, clock=time.time))
                journal.note("left", str(wanted), now=time.time())
                return str(wanted), None
            present = "AUTONOMOUS" if fact else desired.mode if desired else "INTERACTIVE"
            if wanted not in (None, present):
                raise decided_elsewhere(present, checked_mode(str(wanted)), home.membership().name)
            return present, moment(fact.since) if fact else None
        finally:
            store.close()


def check_edge(home: Home, *, fresh: bool) -> None:
    """Raises unless the home is an edge's, or is to become that of a device that belongs to nobody."""
    membership = home.read_membership()
    if membership is None:
        if read_mode(home) is None and not fresh:
            home.membership()  # raises
    elif membership.kind != "edge":
        raise BadHome(f"{home} is the home of {membership.kind} {membership.name}: expected an edge's home")


def asked(console: Console, run: RunRecord, text: str, params: dict[str, Any]) -> Any:
    """The value of a statement on the edge that runs in a home, with its progress shown."""
    from peers.client import Answer, connect
    from query.frames import ProgressFrame

    progress, answer = progress_on(console), Answer()
    with connect(socket=run.socket) as edge:
        for frame in edge.frames(text, params=params):
            if isinstance(frame, ProgressFrame):
                progress(frame.label, frame.done, frame.total, frame.unit)
            answer.add(frame)
    rows = answer.checked().rows
    if len(rows) != 1:
        raise BadHome(f"the edge {run.name} gave {len(rows)} answers: expected one")
    return rows[0].value


def progress_on(console: Console) -> Progress:
    """Tells how far it is, every now and then."""
    said = time.monotonic()

    def tell(label: str, done: int, total: int | None, unit: str) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            console.tell(f"{label} {done} of {total} {unit}" if total else f"{label} {done} {unit}")

    return tell
