"""Functions of the language about the federation's public keys and its root record; at home on the nameserver.

They carry what a root key's owner needs to sign the next root record elsewhere, and take the signed one back. No
private key is here: root keys lie in the root folder, publishers' keys in their own homes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from federation import commands
from federation.documents import SignedDocument, decode, encode
from federation.keys import keyid_of
from federation.names import shown
from query.declarations import Call, Effect, Example, Home, Role, function
from query.errors import WrongArguments

if TYPE_CHECKING:
    from federation.store import FederationStore


class KeyFunctions:
    """Bind on the nameserver."""

    def __init__(self, store: FederationStore) -> None:
        self._store = store

    @function("keys:root() -> Record", home=Home.NAMESERVER, example=Example("keys:root()"))
    def root(self, call: Call) -> dict[str, Any]:
        """The root record in force: its version, threshold, and the root, director and publisher keys by name.

        A key is shown by its id, the sha256 of the public key.
        """
        record = self._store.state.root
        groups = (("roots", record.roots), ("directors", record.directors), ("publishers", record.publishers))
        return {
            "federation": record.federation,
            "version": record.version,
            "threshold": record.threshold,
            **{title: [{"name": key.name, "key": keyid} for keyid, key in keys.items()] for title, keys in groups},
        }

    @function("keys:root_documents() -> Bag of String", home=Home.NAMESERVER, example=Example("keys:root_documents()"))
    def root_documents(self, call: Call) -> Iterator[str]:
        """All root records as they were signed, version 1 first: the JSON of their DSSE envelopes."""
        return (encode(document).decode("utf-8") for document in self._store.state.root_documents)

    @function("keys:publisher(String name) -> Record", home=Home.NAMESERVER, example=Example('keys:publisher("ada")'))
    def publisher(self, call: Call, name: str) -> dict[str, Any]:
        """The public key that a publisher's home made: its id, its 32 bytes in hexadecimal, and whether the root record
        endorses it.
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
        keyid = keyid_of(member.publisher_key)
        return {
            "name": shown(member.name),
            "key": keyid,
            "public": member.publisher_key.hex(),
            "endorsed": keyid in self._store.state.root.publishers,
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
        self._store.append(events, caller=call.caller.name, now=call.now.timestamp())
        return self._store.state.root.version
