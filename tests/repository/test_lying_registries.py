"""Whatever a registry answers: an error of the right class, in time, and nothing here that looks finished."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from federation.documents import encode
from federation.errors import BadSignature, MixedParts
from federation.layout import ImageLayout
from federation.manifests import INDEX_TYPE, Descriptor, Index, encode_index, record_attachment
from federation.names import digest_of
from peers.device_mode import Autonomous, autonomous
from peers.fetching import AlteredContent, Truncated, WrongAnswer, WrongLength
from peers.oci_errors import (
    NoCatalogue,
    NoSuchContent,
    RegistryBusy,
    RegistryFailed,
    RegistryRefused,
    RegistryStalled,
    RegistryUnauthorized,
    RegistryUnreachable,
)
from peers.oci_registry import Registry
from peers.oci_transfers import CONNECTIONS_MAX, Site, Transfer, TransferLimits
from peers.remote_repositories import RemoteRepositories, UnsignedRelease
from peers.remote_settings import RemoteBook, read_settings
from query.errors import LimitExceeded, Problem
from tests.repository import liars
from tests.repository.liars import Liar, Lie, serving
from tests.repository.site import CODE, packed, root_record, write_model

QUICK = TransferLimits(connect_s=3.0, read_s=2.0, answer_s=3.0, grace_s=3.0, bytes_per_s_min=10**9)
DONE_S = 16.0  # the slowest that any of it may be


class Taker:
    """A peer that takes from the liar."""

    def __init__(self, folder: Path) -> None:
        self.layout = ImageLayout(folder / "taker")
        self.book = RemoteBook(folder / "repositories.json")
        self.remotes = RemoteRepositories(self.book, self.layout, root=root_record, limits=QUICK)

    async def refused(self, work: Callable[[], object]) -> Problem:
        """What it raises, within the time, with nothing finished."""
        begun = time.monotonic()
        with pytest.raises(Problem) as refused:
            await work()  # type: ignore[misc]
        assert time.monotonic() - begun < DONE_S
        assert self.layout.releases(development=True) == ()
        return refused.value


@pytest.fixture
async def liar(tmp_path: Path) -> AsyncIterator[Liar]:
    layout = ImageLayout(tmp_path / "truth")
    made = Liar(layout, layout.install(packed(write_model(tmp_path / "m"))))
    async with serving(made):
        yield made


@pytest.fixture
def taker(liar: Liar, tmp_path: Path) -> Taker:
    taker = Taker(tmp_path)
    taker.book.set("hub", read_settings("hub", {"url": liar.origin}))
    return taker


async def test_the_truth(liar: Liar, taker: Taker) -> None:
    assert await taker.remotes.available("hub") == ["doubler@1.0"]
    fetched = await taker.remotes.fetch("hub", "doubler", "1.0")
    assert taker.layout.attach(fetched.signed) == liar.release


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000], ids=["superscript", "endless"])
async def test_a_length_that_is_no_number_says_nothing(liar: Liar, taker: Taker, length: bytes) -> None:
    liar.lies["manifest"] = liars.announced(length)
    assert (await taker.remotes.fetch("hub", "doubler", "1.0")).release.label == "doubler@1.0"


async def test_what_was_found_here_is_no_garbage_until_it_is_listed(liar: Liar, taker: Taker) -> None:
    """Contents that an earlier call left a week ago, which nothing names, and one of which is gone."""
    release = liar.layout.packed(liar.release)
    blobs = taker.layout.blobs
    for content in (*release.files.values(), release.manifest):
        week_ago = blobs.written(blobs.put(content)) - 7 * 86_400
        os.utime(blobs.path(digest_of(content)), (week_ago, week_ago))
    fetched = await taker.remotes.fetch("hub", "doubler", "1.0")
    taker.layout.collect_garbage(written_before=time.time() - 86_400)  # while others of the same call are fetched
    assert taker.layout.attach(fetched.signed) == liar.release
    assert blobs.size(digest_of(release.config)) == len(release.config)


HTML = liars.said(b"<html>welcome to the hotel</html>", "text/html")
ANYTHING: list[tuple[str, Callable[[Liar], Lie], type[Problem], str]] = [
    ("hung", liars.hung, RegistryStalled, "no answer from"),
    ("drip", lambda liar: liars.dripping(liar, pause_s=0.1), RegistryStalled, "not done within 3"),
    ("drip-head", lambda liar: liars.dripping_head(liar, pause_s=0.1), RegistryStalled, "not done within 3"),
    ("401", lambda liar: liars.status(401), RegistryUnauthorized, "status 401"),
    (
        "403",
        lambda liar: liars.status(403, body='{"errors": [{"code": "DENIED", "message": "no"}]}'),
        RegistryUnauthorized,
        "status 403 DENIED: no",
    ),
    ("429", lambda liar: liars.status(429, Retry_After="7"), RegistryBusy, "status 429"),
    ("503", lambda liar: liars.status(503, Retry_After="7"), RegistryBusy, "status 503"),
    ("500", lambda liar: liars.status(500, body="<html>" * 1000), RegistryFailed, "status 500"),
    ("teapot", lambda liar: liars.status(418), RegistryRefused, "status 418"),
    ("redirect", lambda liar: liars.status(307, Location="http://127.0.0.1:9/"), RegistryRefused, "127.0.0.1:9"),
]


@pytest.mark.parametrize(("name", "lie", "kind", "message"), ANYTHING, ids=[one[0] for one in ANYTHING])
@pytest.mark.parametrize("asked", ["manifest", "blob"])
async def test_what_is_no_answer(
    liar: Liar, taker: Taker, asked: str, name: str, lie: Callable[[Liar], Lie], kind: type[Problem], message: str
) -> None:
    liar.lies[asked] = lie(liar)
    problem = await taker.refused(lambda: taker.remotes.fetch("hub", "doubler", "1.0"))
    assert type(problem) is kind
    assert problem.message.startswith('repository "hub": ')
    assert message in problem.message
    if kind is RegistryBusy:
        assert problem.hint == "try again after 7 s"
    assert len(problem.message) < 800


def with_record(content: bytes) -> Lie:
    return liars.said(content, "application/octet-stream")


def other_sizes(truth: bytes) -> bytes:
    told = json.loads(truth)
    told["layers"][0]["size"] += 1
    return json.dumps(told).encode()


CONTENT: list[tuple[str, str, Lie, type[Problem]]] = [
    ("manifest", "html", HTML, WrongAnswer),
    ("manifest", "no json", liars.said(b"hello"), WrongAnswer),
    ("manifest", "no manifest", liars.said(b"{}"), WrongAnswer),
    ("manifest", "deep", liars.said(b"[" * 100_000), WrongAnswer),
    ("manifest", "other sizes", liars.changed(other_sizes), UnsignedRelease),
    ("manifest", "told another digest", liars.said(b"{}", Docker_Content_Digest="sha256:" + 64 * "0"), AlteredContent),
    ("manifest", "cut", liars.cut(0.5), Truncated),
    ("referrers", "html", HTML, WrongAnswer),
    ("referrers", "no index", liars.said(b"[1]"), WrongAnswer),
    ("referrers", "nothing", liars.said(b'{"schemaVersion": 2, "manifests": []}'), UnsignedRelease),
    ("attachment", "html", HTML, WrongAnswer),
    ("attachment", "altered", liars.changed(liars.flipped), AlteredContent),
    ("attachment", "gone", liars.status(404), NoSuchContent),
    ("record", "html", HTML, WrongAnswer),
    ("record", "altered", liars.changed(liars.flipped), AlteredContent),
    ("record", "cut", liars.cut(0.5), AlteredContent),
    ("blob", "html", HTML, WrongAnswer),
    ("blob", "altered", liars.changed(liars.flipped, "application/octet-stream"), AlteredContent),
    ("blob", "cut", liars.cut(0.5), Truncated),
    ("blob", "longer", liars.changed(lambda truth: truth + b"x", "application/octet-stream"), WrongLength),
    ("blob", "shorter", liars.changed(lambda truth: truth[:-1], "application/octet-stream"), WrongLength),
    ("blob", "gone", liars.status(404), NoSuchContent),
    ("blob", "partial unasked", liars.status(206, body="x", Content_Range="bytes 5-5/6"), WrongAnswer),
    ("blob", "to itself", liars.status(302, Location="/v2/again"), NoSuchContent),
]


@pytest.mark.parametrize(("asked", "name", "lie", "kind"), CONTENT, ids=[f"{a}-{n}" for a, n, _, _ in CONTENT])
async def test_what_is_other_content(
    liar: Liar, taker: Taker, asked: str, name: str, lie: Lie, kind: type[Problem]
) -> None:
    liar.lies[asked] = lie
    problem = await taker.refused(lambda: taker.remotes.fetch("hub", "doubler", "1.0"))
    assert type(problem) is kind, problem.message
    assert problem.message.startswith('repository "hub": ')
    finished = set(taker.layout.blobs.digests())
    assert finished <= set(liar.layout.blobs.digests())
    if asked != "blob":
        assert finished == set()
    del liar.lies[asked]
    assert (await taker.remotes.fetch("hub", "doubler", "1.0")).release.label == "doubler@1.0"


@pytest.mark.parametrize("asked", ["manifest", "referrers", "attachment", "record", "blob", "catalog", "tags"])
async def test_endless_bytes_end(liar: Liar, taker: Taker, asked: str) -> None:
    liar.lies[asked] = liars.endless(liar)
    if asked in ("catalog", "tags"):
        problem = await taker.refused(lambda: taker.remotes.available("hub"))
    else:
        problem = await taker.refused(lambda: taker.remotes.fetch("hub", "doubler", "1.0"))
    assert type(problem) in (RegistryRefused, WrongLength, RegistryStalled), problem
    assert "more" in problem.message


async def test_a_page_after_the_other_and_round_and_round(liar: Liar, taker: Taker) -> None:
    for link, kind, message in (
        ("</v2/_catalog?n=200>; rel=next", WrongAnswer, "in a circle"),
        ("</v2/other?x=1>; rel=next", WrongAnswer, "leads elsewhere"),
        ("<https://evil.example/v2/_catalog/x?n=1>; rel=next", WrongAnswer, "leads elsewhere"),
        ("<http://[broken?n=1>; rel=next", WrongAnswer, "leads elsewhere"),
    ):
        liar.lies["catalog"] = liars.said(b'{"repositories": []}', Link=link)
        problem = await taker.refused(lambda: taker.remotes.available("hub"))
        assert type(problem) is kind
        assert message in problem.message


async def test_pages_without_an_end(liar: Liar, taker: Taker) -> None:
    pages = 0

    async def next_page(request: web.Request, truth: bytes) -> web.StreamResponse:
        nonlocal pages
        pages += 1
        names = [f"models/m{pages}x{number}" for number in range(1000)]
        link = f"</v2/_catalog?n=200&last={pages}>; rel=next"
        return web.json_response({"repositories": names}, headers={"Link": link})

    liar.lies["catalog"] = next_page
    problem = await taker.refused(lambda: taker.remotes.available("hub"))
    assert type(problem) is LimitExceeded
    assert "more than 20000 entries" in problem.message
    assert pages == 21


@pytest.mark.parametrize("answer", [liars.status(404), liars.status(401), liars.status(403)])
async def test_a_registry_without_a_catalogue_is_asked_for_a_model(liar: Liar, taker: Taker, answer: Lie) -> None:
    liar.lies["catalog"] = answer
    problem = await taker.refused(lambda: taker.remotes.available("hub"))
    assert type(problem) is NoCatalogue
    assert 'models:available("repository", "model")' in (problem.hint or "")
    assert await taker.remotes.available("hub", "doubler") == ["doubler@1.0"]


@pytest.mark.parametrize("body", [b'{"tags": null}', b'{"tags": []}', b"{}"])
async def test_an_emptied_repository_has_no_versions(liar: Liar, taker: Taker, body: bytes) -> None:
    liar.lies["tags"] = liars.said(body)
    assert await taker.remotes.available("hub") == []


async def test_names_that_are_no_models_are_left_out(liar: Liar, taker: Taker) -> None:
    names = ["models/../x", "models/Doubler", "models/a/b", "other/doubler", "models/doubler", "models/", "models"]
    liar.lies["catalog"] = liars.said(json.dumps({"repositories": names}).encode())
    liar.lies["tags"] = liars.said(json.dumps({"tags": ["1.0", "sha256-" + 64 * "0", "a b", "", "x" * 200]}).encode())
    assert await taker.remotes.available("hub") == ["doubler@1.0"]
    liar.lies["tags"] = liars.said(json.dumps({"tags": [1, 2]}).encode())
    assert type(await taker.refused(lambda: taker.remotes.available("hub"))) is WrongAnswer


async def test_a_record_of_another_release(liar: Liar, taker: Taker, tmp_path: Path) -> None:
    """A true record, attached to what it is not of."""
    other = liar.layout.install(packed(write_model(tmp_path / "n", code=CODE + "// more\n"), version="2.0"))
    raw = liar.layout.blobs.read(other.attachment, bytes_max=10**6)
    entry = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=other.attachment, size=len(raw))
    liar.lies["referrers"] = liars.said(encode_index(Index(manifests=(entry,))), INDEX_TYPE)

    async def everything(request: web.Request, truth: bytes) -> web.StreamResponse:
        digest = request.path.rpartition("/")[2]
        return web.Response(body=(liar.layout.path / "blobs/sha256" / digest[7:]).read_bytes())

    liar.lies["nothing"] = everything
    problem = await taker.refused(lambda: taker.remotes.fetch("hub", "doubler", "1.0"))
    assert type(problem) is MixedParts
    assert "expected the record of doubler@1.0, found that of doubler@2.0" in problem.message
    assert set(taker.layout.blobs.digests()) == set()


async def test_a_record_that_was_tampered_with(liar: Liar, taker: Taker, tmp_path: Path) -> None:
    signed = liar.layout.signed(liar.release)
    forged = encode(msgspec.structs.replace(signed, payload=signed.payload.replace(b'"1.0"', b'"1.0" ')))
    size = len(liar.layout.manifest(liar.release.repository, liar.release.manifest).raw)
    attachment = record_attachment(forged, subject=liar.release.manifest, subject_size=size)
    entry = Descriptor(
        media_type="application/vnd.oci.image.manifest.v1+json", digest=digest_of(attachment), size=len(attachment)
    )
    liar.lies["referrers"] = liars.said(encode_index(Index(manifests=(entry,))), INDEX_TYPE)

    async def forgery(request: web.Request, truth: bytes) -> web.StreamResponse:
        return web.Response(body=attachment if "manifests" in request.path else forged)

    liar.lies["nothing"] = forgery
    problem = await taker.refused(lambda: taker.remotes.fetch("hub", "doubler", "1.0"))
    assert type(problem) is BadSignature
    assert set(taker.layout.blobs.digests()) == set()


async def test_it_is_cancelled_wherever_it_waits(liar: Liar, taker: Taker) -> None:
    for asked in ("manifest", "blob"):
        reached = asyncio.Event()

        async def wait(request: web.Request, truth: bytes, reached: asyncio.Event = reached) -> web.StreamResponse:
            reached.set()
            await liar.ended.wait()
            return web.Response()

        liar.lies = {asked: wait}
        taker.remotes._limits = TransferLimits()  # a minute of patience, which nobody has
        fetching = asyncio.create_task(taker.remotes.fetch("hub", "doubler", "1.0"))
        await reached.wait()
        begun = time.monotonic()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert time.monotonic() - begun < 2.0
        assert taker.layout.releases() == ()
    liar.lies = {}
    assert (await taker.remotes.fetch("hub", "doubler", "1.0")).release.label == "doubler@1.0"


async def test_a_registry_that_ends_each_connection_uses_up_nothing_here(liar: Liar, taker: Taker) -> None:
    async def closing(request: web.Request, truth: bytes) -> web.StreamResponse:
        return web.json_response({"repositories": ["models/doubler"]}, headers={"Connection": "close"})

    def ask() -> int:
        transfer = Transfer("ask", limits=QUICK)
        with Registry(Site(address=liar.origin.removeprefix("http://"), scheme="http"), transfer) as registry:
            for _ in range(CONNECTIONS_MAX + 40):
                registry.get("/v2/_catalog")
            assert len(transfer.connections) == CONNECTIONS_MAX
            return registry.session is not registry._elsewhere() and registry._elsewhere() is registry._elsewhere()

    liar.lies["catalog"] = closing
    assert await asyncio.to_thread(ask)


async def test_it_ends_when_this_peer_may_have_no_connection_any_more(liar: Liar, taker: Taker) -> None:
    """As when a device becomes AUTONOMOUS: whatever is waited for, for however long."""
    asked = asyncio.Event()

    async def wait(request: web.Request, truth: bytes) -> web.StreamResponse:
        asked.set()
        await liar.ended.wait()
        return web.Response()

    def may_go() -> None:
        if asked.is_set():
            raise autonomous()

    liar.lies = {"blob": wait}
    remotes = RemoteRepositories(taker.book, taker.layout, root=root_record, may_dial=may_go)
    problem = await taker.refused(lambda: remotes.fetch("hub", "doubler", "1.0"))
    assert type(problem) is Autonomous
    assert not taker.layout.releases()


async def test_nobody_is_there(taker: Taker, liar: Liar) -> None:
    taker.book.set("gone", read_settings("gone", {"url": "http://127.0.0.1:9"}))
    problem = await taker.refused(lambda: taker.remotes.fetch("gone", "doubler", "1.0"))
    assert type(problem) is RegistryUnreachable
    assert problem.message == 'repository "gone": cannot reach 127.0.0.1:9: Connection refused'


async def test_pushing_to_a_liar(liar: Liar, tmp_path: Path) -> None:
    maker = RemoteRepositories(RemoteBook(tmp_path / "r.json"), liar.layout, root=root_record, limits=QUICK)
    maker.book.set("hub", read_settings("hub", {"url": liar.origin}))
    for lie, kind in ((liars.hung(liar), RegistryStalled), (liars.status(500), RegistryFailed)):
        liar.lies = {"any": lie}
        with pytest.raises(kind):
            await maker.publish("hub", liar.release)
