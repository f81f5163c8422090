"""The commands that look after what a home holds: ``fsck`` and ``gc``.

``fsck`` reads the home's files itself, whether a peer runs there or not, and writes only with ``--repair``, when none
does. ``gc`` asks the peer of the home, so that whoever pushes meanwhile is known.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, FAILED, Console, UsageProblem
from query.durations import parse_duration

if TYPE_CHECKING:
    from federation.integrity import Finding

FINDINGS_SHOWN_MAX: Final = 200
PROGRESS_S: Final = 0.5
UNNAMED_S_MAX: Final = 365 * 86_400.0
DELETED_SHOWN_MAX: Final = 50


def add_commands(commands: Commands) -> None:
    fsck = add_command(
        commands,
        "fsck",
        run=run_fsck,
        summary="check every blob, record, key and table of a home",
        description="Reads a home whole, also while a peer runs there: files and who may read them, keys and\n"
        "certificates, root records, the log and the tables made from it, reports, every blob and what lists\n"
        "it, who signed each release. Names each finding, what was expected and found, and what --repair\n"
        "would do about it; what it cannot mend without inventing something is for a person.\n"
        "The exit status is 0 for a home that is whole, 1 when findings are left.",
        examples="""\
peerage fsck --home ns
peerage fsck --home e1 --repair
peerage fsck --home ns --json""",
        json="print each finding as a line of JSON, and a last line with the sums",
    )
    fsck.add_argument("--repair", action="store_true", help="mend what can be mended; no peer may run in the home")
    add_home(fsck, whose="the home to check")
    gc = add_command(
        commands,
        "gc",
        run=run_gc,
        summary="remove what nothing in a home's repository names",
        description="Asks the peer of the home: a nameserver must be running. Blobs that nothing names go once they\n"
        "are a day old, since a push may take that long. With --deprecated, a nameserver also deletes the deprecated\n"
        "releases that nobody holds: no group, now or before, no desired state, no edge.",
        examples="""\
peerage gc --home ns --dry-run
peerage gc --home ns --deprecated
peerage gc --home ada --unnamed 1s""",
        json="print what was removed as JSON",
    )
    gc.add_argument("--deprecated", action="store_true", help="also delete deprecated releases that nobody holds")
    gc.add_argument("--dry-run", action="store_true", help="tell what would go, and remove nothing")
    gc.add_argument(
        "--unnamed", metavar="TIME", help="how long blobs that nothing names are kept, as in 2h; default: 24h"
    )
    add_home(gc, whose="the home of a running nameserver or edge, or of a client")


# --- fsck -----------------------------------------------------------------------------------------------------------


def run_fsck(arguments: argparse.Namespace, console: Console) -> int:
    from peers.examining import examine
    from peers.homes import HomeInUse
    from peers.mending import mend

    home = home_of(arguments, console)
    if arguments.repair and home.in_use:
        raise HomeInUse(f"{home} is in use: --repair writes, so no peer may run there", hint="stop the peer first")
    progress = Told(console, quiet=arguments.json)
    found = examine(home, progress=progress)
    repaired: list[Finding] = []
    if arguments.repair and any(finding.remedy is not None for finding in found.findings):
        before = found.findings
        for _ in range(2):  # what was hidden by damage is seen at the second look
            mend(found, progress=progress)
            found = examine(home, progress=progress)
            if all(finding.remedy is None for finding in found.findings):
                break
        things = {(finding.kind, finding.thing) for finding in found.findings}
        repaired = [finding for finding in before if (finding.kind, finding.thing) not in things]
    if arguments.json:
        for finding in repaired:
            console.json({**finding.record(), "repaired": True})
        for finding in found.findings:
            console.json({**finding.record(), "repaired": False})
        console.json({**found.record(), "findings": len(found.findings), "repaired": len(repaired)})
        return FAILED if found.findings else DONE
    for finding in repaired[:FINDINGS_SHOWN_MAX]:
        console.data(f"repaired {finding}")
    for finding in found.findings[:FINDINGS_SHOWN_MAX]:
        console.data(str(finding))
        console.data(f"  {_next_step(finding, repairing=arguments.repair)}")
    hidden = max(0, len(repaired) - FINDINGS_SHOWN_MAX) + max(0, len(found.findings) - FINDINGS_SHOWN_MAX)
    if hidden:
        console.data(f"and {hidden} more; --json shows all")
    for note in found.notes:
        console.tell(f"note: {note}")
    console.data(_sums(found.counts, kind=found.kind, findings=len(found.findings), repaired=len(repaired)))
    return FAILED if found.findings else DONE


def _next_step(finding: Finding, *, repairing: bool) -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    if finding.remedy is None:
        return f"needs a person{': ' + finding.advice if finding.advice else ''}"
    return f"{'could not' if repairing else '--repair would'} {finding.remedy}{advice}"


def _sums(counts: dict[str, int], *, kind: str, findings: int, repaired: int) -> str:
    looked = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    ended = "whole" if not findings else f"{findings} finding{'s' if findings > 1 else ''} left"
    mended = f"{repaired} repaired, " if repaired else ""
    return f"{kind} home: {mended}{ended}" + (f" ({looked})" if looked else "")


class Told:
    """Progress as lines for people, at most one each half a second."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        import time

        self._console = console
        self._quiet = quiet
        self._clock = time.monotonic
        self._told = self._clock()

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        now = self._clock()
        if not self._quiet and now - self._told >= PROGRESS_S:
            self._told = now
            self._console.tell(f"{label}: {done} of {total} {unit}")


# --- gc -------------------------------------------------------------------------------------------------------------


def run_gc(arguments: argparse.Namespace, console: Console) -> int:
    from peers.client import connect

    home = home_of(arguments, console)
    options: dict[str, Any] = {"dry_run": arguments.dry_run}
    if arguments.deprecated:
        options["deprecated"] = True
    if arguments.unnamed is not None:
        options["unnamed_s"] = _seconds(arguments.unnamed)
    with connect(home.path) as connection:
        done = connection.value("models:collect_garbage(:options)", params={"options": options})
    if arguments.json:
        console.json(done)
        return DONE
    would = "would be " if done["dry_run"] else ""
    for label in done.get("deleted", ())[:DELETED_SHOWN_MAX]:
        console.data(f"{would}deleted {label}")
    if len(done.get("deleted", ())) > DELETED_SHOWN_MAX:
        console.data(f"and {len(done['deleted']) - DELETED_SHOWN_MAX} more releases")
    if done.get("deprecated_and_held"):
        console.data(f"{done['deprecated_and_held']} deprecated, and held by somebody")
    console.data(f"{done['blobs']} blobs of {done['bytes']} bytes {would}removed")
    return DONE


def _seconds(text: str) -> float:
    from query.errors import Problem

    try:
        return parse_duration(text, longest_s=UNNAMED_S_MAX)
    except Problem as problem:
        raise UsageProblem(f"--unnamed: {problem.message}") from problem
