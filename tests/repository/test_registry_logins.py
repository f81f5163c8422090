"""Logging in at a registry, and being led elsewhere by one: whom the credentials are told, and whom never."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from federation.certificates import issue, make_authority
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.names import PeerId
from peers.fetching import AlteredContent
from peers.oci_authentication import TOKEN_LENGTH_MAX, Basic, Bearer, read_challenge, read_token
from peers.oci_errors import (
    RegistryFailed,
    RegistryRefused,
    RegistryStalled,
    RegistryUnauthorized,
    RegistryUntrusted,
)
from peers.oci_transfers import TransferLimits
from peers.remote_repositories import RemoteRepositories
from peers.remote_settings import RemoteBook, read_settings
from query.errors import Problem
from tests.repository import liars
from tests.repository.liars import Liar, Lie, serving
from tests.repository.site import FEDERATION, packed, root_record, write_model

QUICK = TransferLimits(connect_s=3.0, read_s=2.0, answer_s=4.0, grace_s=2.0)
SECRET = "correct horse battery staple"
BASIC = "Basic " + base64.b64encode(f"mechanic:{SECRET}".encode()).decode()


@dataclass
class Place:
    """A liar that speaks TLS, a second server of the same authority, and a peer that trusts it."""

    liar: Liar
    elsewhere: str
    ca: Path
    context: ssl.SSLContext
    taker: RemoteRepositories
    layout: ImageLayout
    seen: list[web.Request] = field(default_factory=list)
    answer: Lie | None = None

    async def fetch(self) -> str:
        fetched = await self.taker.fetch("hub", "doubler", "1.0")
        return fetched.release.label

    async def refused(self, kind: type[Problem]) -> str:
        with pytest.raises(Problem) as refused:
            await self.fetch()
        assert type(refused.value) is kind, refused.value
        for told in (refused.value.message, refused.value.hint or "", repr(refused.value)):
            assert SECRET not in told
            assert BASIC.split()[1] not in told
        return refused.value.message


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    ca, context = liars_tls(tmp_path)
    layout = ImageLayout(tmp_path / "truth")
    liar = Liar(layout, layout.install(packed(write_model(tmp_path / "m"))))
    taken = ImageLayout(tmp_path / "taker")
    book = RemoteBook(tmp_path / "repositories.json")
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(serving(liar, context=context))
        taker = RemoteRepositories(book, taken, root=root_record, limits=QUICK)
        made = Place(liar, "", ca, context, taker, taken)

        async def second(request: web.Request, truth: bytes) -> web.StreamResponse:
            made.seen.append(request)
            assert made.answer is not None
            return await made.answer(request, truth)

        made.elsewhere = await stack.enter_async_context(
            serving(Liar(layout, liar.release, lies={"any": second, "blob": second}), context=context)
        )
        secret = tmp_path / "secret"
        secret.write_text(f"mechanic:{SECRET}")
        secret.chmod(0o600)
        book.set("hub", read_settings("hub", {"url": origin, "ca": str(ca), "credentials": str(secret)}))
        yield made


def liars_tls(folder: Path) -> tuple[Path, ssl.SSLContext]:
    authority, server = PrivateKey.generate(), PrivateKey.generate()
    pem = make_authority(FEDERATION, authority, now=time.time())
    certificate = issue(
        ca_pem=pem,
        ca_key=authority,
        subject_key=server.public,
        federation=FEDERATION,
        kind="nameserver",
        uuid=PeerId(FEDERATION),
        now=time.time(),
        ips=["127.0.0.1"],
    )
    (folder / "ca.crt").write_text(pem)
    (folder / "server.crt").write_text(certificate)
    (folder / "server.key").write_text(server.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return folder / "ca.crt", context


def wants(place: Place, challenge: str, accepted: Callable[[], str]) -> None:
    """Have the liar answer the truth to whoever shows ``accepted``, and a challenge to everybody else."""
    truthful = Liar(place.liar.layout, place.liar.release)

    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        if request.headers.get("Authorization") == accepted():
            return await truthful.answer(request)
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    kinds = ("any", "manifest", "referrers", "attachment", "record", "blob", "tags", "catalog")
    place.liar.lies = dict.fromkeys(kinds, lie)


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_is_fetched_with_the_credentials_and_shown_to_the_registry_alone(place: Place) -> None:
    challenge = f'Bearer realm="{place.elsewhere}/token",service="hub",scope="repository:models/doubler:pull"'
    wants(place, challenge, lambda: "Bearer t0ken.abc")
    place.answer = liars.said(b'{"token": "t0ken.abc", "expires_in": 60}')
    assert await place.fetch() == "doubler@1.0"
    assert {request.headers["Authorization"] for request in place.seen} == {BASIC}
    assert {request.query["scope"] for request in place.seen} == {"repository:models/doubler:pull"}
    assert len(place.seen) == 2  # one for the record, one for the content
    assert BASIC not in {request.headers.get("Authorization") for request in place.liar.asked}


async def test_a_token_that_ends_meanwhile_is_fetched_again(place: Place) -> None:
    tokens = [f"token-{number}" for number in range(20)]
    used: dict[str, int] = {}
    truthful = Liar(place.liar.layout, place.liar.release)

    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        used[shown] = used.get(shown, 0) + 1
        if shown in tokens and used[shown] <= 2:
            return await truthful.answer(request)
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{place.elsewhere}/token"'})

    async def next_token(request: web.Request, truth: bytes) -> web.StreamResponse:
        return web.json_response({"access_token": tokens[len(place.seen) - 1]})

    place.liar.lies = dict.fromkeys(("any", "manifest", "referrers", "attachment", "record", "blob"), lie)
    place.answer = next_token
    assert await place.fetch() == "doubler@1.0"
    assert len(place.seen) > 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (liars.status(401), RegistryUnauthorized),
        (liars.status(500), RegistryFailed),
        (liars.said(b"<html>no</html>", "text/html"), RegistryRefused),
        (liars.said(b'{"token": 1}'), RegistryRefused),
        (liars.said(b"{}"), RegistryRefused),
        (liars.said(b'{"token": "a\\r\\nX-Evil: 1"}'), RegistryRefused),
        (liars.said(json.dumps({"token": "x" * (TOKEN_LENGTH_MAX + 1)}).encode()), RegistryRefused),
        (liars.status(302, Location="https://evil.example/"), RegistryRefused),
        (liars.said(b'{"token": "wrong"}'), RegistryUnauthorized),
    ],
)
async def test_a_realm_that_gives_no_token(place: Place, answer: Lie, kind: type[Problem]) -> None:
    wants(place, f'Bearer realm="{place.elsewhere}/token"', lambda: "Bearer right")
    place.answer = answer
    assert 'repository "hub": ' in await place.refused(kind)
    assert len(place.seen) <= 4
    assert list(place.layout.blobs.digests()) == []


async def test_a_realm_that_hangs_or_never_ends(place: Place) -> None:
    wants(place, f'Bearer realm="{place.elsewhere}/token"', lambda: "Bearer right")
    place.answer = liars.hung(place.liar)
    await place.refused(RegistryStalled)
    place.answer = liars.endless(place.liar)
    assert "more than 65536 bytes" in await place.refused(RegistryRefused)


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.1:9/token",  # plain, though on this device: the registry itself speaks TLS
        "http://evil.example/token",
        "ftp://evil.example/token",
        "file:///etc/passwd",
        "https://user:password@evil.example/",
        "https://",
        "//evil.example/token",
        "https://[broken",
        "",
    ],
)
async def test_a_realm_that_lies_is_told_nothing(place: Place, realm: str) -> None:
    wants(place, f'Bearer realm="{realm}",service="hub"', lambda: "Bearer right")
    assert "sends for a token to" in await place.refused(RegistryRefused)
    assert BASIC not in {request.headers.get("Authorization") for request in place.liar.asked}


def test_where_tokens_may_come_from() -> None:
    def realm(realm: str, origin: str) -> str:
        found = read_challenge(f'Bearer realm="{realm}"', origin=origin)
        assert isinstance(found, Bearer)
        return found.realm

    assert realm("https://auth.example/token", "https://hub.example")
    assert realm("https://auth.example/token", "http://127.0.0.1:5000")
    assert realm("http://127.0.0.1:5001/token", "http://127.0.0.1:5000")
    assert realm("http://hub.example:5000/token", "http://hub.example:5000")  # "insecure" was allowed for this host
    for told, origin in (
        ("http://127.0.0.1:5001/token", "http://hub.example:5000"),
        ("http://hub.example:5001/token", "http://hub.example:5000"),
        ("http://hub.example/token", "https://hub.example"),
    ):
        with pytest.raises(RegistryRefused):
            realm(told, origin)


def test_challenges_as_they_are_written() -> None:
    origin = "https://hub.example"
    told = 'bearer realm="https://a.example/t", service=hub , scope="repository:x:pull,push"'
    assert read_challenge(told, origin=origin) == Bearer("https://a.example/t", "hub", "repository:x:pull,push")
    assert read_challenge('Basic realm="x"', origin=origin) == Basic()
    assert isinstance(read_challenge('Basic realm="x", Bearer realm="https://a.example/t"', origin=origin), Bearer)
    assert read_challenge("Negotiate abc", origin=origin) is None
    assert read_challenge("", origin=origin) is None
    assert Bearer("https://a/t?x=1", "s").url == "https://a/t?x=1&service=s"
    assert read_token(b'{"token": "", "access_token": "b"}', "https://a/t") == "b"


async def test_a_challenge_of_another_kind(place: Place) -> None:
    wants(place, "Negotiate", lambda: "nothing")
    await place.refused(RegistryUnauthorized)
    wants(place, 'Basic realm="x"', lambda: "nothing")
    await place.refused(RegistryUnauthorized)
    assert len(place.liar.asked) == 3  # a password that was refused is not tried again
    wants(place, 'Basic realm="x"', lambda: BASIC)
    assert await place.fetch() == "doubler@1.0"


# --- led elsewhere ----------------------------------------------------------------------------------------------------


def truth_of(place: Place) -> Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request, truth: bytes) -> web.StreamResponse:
        digest = request.path.rpartition("/")[2]
        return web.Response(body=(place.liar.layout.path / "blobs/sha256" / digest).read_bytes())

    return answer


def leading(place: Place, where: str) -> None:
    truthful = Liar(place.liar.layout, place.liar.release)

    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        if request.headers.get("Authorization") != BASIC:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        digest = request.path.rpartition(":")[2]
        if "/blobs/" in request.path:
            return web.Response(status=307, headers={"Location": f"{where}/{digest}?signature=s3cret"})
        return await truthful.answer(request)

    place.liar.lies = dict.fromkeys(("any", "manifest", "referrers", "attachment", "record", "blob"), lie)


async def test_blobs_may_lie_in_an_object_store(place: Place) -> None:
    leading(place, f"{place.elsewhere}/store")
    place.answer = truth_of(place)
    assert await place.fetch() == "doubler@1.0"
    assert len(place.seen) == 3  # record, config, file
    assert [request.headers.get("Authorization") for request in place.seen] == [None] * 3


async def test_what_lies_there_is_hashed_all_the_same(place: Place) -> None:
    leading(place, f"{place.elsewhere}/store")
    honest = truth_of(place)

    async def altered(request: web.Request, truth: bytes) -> web.StreamResponse:
        found = await honest(request, truth)
        assert isinstance(found, web.Response)
        assert isinstance(found.body, bytes)
        return web.Response(body=liars.flipped(found.body))

    place.answer = altered
    await place.refused(AlteredContent)
    assert list(place.layout.blobs.digests()) == []


@pytest.mark.parametrize("where", ["http://127.0.0.1:9", "https://user@127.0.0.1:9", "file:///etc", "//[broken"])
async def test_blobs_are_not_followed_into_the_open(place: Place, where: str) -> None:
    leading(place, where)
    message = await place.refused(RegistryRefused)
    assert "only https to https is followed" in message
    assert "s3cret" not in message


async def test_a_store_that_leads_on_and_on(place: Place) -> None:
    leading(place, f"{place.elsewhere}/store")
    place.answer = liars.status(307, Location=f"{place.elsewhere}/on?signature=s3cret")
    message = await place.refused(RegistryRefused)
    assert "not followed" in message
    assert "s3cret" not in message
    assert len(place.seen) == 3


async def test_a_store_of_another_authority(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, context = liars_tls(tmp_path / "other")
    async with serving(Liar(place.liar.layout, place.liar.release), context=context) as origin:
        leading(place, origin)
        await place.refused(RegistryUntrusted)
