"""The command ``doctor``: what is wrong around a peer, and what to do about it.

Owns how findings are told. Rules: one line for each check, findings and their advice below it, in the order of the
checks, each as soon as it is known; on a terminal a line says what is still looked at; the exit status is 1 when
something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, FAILED, Console, UsageProblem

if TYPE_CHECKING:
    from peers.doctor.findings import Checked

LIMIT_S_MAX: Final = 600.0
MARKS: Final = {"ok": "ok", "skipped": "-", "note": "note", "doubtful": "doubtful", "wrong": "WRONG"}


def add_commands(commands: Commands) -> None:
    doctor = add_command(
        commands,
        "doctor",
        run=run_doctor,
        summary="find what is wrong around a peer, and say what to do about it",
        description="Looks at a home, its process, ports, certificate, disk and memory, the way to the nameserver,\n"
        "proxies, clocks, multicast, versions, operator sets and the desired state, whether a peer runs there or not.\n"
        "Changes nothing. The exit status is 0 when nothing is wrong, also where something is doubtful, else 1.",
        examples="""\
peerage doctor --home e1
peerage doctor --home ns --json
peerage doctor --home e1 --nameserver 192.168.1.20:35021""",
        json="print each finding, and each check without one, as a line of JSON, and a last line with the sums",
    )
    doctor.add_argument("--nameserver", metavar="HOST:PORT", help="look at this address of the nameserver besides")
    doctor.add_argument("--limit", metavar="TIME", help="longest time for one check, as in 5s; default: 15s")
    add_home(doctor, whose="the home to look at")


def run_doctor(arguments: argparse.Namespace, console: Console) -> int:
    from peers.doctor.findings import sums
    from peers.doctor.looking import CHECK_S_MAX
    from peers.doctor.surroundings import Surroundings
    from peers.settings import checked_address

    if arguments.nameserver:
        checked_address(arguments.nameserver, where="--nameserver")
    check_s = _seconds(arguments.limit) if arguments.limit is not None else CHECK_S_MAX
    around = Surroundings(home_of(arguments, console), console.environment, arguments.nameserver)
    done = asyncio.run(_look(around, console, check_s=check_s, as_json=arguments.json))
    counts = sums(done)
    if arguments.json:
        console.json(counts)
    else:
        told = [f"{counts[level]} {level}" for level in ("wrong", "doubtful") if counts[level]]
        console.data(", ".join(told) if told else "nothing is wrong")
    return FAILED if counts["wrong"] else DONE


async def _look(around: object, console: Console, *, check_s: float, as_json: bool) -> list[Checked]:
    from peers.doctor.looking import look
    from peers.doctor.surroundings import Surroundings

    assert isinstance(around, Surroundings)
    waiting, cleared = _progress(console)
    done = []
    async for checked in look(around, check_s=check_s, waiting=waiting):
        cleared()
        done.append(checked)
        if as_json:
            for record in checked.records():
                console.json(record)
        else:
            for line in lines_of(checked):
                console.data(line)
    cleared()
    return done


def lines_of(checked: Checked) -> list[str]:
    """A check for people: what was seen, or each finding with its code and what to do."""
    mark = f"{MARKS[checked.level]:<9}{checked.check:<14}"
    if not checked.findings:
        return [f"{mark} {checked.seen}".rstrip()]
    lines = []
    for finding in checked.findings:
        mark = f"{MARKS[finding.level]:<9}{checked.check:<14}"
        lines.append(f"{mark} {finding.message} ({finding.code})")
        if finding.advice:
            lines.append(f"{'':<24}→ {finding.advice}")
    return lines


def _progress(console: Console) -> tuple[Callable[[list[str]], None], Callable[[], None]]:
    """A line on a terminal that says what is still looked at, and its removal; nothing elsewhere."""
    if not console.stderr.isatty():
        return lambda _: None, lambda: None

    def waiting(names: list[str]) -> None:
        if names:
            console.stderr.write(f"\r\x1b[Klooking at {', '.join(names)[:60]}")
            console.stderr.flush()

    def cleared() -> None:
        console.stderr.write("\r\x1b[K")
        console.stderr.flush()

    return waiting, cleared


def _seconds(text: str) -> float:
    from query.durations import parse_duration
    from query.errors import Problem

    try:
        return parse_duration(text, longest_s=LIMIT_S_MAX)
    except Problem as problem:
        raise UsageProblem(f"--limit: {problem.message}") from problem
