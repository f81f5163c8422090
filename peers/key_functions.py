"""Functions of the language about the federation's public keys and its root record; at home on the nameserver.

They carry what a root key's owner needs to sign the next root record elsewhere, and take the signed one back. No
private key is here: root keys lie in the root folder, publishers' keys in their own homes, and of a director key that
the nameserver makes its public half alone is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from federation import commands, key_commands
from federation.documents import RootRecord, SignedDocument, decode, encode
from federation.events import RootSet
from federation.keys import keyid_of
from federation.names import PeerId, shown
from federation.revocation import public_key, publisher_keys, standing_of
from federation.roots import active_key
from peers.throttle import Throttle
from query.declarations import Call, Effect, Example, Home, Role, function
from query.errors import LimitExceeded, WrongArguments

if TYPE_CHECKING:
    from federation.store import FederationStore


OFFERS_PER_S: Final = 1 / 60  # of new publisher keys, on the long run
OFFERS_BURST: Final = 20
EDGES_TOLD_MAX: Final = 100  # by name, of those that run a release


class Directing(Protocol):
    """The director keys of the nameserver."""

    def prepare(self) -> bytes: ...

    def names_one(self, record: RootRecord) -> bool: ...


class KeyFunctions:
    """Bind on the nameserver."""

    def __init__(self, store: FederationStore, director: Directing) -> None:
        self._store = store
        self._director = director
        self._offers = Throttle(OFFERS_PER_S, OFFERS_BURST)

    @function("keys:root() -> Record", home=Home.NAMESERVER, example=Example("keys:root()"))
    def root(self, call: Call) -> dict[str, Any]:
        """The root record in force: its version, threshold, and the root, director and publisher keys by name, with
        what each publisher's is worth: endorsed, retired or revoked.

        A key is shown by its id, the sha256 of the public key.
        """
        return root_facts(self._store.state.root)

    @function("keys:root_documents() -> Bag of String", home=Home.NAMESERVER, example=Example("keys:root_documents()"))
    def root_documents(self, call: Call) -> Iterator[str]:
        """All root records as they were signed, version 1 first: the JSON of their DSSE envelopes."""
        return (encode(document).decode("utf-8") for document in self._store.state.root_documents)

    @function("keys:publisher(String name) -> Record", home=Home.NAMESERVER, example=Example('keys:publisher("ada")'))
    def publisher(self, call: Call, name: str) -> dict[str, Any]:
        """The public key that a publisher's home made last: its id, its 32 bytes in hexadecimal, whether the root
        record endorses it, and the key that its releases are signed with until then, null where there is none.
        """
        member = self._store.state.find_member(name)
        if not member.publisher:
            raise WrongArguments(
                f'"{member.name}" was not registered as a publisher',
                hint=f"peerage register {member.name}-publisher --publisher makes a bundle for one",
            )
        if member.publisher_key is None:
            raise WrongArguments(
                f'publisher "{member.name}" has not joined: its key is made when it does',
                hint="join with its bundle first: peerage join --home DIR FILE",
            )
        keyid, root = keyid_of(member.publisher_key), self._store.state.root
        return {
            "name": shown(member.name),
            "key": keyid,
            "public": member.publisher_key.hex(),
            "endorsed": keyid in root.publishers,
            "present": active_key(root, member.name),
        }

    @function(
        "keys:offer_publisher(String key, String proof) -> String",
        home=Home.NAMESERVER,
        effect=Effect.CHANGES,
        example=Example("keys:offer_publisher(:key, :proof)"),
    )
    def offer_publisher(self, call: Call, key: str, proof: str) -> str:
        """Tell the public half of a key that the calling publisher made in place of its present one, in hexadecimal,
        with its proof; gives the key's id. It counts once the root record names it: peerage keys endorse.
        """
        state, now = self._store.state, call.now.timestamp()
        events = key_commands.offer_publisher_key(
            state, PeerId(call.caller.uuid), key=public_key(key), proof=_hexadecimal(proof)
        )
        if events and not self._offers.take(now):
            raise LimitExceeded("too many new publisher keys were offered just now: try again in a minute")
        self._store.append(events, caller=call.caller.name, now=now)
        return keyid_of(public_key(key))

    @function(
        "keys:prepare_director() -> String",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example("keys:prepare_director()"),
    )
    def prepare_director(self, call: Call) -> str:
        """The public half, in hexadecimal, of the director key that the nameserver made to be named by the next root
        record. Its private half stays on the nameserver. Nothing changes before a root record names it.
        """
        return self._director.prepare().hex()

    @function(
        "keys:releases(String key) -> Bag of Record", home=Home.NAMESERVER, example=Example('keys:releases("ada")')
    )
    def releases(self, call: Call, key: str) -> Iterator[dict[str, Any]]:
        """The releases that a publisher's name, or the beginning of a key's id, has signed: each with the groups that
        it is assigned to and the edges that run it, as far as they have reported.
        """
        state = self._store.state
        wanted = set(publisher_keys(state.root, key))
        running: dict[str, list[str]] = {}
        for member in state.edges():
            report = self._store.reports.latest(member.uuid)
            for entry in report.actual.loaded if report is not None else ():
                running.setdefault(entry.record, []).append(member.name)
        for release in state.releases():
            standing, keyid = standing_of(release.document, state.root)
            if keyid in wanted:
                groups = [
                    group.name
                    for group in state.group_objects()
                    if any(
                        release.digest in (assigned.record, *(need.record for need in assigned.needs))
                        for assigned in group.assignments.values()
                    )
                ]
                edges = running.get(release.digest, [])
                yield {
                    "model": release.record.label,
                    "key": keyid,
                    "standing": standing,
                    "groups": groups,
                    "edges": [shown(name) for name in edges[:EDGES_TOLD_MAX]],
                    "edge_count": len(edges),
                }

    @function(
        "keys:set_root(String document) -> Integer",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example("keys:set_root(:document)"),
    )
    def set_root(self, call: Call, document: str) -> int:
        """Put the next root record in force: the JSON of its envelope, signed as the present record asks.

        Gives the version that is in force then. Edges learn it with their next poll.
        """
        try:
            signed = decode(document.encode("utf-8"), SignedDocument)
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            raise WrongArguments(f"expected the JSON of a signed root record: {error}") from error
        events = commands.set_root(self._store.state, signed)
        for event in events:
            record = decode(event.document.payload, RootRecord) if isinstance(event, RootSet) else None
            if record is not None and not self._director.names_one(record):
                raise commands.NotAllowed(
                    f"root record {record.version} names no director key of this nameserver: no edge could be told"
                    " anything",
                    hint="keys:prepare_director() makes one: peerage keys rotate director",
                )
        self._store.append(events, caller=call.caller.name, now=call.now.timestamp())
        return self._store.state.root.version


def root_facts(root: RootRecord) -> dict[str, Any]:
    """What people are shown of a root record."""
    groups = (("roots", root.roots), ("directors", root.directors))
    return {
        "federation": root.federation,
        "version": root.version,
        "threshold": root.threshold,
        **{title: [{"name": key.name, "key": keyid} for keyid, key in keys.items()] for title, keys in groups},
        "publishers": [
            {"name": key.name, "key": keyid, "standing": "endorsed" if key.retired is None else "retired"}
            for keyid, key in root.publishers.items()
        ],
        "revoked": [
            {"name": key.name, "key": keyid, "revoked": key.revoked, "running": key.running}
            for keyid, key in root.revoked.items()
        ],
    }


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise WrongArguments(f"expected a proof in hexadecimal, found {text[:80]!r}") from None
