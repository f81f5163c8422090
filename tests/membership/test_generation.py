"""The generation of an edge: the number of the last change that touches it, and of no other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from federation import commands, release_commands
from federation.documents import RootRecord, SignedDocument, decode
from federation.roots import sign_root
from federation.state import BrokenLog
from tests.membership.small import ROOT, ROOT_DOCUMENT, Small, identity, release_document


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("m@1.0", "m@2.0")
    small.edge("E1", "g")
    small.edge("E2", "h")
    return small


TOUCHES_E1: dict[str, Callable[[Small], object]] = {
    "its mode": lambda f: f.write(commands.set_mode(f.state, "E1", "ONLINE")),
    "its interval": lambda f: f.write(commands.set_poll_interval(f.state, "e1", "5s")),
    "its property": lambda f: f.write(commands.set_property(f.state, "E1", "site", "lab")),
    "joining a group": lambda f: f.join("E1", "new"),
    "leaving a group": lambda f: f.leave("E1", "g"),
    "its group's models": lambda f: f.assign("g", "m@1.0"),
    "its group's interval": lambda f: f.write(commands.set_poll_interval(f.state, "g", "7s")),
    "its group deleted": lambda f: f.write(commands.delete_group(f.state, "g")),
}
TOUCHES_BOTH: dict[str, Callable[[Small], object]] = {
    "models of all": lambda f: f.assign("all", "m@1.0"),
    "the federation's interval": lambda f: f.write(commands.set_poll_interval(f.state, "all", "90s")),
    "the root record": lambda f: f.write(commands.set_root(f.state, next_root())),
}
TOUCHES_NEITHER: dict[str, Callable[[Small], object]] = {
    "another edge": lambda f: f.edge("E3"),
    "another edge's group": lambda f: (f.edge("E3", "other"), f.assign("other", "m@1.0")),
    "a release": lambda f: f.publish("n@1.0"),
    "a renewal": lambda f: f.write(commands.renew(f.state, identity("E1"), not_after=f.now)),
    "an edge removed": lambda f: (f.edge("E3"), f.write(commands.remove(f.state, "E3"))),
}


def next_root() -> SignedDocument:
    record = decode(ROOT_DOCUMENT.payload, RootRecord)
    return sign_root(msgspec.structs.replace(record, version=2), ROOT)


@pytest.mark.parametrize("name", TOUCHES_E1)
def test_what_touches_one_edge(small: Small, name: str) -> None:
    other = small.generation("E2")
    TOUCHES_E1[name](small)
    assert (small.generation("E1"), small.generation("E2")) == (small.state.seq, other)


@pytest.mark.parametrize("name", TOUCHES_BOTH)
def test_what_touches_every_edge(small: Small, name: str) -> None:
    TOUCHES_BOTH[name](small)
    assert small.generation("E1") == small.generation("E2") == small.state.seq


@pytest.mark.parametrize("name", TOUCHES_NEITHER)
def test_what_touches_no_edge(small: Small, name: str) -> None:
    before = small.generation("E1"), small.generation("E2")
    TOUCHES_NEITHER[name](small)
    assert (small.generation("E1"), small.generation("E2")) == before


def test_it_never_goes_back_when_a_group_goes(small: Small) -> None:
    small.assign("g", "m@1.0")
    before = small.generation("E1")
    small.leave("E1", "g")
    assert small.generation("E1") > before
    small.join("E1", "g")
    small.assign("g", "m@2.0")
    before = small.generation("E1")
    small.write(commands.delete_group(small.state, "g"))
    assert small.generation("E1") > before


def test_a_call_that_changes_nothing_writes_nothing(small: Small) -> None:
    small.write(commands.set_mode(small.state, "E1", "ONLINE"))
    before = small.state.seq
    small.join("e1", "G")
    small.leave("E1", "h")
    small.write(commands.set_mode(small.state, "E1", "online"))
    small.write(commands.set_poll_interval(small.state, "E1", "default"))
    small.write(release_commands.publish_release(small.state, release_document("m@1.0")))
    small.write(commands.set_root(small.state, ROOT_DOCUMENT))
    small.assign("g")
    assert small.state.seq == before


def test_a_change_out_of_order_is_refused(small: Small) -> None:
    change = small.write(commands.set_mode(small.state, "E1", "ONLINE"))[0]
    with pytest.raises(BrokenLog, match="follows"):
        small.state.apply(change)
