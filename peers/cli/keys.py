"""The commands about keys: their flags and help, ``keys show`` and ``keys make``.

Rules: a private key is never shown, copied or overwritten. What changes the root record is in
:mod:`peers.cli.key_changes`.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from federation.documents import RootRecord, decode
from peers.cli import key_changes
from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from peers.homes import BadHome, Home


def add_commands(commands: Commands) -> None:
    keys = add_command(
        commands,
        "keys",
        run=run_show,
        summary="show, make, endorse, rotate and revoke keys",
        examples="""\
peerage keys show --home ns-admin
peerage keys endorse ada --root-home ns-root --home ns-admin
peerage keys revoke ada --running keep --root-home ns-root --home ns-admin --dry-run""",
    )
    kinds = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_own(kinds)
    _add_endorse(kinds)
    _add_rotate(kinds)
    _add_revoke(kinds)


def _add_own(kinds: Commands) -> None:
    show = add_command(
        kinds,
        "show",
        run=run_show,
        summary="show a home's own keys, and all that the root record says of keys",
        description="The id of a key is the sha256 of its public half. The root record is the newest that the\n"
        "home knows.",
        examples="""\
peerage keys show --home ada
peerage keys show --home ns-admin --json""",
        json="print them as JSON",
    )
    add_home(show, whose="the home to look into")
    make = add_command(
        kinds,
        "make",
        run=run_make,
        summary="make the keys of a new home before it joins",
        description="Joining makes the keys that are missing, so this is for who wants to know their ids before.\n"
        "A key is never overwritten.",
        examples="peerage keys make --publisher --home ada",
        json="print the ids as JSON",
    )
    make.add_argument("--publisher", action="store_true", help="also make the key that signs releases")
    add_home(make, whose="the home to make keys in")


def _add_endorse(kinds: Commands) -> None:
    endorse = add_command(
        kinds,
        "endorse",
        run=key_changes.run_endorse,
        summary="let a publisher's releases run in the federation",
        description="Signs the next root record with the root key, naming the publisher's key, and gives it to the\n"
        "nameserver. Compare the id with the one that the publisher sees (peerage keys show). A key that the\n"
        "publisher offers in place of its present one retires that: what it signed stays good.",
        examples="""\
peerage keys endorse ada --root-home ns-root --home ns-admin
peerage keys endorse ada --root-home /media/root --home ns-admin --key 3f8a1c""",
        json="print the publisher, its key's id and the new version as JSON",
    )
    endorse.add_argument("name", metavar="NAME", help="the publisher, as registered")
    endorse.add_argument("--key", metavar="ID", help="refuse unless the key's id begins so")
    _add_signing(endorse)


def _add_rotate(kinds: Commands) -> None:
    rotate = add_command(
        kinds,
        "rotate",
        run=key_changes.run_rotate_director,
        summary="put a new publisher, director or root key in place of the present one",
        description="Nothing stops meanwhile, and a command that was interrupted is given again.",
        examples="""\
peerage keys rotate publisher --home ada
peerage keys rotate director --root-home ns-root --home ns-admin
peerage keys rotate root --root-home ns-root --new-root-home new-root --home ns-admin""",
    )
    which = rotate.add_subparsers(title="commands", metavar="COMMAND", required=True)
    publisher = add_command(
        which,
        "publisher",
        run=key_changes.run_rotate_publisher,
        summary="make a new publisher key and offer it to be endorsed",
        description="The present key signs until an admin has endorsed the new one (peerage keys endorse); then the\n"
        "home signs with the new one by itself.",
        examples="peerage keys rotate publisher --home ada",
        json="print the publisher and the key's id as JSON",
    )
    _add_asking(publisher)
    add_home(publisher, whose="the publisher's home")
    director = add_command(
        which,
        "director",
        run=key_changes.run_rotate_director,
        summary="put a new director key in place of the present, or of a lost one",
        description="The nameserver makes it and keeps it. With the home of a nameserver that does not run, as one\n"
        "that has lost its director key, the key is made there.",
        examples="""\
peerage keys rotate director --root-home ns-root --home ns-admin
peerage keys rotate director --root-home ns-root --home ns --yes""",
        json="print the changes and the new version as JSON",
    )
    _add_signing(director)
    root = add_command(
        which,
        "root",
        run=key_changes.run_rotate_root,
        summary="put a new root key, in a new root folder, in place of the present one",
        description="The old and the new root key both sign the next root record; then the old one signs none.",
        examples="peerage keys rotate root --root-home ns-root --new-root-home new-root --home ns-admin",
        json="print the changes and the new version as JSON",
    )
    root.add_argument("--new-root-home", metavar="DIR", required=True, help="the new root folder; made when missing")
    root.add_argument("--key", metavar="ID", help="the root key that goes; default: that of the first root folder")
    _add_signing(root)
    roots = add_command(
        kinds,
        "roots",
        run=key_changes.run_roots,
        summary="add and remove root keys, and set how many of them must sign",
        description="Name as many root folders as the root record asks for, before the change and after it.",
        examples="""\
peerage keys roots --add second-root --root-home ns-root --home ns-admin
peerage keys roots --threshold 2 --root-home ns-root --root-home second-root --home ns-admin""",
        json="print the changes and the new version as JSON",
    )
    roots.add_argument("--add", metavar="DIR", help="a new root folder, whose key comes in; made when missing")
    roots.add_argument("--remove", metavar="ID", action="append", help="a root key that goes, by id or name")
    roots.add_argument("--threshold", metavar="N", type=int, help="how many root keys must sign from then on")
    _add_signing(roots)


def _add_revoke(kinds: Commands) -> None:
    revoke = add_command(
        kinds,
        "revoke",
        run=key_changes.run_revoke,
        summary="trust a publisher's keys no more",
        description="For ever. Edges refuse its releases from their next poll on. What they run goes on (keep) or is\n"
        "unloaded (stop); both are reported as revoked_key until other releases take their place.",
        examples="""\
peerage keys revoke ada --running keep --root-home ns-root --home ns-admin --dry-run
peerage keys revoke 3f8a1c9b --running stop --root-home ns-root --home ns-admin""",
        json="print the keys, the releases and where they run, and the new version as JSON",
    )
    revoke.add_argument(
        "key", metavar="NAME|ID", help="a publisher, for all its keys, or the beginning of one key's id"
    )
    revoke.add_argument(
        "--running", choices=("keep", "stop"), required=True, help="what becomes of its releases that edges run"
    )
    _add_signing(revoke)


def _add_signing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root-home",
        metavar="DIR",
        action="append",
        required=True,
        help="folder with a root key; once for each key that must sign",
    )
    _add_asking(parser)
    add_home(parser, whose="the home of an admin, or of a nameserver")


def _add_asking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="tell what would happen, and do nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask; for programs")


# --- show and make --------------------------------------------------------------------------------------------------


def run_show(arguments: argparse.Namespace, console: Console) -> int:
    from federation.carried_state import fingerprint
    from federation.keys import read_key
    from peers.key_functions import root_facts

    home = home_of(arguments, console)
    if not home.path.is_dir():
        raise BadHome(f"{home} does not exist: expected a home", hint="name one with --home or PEERAGE_HOME")
    files = (
        home.identity_key,
        home.publisher_key,
        home.publisher_next_key,
        home.ca_key,
        home.director_key,
        home.director_next_key,
        home.root_key,
    )
    root = _newest_root(home)
    own = [(path, read_key(path).keyid) for path in files if path.exists()]
    keys = [{"key": path.stem, "id": keyid, "file": str(path)} for path, keyid in own]
    facts = root_facts(root) if root is not None else {}
    if root is not None:
        facts["fingerprint"] = fingerprint(home.roots()[-1])
    if arguments.json:
        console.json({"keys": keys, **_renamed(facts)})
        return DONE
    for key in keys:
        console.data(f"{key['key']:14} {key['id']}  {key['file']}")
    if root is not None:
        _show_root(console, facts)
    elif not keys:
        console.tell(f"no keys in {home}")
    return DONE


def _show_root(console: Console, facts: dict[str, Any]) -> None:
    signers = f"{facts['threshold']} of {len(facts['roots'])} root keys sign"
    console.data(f"root record    {facts['version']} of {facts['federation']}: {signers}")
    console.data(f"fingerprint    {facts['fingerprint']}")
    for kind, title in (("roots", "root"), ("directors", "director")):
        for key in facts[kind]:
            console.data(f"trusts         {key['key']}  {title} {key['name']}")
    for key in facts["publishers"]:
        rest = "" if key["standing"] == "endorsed" else f", {key['standing']}"
        console.data(f"trusts         {key['key']}  publisher {key['name']}{rest}")
    for key in facts["revoked"]:
        rest = "go on where they run" if key["running"] == "keep" else "are stopped"
        console.data(f"revoked        {key['key']}  publisher {key['name']}, whose releases {rest}")


def _renamed(facts: dict[str, Any]) -> dict[str, Any]:
    """As the command has named things from its first version on: ``id`` of a key, ``root_version``."""
    if not facts:
        return {"publishers": []}
    told = {
        kind: [{**{k: v for k, v in key.items() if k != "key"}, "id": key["key"]} for key in facts[kind]]
        for kind in ("roots", "directors", "publishers", "revoked")
    }
    return {
        "federation": facts["federation"],
        "root_version": facts["version"],
        "threshold": facts["threshold"],
        "fingerprint": facts["fingerprint"],
        **told,
    }


def run_make(arguments: argparse.Namespace, console: Console) -> int:
    from federation.keys import PrivateKey, read_key, write_key

    home = home_of(arguments, console).prepare()
    if home.joined:
        raise UsageProblem(
            f"{home} has joined as {home.membership().name}: its keys are what the federation knows it by",
            hint="make keys in a new home, or replace one: peerage keys rotate",
        )
    made = [home.identity_key, *([home.publisher_key] if arguments.publisher else [])]
    for path in made:
        write_key(path, PrivateKey.generate())
    told = [{"key": path.stem, "id": read_key(path).keyid, "file": str(path)} for path in made]
    if arguments.json:
        console.json({"keys": told})
    else:
        for key in told:
            console.data(f"{key['key']:14} {key['id']}  {key['file']}")
    return DONE


def _newest_root(home: Home) -> RootRecord | None:
    roots = home.roots()
    if not roots:
        return None
    try:
        return decode(roots[-1].payload, RootRecord)
    except msgspec.MsgspecError as error:
        raise BadHome(f"{home.roots_json} is damaged: {error}") from error
