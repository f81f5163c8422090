"""The poll in all its answers, and what a desired state says."""

from __future__ import annotations

import math

import pytest

from federation import commands
from federation.documents import DESIRED_TYPE, DesiredState, PollAnswer, decode
from federation.names import PeerId
from federation.polling import BACKDATE_S, VALIDITY_S, WINDOW_S, Director, PollReply, window_of
from federation.signing import verified
from federation.verification import verify_desired
from query.errors import UnknownName
from tests.membership.small import DIRECTOR, Small, identity


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("m@1.0", "n@2.0")
    small.edge("E1", "g")
    small.edge("E2")
    small.assign("g", "m@1.0")
    small.assign("all", "n@2.0")
    return small


def poll(
    small: Small, edge: str = "E1", tag: str | None = None, *, later_s: float = 0.0, draw: float = 0.5
) -> PollReply:
    return small.director.answer(identity(edge), tag, now=small.now + later_s, draw=draw)


def desired(reply: PollReply) -> DesiredState:
    assert reply.body is not None
    document = decode(reply.body, PollAnswer).desired
    return decode(verified(document, DESIRED_TYPE, {DIRECTOR.keyid: DIRECTOR.public}), DesiredState)


def test_a_first_poll_gets_the_signed_state_and_the_records_it_names(small: Small) -> None:
    reply = poll(small)
    assert reply.status == 200
    assert reply.body is not None
    answer, state = decode(reply.body, PollAnswer), desired(reply)
    assert [(model.label, model.group) for model in state.models] == [("m@1.0", "g"), ("n@2.0", "all")]
    assert [model.assignment for model in state.models] == [small.state.seq - 1, small.state.seq]
    assert answer.releases == (small.release("m@1.0").document, small.release("n@2.0").document)
    assert [model.record for model in state.models] == [small.release(label).digest for label in ("m@1.0", "n@2.0")]
    assert (state.federation, state.edge, state.name, state.mode) == ("fed-1", identity("E1"), "E1", "INTERACTIVE")
    assert (state.epoch, state.generation) == (small.state.epoch, small.generation("E1"))
    assert (state.root_version, state.poll_interval) == (1, "60s~10%")
    assert reply.etag == state.etag == f'"{state.epoch}.{state.generation}.{state.window}"'


def test_the_edge_accepts_what_the_director_signed(small: Small) -> None:
    reply = poll(small)
    assert reply.body is not None
    verify_desired(
        decode(reply.body, PollAnswer).desired,
        root=small.state.root,
        federation="fed-1",
        edge=identity("E1"),
        cursor=None,
        now=small.now,
    )


def test_nothing_new_is_a_304_with_the_tag_and_the_next_poll(small: Small) -> None:
    tag = poll(small).etag
    assert poll(small, tag=tag) == PollReply(304, tag, None, 60.0)
    assert poll(small, tag=tag, draw=0.0).poll_after_s == pytest.approx(54.0)
    assert poll(small, tag=tag, draw=0.999999).poll_after_s == pytest.approx(66.0, abs=0.001)


def test_a_change_for_another_edge_is_nothing_new(small: Small) -> None:
    tag, other = poll(small).etag, poll(small, "E2").etag
    small.assign("g", "m@1.0")
    assert poll(small, "E2", other).status == 304
    assert poll(small, "E1", tag).status == 200


@pytest.mark.parametrize("tag", ['"7.8.9"', "*", "", "W/", '"', "x" * 4000, "\x00"])
def test_a_foreign_tag_gets_a_plain_200(small: Small, tag: str) -> None:
    assert poll(small, tag=tag) == poll(small)


def test_a_tag_of_an_older_epoch_is_foreign(small: Small) -> None:
    before = poll(small)
    small.write(commands.start_epoch(small.state, now=small.now, draw=0.0))
    after = poll(small, tag=before.etag)
    assert after.status == 200
    assert desired(after).epoch > desired(before).epoch
    assert desired(after).generation == desired(before).generation


def test_an_epoch_is_beyond_the_clock_and_the_backup() -> None:
    assert commands.mint_epoch(now=1000.7, previous=0, draw=0.25) == 1_000_250_000
    ahead = commands.mint_epoch(now=1000.0, previous=9_000_999_999, draw=0.0)  # the clock went back
    assert ahead == 9_001_000_000
    assert math.log2(commands.mint_epoch(now=4e9, previous=0, draw=0.999999)) < 53  # exact in every JSON reader


def test_a_window_is_signed_again_though_nothing_changed(small: Small) -> None:
    first = poll(small)
    later = poll(small, tag=first.etag, later_s=WINDOW_S)
    assert later.status == 200
    assert desired(later).window == desired(first).window + 1
    assert desired(later).generation == desired(first).generation
    assert desired(later).models == desired(first).models


def test_windows_of_edges_turn_at_different_times() -> None:
    turns = {int(-window_start(identity(f"edge-{n}")) % WINDOW_S) // (WINDOW_S // 10) for n in range(200)}
    assert turns == set(range(10))


def window_start(uuid: PeerId) -> float:
    """When the edge's window 1 begins, found by bisection."""
    low, high = 0.0, float(WINDOW_S)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if window_of(uuid, middle) >= 1 else (middle, high)
    return high


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_what_an_edge_holds_is_valid_for_a_week_and_before_its_slow_clock(small: Small, share: float) -> None:
    small.now = (small.now // WINDOW_S + share) * WINDOW_S
    state = desired(poll(small))
    assert state.expires - small.now >= VALIDITY_S - WINDOW_S
    assert state.expires - small.now <= VALIDITY_S
    assert small.now - state.not_before >= BACKDATE_S


def test_signed_once_and_the_same_bytes_when_the_cache_forgot(small: Small) -> None:
    director = Director(DIRECTOR, small.store, cache_bytes_max=1)
    first = director.answer(identity("E1"), None, now=small.now, draw=0.5).body
    again = director.answer(identity("E1"), None, now=small.now + 1000.0, draw=0.1).body
    assert first is again
    director.answer(identity("E2"), None, now=small.now, draw=0.5)  # no room for two
    after = director.answer(identity("E1"), None, now=small.now + 2000.0, draw=0.5).body
    assert after == first
    assert after is not first
    assert small.director.answer(identity("E1"), None, now=small.now, draw=0.5).body == first


def test_the_cache_is_bounded_by_bytes(small: Small) -> None:
    director = Director(DIRECTOR, small.store, cache_bytes_max=20_000)
    for number in range(40):
        small.edge(f"edge-{number}")
        director.answer(identity(f"edge-{number}"), None, now=small.now, draw=0.5)
    assert director.cached_bytes <= 20_000


def test_a_poll_writes_nothing(small: Small) -> None:
    before = small.store._db.conn.total_changes
    poll(small), poll(small, tag=poll(small).etag)
    assert small.store._db.conn.total_changes == before


@pytest.mark.parametrize("who", ["nobody", "root-admin", "hub", "removed"])
def test_only_registered_edges_have_a_desired_state(small: Small, who: str) -> None:
    if who == "removed":
        small.edge("removed")
        small.write(commands.remove(small.state, "removed"))
    with pytest.raises(UnknownName, match="no edge with the identity"):
        poll(small, who)


def test_intervals_edge_over_group_over_federation(small: Small) -> None:
    small.write(commands.set_poll_interval(small.state, "ALL", "90s"))
    assert (poll(small).poll_after_s, poll(small, "E2").poll_after_s) == (90.0, 90.0)
    small.write(commands.set_poll_interval(small.state, "g", "30s"))
    assert (poll(small).poll_after_s, desired(poll(small)).poll_interval) == (30.0, "30s")
    small.write(commands.set_poll_interval(small.state, "e1", "5s"))
    assert (poll(small).poll_after_s, poll(small, "E2").poll_after_s) == (5.0, 90.0)
    small.write(commands.set_poll_interval(small.state, "e1", "default"))
    assert poll(small).poll_after_s == 30.0
