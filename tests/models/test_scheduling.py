"""Runs in the pool: bounded places, deadlines from the moment of asking, threads of one's own, nothing that lingers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine import errors
from engine.engine_settings import EngineSettings
from engine.lanes import Lane
from engine.scheduling import Scheduler
from engine.statistics import Counters, Key

COUNTERS = Counters(Key("model", "1.0"))


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    """One thread, three places."""
    made = Scheduler(EngineSettings(threads=1, queue_max=3))
    yield made
    made.close(wait=True)
    assert made.held == 0


class Gate:
    """Work that begins, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.thread = ""

    def __call__(self) -> str:
        self.thread = threading.current_thread().name
        self.begun.set()
        self.go.wait()
        return "done"


def submitted(scheduler: Scheduler, work: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(scheduler.offload(work, counters=COUNTERS, **options))


async def test_no_thread_starts_before_the_first_run(scheduler: Scheduler) -> None:
    assert not scheduler.started
    assert await scheduler.offload(lambda: 1, counters=COUNTERS) == 1
    assert scheduler.started


async def test_places_are_bounded_and_a_refusal_says_what_to_do(scheduler: Scheduler) -> None:
    gate = Gate()
    tasks = [submitted(scheduler, gate) for _ in range(3)]
    await asyncio.sleep(0)
    before = COUNTERS.read().refused
    with pytest.raises(errors.EngineBusy, match="expected at most 3 calls at once") as caught:
        await scheduler.offload(gate, counters=COUNTERS)
    assert caught.value.hint is not None
    assert COUNTERS.read().refused == before + 1
    gate.go.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3
    assert await scheduler.offload(gate, counters=COUNTERS) == "done"


async def test_one_model_leaves_places_to_the_others() -> None:
    scheduler = Scheduler(EngineSettings(threads=1, queue_max=8))
    gate = Gate()
    other = Counters(Key("other", "1.0"))
    tasks = [submitted(scheduler, gate) for _ in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(errors.EngineBusy, match="expected at most 6 calls of one model at once"):
        await scheduler.offload(gate, counters=COUNTERS)
    others = [asyncio.create_task(scheduler.offload(lambda: 1, counters=other)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(errors.EngineBusy, match="expected at most 8 calls at once"):
        await scheduler.offload(gate, counters=other)
    gate.go.set()
    assert await asyncio.gather(*tasks, *others) == ["done"] * 6 + [1, 1]
    scheduler.close()


async def test_models_take_turns() -> None:
    scheduler = Scheduler(EngineSettings(threads=1))
    gate = Gate()
    holding = submitted(scheduler, gate)
    await asyncio.to_thread(gate.begun.wait)
    order: list[str] = []
    one, two, three = (Counters(Key(name, "1.0")) for name in ("one", "two", "three"))
    asked = [one] * 4 + [two] * 2 + [three]
    tasks = [
        asyncio.create_task(
            scheduler.offload(lambda counters=counters: order.append(counters.key.name), counters=counters)
        )
        for counters in asked
    ]
    await asyncio.sleep(0)
    gate.go.set()
    await asyncio.gather(holding, *tasks)
    assert order == ["one", "two", "three", "one", "two", "one", "one"]
    scheduler.close()


async def test_who_waits_as_long_as_a_run_may_take_is_refused() -> None:
    scheduler = Scheduler(EngineSettings(threads=1, run_s=0.02))
    gate = Gate()
    holding = submitted(scheduler, gate)
    await asyncio.to_thread(gate.begun.wait)
    ran: list[int] = []
    late = asyncio.create_task(scheduler.offload(lambda: ran.append(1), counters=COUNTERS))
    await asyncio.sleep(0.03)  # what is tested is that time goes by
    gate.go.set()
    await holding
    with pytest.raises(errors.EngineBusy, match=r"expected a turn within 0\.02 s, as long as a run may take"):
        await late
    assert ran == []
    scheduler.close(wait=True)
    assert scheduler.held == 0


async def test_closing_cancels_what_has_not_begun() -> None:
    scheduler = Scheduler(EngineSettings(threads=1))
    gate = Gate()
    tasks = [submitted(scheduler, gate) for _ in range(3)]
    await asyncio.to_thread(gate.begun.wait)
    scheduler.close()
    gate.go.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert first == "done"
    assert all(isinstance(one, asyncio.CancelledError) for one in others)
    scheduler.close(wait=True)
    assert scheduler.held == 0


async def test_a_deadline_counts_from_asking_and_what_has_not_begun_never_does(scheduler: Scheduler) -> None:
    gate = Gate()
    first = submitted(scheduler, gate)
    await asyncio.to_thread(gate.begun.wait)
    ran = []
    with pytest.raises(errors.OverTime, match=r"expected an answer within 0\.01 s, found none"):
        await scheduler.offload(lambda: ran.append(1), counters=COUNTERS, deadline_s=0.01)
    gate.go.set()
    await first
    assert await scheduler.offload(lambda: 1, counters=COUNTERS) == 1
    assert ran == []


async def test_a_place_is_held_until_the_thread_is_done_also_when_nobody_waits(scheduler: Scheduler) -> None:
    gate = Gate()
    first = submitted(scheduler, gate)
    await asyncio.to_thread(gate.begun.wait)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert scheduler.held == 1
    gate.go.set()
    await scheduler.offload(lambda: None, counters=COUNTERS)


async def test_a_lane_has_its_own_threads_and_the_same_places(scheduler: Scheduler) -> None:
    shared, own = Gate(), Gate()
    lane = scheduler.lane(1)
    tasks = [submitted(scheduler, shared), submitted(scheduler, own, lane=lane)]
    await asyncio.to_thread(shared.begun.wait)
    await asyncio.to_thread(own.begun.wait)
    tasks.append(submitted(scheduler, own, lane=lane))
    await asyncio.sleep(0)
    with pytest.raises(errors.EngineBusy):
        await scheduler.offload(lambda: None, counters=COUNTERS, lane=lane)
    shared.go.set()
    own.go.set()
    await asyncio.gather(*tasks)


async def test_a_lane_that_nobody_holds_ends_its_threads() -> None:
    lane = Lane(2, name="lane-of-this-test")
    assert lane.submit(1, lambda: 3.0).result() == 3.0
    (thread,) = [one for one in threading.enumerate() if one.name.startswith("lane-of-this-test")]
    del lane
    await asyncio.to_thread(thread.join, 20.0)
    assert not thread.is_alive()


async def test_a_place_is_given_back_when_no_thread_can_be_started(scheduler: Scheduler) -> None:
    class NoThreads(Lane):
        def submit(self, whose: Any, work: Any) -> Any:
            raise RuntimeError("can't start new thread")

    for _ in range(5):
        with pytest.raises(RuntimeError, match="new thread"):
            await scheduler.offload(lambda: 1, counters=COUNTERS, lane=NoThreads(1))
    assert scheduler.held == 0
