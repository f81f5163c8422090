"""The commands that carry files to and from devices without a network: ``export`` and ``import``.

A file goes from the nameserver's side to the device with signed state and releases, and another one back with a signed
report. ``import`` does what the home that it runs in is for: an edge's takes state, every other's hands a report to the
nameserver. Whatever is read from a file is held against signatures; the one thing that a person is asked for, the
fingerprint of the root record, is never shown from the file.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from federation.names import shown
from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from peers.cli.device import asked, check_edge, progress_on
from peers.device_mode import read_mode
from peers.homes import BadHome, Home, NotJoined, write_whole

if TYPE_CHECKING:
    from peers.homes import RunRecord

ANEW_S_MAX: Final = 30.0  # for a device that a file has made somebody to be there again
REPORT_BYTES_MAX: Final = 4 * 1024 * 1024


def add_commands(commands: Commands) -> None:
    export = add_command(
        commands,
        "export",
        run=run_export,
        summary="write a file for a device without a network, or its report back",
        description="With --edge, at the nameserver's side: root records, the signed state of one edge and its\n"
        "releases, as an OCI image layout in a tar (skopeo reads it as oci-archive). It is valid as long as a poll's\n"
        "answer, one to two weeks. With --report, on the device: what the edge has, what it did and the end of its\n"
        "log, signed with its key.",
        examples="""\
peerage export --edge E1 --home ns-admin e1.tar
peerage export --edge E1 --groups --home ns-admin /media/stick/e1.tar
peerage export --report --home e1 /media/stick/e1.report""",
        json="print what was written as JSON",
    )
    what = export.add_mutually_exclusive_group(required=True)
    what.add_argument("--edge", metavar="NAME", help="the edge that the file is for")
    what.add_argument("--report", action="store_true", help="write the report of the edge in this home")
    export.add_argument(
        "--groups", action="store_true", help="also releases that its groups hold although overtaken, to go back to"
    )
    export.add_argument("file", metavar="FILE", help='file to write, replaced whole; "-" writes to standard output')
    add_home(export, whose="an admin's or the nameserver's home, with --report the edge's")
    imported = add_command(
        commands,
        "import",
        run=run_import,
        summary="take a file that was carried here",
        description="In an edge's home: signed state and releases. It counts as an answered poll; a file that is\n"
        "refused changes nothing. The first time, a device that never joined asks for the fingerprint of the\n"
        "federation's root record: type it from what the nameserver's side showed. In an admin's or the\n"
        "nameserver's home: an edge's report.",
        examples="""\
peerage import /media/stick/e1.tar --home e1
peerage import /media/stick/e1.report --home ns-admin""",
        json="print what was taken as JSON",
    )
    imported.add_argument("file", metavar="FILE", help="the file that was carried here")
    imported.add_argument("--fingerprint", metavar="HEX", help="of the root record, for programs that cannot be asked")
    imported.add_argument("--key", metavar="ID", help="id of the key of an edge that never joined, as the device shows")
    add_home(imported, whose="the edge's home; for a report an admin's or the nameserver's")


# --- export ---------------------------------------------------------------------------------------------------------


def run_export(arguments: argparse.Namespace, console: Console) -> int:
    home = home_of(arguments, console)
    if arguments.report:
        return _export_report(home, arguments, console)
    membership = home.membership()
    if membership.kind == "edge":
        raise UsageProblem(
            f"{home} is an edge's home: expected an admin's or the nameserver's", hint="--report writes its report"
        )
    if arguments.file == "-" and console.stdout.isatty():
        raise UsageProblem("the file is no text for a terminal: name a file, or send it to another program")
    written = asyncio.run(_export(home, arguments, console))
    tell = console.tell if arguments.file == "-" else console.data
    if arguments.json:
        tell(_json(written | {"file": arguments.file}))
        return DONE
    tell(f"{arguments.file}: generation {written['generation']} for edge {written['edge']} of {written['federation']}")
    tell(f"  models       {', '.join(written['models']) or 'none'}")
    further = [label for label in written["releases"] if label not in written["models"]]
    if further:
        tell(f"  also         {', '.join(further)}")
    tell(f"  valid until  {time.strftime('%Y-%m-%d %H:%M', time.gmtime(written['expires']))} UTC")
    tell(f"  fingerprint  {written['fingerprint']}")
    console.tell("a device that never joined asks for the fingerprint: carry it on another way than the file")
    return DONE


async def _export(home: Home, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    from federation.layout import ImageLayout
    from peers.client import connect_async
    from peers.exporting import ClientSource, Exported, LayoutSource, new_file, write_export
    from peers.local_parts import opened_client

    params = {"edge": arguments.edge, "groups": arguments.groups}
    async with connect_async(home.path) as federation:
        told = await federation.value("//peer: nameserver\nedge:export(:edge, :groups)", params=params)
    exported = Exported.of(told)
    progress = progress_on(console)
    async with opened_client(home, None, clock=time.time) as client:
        on_disk = home.membership().kind == "nameserver"
        source = LayoutSource(ImageLayout(home.releases)) if on_disk else ClientSource(client)
        if arguments.file == "-":
            binary = getattr(console.stdout, "buffer", sys.stdout.buffer)
            written = await write_export(exported, binary, source=source, progress=progress)
            binary.flush()
            return written
        async with new_file(Path(arguments.file)) as stream:
            return await write_export(exported, stream, source=source, progress=progress)


def _export_report(home: Home, arguments: argparse.Namespace, console: Console) -> int:
    if arguments.groups:
        raise UsageProblem("--groups goes with --edge: a report holds no releases")
    check_edge(home, fresh=False)
    run = home.read_run()
    text = str(asked(console, run, "edge:make_report()", {})) if run is not None else _stopped_report(home)
    if arguments.file == "-":
        console.data(text)
        return DONE
    path = Path(arguments.file)
    if path.is_dir():
        raise UsageProblem(f"{path} is a folder: expected a file to write")
    write_whole(path, text.encode("utf-8") + b"\n")
    if arguments.json:
        console.json({"file": arguments.file, "bytes": len(text)})
    else:
        console.data(f"{path}: the report of {shown(home.membership().name)}, signed with its key")
        console.tell(f"at the nameserver's side: peerage import {path} --home ns-admin")
    return DONE


def _stopped_report(home: Home) -> str:
    from msgspec.structs import replace

    from federation.keys import read_key
    from peers.edge_reports import make_report
    from peers.kept_log import kept_lines
    from peers.stopped_edge import stopped_edge

    with stopped_edge(home) as edge:
        return make_report(
            edge.membership,
            read_key(home.identity_key),
            replace(edge.actual_state(), history=edge.history),
            store=edge.store,
            lines=kept_lines(home),
            now=edge.now(),
        )


# --- import ---------------------------------------------------------------------------------------------------------


def run_import(arguments: argparse.Namespace, console: Console) -> int:
    home = home_of(arguments, console)
    membership = home.read_membership()
    path = Path(arguments.file).absolute()
    if membership is not None and membership.kind != "edge":
        return _import_report(home, path, arguments, console)
    if membership is None and read_mode(home) is None:
        raise NotJoined(
            f"{home} belongs to no federation, and its device is not AUTONOMOUS",
            hint=f'begin with "peerage edge --home {home} --mode AUTONOMOUS", or join with a bundle',
        )
    if arguments.key:
        raise UsageProblem("--key goes with an edge's report, in an admin's home")
    attached = membership is None
    if attached:
        _attach(home, path, arguments, console)
    elif arguments.fingerprint:
        _check_fingerprint(path, arguments.fingerprint)
    run = home.read_run()
    if run is not None:
        told = asked(console, run, "edge:import(:file)", {"file": str(path)})
    else:
        told = _import_stopped(home, path, console)
    _tell_import(home, told, arguments, console, running=run is not None)
    return DONE


def _attach(home: Home, path: Path, arguments: argparse.Namespace, console: Console) -> None:
    """Tie a device to the federation whose root record a person has the fingerprint of."""
    from federation.layout import ImageLayout
    from peers.importing import attach, opened, read_documents

    with opened(path) as reader:
        claimed = read_documents(reader).contents
    typed = arguments.fingerprint or _typed_fingerprint(claimed.name, claimed.federation, console)
    run = home.read_run()
    if run is None:
        with home.prepare().occupy(), opened(path) as reader:
            membership = attach(
                home,
                reader,
                layout=ImageLayout(home.releases),
                fingerprint=typed,
                now=time.time(),
                progress=progress_on(console),
            )
        name, federation = membership.name, membership.federation
    else:
        params = {"file": str(path), "fingerprint": typed}
        told = asked(console, run, "edge:attach(:file, :fingerprint)", params)
        name, federation = told["edge"], told["federation"]
        _wait_anew(home, run)
    if not arguments.json:
        console.data(f"this device is edge {name} of federation {federation} now")


def _check_fingerprint(path: Path, typed: str) -> None:
    """A device that belongs to a federation needs none; one that is given, as by a script, must still fit the file."""
    from federation.carried_state import pinned
    from peers.importing import opened, read_documents

    with opened(path) as reader:
        pinned(read_documents(reader).roots, typed)


def _typed_fingerprint(name: str, federation: str, console: Console) -> str:
    if not sys.stdin.isatty():
        raise UsageProblem(
            "the first import asks for the fingerprint of the federation's root record, and nobody is there to type it",
            hint="give it with --fingerprint, from what the nameserver's side shows; never from the file",
        )
    console.tell(f"the file says that it is for edge {name[:64]} of federation {federation[:64]}")
    console.tell("what you type now decides whose state this device runs: the fingerprint of the root record,")
    console.tell(
        'as "peerage keys show" or "peerage export" showed it at the nameserver, on another way than this file'
    )
    console.stderr.write("fingerprint: ")
    console.stderr.flush()
    return sys.stdin.readline()


def _wait_anew(home: Home, before: RunRecord) -> None:
    """Until the process is put together anew as what it has become."""
    until = time.monotonic() + ANEW_S_MAX
    while time.monotonic() < until:
        run = home.read_run()
        if run is not None and run.started != before.started:
            return
        time.sleep(0.05)
    raise BadHome(f"the edge in {home} did not come back", hint="look at its log; then import again")


def _import_stopped(home: Home, path: Path, console: Console) -> dict[str, Any]:
    from peers.importing import import_file
    from peers.stopped_edge import stopped_edge

    with stopped_edge(home) as edge:
        return asyncio.run(
            import_file(
                path,
                membership=edge.membership,
                trust=edge.trust,
                layout=edge.layout,
                taking=edge,
                now=edge.now,
                progress=progress_on(console),
            )
        )


def _tell_import(
    home: Home, told: dict[str, Any], arguments: argparse.Namespace, console: Console, *, running: bool
) -> None:
    if arguments.json:
        console.json(told | {"running": running})
        return
    if not told["new"]:
        console.data(f"nothing new for edge {told['edge']}: it stands at generation {told['generation']} already")
    else:
        models = ", ".join(told["models"]) or "no models"
        console.data(f"edge {told['edge']} of {told['federation']}: generation {told['generation']}, {models}")
    for refused in told["refused"]:
        console.tell(f"not kept: {refused['release']} ({refused['error']})")
    if not running:
        console.tell(f"it is acted on when the edge starts: peerage edge --home {home}")


def _import_report(home: Home, path: Path, arguments: argparse.Namespace, console: Console) -> int:
    from peers.client import connect

    if arguments.fingerprint:
        raise UsageProblem("--fingerprint goes with state for a device, in an edge's home")
    try:
        with path.open("rb") as stream:
            raw = stream.read(REPORT_BYTES_MAX + 1)
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from error
    if raw[:1] != b"{" or len(raw) > REPORT_BYTES_MAX:
        raise UsageProblem(
            f"{path} is no report of an edge: expected one that peerage export --report wrote",
            hint="a file with state for a device is imported on the device, in the edge's home",
        )
    params = {"document": raw.decode("utf-8", "replace")} | ({"key": arguments.key} if arguments.key else {})
    call = "edge:take_report(:document, :key)" if arguments.key else "edge:take_report(:document)"
    with connect(home.path) as federation:
        told = federation.value(f"//peer: nameserver\n{call}", params=params)
    if arguments.json:
        console.json(told)
    elif not told["new"]:
        console.data(f"nothing new of edge {told['edge']}: this very report was taken before")
    else:
        console.data(
            f"edge {told['edge']} runs {', '.join(told['models:loaded']) or 'no models'}; "
            f"{told['history']} entries of history, {told['log']} lines of log"
        )
        console.tell(f"peerage query --home {home} 'edge:history(\"{told['edge']}\")'")
    return DONE


def _json(value: Any) -> str:
    import msgspec

    return msgspec.json.encode(value).decode("utf-8")
