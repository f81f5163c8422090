"""The commands about keys and certificates: ``keys show``, ``keys make``, ``keys endorse`` and ``certs``.

Rules: a private key is never shown, copied or overwritten, but for ``certs``, which writes a home's own key where its
owner asks. A root key is read from the root folder, used, and forgotten; what it signs is checked against what this
side knew of the federation before, not against what the nameserver says.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from federation.documents import RootRecord, SignedDocument, decode, encode
from federation.errors import NeedsMoreSignatures, UnknownKey, WrongKey
from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, Console, UsageProblem
from peers.homes import BadHome, Home, write_whole
from query.errors import PeerProblem

if TYPE_CHECKING:
    from federation.keys import PrivateKey


def add_commands(commands: Commands) -> None:
    keys = add_command(
        commands,
        "keys",
        run=run_show,
        summary="show, make and endorse keys",
        examples="""\
peerage keys show --home ns-admin
peerage keys endorse ada --root-home ns-root --home ns-admin""",
    )
    kinds = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = add_command(
        kinds,
        "show",
        run=run_show,
        summary="show the ids of a home's keys and the publishers that it trusts",
        description="The id of a key is the sha256 of its public half.",
        examples="peerage keys show --home ada",
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
    endorse = add_command(
        kinds,
        "endorse",
        run=run_endorse,
        summary="let a publisher's releases run in the federation",
        description="Signs the next root record with the root key, naming the publisher's key, and gives it to the\n"
        "nameserver. Compare the id with the one that the publisher sees (peerage keys show).",
        examples="""\
peerage keys endorse ada --root-home ns-root --home ns-admin
peerage keys endorse ada --root-home /media/root --home ns-admin --key 3f8a1c""",
        json="print the publisher, its key's id and the new version as JSON",
    )
    endorse.add_argument("name", metavar="NAME", help="the publisher, as registered")
    endorse.add_argument("--root-home", metavar="DIR", required=True, help="folder with the federation's root key")
    endorse.add_argument("--key", metavar="ID", help="refuse unless the key's id begins so")
    add_home(endorse, whose="the home of an admin")
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


# --- show and make --------------------------------------------------------------------------------------------------


def run_show(arguments: argparse.Namespace, console: Console) -> int:
    from federation.keys import read_key

    home = home_of(arguments, console)
    if not home.path.is_dir():
        raise BadHome(f"{home} does not exist: expected a home", hint="name one with --home or PEERAGE_HOME")
    files = (home.identity_key, home.publisher_key, home.ca_key, home.director_key, home.root_key)
    keys = [{"key": path.stem, "id": read_key(path).keyid, "file": str(path)} for path in files if path.exists()]
    root = _newest_root(home)
    trusted = [{"name": key.name, "id": keyid} for keyid, key in root.publishers.items()] if root else []
    if arguments.json:
        facts = {"federation": root.federation, "root_version": root.version} if root else {}
        console.json({"keys": keys, **facts, "publishers": trusted})
        return DONE
    for key in keys:
        console.data(f"{key['key']:10} {key['id']}  {key['file']}")
    for publisher in trusted:
        console.data(f"trusts     {publisher['id']}  publisher {publisher['name']}")
    if not keys and not trusted:
        console.tell(f"no keys in {home}")
    return DONE


def run_make(arguments: argparse.Namespace, console: Console) -> int:
    from federation.keys import PrivateKey, read_key, write_key

    home = home_of(arguments, console).prepare()
    if home.joined:
        raise UsageProblem(
            f"{home} has joined as {home.membership().name}: its keys are what the federation knows it by",
            hint="make keys in a new home",
        )
    made = [home.identity_key, *([home.publisher_key] if arguments.publisher else [])]
    for path in made:
        write_key(path, PrivateKey.generate())
    told = [{"key": path.stem, "id": read_key(path).keyid, "file": str(path)} for path in made]
    if arguments.json:
        console.json({"keys": told})
    else:
        for key in told:
            console.data(f"{key['key']:10} {key['id']}  {key['file']}")
    return DONE


# --- endorse --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A publisher's key as the nameserver tells it, checked against its own id."""

    name: str
    keyid: str
    public: bytes


def run_endorse(arguments: argparse.Namespace, console: Console) -> int:
    from federation.keys import read_key
    from federation.roots import endorse, sign_root
    from peers.client import connect

    root_home, home = Home(Path(arguments.root_home)), home_of(arguments, console)
    root_key = read_key(root_home.root_key)
    with connect(home.path) as federation:
        texts = federation.values("//peer: nameserver\nkeys:root_documents()")
        documents = tuple(_document(text) for text in texts)
        root = trusted_root(documents, known=_longest(root_home.roots(), home.roots()))
        publisher = candidate(
            federation.value("//peer: nameserver\nkeys:publisher(:name)", params={"name": arguments.name}),
            arguments.name,
        )
        if arguments.key and not publisher.keyid.startswith(arguments.key.casefold()):
            raise WrongKey(
                f"the key of {publisher.name} is {publisher.keyid}: expected one that begins with {arguments.key}",
                hint="somebody may have put another key in its place: compare with the publisher's own keys show",
            )
        _check_root_key(root, root_key, root_home)
        if not arguments.json:
            console.tell(f"publisher {publisher.name} signs with key {publisher.keyid}")
        following = endorse(root, publisher=publisher.name, key=publisher.public, now=time.time())
        signed = sign_root(following, root_key)
        version = federation.value(
            "//peer: nameserver\nkeys:set_root(:document)", params={"document": encode(signed).decode("utf-8")}
        )
    root_home.write_roots((*documents, signed))
    if home.membership().kind == "client":  # a running peer learns it by itself
        home.write_roots((*documents, signed))
    if arguments.json:
        console.json({"publisher": publisher.name, "key": publisher.keyid, "root_version": version})
    else:
        console.data(f"root record {version} of {root.federation} endorses publisher {publisher.name}")
    return DONE


def trusted_root(documents: tuple[SignedDocument, ...], *, known: tuple[SignedDocument, ...]) -> RootRecord:
    """The newest root record, when the nameserver's chain goes on from what this side knows.

    Raises subclasses of ``Untrusted``, also when the nameserver holds back a record that is known here.
    """
    from federation.roots import pin_of, trust_chain

    if not known:
        raise PeerProblem(
            "neither the root folder nor the home knows a root record to begin from",
            hint="use the root folder that the nameserver's first start made",
        )
    return trust_chain(documents, pin_of(known[-1]))


def candidate(told: Any, name: str) -> Candidate:
    """A publisher's key from the nameserver's answer. Raises ``UnknownKey`` when it does not fit its id."""
    from federation.keys import keyid_of

    try:
        public, keyid = bytes.fromhex(told["public"]), str(told["key"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownKey(f"the nameserver told no key of {name}: {error!r}") from error
    if keyid_of(public) != keyid:
        raise UnknownKey(f"the nameserver told a key of {name} that does not fit its id {keyid[:16]}")
    return Candidate(name, keyid, public)


def _check_root_key(root: RootRecord, key: PrivateKey, root_home: Home) -> None:
    if key.keyid not in root.roots:
        names = ", ".join(keyid[:16] for keyid in root.roots)
        raise UnknownKey(
            f"{root_home.root_key} is not a root key of {root.federation}: expected {names}, found {key.keyid[:16]}"
        )
    if root.threshold > 1:
        raise NeedsMoreSignatures(
            f"the root record of {root.federation} needs {root.threshold} signatures: this version makes one"
        )


def _longest(*chains: tuple[SignedDocument, ...]) -> tuple[SignedDocument, ...]:
    return max(chains, key=len)


def _document(text: Any) -> SignedDocument:
    try:
        return decode(str(text).encode("utf-8"), SignedDocument)
    except msgspec.MsgspecError as error:
        raise PeerProblem(f"the nameserver told no signed root record: {error}") from error


def _newest_root(home: Home) -> RootRecord | None:
    roots = home.roots()
    if not roots:
        return None
    try:
        return decode(roots[-1].payload, RootRecord)
    except msgspec.MsgspecError as error:
        raise BadHome(f"{home.roots_json} is damaged: {error}") from error


# --- certs ----------------------------------------------------------------------------------------------------------


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
