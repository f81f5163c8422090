"""The commands whose process stays: ``nameserver``, ``edge`` and ``demo``.

Owns signals, the event loop and the end of a process: SIGTERM and SIGINT stop it cleanly, and what has not stopped
after :data:`STOP_S_MAX` seconds is ended; what counts is on disk by then.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.ceiling import hold_process
from peers.cli.arguments import Commands, add_command, add_home, add_settings, flags_of, home_of
from peers.cli.console import DONE, FAILED, Console
from peers.device_mode import is_local, read_mode
from peers.homes import BadHome, Home, Membership, RunRecord
from peers.settings import EdgeSettings, ListenerSettings, NameserverSettings, read_settings

STOP_S_MAX: Final = 4.5  # from the signal to the end of the process, which people are promised to be 5 s

Serve = Callable[[asyncio.Event], Awaitable[None]]

log = logging.getLogger("peerage.process")


def add_commands(commands: Commands) -> None:
    nameserver = add_command(
        commands,
        "nameserver",
        run=run_nameserver_command,
        summary="run the nameserver of a federation, founding it at the first start",
        description="The first start makes the federation's keys, the root folder and the first admin's home.\n"
        "Keep the root folder elsewhere: the nameserver does not need it to run.",
        examples="""\
peerage nameserver --home ns --federation mine --names ns.example,192.0.2.7
peerage nameserver --home ns --federation-port 0 --application-port 0 --zeroconf-interface 127.0.0.1""",
        json="print where the nameserver listens as JSON, once it does",
    )
    add_home(nameserver, whose="the nameserver's home")
    add_settings(nameserver, NameserverSettings)
    edge = add_command(
        commands,
        "edge",
        run=run_edge_command,
        summary="run an edge that joined a federation, or a device without one",
        description="Models that were loaded are loaded again from disk before anything is asked of the network.",
        examples="""\
peerage edge --home e1
peerage edge --home e1 --nameserver 192.0.2.7:35021 --application-port 8081
peerage edge --home device --mode AUTONOMOUS""",
        json="print where the edge listens as JSON, once it does",
    )
    edge.add_argument(
        "--name", metavar="NAME", help="what an AUTONOMOUS device is called before it belongs to a federation"
    )
    add_home(edge, whose="the edge's home")
    add_settings(edge, EdgeSettings)
    demo = add_command(
        commands,
        "demo",
        run=run_demo_command,
        summary="show a federation at work: real processes and real models on this device",
        examples="""\
peerage demo
peerage demo --keep""",
        json="print the facts of each step as JSON, one object a line",
    )
    demo.add_argument("--keep", action="store_true", help="leave the federation running and say how to talk to it")


def run_nameserver_command(arguments: argparse.Namespace, console: Console) -> int:
    from peers.founding import admin_home_of, root_home_of

    home = home_of(arguments, console)
    flags = flags_of(arguments, NameserverSettings)
    settings = read_settings(home, NameserverSettings, environment=console.environment, flags=flags)
    admin_home, root_home = admin_home_of(home, settings), root_home_of(home, settings)
    new = not home.joined
    _start_log(settings, console)

    def ready(record: RunRecord) -> None:
        federation = home.membership().federation
        if new:
            console.tell(f"federation {federation} was founded")
            console.tell(f"  root key     {root_home.root_key} (not needed to run: keep it elsewhere)")
            console.tell(f"  first admin  {admin_home}")
        more = {"federation_name": federation, "admin_home": str(admin_home)}
        _tell_ready(record, home, console, settings, as_json=arguments.json, **more)

    async def serve(stop: asyncio.Event) -> None:
        from peers.nameserver_peer import run_nameserver

        await run_nameserver(home, settings, stop=stop, ready=ready)

    return _run(serve)


def run_edge_command(arguments: argparse.Namespace, console: Console) -> int:
    home = home_of(arguments, console)
    flags = flags_of(arguments, EdgeSettings)
    settings = read_settings(home, EdgeSettings, environment=console.environment, flags=flags)
    membership = home.read_membership()
    if membership is not None:
        _check_edge(home, membership)
    elif settings.mode != "AUTONOMOUS" and read_mode(home) is None:
        home.membership()  # raises: it must join first
    _start_log(settings, console)

    if set(settings.execution_providers) <= {"cpu"}:  # a card's driver takes address space as it likes
        log.debug("memory_limit", extra={"bytes": hold_process(settings.memory_bytes_max)})

    def ready(record: RunRecord) -> None:
        _tell_ready(record, home, console, settings, as_json=arguments.json)

    async def serve(stop: asyncio.Event) -> None:
        from peers.edge_peer import run_edge

        await run_edge(home, settings, stop=stop, ready=ready, name=arguments.name)

    return _run(serve)


def run_demo_command(arguments: argparse.Namespace, console: Console) -> int:
    from peers import demo

    given = [flag for flag, wanted in (("--json", arguments.json), ("--keep", arguments.keep)) if wanted]
    return int(demo.main(given))


def _check_edge(home: Home, membership: Membership) -> None:
    if membership.kind != "edge":
        raise BadHome(
            f"{home} is the home of {membership.kind} {membership.name}: expected an edge's home",
            hint=f'"peerage {membership.kind} --home {home}" runs it'
            if membership.kind == "nameserver"
            else f'it is for asking: "peerage query --home {home}"; an edge joins in a home of its own',
        )


def _start_log(settings: NameserverSettings | EdgeSettings, console: Console) -> None:
    from peers import logs

    logs.configure(settings, console.stderr)


def _tell_ready(
    record: RunRecord, home: Home, console: Console, settings: ListenerSettings, *, as_json: bool, **more: Any
) -> None:
    if as_json:
        console.json({**msgspec.to_builtins(record), "home": str(home), **more})
        return
    console.data(f"{record.kind} {record.name} is running in {home}, process {record.pid}")
    if record.federation:
        console.data(f"  federation   {record.federation}")
    if record.application:
        scheme = "http" if is_local(settings.application_host) else "https"
        console.data(f"  application  {scheme}://{record.application}")
    console.data(f"  socket       {record.socket}")
    asking = more.get("admin_home", home)
    console.tell(f"ask it: peerage query --home {Path(str(asking))} 'apropos(\"\")'")


def _run(serve: Serve) -> int:
    """Serve until a signal; the exit status."""
    return asyncio.run(_until_signal(serve))


async def _until_signal(serve: Serve) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping(name: str) -> None:
        if stop.is_set():
            return
        log.info("stopping", extra={"signal": name})
        stop.set()
        watch = threading.Timer(STOP_S_MAX, _end_now)
        watch.daemon = True
        watch.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping, number.name)
    try:
        await serve(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    log.info("stopped")
    return DONE if stop.is_set() else FAILED


def _end_now() -> None:
    """End a process that a part of it keeps from stopping."""
    log.error("stop_forced", extra={"after_s": STOP_S_MAX})
    sys.stderr.flush()
    os._exit(FAILED)
