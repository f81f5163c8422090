"""The command ``certs``: a home's certificates as other tools read them.

Rules: it writes a home's own private key where its owner asks, mode 0600, and nowhere else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from peers.homes import write_whole


def add_commands(commands: Commands) -> None:
    certs = add_command(
        commands,
        "certs",
        run=run_certs,
        summary="write a home's certificates as registry tools read them",
        description="Writes ca.crt, client.cert and client.key (mode 0600) for oras, skopeo and curl. The\n"
        "folder is as secret as the home.",
        examples="""\
peerage certs --home ada certs
curl --cacert certs/ca.crt --cert certs/client.cert --key certs/client.key https://ns.example:35021/v2/""",
        json="print the files as JSON",
    )
    certs.add_argument("folder", metavar="DIR", help="folder to write to; made when missing")
    add_home(certs, whose="the home whose certificates they are")


def run_certs(arguments: argparse.Namespace, console: Console) -> int:
    from federation.keys import read_key

    home = home_of(arguments, console)
    membership = home.membership()
    folder = Path(arguments.folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageProblem(f"cannot use {folder}: {error.strerror}") from error
    contents = {
        "ca.crt": home.text(home.ca_crt),
        "client.cert": home.text(home.identity_crt),
        "client.key": read_key(home.identity_key).pem,
    }
    for name, content in contents.items():
        write_whole(folder / name, content.encode("ascii"))
    written = [str(folder / name) for name in contents]
    if arguments.json:
        console.json({"peer": membership.name, "files": written, "not_after": membership.not_after})
    else:
        for path in written:
            console.data(path)
        console.tell(f"{folder} holds the key of {membership.name}: keep it as secret as {home}")
    return DONE
