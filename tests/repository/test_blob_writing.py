"""Blobs that arrive: hashed and written beside the loop, bounded, in order, and whole or not at all."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.blobs import BlobStore, StagedBlob, StorageFull
from federation.errors import WrongSize
from federation.names import digest_of
from peers.blob_writing import BlobWriter


class Disk(StagedBlob):
    """A staged blob on a disk that can be held up and be full. ``begun`` counts writes, ``synced`` syncs."""

    def __init__(self, store: BlobStore, path: Path, *, bytes_max: int, full_after: int | None = None) -> None:
        super().__init__(store, path, bytes_max=bytes_max, resumable=True)
        self.goes = threading.Event()
        self.goes.set()
        self.full_after = full_after
        self.begun = self.synced = 0

    def write(self, chunk: bytes | memoryview) -> None:
        self.begun += 1
        self.goes.wait()
        if self.full_after is not None and self.begun > self.full_after:
            raise StorageFull("no space left to write here")
        super().write(chunk)

    def sync(self) -> None:
        self.synced += 1
        super().sync()


Make = Callable[..., Disk]


@pytest.fixture
def disk(tmp_path: Path) -> Make:
    store = BlobStore(tmp_path)

    def made(*, bytes_max: int = 1_000_000, full_after: int | None = None) -> Disk:
        return Disk(store, tmp_path / "staging" / "x.part", bytes_max=bytes_max, full_after=full_after)

    return made


async def passed(turns: int = 50) -> None:
    """Let everything that can go on do so."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def received(staged: Disk, pieces: list[bytes], **sizes: int) -> None:
    async with BlobWriter(staged, **sizes) as writer:
        for piece in pieces:
            await writer.write(piece)
        await writer.flush()


@pytest.mark.parametrize("seed", range(8))
async def test_bytes_in_any_pieces_are_written_in_order_and_hashed(disk: Make, seed: int) -> None:
    draw = random.Random(seed)
    content = draw.randbytes(draw.randrange(0, 5000))
    with disk(bytes_max=len(content)) as staged:
        async with BlobWriter(staged, buffer_bytes=64, sync_bytes=1000) as writer:
            at = 0
            while at < len(content):
                piece = content[at : at + draw.choice((1, 7, 64, 65, 500))]
                await writer.write(piece)
                at += len(piece)
            await writer.flush()
        assert staged.offset == writer.offset == len(content)
        digest = staged.finish(digest_of(content))
    assert staged._store.read(digest, bytes_max=len(content)) == content


async def test_a_slow_disk_makes_the_sender_wait(disk: Make) -> None:
    with disk() as staged:
        staged.goes.clear()
        async with BlobWriter(staged, buffer_bytes=100) as writer:
            await writer.write(b"a" * 200)  # one buffer on its way, one full
            more = asyncio.ensure_future(writer.write(b"b"))
            await passed()
            assert not more.done()
            assert (writer.offset, staged.begun) == (200, 1)
            staged.goes.set()
            await more
            await writer.flush()
        assert staged.offset == 201


async def test_memory_does_not_grow_with_small_pieces(disk: Make) -> None:
    with disk() as staged:
        staged.goes.clear()
        async with BlobWriter(staged, buffer_bytes=1000) as writer:
            for _ in range(2000):
                await writer.write(b"x")
            assert (len(writer._buffer), len(writer._spare or b"")) == (1000, 1000)
            staged.goes.set()
            await writer.flush()


async def test_a_full_disk_is_told_and_nothing_is_written_after_it(disk: Make) -> None:
    with disk(full_after=1) as staged:
        with pytest.raises(StorageFull):
            await received(staged, [b"0123456789"] * 10, buffer_bytes=10)
        assert staged.offset == 10
        assert staged.begun == 2


async def test_a_full_disk_is_told_at_the_end(disk: Make) -> None:
    with disk(full_after=0) as staged:
        async with BlobWriter(staged) as writer:
            await writer.write(b"0123456789")
            with pytest.raises(StorageFull):
                await writer.flush()
        assert staged.begun == 1


async def test_more_than_the_blob_may_have_is_refused_before_it_is_taken(disk: Make) -> None:
    with disk(bytes_max=10) as staged:
        with pytest.raises(WrongSize):
            await received(staged, [b"12345678", b"9ab"])
        assert staged.offset == 8  # what was taken stays, for who resumes


async def test_who_is_cancelled_leaves_when_the_disk_has_what_was_taken(disk: Make) -> None:
    with disk() as staged:
        staged.goes.clear()
        taken = asyncio.Event()

        async def receiving() -> None:
            async with BlobWriter(staged, buffer_bytes=100) as writer:
                await writer.write(b"a" * 150)
                taken.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(receiving())
        await taken.wait()
        task.cancel()
        await passed()
        task.cancel()
        await passed()
        assert not task.done()
        staged.goes.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        offset, begun = staged.offset, staged.begun
        assert offset in (100, 150)  # the second cancellation is not waited for
        await passed()
        assert (staged.offset, staged.begun) == (offset, begun)


async def test_a_large_blob_reaches_the_disk_on_its_way(disk: Make) -> None:
    with disk() as staged:
        await received(staged, [b"y" * 100] * 20, buffer_bytes=100, sync_bytes=300)
        assert staged.synced >= 1
