"""What comes in one turn of the loop leaves together, in order, and nothing waits for more."""

from __future__ import annotations

import asyncio

import pytest

from peers.bunches import Bunches
from peers.uplink_messages import (
    DOWNWARD,
    FRAMES_BYTES_MAX,
    UPWARD,
    FrameMessage,
    FramesMessage,
    SharedMessage,
    StatementMessage,
    upward,
)
from query.frames import RowFrame


class Reader:
    """Takes bunches; may be told to wait, and to fail."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        self.may = asyncio.Event()
        self.may.set()
        self.fault: Exception | None = None

    async def take(self, items: list[int]) -> None:
        if self.fault is not None:
            raise self.fault
        await self.may.wait()
        self.taken.append(items)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_at_once_goes_together() -> None:
    reader = Reader()
    async with Bunches(reader.take, items_max=10) as bunches:
        for number in range(3):
            await bunches.add(number)
        assert reader.taken == []
        await turns()
        assert reader.taken == [[0, 1, 2]]
        await bunches.add(3)
        await turns()
        assert reader.taken == [[0, 1, 2], [3]]
        await bunches.add(4)
    assert reader.taken[-1] == [4]


async def test_the_last_and_the_full_leave_at_once() -> None:
    reader = Reader()
    async with Bunches(reader.take, items_max=2) as bunches:
        await bunches.add(0)
        await bunches.add(1, last=True)
        assert reader.taken == [[0, 1]]
        for number in (2, 3):
            await bunches.add(number)
        assert reader.taken == [[0, 1], [2, 3]]


async def test_a_slow_reader_slows_its_writer_and_gets_all_in_order() -> None:
    reader = Reader()
    reader.may.clear()

    async def write() -> None:
        async with Bunches(reader.take, items_max=4) as bunches:
            for number in range(20):
                await bunches.add(number)
                await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    await turns(100)
    assert not writing.done()
    assert reader.taken == []
    reader.may.set()
    await writing
    assert [number for bunch in reader.taken for number in bunch] == list(range(20))
    assert max(map(len, reader.taken)) <= 4


async def test_what_could_not_be_given_is_told() -> None:
    reader = Reader()
    reader.fault = ConnectionResetError("gone")

    async def write(numbers: int) -> None:
        async with Bunches(reader.take, items_max=10) as bunches:
            for number in range(numbers):
                await bunches.add(number)
                await turns()

    for numbers in (1, 2):
        with pytest.raises(ConnectionResetError):
            await write(numbers)


async def test_leaving_by_an_exception_gives_nothing_more() -> None:
    reader = Reader()
    reader.may.clear()

    async def write() -> None:
        async with Bunches(reader.take, items_max=10) as bunches:
            await bunches.add(0)
            await turns()
            await bunches.add(1)
            raise KeyError("left")

    with pytest.raises(KeyError):
        await write()
    reader.may.set()
    await turns()
    assert reader.taken == []


def test_small_frames_go_in_one_message_and_large_ones_alone() -> None:
    small = [RowFrame(0, (number,)) for number in range(3)]
    large = RowFrame(0, ("x" * FRAMES_BYTES_MAX,))
    read = [UPWARD.decode(raw) for raw in upward(7, [*small, large, large, small[0]])]
    assert read == [
        FramesMessage(7, tuple(small)),
        FrameMessage(7, large),
        FrameMessage(7, large),
        FrameMessage(7, small[0]),
    ]


def test_a_message_for_many_differs_in_its_number_alone() -> None:
    message = StatementMessage(
        id=0, body=b'{"text":"1 + 1"}', index=2, time_left_s=1.5, variables={"v": 1}, gathers=True
    )
    shared = SharedMessage(message)
    for number in (1, 255, 10**9):
        read = DOWNWARD.decode(shared.numbered(number))
        assert isinstance(read, StatementMessage)
        assert read.id == number
        assert (read.body, read.index, read.time_left_s, read.variables, read.gathers) == (
            message.body, 2, 1.5, {"v": 1}, True
        )  # fmt: skip
