"""Memory that a dropped model freed goes back to the system, once the last call on it has ended."""

from __future__ import annotations

import asyncio
import threading

from engine.returning import FreedMemory


class Held:
    """Something that can be dropped."""


class Trimming:
    """A libc whose every trim is waited for."""

    def __init__(self) -> None:
        self.trims = 0
        self.loop = asyncio.get_running_loop()
        self.trimmed = asyncio.Event()
        self.threads: set[str] = set()

    def __call__(self, pad: int) -> int:
        self.trims += 1
        self.threads.add(threading.current_thread().name)
        self.loop.call_soon_threadsafe(self.trimmed.set)
        return 1


async def test_memory_is_given_back_when_nobody_holds_what_was_dropped() -> None:
    trimming = Trimming()
    freed = FreedMemory(trimming)
    held = Held()
    freed.watch(held)
    await asyncio.sleep(0)
    assert trimming.trims == 0, "a call in flight holds it"
    del held
    await trimming.trimmed.wait()
    assert trimming.trims == 1
    assert threading.current_thread().name not in trimming.threads


async def test_many_that_go_at_a_time_give_back_once() -> None:
    trimming = Trimming()
    freed = FreedMemory(trimming)
    held = [Held() for _ in range(100)]
    for one in held:
        freed.watch(one)
    del one
    held.clear()
    await trimming.trimmed.wait()
    assert trimming.trims == 1


async def test_what_goes_on_another_thread_is_seen_too() -> None:
    trimming = Trimming()
    freed = FreedMemory(trimming)
    held = [Held()]
    freed.watch(held[0])
    await asyncio.to_thread(held.clear)
    await trimming.trimmed.wait()
    assert trimming.trims == 1


def test_what_outlives_its_loop_is_no_concern() -> None:
    held = [Held()]

    async def watched() -> None:
        FreedMemory(lambda pad: 1).watch(held[0])

    asyncio.run(watched())
    held.clear()
