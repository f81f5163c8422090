"""Fetching: from our registry, from where it stopped, and from servers that lie."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from federation.blobs import BlobStore, BusyBlob, StagedBlob, StorageFull
from federation.documents import SignedDocument
from federation.layout import ImageLayout
from federation.names import Digest, digest_of
from federation.packing import PackedRelease
from peers.federation_client import BadAnswer, Unreachable
from peers.fetching import (
    AlteredContent,
    FetchLimits,
    FetchProblem,
    Stalled,
    Truncated,
    WrongAnswer,
    WrongLength,
    fetch,
    find_records,
)
from query.errors import Problem, UnknownName, WorldProblem
from tests.repository.site import Federation, packed, registry, root_record, write_model

QUICK = FetchLimits(answer_s=0.5, idle_s=0.3, grace_s=1.0, bytes_per_s_min=1024 * 1024)
CODE = "create function double(Real x) -> Real as 2 * x;\n" + "// filler\n" * 20_000
CODE_DIGEST = digest_of(CODE.encode())


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path / "keys")


@pytest.fixture
def release(tmp_path: Path) -> PackedRelease:
    return packed(write_model(tmp_path / "m", code=CODE))


@pytest.fixture
def edge(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "edge")


async def fetched(federation: Federation, address: str, layout: ImageLayout, signed: SignedDocument) -> None:
    async with federation.viewer.client(address) as client:
        await fetch(signed, client=client, layout=layout, limits=QUICK)


def finished(layout: ImageLayout) -> set[str]:
    """What looks finished."""
    return {*layout.blobs.digests(), *(entry.label for entry in layout.releases(development=True))}


# --- from the nameserver --------------------------------------------------------------------------------------------


async def test_a_release_is_fetched_verified_and_not_asked_for_again(
    federation: Federation, release: PackedRelease, edge: ImageLayout, tmp_path: Path
) -> None:
    central = ImageLayout(tmp_path / "central")
    central.install(release)
    told: list[int] = []
    async with registry(federation, central) as address, federation.viewer.client(address) as client:
        record = await fetch(
            release.signed, client=client, layout=edge, progress=lambda label, done, total, unit: told.append(done)
        )
    assert record == release.record
    assert told == sorted(told)
    assert edge.verified(release.signed, root=root_record()).label == "doubler@1.0"
    assert edge.releases() == central.releases()
    async with federation.viewer.client("127.0.0.1:9") as nobody:
        await fetch(release.signed, client=nobody, layout=edge)


async def test_releases_that_share_files_are_fetched_at_once(
    federation: Federation, release: PackedRelease, edge: ImageLayout, tmp_path: Path
) -> None:
    central = ImageLayout(tmp_path / "central")
    central.install(release)
    twin = packed(write_model(tmp_path / "twin", code=CODE), version="2.0")
    central.install(twin)
    async with registry(federation, central) as address:
        await asyncio.gather(*(fetched(federation, address, edge, one.signed) for one in (release, twin) * 3))
    assert edge.releases() == central.releases()


async def test_a_blob_that_somebody_writes_for_ever_is_given_up(
    federation: Federation, release: PackedRelease, edge: ImageLayout, tmp_path: Path
) -> None:
    central = ImageLayout(tmp_path / "central")
    central.install(release)
    size = next(entry.size for entry in release.record.files if entry.digest == CODE_DIGEST)
    limits = FetchLimits(grace_s=0.2, bytes_per_s_min=1 << 30)
    with edge.blobs.stage(CODE_DIGEST, size=size):
        async with registry(federation, central) as address, federation.viewer.client(address) as client:
            with pytest.raises(BusyBlob):
                await fetch(release.signed, client=client, layout=edge, limits=limits)


class HeldStore(BlobStore):
    """Says when content is staged, and returns it when it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.staged = threading.Event()
        self.may_go_on = threading.Event()

    def stage(self, digest: Digest, *, size: int) -> StagedBlob:
        staged = super().stage(digest, size=size)
        self.staged.set()
        self.may_go_on.wait(10)
        return staged


async def test_a_fetch_that_is_cancelled_while_it_stages_leaves_the_way_free_for_the_next(
    federation: Federation, release: PackedRelease, tmp_path: Path
) -> None:
    central, edge = ImageLayout(tmp_path / "central"), ImageLayout(tmp_path / "edge")
    central.install(release)
    edge.blobs = held = HeldStore(tmp_path / "edge")
    async with registry(federation, central) as address:
        first = asyncio.create_task(fetched(federation, address, edge, release.signed))
        assert await asyncio.to_thread(held.staged.wait, 10)
        first.cancel()
        held.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        async with asyncio.timeout(QUICK.grace_s):  # a lock that is left behind is waited for longer than this
            await fetched(federation, address, edge, release.signed)
    assert edge.releases() == central.releases()


async def test_records_are_found_by_version(federation: Federation, release: PackedRelease, tmp_path: Path) -> None:
    central = ImageLayout(tmp_path / "central")
    central.install(release)
    async with registry(federation, central) as address, federation.viewer.client(address) as client:
        assert await find_records("doubler", "1.0", client=client) == (release.signed,)
        with pytest.raises(UnknownName, match=r'no manifest "2\.0" in repository "models/doubler"'):
            await find_records("doubler", "2.0", client=client)


async def test_a_full_disk_is_seen_before_the_first_byte(
    federation: Federation, release: PackedRelease, edge: ImageLayout
) -> None:
    limits = FetchLimits(disk_reserve_bytes=edge.blobs.free_bytes() * 2)
    async with federation.viewer.client("127.0.0.1:9") as nobody:
        with pytest.raises(StorageFull, match=r"doubler@1\.0 needs"):
            await fetch(release.signed, client=nobody, layout=edge, limits=limits)


# --- servers that lie -----------------------------------------------------------------------------------------------


@dataclass
class Liar:
    """Serves a release honestly, but for the one file, with which it does as ``way`` says."""

    release: PackedRelease
    way: str
    asked: list[str | None] = field(default_factory=list)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        reference = request.path.rsplit("/", 1)[1]
        contents = (self.release.manifest, self.release.config, *self.release.files.values())
        content = {digest_of(content): content for content in contents}[reference]  # type: ignore[index]
        if reference != CODE_DIGEST:
            return web.Response(body=content, content_type="application/octet-stream")
        self.asked.append(request.headers.get("Range"))
        return await self._lie(request, content)

    async def _lie(self, request: web.Request, content: bytes) -> web.StreamResponse:
        kind = {"Content-Type": "application/octet-stream"}
        match self.way:
            case "altered":
                return web.Response(body=b"X" + content[1:], headers=kind)
            case "wrong length":
                return web.Response(body=content + b"X", headers=kind)
            case "short":
                return web.Response(body=content[:-1], headers=kind)
            case "html":
                return web.Response(text="<html>please log in</html>", content_type="text/html")
            case "encoded":
                return web.Response(body=content, headers={**kind, "Content-Encoding": "gzip"})
            case "redirect":
                return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})
            case "error":
                return web.Response(status=500)
            case "no content":
                return web.Response(status=204)
            case "hung":
                await self.end.wait()
                return web.Response()
            case "other range":
                headers = {**kind, "Content-Range": f"bytes 5-{len(content) - 1}/{len(content)}"}
                return web.Response(status=206, body=content[5:], headers=headers)
        return await self._stream(request, content)

    async def _stream(self, request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        half = len(content) // 2
        if self.way == "cut":
            response.content_length = len(content)
        response.enable_chunked_encoding() if self.way != "cut" else None
        await response.prepare(request)
        match self.way:
            case "truncated":
                await response.write(content[:half])
            case "cut":
                await response.write(content[:half])
                assert request.transport is not None
                request.transport.close()
            case "stalled":
                await response.write(content[:half])
                await self.end.wait()
            case "trickling":
                while not self.end.is_set():
                    await response.write(b"x")
                    try:
                        async with asyncio.timeout(0.05):
                            await self.end.wait()
                    except TimeoutError:
                        pass
            case "endless":
                await response.write(content)
                while not self.end.is_set():
                    await response.write(b"x" * 65536)
                    await asyncio.sleep(0)  # asyncio drops what is written to a closing connection, without a word
        return response


async def lied_to(federation: Federation, release: PackedRelease, edge: ImageLayout, way: str) -> Problem:
    liar = Liar(release, way)
    async with federation.serve([web.get("/{rest:.*}", liar.answer)]) as address:
        try:
            async with asyncio.timeout(8):
                await fetched(federation, address, edge, release.signed)
        except Problem as problem:
            return problem
        finally:
            liar.end.set()
    raise AssertionError("expected a problem")


@pytest.mark.parametrize(
    ("way", "kind", "kept"),
    [
        ("altered", AlteredContent, False),
        ("wrong length", WrongLength, False),
        ("short", WrongLength, False),
        ("endless", WrongLength, False),
        ("html", WrongAnswer, False),
        ("encoded", WrongAnswer, False),
        ("other range", WrongAnswer, False),
        ("no content", WrongAnswer, False),
        ("hung", Stalled, False),
        ("trickling", Stalled, True),
        ("stalled", Stalled, True),
        ("truncated", Truncated, True),
        ("cut", Truncated, True),
        ("redirect", BadAnswer, False),
        ("error", BadAnswer, False),
    ],
)
async def test_a_liar_is_named_and_nothing_looks_finished(
    federation: Federation, release: PackedRelease, edge: ImageLayout, way: str, kind: type[Problem], kept: bool
) -> None:
    problem = await lied_to(federation, release, edge, way)
    assert type(problem) is kind, problem
    assert isinstance(problem, WorldProblem)
    assert finished(edge) == {release.record.manifest, digest_of(release.config)}
    part = edge.path / "staging" / f"{CODE_DIGEST.removeprefix('sha256:')}.part"
    assert part.exists() == kept
    assert not kept or 0 < part.stat().st_size < len(CODE)


async def test_refused(federation: Federation, release: PackedRelease, edge: ImageLayout) -> None:
    with pytest.raises(Unreachable):
        await fetched(federation, "127.0.0.1:9", edge, release.signed)
    assert finished(edge) == set()


async def test_a_release_is_fetched_after_every_lie(
    federation: Federation, release: PackedRelease, edge: ImageLayout, tmp_path: Path
) -> None:
    """Also from the parts that liars left: those of a trickling one are wrong, and are begun anew."""
    central = ImageLayout(tmp_path / "central")
    central.install(release)
    async with registry(federation, central) as address:
        for way in ("altered", "trickling", "stalled", "cut"):
            layout = ImageLayout(tmp_path / way)
            assert isinstance(await lied_to(federation, release, layout, way), FetchProblem)
            await fetched(federation, address, layout, release.signed)
            assert layout.verified(release.signed, root=root_record()).label == "doubler@1.0"


async def test_a_fetch_goes_on_where_it_stopped(
    federation: Federation, release: PackedRelease, edge: ImageLayout
) -> None:
    half = CODE.encode()[: len(CODE) // 2]
    with edge.blobs.stage(CODE_DIGEST, size=len(CODE)) as staged:
        staged.write(half)
    asked: list[str | None] = []
    honest = Liar(release, "honest")

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith(CODE_DIGEST):
            return await honest.answer(request)
        asked.append(request.headers.get("Range"))
        headers = {"Content-Range": f"bytes {len(half)}-{len(CODE) - 1}/{len(CODE)}"}
        body = CODE.encode()[len(half) :]
        return web.Response(status=206, body=body, content_type="application/octet-stream", headers=headers)

    async with federation.serve([web.get("/{rest:.*}", answer)]) as address:
        await fetched(federation, address, edge, release.signed)
    assert asked == [f"bytes={len(half)}-"]
    assert edge.verified(release.signed, root=root_record()).label == "doubler@1.0"


async def test_a_whole_part_is_finished_without_asking_and_a_server_without_ranges_sends_all(
    federation: Federation, release: PackedRelease, tmp_path: Path
) -> None:
    for length, expected in ((len(CODE), []), (100, ["bytes=100-"])):
        layout = ImageLayout(tmp_path / f"edge-{length}")
        with layout.blobs.stage(CODE_DIGEST, size=len(CODE)) as staged:
            staged.write(CODE.encode()[:length])
        asked: list[str | None] = []

        async def answer(request: web.Request, asked: list[str | None] = asked) -> web.StreamResponse:
            if request.path.endswith(CODE_DIGEST):
                asked.append(request.headers.get("Range"))
                return web.Response(body=CODE.encode(), content_type="application/octet-stream")
            return await Liar(release, "").answer(request)

        async with federation.serve([web.get("/{rest:.*}", answer)]) as address:
            await fetched(federation, address, layout, release.signed)
        assert asked == expected
        assert layout.releases()
