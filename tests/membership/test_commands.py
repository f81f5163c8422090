"""Members, modes, properties and releases: what is decided, what is refused, and every bound."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from federation import commands, release_commands
from federation.bundles import join_request, token_hash
from federation.documents import RELEASE_TYPE, ReleaseRecord, RootRecord, decode, encode
from federation.errors import RemovedPeer, TokenExpired, TokenReused, TokenUnknown, UnknownKey, Untrusted, WrongName
from federation.events import GroupJoined, GroupLeft, Joined, Registered, TokenIssued, encode_event
from federation.intervals import BadInterval
from federation.layout_index import VersionTaken
from federation.names import BadName
from federation.roots import endorse, sign_root
from federation.signing import sign
from federation.state import WrongKind
from query.errors import LimitExceeded, Problem, UnknownName, WrongArguments
from tests.membership.small import NOW, PUBLISHER, ROOT, ROOT_DOCUMENT, Small, founding, identity, key, release_document


@pytest.fixture
def small() -> Small:
    small = Small()
    small.edge("My-Edge")
    return small


def register(small: Small, name: str, **options: Any) -> tuple[Any, ...]:
    options = {"uuid": identity(name), "token_hash": "0" * 64, "now": small.now, **options}
    return commands.register(small.state, name, **options)


def raises(kind: type[Problem], text: str) -> Any:
    return pytest.raises(kind, match=re.escape(text))


# --- founding --------------------------------------------------------------------------------------------------------


def test_a_federation_is_founded_once(small: Small) -> None:
    assert small.state.federation == "fed-1"
    assert [(member.name, member.kind, member.role) for member in small.state.members()][:2] == [
        ("hub", "nameserver", "viewer"),
        ("root-admin", "client", "admin"),
    ]
    assert small.state.root.version == 1
    assert small.state.epoch == int(NOW) * 1_000_000 + 250_000
    with raises(commands.NotAllowed, 'this store holds federation "fed-1" already'):
        founding(small.state)


def test_before_there_is_a_federation_there_is_no_root() -> None:
    small = Small(found=False)
    assert (small.state.federation, small.state.root_documents) == ("", ())
    with raises(UnknownName, "no root record: the federation is not founded yet"):
        _ = small.state.root


# --- members ---------------------------------------------------------------------------------------------------------


def test_a_name_keeps_its_spelling_and_is_unique_whatever_its_case(small: Small) -> None:
    assert small.member("MY-EDGE").name == "My-Edge"
    with raises(commands.NameTaken, 'the name "My-Edge" belongs to an edge'):
        register(small, "my-edge")
    with raises(commands.NameTaken, 'the name "root-admin" belongs to a client'):
        register(small, "ROOT-ADMIN")


@pytest.mark.parametrize("name", ["all", "Group", "WHERE", "nameserver", "", "-e", "a b", "e/../x", "e" * 64, "é"])
def test_what_cannot_name_a_peer(small: Small, name: str) -> None:
    with pytest.raises(BadName):
        register(small, name)


def test_a_removed_name_is_free_for_another_identity(small: Small) -> None:
    old = small.member("my-edge").uuid
    small.join("My-Edge", "g")
    small.write(commands.remove(small.state, "MY-EDGE"))
    removed = small.state.member(old)
    assert removed is not None
    assert removed.removed
    assert (small.state.member_named("my-edge"), small.state.edge_count, small.state.members_of("g")) == (None, 0, ())
    small.write(register(small, "MY-edge", uuid=identity("another")))
    assert small.member("my-edge").uuid != old
    assert small.desired_groups("my-edge") == []


def test_only_the_nameserver_cannot_be_removed(small: Small) -> None:
    with raises(commands.NotAllowed, '"hub" is the nameserver and cannot be removed'):
        commands.remove(small.state, "hub")
    with raises(UnknownName, 'no peer "my-egde" — did you mean "My-Edge"?'):
        commands.remove(small.state, "my-egde")
    small.write(commands.remove(small.state, "root-admin"))
    assert small.state.member_named("root-admin") is None


def test_a_bundle_is_made_again_for_who_never_joined(small: Small) -> None:
    uuid = small.edge("late", "g", joined=False)
    events = commands.register(small.state, "LATE", uuid=identity("other"), token_hash="1" * 64, now=small.now)
    assert events == (TokenIssued(uuid, "1" * 64, small.now + commands.TOKEN_LIFETIME_S),)
    small.write(events)
    old = join_request(name="late", token="token-of-late", key=key("late"))
    with pytest.raises(TokenUnknown):
        commands.join(small.state, old, now=small.now)
    assert small.desired_groups("late") == ["g"]


def test_joining_takes_a_token_once_and_the_same_request_again(small: Small) -> None:
    small.edge("e2", joined=False)
    request = join_request(name="E2", token="token-of-e2", key=key("e2"))
    small.write(commands.join(small.state, request, now=small.now))
    assert (small.member("e2").key, small.member("e2").joined) == (key("e2").public, small.now)
    assert commands.join(small.state, request, now=small.now + 1) == ()  # the answer was lost
    thief = join_request(name="e2", token="token-of-e2", key=key("thief"))
    with pytest.raises(TokenReused):
        commands.join(small.state, thief, now=small.now)
    early = commands.renew(small.state, identity("e2"), not_after=small.now)
    small.write(early)
    with pytest.raises(TokenReused):  # a renewal within the token's life does not forget it
        commands.join(small.state, thief, now=small.now)


@pytest.mark.parametrize(
    ("name", "token", "late", "refusal"),
    [
        ("e2", "another-token-another", False, TokenUnknown),
        ("e3", "token-of-e2", False, WrongName),
        ("e2", "token-of-e2", True, TokenExpired),
        ("gone", "token-of-gone", False, RemovedPeer),
    ],
)
def test_joining_is_refused_by_class(small: Small, name: str, token: str, late: bool, refusal: type[Problem]) -> None:
    small.edge("e2", joined=False)
    small.edge("gone", joined=False)
    small.write(commands.remove(small.state, "gone"))
    expires = small.member("e2").token_expires
    assert expires is not None
    request = join_request(name=name, token=token, key=key(name))
    with pytest.raises(refusal):
        commands.join(small.state, request, now=expires if late else small.now)
    assert small.member("e2").key is None


def test_a_token_is_forgotten_at_the_first_renewal_after_its_life(small: Small) -> None:
    assert small.member("My-Edge").token_hash == token_hash("token-of-My-Edge")
    events = commands.renew(small.state, identity("My-Edge"), not_after=0.0)
    small.store.append(events, caller="hub", now=NOW + 2 * commands.TOKEN_LIFETIME_S)
    assert small.member("My-Edge").token_hash is None
    assert small.state.member_by_token(token_hash("token-of-My-Edge")) is None


def test_a_publisher_joins_with_a_publishers_key_and_nobody_else(small: Small) -> None:
    hashed = token_hash("token-of-ann-of-many")
    small.write(register(small, "ann", kind="client", role="operator", publisher=True, token_hash=hashed))
    plain = join_request(name="ann", token="token-of-ann-of-many", key=key("ann"))
    with raises(commands.NotAllowed, '"ann" was registered as a publisher: expected a publisher\'s key'):
        commands.join(small.state, plain, now=small.now)
    full = join_request(name="ann", token="token-of-ann-of-many", key=key("ann"), publisher_key=PUBLISHER.public)
    assert commands.join(small.state, full, now=small.now) == (
        Joined(identity("ann"), key("ann").public, PUBLISHER.public),
    )


def test_no_event_carries_a_token_or_a_private_key(small: Small) -> None:
    for change in small.store.read_from(1):
        text = encode_event(change.event).decode()
        assert "token-of-" not in text
        assert "PRIVATE" not in text
    kinds = {type(change.event) for change in small.store.read_from(1)}
    assert {Registered, Joined} <= kinds


def test_an_edge_is_a_viewer_of_itself(small: Small) -> None:
    with raises(commands.NotAllowed, "an edge is a viewer of itself"):
        register(small, "e9", role="admin")
    with raises(commands.NotAllowed, "a federation has one nameserver"):
        register(small, "ns2", kind="nameserver")
    with raises(UnknownName, 'no role "oparator" — did you mean "operator"?'):
        register(small, "bob", kind="client", role="oparator")


# --- modes, properties, intervals --------------------------------------------------------------------------------


def test_autonomous_is_refused_with_the_reason(small: Small) -> None:
    with raises(commands.NotAllowed, '"My-Edge" cannot be made AUTONOMOUS from here: an autonomous edge'):
        commands.set_mode(small.state, "MY-EDGE", "autonomous")
    with raises(WrongArguments, 'expected the mode INTERACTIVE or ONLINE, found "fast"'):
        commands.set_mode(small.state, "MY-EDGE", "fast")
    with raises(WrongArguments, 'expected the mode INTERACTIVE or ONLINE, found "OFFLINE"'):
        commands.set_mode(small.state, "MY-EDGE", "OFFLINE")


@pytest.mark.parametrize("call", [commands.set_mode, commands.add_group, commands.remove_group])
def test_what_is_for_edges_names_an_unknown_one_and_another_kind(small: Small, call: Any) -> None:
    with raises(UnknownName, 'no edge "MY-EDG" — did you mean "My-Edge"?'):
        call(small.state, "MY-EDG", "ONLINE")
    with raises(WrongKind, '"root-admin" is a client, expected an edge'):
        call(small.state, "Root-Admin", "ONLINE")


@pytest.mark.parametrize(
    ("value", "kept"), [("lab", "lab"), (3, 3), (2.5, 2.5), (True, True), ("", ""), (1, 1), (-(2**62), -(2**62))]
)
def test_a_property_is_kept_as_it_is(small: Small, value: Any, kept: Any) -> None:
    small.write(commands.set_property(small.state, "My-Edge", "k", 1))
    small.write(commands.set_property(small.state, "My-Edge", "k", value))
    found = small.member("My-Edge").properties["k"]
    assert (found, type(found)) == (kept, type(kept))
    small.write(commands.set_property(small.state, "My-Edge", "k", None))
    assert small.member("My-Edge").properties == {}


@pytest.mark.parametrize(("key", "hint"), [("Mode", "edge:set_mode sets it"), ("name", "it is the edge's own")])
def test_a_property_that_follows_from_something_else_is_not_set(small: Small, key: str, hint: str) -> None:
    with pytest.raises(commands.NotAllowed, match=f'property "{key}" cannot be set') as caught:
        commands.set_property(small.state, "My-Edge", key, "x")
    assert caught.value.hint == hint


@pytest.mark.parametrize("value", [[1], {"a": 1}, float("nan"), float("inf")])
def test_what_cannot_be_a_property(small: Small, value: Any) -> None:
    with pytest.raises(WrongArguments, match='property "k"'):
        commands.set_property(small.state, "My-Edge", "k", value)


@pytest.mark.parametrize("text", ["", "60", "s", "60 s ~", "-5s", "60s~51%", "0s", "0.01s", "8d", "169h", "1e3s"])
def test_what_is_no_interval(small: Small, text: str) -> None:
    with pytest.raises(BadInterval):
        commands.set_poll_interval(small.state, "My-Edge", text)


def test_an_interval_is_for_an_edge_or_group_that_exists(small: Small) -> None:
    with raises(UnknownName, 'no edge or group "stagng" — did you mean "staging"?'):
        small.join("My-Edge", "staging")
        commands.set_poll_interval(small.state, "stagng", "5s")
    small.join("My-Edge", "my-edge")
    with raises(WrongArguments, '"my-edge" is both an edge and a group'):
        commands.set_poll_interval(small.state, "my-edge", "5s")


# --- groups --------------------------------------------------------------------------------------------------------


def test_a_group_keeps_its_spelling_and_stays_when_empty(small: Small) -> None:
    small.join("My-Edge", "Lab")
    small.leave("my-edge", "LAB")
    assert small.state.groups() == ("all", "Lab")
    assert commands.remove_group(small.state, "my-edge", "lab") == ()


def test_all_cannot_be_left_or_deleted_and_is_always_joined(small: Small) -> None:
    assert commands.add_group(small.state, "my-edge", "ALL") == ()
    with raises(commands.NotAllowed, '"all" is every edge and cannot be left'):
        commands.remove_group(small.state, "my-edge", "All")
    with raises(commands.NotAllowed, '"all" is every edge and cannot be deleted'):
        commands.delete_group(small.state, "all")
    with raises(UnknownName, 'no group "lab"'):
        commands.remove_group(small.state, "my-edge", "lab")
    with pytest.raises(BadName):
        commands.add_group(small.state, "my-edge", "a b")


# --- releases and roots ----------------------------------------------------------------------------------------------


def test_a_version_is_published_once(small: Small) -> None:
    small.publish("m@1.0")
    release = small.release("m@1.0")
    again = release_document("m@1.0")
    assert release_commands.publish_release(small.state, again) == ()
    other = release_document("m@1.0", content=b"other weights")
    with pytest.raises(VersionTaken) as taken:
        release_commands.publish_release(small.state, other)
    assert taken.value.message == (
        f"m@1.0 exists already with other content: expected {release.record.manifest}, "
        f"found {decode(other.payload, ReleaseRecord).manifest}"
    )


def test_only_endorsed_publishers_and_no_development_release(small: Small) -> None:
    with pytest.raises(UnknownKey):
        release_commands.publish_release(small.state, release_document("m@1.0", signer=key("stranger")))
    record = decode(release_document("m@1.0").payload, ReleaseRecord)
    development = msgspec.structs.replace(record, development=True, version="dev+01234567")
    with pytest.raises(Problem):
        release_commands.publish_release(small.state, sign(encode(development), RELEASE_TYPE, PUBLISHER))
    assert small.state.releases() == ()


def test_a_root_record_follows_the_one_before(small: Small) -> None:
    bob = key("bob")
    second = sign_root(endorse(small.state.root, publisher="bob", key=bob.public, now=NOW), ROOT)
    small.write(commands.set_root(small.state, second))
    assert (small.state.root.version, small.state.root_documents) == (2, (ROOT_DOCUMENT, second))
    small.write(release_commands.publish_release(small.state, release_document("m@1.0", signer=bob)))
    with pytest.raises(Untrusted):
        commands.set_root(small.state, ROOT_DOCUMENT)
    forged = sign_root(msgspec.structs.replace(decode(second.payload, RootRecord), version=3), key("stranger"))
    with pytest.raises(Problem):
        commands.set_root(small.state, forged)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_members_and_releases_have_bounds(small: Small) -> None:
    with raises(LimitExceeded, "the federation has 3 members, the most it can have"):
        register(small, "one-more", members_max=3)
    small.publish("m@1.0")
    with raises(LimitExceeded, "the federation has or had 1 releases, the most it can have"):
        release_commands.publish_release(small.state, release_document("m@2.0"), releases_max=1)


def test_groups_have_bounds(small: Small) -> None:
    uuid = identity("My-Edge")
    for number in range(commands.GROUPS_PER_EDGE_MAX):
        small.join("My-Edge", f"g{number}")
    with raises(LimitExceeded, '"My-Edge" is in 64 groups, the most an edge can be in'):
        small.join("My-Edge", "one-more")
    left = [GroupLeft(uuid, f"g{number}") for number in range(commands.GROUPS_PER_EDGE_MAX)]
    more = range(commands.GROUPS_PER_EDGE_MAX, commands.GROUPS_MAX)
    empty = [event for number in more for event in (GroupJoined(uuid, f"g{number}"), GroupLeft(uuid, f"g{number}"))]
    small.write((*left, *empty))
    with raises(LimitExceeded, "the federation has 10000 groups, the most it can have"):
        small.join("My-Edge", "one-more")
    small.join("My-Edge", "g77")


def test_tags_and_properties_have_bounds(small: Small) -> None:
    with raises(LimitExceeded, "33 tags: expected at most 32"):
        register(small, "e2", tags=["t"] * 33)
    with raises(WrongArguments, "a tag is a text of 1 to 63 characters"):
        register(small, "e2", tags=["t" * 64])
    for number in range(commands.PROPERTIES_MAX):
        small.write(commands.set_property(small.state, "My-Edge", f"k{number}", number))
    with raises(LimitExceeded, '"My-Edge" has 64 properties, the most it can have'):
        commands.set_property(small.state, "My-Edge", "one-more", 1)
    small.write(commands.set_property(small.state, "My-Edge", "k0", "changed"))
    with raises(LimitExceeded, 'property "k0" has 1025 characters: expected at most 1024'):
        commands.set_property(small.state, "My-Edge", "k0", "x" * 1025)
    with raises(WrongArguments, "a property's key has 1 to 63 characters, found 64"):
        commands.set_property(small.state, "My-Edge", "x" * 64, 1)
    with raises(LimitExceeded, "beyond 64 bits"):
        commands.set_property(small.state, "My-Edge", "k0", 2**63)
