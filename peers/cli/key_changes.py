"""The commands that change keys: ``keys endorse``, ``keys rotate``, ``keys revoke`` and ``keys roots``.

    chain → trusted record → next record → effect told → agreed → signed → published → kept in the root folder

Rules: the effect is told before anything happens, and a change that takes something away is asked about; ``--yes`` is
the answer of a program, and without a terminal and without it nothing is done. A root key is read from its root folder,
used, and forgotten; what it signs is checked against what this side knew of the federation before, not against what
the nameserver says. A command that was interrupted is given again: keys that it made are taken up.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.documents import KeyId, RootRecord
from federation.errors import UnknownKey, WrongKey
from peers.cli.arguments import home_of
from peers.cli.console import DONE, FAILED, Console, UsageProblem
from peers.homes import Home

if TYPE_CHECKING:
    from federation.keys import PrivateKey
    from peers.root_chains import RootChain

STAND_IN = bytes([1]) * 32  # of the key that is made once the change is agreed to; signs nothing that is published
EDGES_TOLD_MAX = 10


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that a change brings in: shown by a stand-in before it is made. ``make`` gives its public half, and the key
    itself where this side has it to sign with.
    """

    make: Callable[[], tuple[bytes, PrivateKey | None]]


@dataclass(frozen=True, slots=True)
class Change:
    """What a command wants: the next record for a new key's public half, and what that means beyond the record."""

    following: Callable[[RootRecord, bytes], RootRecord]
    new_key: NewKey | None = None
    effects: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    asks: bool = True
    new_homes: tuple[Home, ...] = ()
    done: str = ""


Plan = Callable[[RootRecord, "RootChain"], Change]


# --- the commands ---------------------------------------------------------------------------------------------------


def run_endorse(arguments: argparse.Namespace, console: Console) -> int:
    from federation.revocation import replace_publisher
    from federation.roots import endorse

    def plan(root: RootRecord, chain: RootChain) -> Change:
        told = chain.publisher(arguments.name)
        publisher = candidate(told, arguments.name)
        if arguments.key and not publisher.keyid.startswith(arguments.key.casefold()):
            raise WrongKey(
                f"the key of {publisher.name} is {publisher.keyid}: expected one that begins with {arguments.key}",
                hint="somebody may have put another key in its place: compare with the publisher's own keys show",
            )
        present = told.get("present")
        replaces = present in root.publishers and present != publisher.keyid
        make = replace_publisher if replaces else endorse
        return Change(
            lambda record, _: make(record, publisher=publisher.name, key=publisher.public, now=time.time()),
            effects=(f"publisher {publisher.name} signs with key {publisher.keyid}",),
            facts={"publisher": publisher.name, "key": publisher.keyid},
            asks=replaces,
            done=f"endorses publisher {publisher.name}",
        )

    return run_change(arguments, console, plan)


def run_rotate_director(arguments: argparse.Namespace, console: Console) -> int:
    from federation.revocation import replace_director

    def plan(root: RootRecord, chain: RootChain) -> Change:
        return Change(
            lambda record, public: replace_director(record, key=public, now=time.time()),
            new_key=NewKey(lambda: (chain.prepare_director(), None)),
            effects=(
                "the nameserver makes the new key and signs with it from then on",
                "every edge follows with its next poll; no model stops, no statement fails, nobody joins again",
            ),
            done="names the nameserver's new director key",
        )

    return run_change(arguments, console, plan)


def run_rotate_root(arguments: argparse.Namespace, console: Console) -> int:
    from federation.revocation import replace_root, root_named

    new_home = Home(Path(arguments.new_root_home))

    def plan(root: RootRecord, chain: RootChain) -> Change:
        old = (
            root_named(root, arguments.key) if arguments.key else _root_key_of(Home(Path(arguments.root_home[0])), root)
        )
        return Change(
            lambda record, public: replace_root(record, old=old, key=public, now=time.time()),
            new_key=NewKey(lambda: _made_root(new_home)),
            effects=(
                f"from then on {new_home} signs root records; the old root key signs none",
                "edges and homes follow with their next poll; bundles made before stay good",
            ),
            facts={"new_root_home": str(new_home)},
            new_homes=(new_home,),
            done=f"names the root key in {new_home}",
        )

    return run_change(arguments, console, plan)


def run_roots(arguments: argparse.Namespace, console: Console) -> int:
    from federation.revocation import root_named, set_roots

    new_home = Home(Path(arguments.add)) if arguments.add else None

    def plan(root: RootRecord, chain: RootChain) -> Change:
        removed = [root_named(root, text) for text in arguments.remove or ()]
        return Change(
            lambda record, public: set_roots(
                record,
                add=[public] if new_home else [],
                remove=removed,
                threshold=arguments.threshold,
                now=time.time(),
            ),
            new_key=NewKey(lambda: _made_root(new_home)) if new_home else None,
            effects=("bundles made before stay good; edges and homes follow with their next poll",),
            new_homes=(new_home,) if new_home else (),
            done="changes the root keys",
        )

    return run_change(arguments, console, plan)


def run_revoke(arguments: argparse.Namespace, console: Console) -> int:
    from federation.revocation import publisher_keys, revoke

    def plan(root: RootRecord, chain: RootChain) -> Change:
        keyids = publisher_keys(root, arguments.key)
        rows = chain.releases(arguments.key)
        return Change(
            lambda record, _: revoke(record, keyids, running=arguments.running, now=time.time()),
            effects=_effects_of(rows, arguments.running),
            facts={"keys": list(keyids), "running": arguments.running, "releases": [dict(row) for row in rows]},
            done=f"revokes {len(keyids)} key{'s' if len(keyids) > 1 else ''} of {arguments.key}",
        )

    return run_change(arguments, console, plan)


def _effects_of(rows: Sequence[Any], running: str) -> tuple[str, ...]:
    """What a revocation does to each release, told with the groups and edges that have it."""
    lines = []
    for row in rows:
        groups, edges, count = list(row["groups"]), list(row["edges"]), int(row["edge_count"])
        where = f"in {', '.join(groups)}" if groups else "in no group"
        shown = ", ".join(edges[:EDGES_TOLD_MAX]) + (", …" if count > EDGES_TOLD_MAX else "")
        rest = "runs on no edge that has reported"
        if count:
            rest = f"{'goes on' if running == 'keep' else 'STOPS'} on {count} edge{'s' if count > 1 else ''}: {shown}"
        lines.append(f"{row['model']} {where}: {rest}")
    return (
        *(lines or ["it signed no release that the nameserver has"]),
        "no edge loads any of these anew, and nothing more is published with the key",
    )


def run_rotate_publisher(arguments: argparse.Namespace, console: Console) -> int:
    """The new key is made beside the old one and offered; who has a root key endorses it."""
    from federation.keys import read_key
    from federation.revocation import offer_claim
    from peers.client import connect
    from peers.publisher_keys import next_key, publisher_key, settle

    home = home_of(arguments, console)
    membership = home.membership()
    root = _followed(home)
    if settle(home, root):
        keyid = read_key(home.publisher_key).keyid
        return _told_publisher(arguments, console, keyid, state="endorsed", line=f"signs with key {keyid} from now on")
    publisher_key(home, root)  # raises where there is none to replace
    lines = (
        f"{home} makes a new key and offers its public half to the nameserver",
        "the present key signs until the new one is endorsed; then it is retired, and what it signed stays good",
    )
    if not agreed(arguments, console, lines, json={"changes": list(lines)}):
        return DONE if arguments.dry_run else FAILED
    key = next_key(home)
    proof = key.sign_bytes(offer_claim(membership.federation, membership.uuid, key.public))
    with connect(home.path) as federation:
        federation.value(
            "//peer: nameserver\nkeys:offer_publisher(:key, :proof)",
            params={"key": key.public.hex(), "proof": proof.hex()},
        )
    if not arguments.json:
        console.tell(f"have it endorsed: peerage keys endorse {membership.name} --key {key.keyid[:16]} --root-home DIR")
    line = f"offers key {key.keyid}, and signs with the present one until that is endorsed"
    return _told_publisher(arguments, console, key.keyid, state="offered", line=line)


def _told_publisher(arguments: argparse.Namespace, console: Console, keyid: KeyId, *, state: str, line: str) -> int:
    name = home_of(arguments, console).membership().name
    if arguments.json:
        console.json({"publisher": name, "key": keyid, "state": state})
    else:
        console.data(f"publisher {name} {line}")
    return DONE


def _followed(home: Home) -> RootRecord:
    """The root record of now, from the nameserver, checked against what the home knows, and kept by a client."""
    from peers.root_chains import opened_chain, trusted_root

    with opened_chain(home) as chain:
        documents = chain.documents()
    root = trusted_root(documents, known=home.roots())
    if home.membership().kind == "client":
        home.write_roots(documents)
    return root


# --- one change -----------------------------------------------------------------------------------------------------


def run_change(arguments: argparse.Namespace, console: Console, plan: Plan) -> int:
    """Make, tell, ask, sign, publish and keep one root record."""
    from federation.keys import PrivateKey, read_key
    from federation.revocation import sign_following, told_changes
    from peers.root_chains import longest, missing_documents, opened_chain, trusted_root

    root_homes, home = [Home(Path(path)) for path in arguments.root_home], home_of(arguments, console)
    for root_home in root_homes:
        if not root_home.root_key.exists():
            raise UsageProblem(
                f"{root_home} is no root folder: expected root.key in it",
                hint="the first start of the nameserver made one, HOME-root: name it where it lies, --root-home DIR",
            )
    keys = [read_key(root_home.root_key) for root_home in root_homes]
    with opened_chain(home) as chain:
        documents = chain.documents()
        known = longest(home.roots(), *(root_home.roots() for root_home in root_homes))
        lacking = missing_documents(documents, known=known)
        root = trusted_root((*documents, *lacking), known=known)
        change = plan(root, chain)
        stand_in = PrivateKey(STAND_IN)
        preview = change.following(root, stand_in.public)
        _check_parts(root, preview, root_homes, keys)
        sign_following(root, preview, (*keys, stand_in))  # whether it can be signed is told before anything happens
        made = re.compile(rf"(\w+) key {stand_in.keyid[:16]}")
        lines = [made.sub(r"a new \1 key", line) for line in told_changes(root, preview)]
        if lacking:
            lines.insert(
                0, f"the nameserver lacks {len(lacking)} root records, which the root folder has: it gets them"
            )
        lines = [*(lines if change.asks or lacking or arguments.dry_run else []), *change.effects]
        facts = {**change.facts, "root_version": preview.version, "changes": lines}
        if not agreed(arguments, console, lines, json=facts, asks=change.asks):
            return DONE if arguments.dry_run else FAILED
        for document in lacking:
            chain.publish(document)
        public, own = change.new_key.make() if change.new_key else (STAND_IN, None)
        following = change.following(root, public)
        signed = sign_following(root, following, (*keys, *([own] if own else [])))
        version = chain.publish(signed)
    whole = (*documents, *lacking, signed)
    for root_home in (*root_homes, *change.new_homes):
        root_home.write_roots(whole)
    if home.membership().kind == "client":  # a running peer learns it by itself
        home.write_roots(whole)
    if arguments.json:
        console.json({**facts, "root_version": version})
    else:
        console.data(f"root record {version} of {root.federation} {change.done}")
    return DONE


def agreed(
    arguments: argparse.Namespace, console: Console, lines: Sequence[str], *, json: dict[str, Any], asks: bool = True
) -> bool:
    """Tell what will happen, and ask. Raises :class:`UsageProblem` where nobody can be asked."""
    if not arguments.json:
        for line in lines:
            console.tell(f"  {line}" if asks or arguments.dry_run else line)
    if arguments.dry_run:
        if arguments.json:
            console.json({**json, "dry_run": True})
        else:
            console.tell("dry run: nothing was changed")
        return False
    if not asks or arguments.yes:
        return True
    if not console.confirmed("do this?"):
        console.tell("nothing was changed")
        return False
    return True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A publisher's key as the nameserver tells it, checked against its own id."""

    name: str
    keyid: str
    public: bytes


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


def _check_parts(root: RootRecord, following: RootRecord, homes: Sequence[Home], keys: Sequence[PrivateKey]) -> None:
    for root_home, key in zip(homes, keys, strict=True):
        if key.keyid not in root.roots and key.keyid not in following.roots:
            names = ", ".join(keyid[:16] for keyid in root.roots)
            raise UnknownKey(
                f"{root_home.root_key} is not a root key of {root.federation}: expected {names}, "
                f"found {key.keyid[:16]}",
                hint="name the root folder that signs now: --root-home DIR",
            )


def _root_key_of(root_home: Home, root: RootRecord) -> KeyId:
    from federation.keys import read_key

    keyid = read_key(root_home.root_key).keyid
    if keyid not in root.roots:
        raise UsageProblem(
            f"{root_home.root_key} is not a root key of version {root.version}: it was replaced before",
            hint="name the root folder that signs now, or the key to replace: --key ID",
        )
    return keyid


def _made_root(root_home: Home) -> tuple[bytes, PrivateKey | None]:
    """The root key in a new root folder; taken up where an interrupted command has made it."""
    from federation.keys import PrivateKey, read_key, write_key

    root_home.prepare()
    if not root_home.root_key.exists():
        write_key(root_home.root_key, PrivateKey.generate())
    key = read_key(root_home.root_key)
    return key.public, key
