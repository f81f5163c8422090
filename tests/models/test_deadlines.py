"""The deadline thread ends overdue runs, each at its own limit, and sleeps while nothing runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic_ns
from typing import Any

import pytest

from engine.deadlines import RunDeadlines

PATIENCE_S = 20.0


@pytest.fixture
def deadlines() -> Iterator[RunDeadlines]:
    made = RunDeadlines(3600.0)
    yield made
    made.close()


class Options:
    """Run options whose end can be waited for."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    @property
    def terminate(self) -> bool:
        return self.ended.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        self.ended.set()


def start(deadlines: RunDeadlines, limit_s: float | None = None) -> Options:
    """A run with options that this test can watch."""
    deadlines._idle.append(Options())
    options: Any = deadlines.start(monotonic_ns(), limit_s)
    assert isinstance(options, Options)
    return options


def test_a_run_ends_at_its_own_limit_and_others_go_on(deadlines: RunDeadlines) -> None:
    patient = start(deadlines)
    hasty = start(deadlines, 0.02)
    also_hasty = start(deadlines, 0.01)
    assert hasty.ended.wait(PATIENCE_S)
    assert also_hasty.ended.wait(PATIENCE_S)
    assert not patient.ended.is_set()
    deadlines.end(patient)


def test_a_limit_of_nothing_ends_a_run_at_once(deadlines: RunDeadlines) -> None:
    assert start(deadlines, -1.0).ended.wait(PATIENCE_S)


def test_no_run_gets_longer_than_every_run_may() -> None:
    deadlines = RunDeadlines(0.01)
    assert start(deadlines, 3600.0).ended.wait(PATIENCE_S)
    deadlines.close()


def test_options_are_used_again_unless_the_run_was_ended(deadlines: RunDeadlines) -> None:
    options = start(deadlines)
    deadlines.end(options)
    assert deadlines.start(monotonic_ns()) is options
    deadlines.abort(deadlines.begun(options))
    assert options.terminate
    deadlines.end(options)
    assert not deadlines._idle


def test_who_ends_a_run_that_is_over_does_not_end_the_next_with_its_options(deadlines: RunDeadlines) -> None:
    options = start(deadlines)
    over = deadlines.begun(options)
    deadlines.end(options)
    assert deadlines.start(monotonic_ns()) is options
    deadlines.abort(over)
    assert not options.terminate
    deadlines.abort(deadlines.begun(options))
    assert options.terminate


def test_the_thread_looks_seldom_however_many_runs_there_are(deadlines: RunDeadlines) -> None:
    start(deadlines, 0.001).ended.wait(PATIENCE_S)  # it has begun to look
    before = deadlines.looks
    for _ in range(20_000):
        deadlines.end(deadlines.start(monotonic_ns()))
    assert deadlines.looks - before <= 3


def test_it_sleeps_while_nothing_runs() -> None:
    deadlines = RunDeadlines(0.01)
    assert start(deadlines).ended.wait(PATIENCE_S)
    looked = threading.Event()
    wait = threading.Event().wait
    for _ in range(500):  # until it has seen that nothing runs
        before = deadlines.looks
        wait(0.05)
        if deadlines.looks == before:
            looked.set()
            break
    assert looked.is_set()
    assert start(deadlines).ended.wait(PATIENCE_S), "and a run wakes it"
    deadlines.close()
