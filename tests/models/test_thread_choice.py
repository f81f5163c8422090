"""Threads of a run are given where they were measured to pay, and nowhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from engine.providers import SessionSettings
from engine.replicas import ReplicaSet, ReplicaSettings
from engine.sessions import Session
from engine.thread_choice import pace_us, quickest
from engine.warming import SLOW
from federation.names import digest_of
from tests.models.making import endless, scaling

FOUR = SessionSettings(threads=4)


@pytest.mark.parametrize(
    ("measured", "threads", "built"),
    [
        ((1000.0, 500.0), 4, [1, 4]),
        ((1000.0, 833.0), 4, [1, 4]),
        ((1000.0, 840.0), 1, [1, 4]),
        ((100.0,), 1, [1]),
        ((SLOW,), 1, [1]),
    ],
)
def test_threads_are_kept_where_they_pay(measured: tuple[float, ...], threads: int, built: list[int]) -> None:
    paces: Iterator[float] = iter(measured)
    seen: list[int] = []

    def pace(session: Session) -> float:
        seen.append(session.threads)
        return next(paces)

    session = quickest(scaling(), FOUR, pace=pace)
    assert (session.threads, seen) == (threads, built)
    assert session.run({"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2, 2, 2, 2]]


def test_one_thread_and_loops_are_not_measured() -> None:
    def pace(session: Session) -> float:
        raise AssertionError

    assert quickest(scaling(), SessionSettings(), pace=pace).threads == 1
    assert quickest(endless(), FOUR, pace=pace).threads == 1


def test_a_small_model_keeps_one() -> None:
    assert pace_us(Session(scaling())) < SLOW
    replicas = ReplicaSet({digest_of(scaling()): scaling()}, ReplicaSettings(count=1, memory_bytes=1 << 26, threads=4))
    session = replicas.session(digest_of(scaling()))
    assert session.run({"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2, 2, 2, 2]]
    replicas.close()


def test_idle_threads_and_processes_take_no_time() -> None:
    """None of them spins while nothing runs."""
    session = Session(scaling(), FOUR)
    replicas = ReplicaSet({digest_of(scaling()): scaling()}, ReplicaSettings(count=1, memory_bytes=1 << 26, threads=4))
    replicas.session(digest_of(scaling())).run({"x": np.ones((1, 4), np.float32)})
    session.run({"x": np.ones((1000, 4), np.float32)})
    watched = [psutil.Process(), *map(psutil.Process, replicas.process_ids)]
    before = [sum(one.cpu_times()[:2]) for one in watched]
    started = time.perf_counter()
    threading.Event().wait(0.5)  # measured over a span, not waited for
    taken = time.perf_counter() - started
    for one, earlier in zip(watched, before, strict=True):
        assert (sum(one.cpu_times()[:2]) - earlier) / taken < 0.05
    replicas.close()
