"""The root record in the language, and endorsing a publisher with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation import bundles, commands
from federation.bundles import join_request, token_hash
from federation.commands import NotAllowed
from federation.documents import SignedDocument, decode, encode
from federation.errors import BadKeyChange, BadProof, UnknownKey, Untrusted
from federation.keys import PrivateKey, read_key
from federation.names import PeerId
from federation.revocation import offer_claim, replace_director
from federation.roots import endorse, first_root, sign_root
from federation.store import FederationStore
from peers.cli.key_changes import candidate
from peers.director_keys import DirectorKeys
from peers.founding import found
from peers.homes import Home
from peers.key_functions import OFFERS_BURST, KeyFunctions
from peers.root_chains import trusted_root
from peers.settings import NameserverSettings
from query.declarations import Call, Caller, Role, declarations
from query.declarations import Home as FunctionHome
from query.errors import LimitExceeded, PeerProblem, WrongArguments

NOW = 1_800_000_000.0
CALL = Call(Caller("admin", Role.ADMIN), datetime.fromtimestamp(NOW, UTC), "nameserver")
PUBLISHER = PrivateKey(bytes([7]) * 32)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "ns")
    found(home, NameserverSettings(federation="mine"), now=NOW, host_name="box")
    return home


@pytest.fixture
def store(home: Home) -> Iterator[FederationStore]:
    store = FederationStore.open(home.state_db)
    yield store
    store.close()


@pytest.fixture
def directors(home: Home, store: FederationStore) -> DirectorKeys:
    return DirectorKeys(home, lambda: store.state.root)


@pytest.fixture
def keys(store: FederationStore, directors: DirectorKeys) -> KeyFunctions:
    return KeyFunctions(store, directors)


def register(store: FederationStore, name: str, *, publisher: bool, joined: bool) -> None:
    token = bundles.new_token()
    events = commands.register(
        store.state,
        name,
        uuid=PeerId(f"{len(name):036}"),
        token_hash=token_hash(token),
        now=NOW,
        kind="client",
        publisher=publisher,
    )
    store.append(events, caller="admin", now=NOW)
    if joined:
        own = PrivateKey(bytes([len(name)]) * 32)
        request = join_request(name=name, token=token, key=own, publisher_key=PUBLISHER.public if publisher else None)
        store.append(commands.join(store.state, request, now=NOW), caller=name, now=NOW)


def signed_by_root(home: Home, store: FederationStore) -> str:
    root_key = read_key(Home(Path(f"{home.path}-root")).root_key)
    following = endorse(store.state.root, publisher="ada", key=PUBLISHER.public, now=NOW)
    return encode(sign_root(following, root_key)).decode()


def test_a_publisher_is_endorsed(home: Home, store: FederationStore, keys: KeyFunctions) -> None:
    register(store, "ada", publisher=True, joined=True)
    assert keys.publisher(CALL, "ada") == {
        "name": "ADA",
        "key": PUBLISHER.keyid,
        "public": PUBLISHER.public.hex(),
        "endorsed": False,
        "present": None,
    }
    document = signed_by_root(home, store)
    assert keys.set_root(CALL, document) == 2
    assert keys.set_root(CALL, document) == 2
    assert keys.publisher(CALL, "ada")["endorsed"] is True
    shown = keys.root(CALL)
    assert (shown["federation"], shown["version"], shown["threshold"]) == ("mine", 2, 1)
    assert shown["publishers"] == [{"name": "ada", "key": PUBLISHER.keyid, "standing": "endorsed"}]
    assert [decode(text.encode(), SignedDocument) for text in keys.root_documents(CALL)] == list(
        store.state.root_documents
    )


def test_a_publisher_that_is_none_or_has_not_joined(store: FederationStore, keys: KeyFunctions) -> None:
    register(store, "bob", publisher=False, joined=True)
    register(store, "eve-later", publisher=True, joined=False)
    with pytest.raises(WrongArguments, match='"bob" was not registered as a publisher'):
        keys.publisher(CALL, "BOB")
    with pytest.raises(WrongArguments, match='publisher "eve-later" has not joined'):
        keys.publisher(CALL, "eve-later")


def offered(store: FederationStore, keys: KeyFunctions, key: PrivateKey, *, proof: PrivateKey | None = None) -> str:
    member = store.state.find_member("ada")
    claim = offer_claim("mine", member.uuid, key.public)
    caller = Caller("ada", Role.VIEWER, member.uuid)
    call = Call(caller, datetime.fromtimestamp(NOW, UTC), "nameserver")
    return keys.offer_publisher(call, key.public.hex(), (proof or key).sign_bytes(claim).hex())


def test_a_publisher_offers_a_key_and_proves_it(home: Home, store: FederationStore, keys: KeyFunctions) -> None:
    register(store, "ada", publisher=True, joined=True)
    keys.set_root(CALL, signed_by_root(home, store))
    new, seq = PrivateKey(bytes([70]) * 32), store.state.seq
    with pytest.raises(BadProof):
        offered(store, keys, new, proof=PUBLISHER)
    for taken in (read_key(home.director_key), read_key(Home(Path(f"{home.path}-root")).root_key)):
        with pytest.raises(BadKeyChange, match="has a part in the root record already"):
            offered(store, keys, taken)
    assert store.state.seq == seq
    assert offered(store, keys, new) == offered(store, keys, new) == new.keyid
    assert store.state.seq == seq + 1
    told = keys.publisher(CALL, "ada")
    assert (told["key"], told["endorsed"], told["present"]) == (new.keyid, False, PUBLISHER.keyid)
    with pytest.raises(NotAllowed, match="only a publisher offers a key"):
        keys.offer_publisher(CALL, new.public.hex(), "")


def test_offers_are_bounded(store: FederationStore, keys: KeyFunctions) -> None:
    register(store, "ada", publisher=True, joined=True)
    for number in range(OFFERS_BURST):
        offered(store, keys, PrivateKey(bytes([80 + number]) * 32))
    with pytest.raises(LimitExceeded, match="too many new publisher keys"):
        offered(store, keys, PrivateKey(bytes([79]) * 32))


def test_a_root_record_without_a_key_of_this_nameserver_is_refused(
    home: Home, store: FederationStore, keys: KeyFunctions, directors: DirectorKeys
) -> None:
    root_key = read_key(Home(Path(f"{home.path}-root")).root_key)
    foreign = replace_director(store.state.root, key=PUBLISHER.public, now=NOW)
    with pytest.raises(NotAllowed, match="names no director key of this nameserver"):
        keys.set_root(CALL, encode(sign_root(foreign, root_key)).decode())
    public = bytes.fromhex(keys.prepare_director(CALL))
    assert keys.prepare_director(CALL) == public.hex()
    old = directors.current()
    following = replace_director(store.state.root, key=public, now=NOW)
    assert keys.set_root(CALL, encode(sign_root(following, root_key)).decode()) == 2
    assert directors.current().public == public != old.public
    directors.settle()
    assert read_key(home.director_key).public == public
    assert not home.director_next_key.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "\ud800", '{"payload": 1}'])
def test_what_is_no_document_is_refused(keys: KeyFunctions, text: str) -> None:
    with pytest.raises(WrongArguments, match="expected the JSON of a signed root record"):
        keys.set_root(CALL, text)


def test_a_root_record_by_another_key_is_refused(store: FederationStore, keys: KeyFunctions) -> None:
    following = endorse(store.state.root, publisher="ada", key=PUBLISHER.public, now=NOW)
    stranger = encode(sign_root(following, PrivateKey(bytes([9]) * 32))).decode()
    with pytest.raises(Untrusted):
        keys.set_root(CALL, stranger)
    assert store.state.root.version == 1


def test_only_an_admin_sets_the_root_and_all_are_at_home_on_the_nameserver() -> None:
    declared = {one.name: one for one in declarations(KeyFunctions)}
    assert {one.home for one in declared.values()} == {FunctionHome.NAMESERVER}
    assert {name: one.role for name, one in declared.items() if one.role is not Role.VIEWER} == {
        "keys:set_root": Role.ADMIN,
        "keys:prepare_director": Role.ADMIN,
    }


class TestEndorsingSide:
    def test_a_chain_that_goes_on_from_what_is_known(self, home: Home, store: FederationStore) -> None:
        known = store.state.root_documents
        following = decode(signed_by_root(home, store).encode(), SignedDocument)
        assert trusted_root((*known, following), known=known).version == 2

    def test_a_chain_that_holds_back_what_is_known(self, home: Home, store: FederationStore) -> None:
        known = store.state.root_documents
        following = decode(signed_by_root(home, store).encode(), SignedDocument)
        with pytest.raises(Untrusted, match="pinned"):
            trusted_root(known, known=(*known, following))

    def test_a_chain_of_another_root_key(self, store: FederationStore) -> None:
        other = first_root("mine", roots=[PrivateKey(bytes([8]) * 32)], director=bytes(32), now=NOW)
        with pytest.raises(Untrusted, match="pinned"):
            trusted_root((other,), known=store.state.root_documents)

    def test_nothing_known_is_nothing_trusted(self, store: FederationStore) -> None:
        with pytest.raises(PeerProblem, match="knows a root record"):
            trusted_root(store.state.root_documents, known=())

    def test_a_key_that_does_not_fit_its_id(self) -> None:
        good = {"key": PUBLISHER.keyid, "public": PUBLISHER.public.hex()}
        assert candidate(good, "ada").public == PUBLISHER.public
        for bad in ({**good, "public": "00" * 32}, {**good, "public": "zz"}, {"key": "x"}, [], None):
            with pytest.raises(UnknownKey):
                candidate(bad, "ada")
