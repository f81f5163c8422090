"""The commands that bring a peer into a federation: ``register`` makes a bundle, ``join`` uses it up.

A bundle is a secret until it was used: it is printed, or written to a new file of mode 0600, and nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from peers.homes import BadHome
from peers.settings import EdgeSettings, checked_address, resolve_settings

BUNDLE_BEGINNING: Final = re.compile(r"eyJ[A-Za-z0-9+/=\s]{100}")  # the base64 text of a JSON object
ROLES = ("viewer", "operator", "admin")


def add_commands(commands: Commands) -> None:
    register = add_command(
        commands,
        "register",
        run=run_register,
        summary="register an edge or a person and make the bundle to join with",
        description="Without --role and --publisher an edge is registered. The bundle can be used once, within 24\n"
        "hours. Needs the home of an admin, or the nameserver's own while it runs.",
        examples="""\
peerage register E1 --home ns-admin --out e1.bundle
peerage register E2 --home ns-admin --tags lab,arm64 --out e2.bundle
peerage register ada --role operator --publisher --home ns-admin --out ada.bundle""",
        json="print name, kind, role and bundle (or its file) as JSON",
    )
    register.add_argument("name", metavar="NAME", help="name of the edge or person")
    register.add_argument(
        "--role", choices=ROLES, help="register a person with this role; publishers: viewer by default"
    )
    register.add_argument(
        "--publisher", action="store_true", help="register who signs releases: joining makes a key for it"
    )
    register.add_argument("--tags", metavar="A,B", default="", help="words to find the peer by")
    register.add_argument(
        "--out", metavar="FILE", help="write the bundle to this new file, mode 0600, and print no bundle"
    )
    add_home(register, whose="the home of an admin, or of the running nameserver")
    join = add_command(
        commands,
        "join",
        run=run_join,
        summary="join a federation with a bundle",
        description="The keys are made here and do not leave this home. A join that broke off can be repeated.",
        examples="""\
peerage join --home e1 e1.bundle
ssh admin@ns peerage register E1 | peerage join --home e1 -""",
        json="print who the peer is now as JSON",
    )
    join.add_argument("file", metavar="FILE", help='file with the bundle; "-" reads standard input')
    join.add_argument("--nameserver", metavar="HOST:PORT", help="try this address first")
    add_home(join, whose="the new peer's home")


def run_register(arguments: argparse.Namespace, console: Console) -> int:
    from peers.client import connect

    tags = [tag.strip() for tag in arguments.tags.split(",") if tag.strip()]
    person = arguments.role is not None or arguments.publisher
    kind, role = ("client", arguments.role or "viewer") if person else ("edge", "viewer")
    out = _new_file(arguments.out) if arguments.out else None
    if person:
        text = "//peer: nameserver\npeer:register(:name, :options)"
        options = {"kind": kind, "role": role, "publisher": arguments.publisher, "tags": tags}
        params: dict[str, Any] = {"name": arguments.name, "options": options}
    else:
        text = "//peer: nameserver\nedge:register(:name, :tags)"
        params = {"name": arguments.name, "tags": tags}
    try:
        with connect(home_of(arguments, console).path) as federation:
            bundle = str(federation.value(text, params=params))
        if out is not None:
            _write_bundle(out, bundle)
    except BaseException:
        if out is not None:
            out.unlink(missing_ok=True)
        raise
    _tell_bundle(arguments, console, kind=kind, role=role, bundle=bundle, out=out)
    return DONE


def run_join(arguments: argparse.Namespace, console: Console) -> int:
    from peers.joining import join

    home = home_of(arguments, console)
    text = _bundle_text(arguments.file)
    settings = resolve_settings(EdgeSettings, environment=console.environment)
    named = arguments.nameserver or settings.nameserver
    addresses = (checked_address(named, where="--nameserver"),) if named else ()

    async def discover(federation: str) -> tuple[str, ...]:
        from peers.discovery import find_nameservers

        if not settings.zeroconf:
            return ()
        return await find_nameservers(federation, interface=settings.zeroconf_interface)

    membership = asyncio.run(join(home, text, addresses=addresses, discover=discover))
    if arguments.json:
        console.json({**msgspec.to_builtins(membership), "home": str(home)})
        return DONE
    console.data(f"{membership.kind} {membership.name} joined federation {membership.federation}; its home is {home}")
    if membership.kind == "edge":
        console.tell(f"run it: peerage edge --home {home}")
    elif home.publisher_key.exists():
        console.tell(
            f"its releases run once its key is endorsed: peerage keys endorse {membership.name} --root-home DIR"
        )
    return DONE


def _tell_bundle(
    arguments: argparse.Namespace, console: Console, *, kind: str, role: str, bundle: str, out: Path | None
) -> None:
    if arguments.json:
        told = {"file": str(out)} if out is not None else {"bundle": bundle}
        console.json({"name": arguments.name, "kind": kind, "role": role, "publisher": arguments.publisher, **told})
        return
    if out is None:
        console.data(bundle)
    where = f"in {out}" if out is not None else "above"
    console.tell(
        f"the bundle of {kind} {arguments.name} is {where}: shown this once, good for one join within 24 hours"
    )


def _bundle_text(file: str) -> str:
    from federation.bundles import BUNDLE_TEXT_LENGTH_MAX

    if file == "-":
        return sys.stdin.read(BUNDLE_TEXT_LENGTH_MAX + 1)
    try:
        with Path(file).open(encoding="utf-8") as opened:
            return opened.read(BUNDLE_TEXT_LENGTH_MAX + 1)
    except OSError as error:
        if BUNDLE_BEGINNING.match(file):
            raise UsageProblem(
                "expected the name of a file with the bundle, found a bundle",
                hint='put it into a file, or give it to "peerage join -"; on a command line others can read it',
            ) from None
        raise UsageProblem(
            f"cannot read {file[:200]}: {error.strerror}",
            hint='give the file with the bundle, or "-" for standard input',
        ) from error
    except UnicodeDecodeError:
        return "\0"  # no text, so no bundle: the reader of bundles says so


def _new_file(name: str) -> Path:
    """Make the file before the bundle is asked for: a bundle that cannot be kept is lost."""
    path = Path(name)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise UsageProblem(f"{path} exists: expected a new file for the bundle") from None
    except OSError as error:
        raise UsageProblem(f"cannot write {path}: {error.strerror}") from error
    return path


def _write_bundle(path: Path, bundle: str) -> None:
    try:
        path.write_text(bundle + "\n", encoding="ascii")
    except OSError as error:
        raise BadHome(f"cannot write {path}: {error.strerror}", hint="register again for a new bundle") from error
