"""Where a command extends the chain of root records: the nameserver that runs, or the home of one that does not.

    opened_chain(home) → chain.documents() → trusted_root() → … → chain.publish(signed)

Owns how a root folder's owner trusts what it is told: the chain must go on from what the root folder and the home know.
Refuses a nameserver that holds back a record; but one that was restored from an older backup is given what it lacks.

Rules: root keys lie in root folders and are read there; nothing here keeps one. A nameserver's own home may be worked
on directly only while no process runs in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from federation import commands
from federation.documents import RootRecord, SignedDocument, decode, encode
from peers.director_keys import DirectorKeys
from peers.homes import Home
from peers.key_functions import KeyFunctions
from query.declarations import Call, Caller, Role
from query.errors import PeerProblem

if TYPE_CHECKING:
    from federation.store import FederationStore
    from peers.client import Connection


class RootChain(Protocol):
    """The chain of one federation. What it tells is checked by who asks."""

    def documents(self) -> tuple[SignedDocument, ...]: ...

    def publish(self, document: SignedDocument) -> int:
        """Put the next record in force; its version."""
        ...

    def publisher(self, name: str) -> Mapping[str, Any]: ...

    def releases(self, key: str) -> Sequence[Mapping[str, Any]]: ...

    def prepare_director(self) -> bytes: ...


class RunningChain:
    """Through a connection to the running nameserver."""

    def __init__(self, federation: Connection) -> None:
        self._federation = federation

    def documents(self) -> tuple[SignedDocument, ...]:
        return tuple(_document(text) for text in self._federation.values("//peer: nameserver\nkeys:root_documents()"))

    def publish(self, document: SignedDocument) -> int:
        return int(self._value("keys:set_root(:document)", document=encode(document).decode("utf-8")))

    def publisher(self, name: str) -> Mapping[str, Any]:
        told = self._value("keys:publisher(:name)", name=name)
        return told if isinstance(told, Mapping) else {}

    def releases(self, key: str) -> Sequence[Mapping[str, Any]]:
        return self._federation.values("//peer: nameserver\nkeys:releases(:key)", params={"key": key})

    def prepare_director(self) -> bytes:
        return bytes.fromhex(str(self._value("keys:prepare_director()")))

    def _value(self, text: str, **params: str) -> Any:
        return self._federation.value(f"//peer: nameserver\n{text}", params=params)


class StoppedChain:
    """In the home of a nameserver that does not run, by the same functions. A record that names a director key which
    the home does not have is taken: the one after it may name one.
    """

    def __init__(self, store: FederationStore, functions: KeyFunctions, name: str) -> None:
        self._store = store
        self._functions = functions
        self._name = name

    def documents(self) -> tuple[SignedDocument, ...]:
        return tuple(_document(text) for text in self._functions.root_documents(self._call()))

    def publish(self, document: SignedDocument) -> int:
        events = commands.set_root(self._store.state, document)
        self._store.append(events, caller=self._name, now=time.time())
        return self._store.state.root.version

    def publisher(self, name: str) -> Mapping[str, Any]:
        return self._functions.publisher(self._call(), name)

    def releases(self, key: str) -> Sequence[Mapping[str, Any]]:
        return tuple(self._functions.releases(self._call(), key))

    def prepare_director(self) -> bytes:
        return bytes.fromhex(self._functions.prepare_director(self._call()))

    def _call(self) -> Call:
        return Call(Caller(self._name, Role.ADMIN), datetime.fromtimestamp(time.time(), UTC), self._name)


@contextmanager
def opened_chain(home: Home) -> Iterator[RootChain]:
    """Through the peer that runs in ``home`` or the client that it is; a stopped nameserver's home itself."""
    from peers.client import connect

    membership = home.membership()
    if membership.kind != "nameserver" or home.in_use:
        with connect(home.path) as federation:
            yield RunningChain(federation)
        return
    from federation.store import FederationStore

    with home.occupy():
        store = FederationStore.open(home.state_db)
        try:
            directors = DirectorKeys(home, lambda: store.state.root)
            yield StoppedChain(store, KeyFunctions(store, directors), membership.name)
            directors.settle()
            home.write_roots(store.state.root_documents)
        finally:
            store.close()


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


def missing_documents(
    documents: tuple[SignedDocument, ...], *, known: tuple[SignedDocument, ...]
) -> tuple[SignedDocument, ...]:
    """What a nameserver that was restored from an older backup lacks of the chain that is known here; else nothing."""
    shared = [document.payload for document in known[: len(documents)]]
    if len(known) > len(documents) and shared == [document.payload for document in documents]:
        return known[len(documents) :]
    return ()


def longest(*chains: tuple[SignedDocument, ...]) -> tuple[SignedDocument, ...]:
    return max(chains, key=len)


def _document(text: Any) -> SignedDocument:
    try:
        return decode(str(text).encode("utf-8"), SignedDocument)
    except msgspec.MsgspecError as error:
        raise PeerProblem(f"the nameserver told no signed root record: {error}") from error
