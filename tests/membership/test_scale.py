"""What must not grow with the number of edges: the work of an unchanged poll, and the memory of one edge."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from federation.events import GroupJoined, Joined, Registered
from federation.names import PeerId
from federation.needs import StillNeeded
from federation.standing_needs import classes
from federation.store import FederationStore
from query.errors import UnknownName
from tests.membership.small import Small, identity

EDGE_BYTES_MAX = 1200  # record, entry, name, identity, key and token hash: a hundred thousand edges in 120 MB


def with_edges(count: int, path: Path | None = None) -> tuple[Small, list[PeerId]]:
    small = Small(path)
    uuids = [identity(f"edge-{number}") for number in range(count)]
    small.write(
        tuple(
            event
            for number, uuid in enumerate(uuids)
            for event in (
                Registered(uuid=uuid, name=f"edge-{number}", kind="edge", role="viewer", token_hash=f"{number:064}"),
                Joined(uuid, os.urandom(32)),
                GroupJoined(uuid, f"group-{number % 10}"),
            )
        )
    )
    return small, uuids


def calls_of_an_unchanged_poll(count: int) -> int:
    """How many functions an unchanged poll calls, Python's and C's."""
    small, uuids = with_edges(count)
    tag = small.director.answer(uuids[3], None, now=small.now, draw=0.5).etag
    calls = 0

    def count_call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        reply = small.director.answer(uuids[3], tag, now=small.now, draw=0.5)
    finally:
        sys.setprofile(None)
    assert reply.status == 304
    return calls


def test_an_unchanged_poll_is_the_same_work_with_any_number_of_edges() -> None:
    assert calls_of_an_unchanged_poll(20) == calls_of_an_unchanged_poll(4000) < 40


def test_an_edge_takes_little_memory_and_a_start_reads_tables(tmp_path: Path) -> None:
    count = 4000
    small, uuids = with_edges(count, tmp_path / "state.db")
    small.store.close()
    FederationStore.open(tmp_path / "state.db").close()  # warm: what is loaded once is not an edge's
    gc.collect()
    tracemalloc.start()
    try:
        store = FederationStore.open(tmp_path / "state.db")
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.state.edge_count == count
    assert store.state.generation(uuids[0]) > 0
    assert taken / count < EDGE_BYTES_MAX
    store.close()


def test_edges_in_the_same_groups_are_one_case_for_what_is_needed() -> None:
    small, _ = with_edges(4000)
    small.publish("features@1.2", "features@1.0", "plain@1")
    small.publish_needing("a@1", features=">=1.2")
    assert len(classes(small.state, small.state.find_group("all"))) == 1  # no group assigns anything
    for number in range(5):
        small.assign(f"group-{number}", "features@1.2")
    assert len(classes(small.state, small.state.find_group("all"))) == 6
    small.assign("all", "a@1")
    assert len(classes(small.state, small.state.find_group("group-7"), frozenset({"a"}))) == 1
    with pytest.raises(StillNeeded):
        small.assign("all", "features@1.0")


def test_a_suggestion_is_found_among_many_names_without_comparing_all() -> None:
    small, _ = with_edges(4000)
    assert len(small.state.names_like("edge-77x")) <= 2000
    with pytest.raises(UnknownName, match='no edge "zz-top"'):
        small.state.find_edge("zz-top")
