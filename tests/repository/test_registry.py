"""The distribution API, endpoint by endpoint, over mutual TLS; then what a bad client tries."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from federation.documents import encode
from federation.layout import ImageLayout
from federation.manifests import EMPTY_CONFIG, INDEX_TYPE, MANIFEST_TYPE, record_attachment
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.tls import NAMESERVER_HOSTNAME, client_context
from peers.federation_client import FederationClient
from peers.registry_uploads import RegistryLimits
from query.errors import UnknownName
from tests.repository.site import (
    CODE,
    STRANGER,
    Federation,
    Party,
    Registrations,
    packed,
    registry,
    write_model,
)

ABSENT = digest_of(b"absent")
LIMITS = RegistryLimits(
    uploads_max=3, uploads_per_member_max=2, upload_bytes_max=1000, upload_life_s=60.0, idle_s=0.3, request_s=0.6
)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A registry under test and the ways to talk to it."""

    federation: Federation
    layout: ImageLayout
    address: str
    clock: Clock
    registrations: Registrations
    sessions: dict[str, aiohttp.ClientSession] = field(default_factory=dict)

    async def ask(self, method: str, path: str, *, party: Party | None = None, **options: Any) -> Any:
        """Status, headers and body."""
        party = party or self.federation.operator
        session = self.sessions.get(party.member.name)
        if session is None:
            identity = party.identity
            context = client_context(identity.ca, identity.certificate, identity.key)
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
            self.sessions[party.member.name] = session
        url = path if path.startswith("https") else f"https://{self.address}{path}"
        async with session.request(method, url, server_hostname=NAMESERVER_HOSTNAME, **options) as response:
            body = await response.read()
            return response.status, response.headers, body

    async def upload(self, content: bytes, *, repository: str = "models/doubler") -> None:
        path = f"/v2/{repository}/blobs/uploads/?digest={digest_of(content)}"
        status, _, body = await self.ask("POST", path, data=content)
        assert status == 201, body

    async def put(self, path: str, raw: bytes, kind: str = MANIFEST_TYPE, party: Party | None = None) -> Any:
        return await self.ask("PUT", path, data=io.BytesIO(raw), headers={"Content-Type": kind}, party=party)

    async def push(self, release: PackedRelease) -> Any:
        """Everything up to the attachment, whose answer is returned."""
        for content in (*release.files.values(), release.config, EMPTY_CONFIG, encode(release.signed)):
            await self.upload(content)
        status, _, body = await self.put(f"/v2/models/doubler/manifests/{release.record.version}", release.manifest)
        if status != 201:
            return status, {}, body
        return await self.put(f"/v2/models/doubler/manifests/{digest_of(release.attachment)}", release.attachment)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    federation, layout, clock = Federation(tmp_path / "keys"), ImageLayout(tmp_path / "central"), Clock()
    registrations = Registrations()
    async with registry(federation, layout, registrations=registrations, clock=clock, limits=LIMITS) as address:
        site = Site(federation, layout, address, clock, registrations)
        yield site
        for session in site.sessions.values():
            await session.close()


@pytest.fixture
def release(tmp_path: Path) -> PackedRelease:
    return packed(write_model(tmp_path / "m"))


def code_of(body: bytes) -> str:
    import msgspec

    return str(msgspec.json.decode(body)["errors"][0]["code"])


# --- each endpoint --------------------------------------------------------------------------------------------------


async def test_pulling_what_was_pushed(site: Site, release: PackedRelease) -> None:
    assert (await site.ask("GET", "/v2/"))[0] == 200
    assert (await site.push(release))[0] == 201
    assert site.registrations.labels == ["doubler@1.0"]
    for reference in ("1.0", release.record.manifest):
        status, headers, body = await site.ask("GET", f"/v2/models/doubler/manifests/{reference}")
        assert (status, body) == (200, release.manifest)
        assert headers["Content-Type"] == MANIFEST_TYPE
        assert headers["Docker-Content-Digest"] == release.record.manifest
        status, headers, body = await site.ask("HEAD", f"/v2/models/doubler/manifests/{reference}")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(release.manifest)))
    path = f"/v2/models/doubler/blobs/{digest_of(CODE.encode())}"
    status, headers, body = await site.ask("GET", path, party=site.federation.viewer)
    assert (status, body) == (200, CODE.encode())
    assert headers["Docker-Content-Digest"] == digest_of(CODE.encode())
    assert (await site.ask("HEAD", path))[1]["Content-Length"] == str(len(CODE))


async def test_ranges(site: Site) -> None:
    site.layout.blobs.put(b"0123456789")
    path = f"/v2/models/m/blobs/{digest_of(b'0123456789')}"
    for asked, expected, told in (
        ("bytes=3-", b"3456789", "bytes 3-9/10"),
        ("bytes=3-5", b"345", "bytes 3-5/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
    ):
        status, headers, body = await site.ask("GET", path, headers={"Range": asked})
        assert (status, body, headers["Content-Range"]) == (206, expected, told)
    assert (await site.ask("GET", path, headers={"Range": "bytes=10-"}))[0] == 416


async def test_an_upload_in_chunks_with_its_state(site: Site) -> None:
    status, headers, _ = await site.ask("POST", "/v2/models/m/blobs/uploads/")
    assert status == 202
    location = headers["Location"]
    status, headers, _ = await site.ask("PATCH", location, data=b"hel", headers={"Content-Range": "0-2"})
    assert (status, headers["Range"]) == (202, "0-2")
    assert (await site.ask("PATCH", location, data=b"x", headers={"Content-Range": "7-7"}))[0] == 416
    status, headers, _ = await site.ask("GET", location)
    assert (status, headers["Range"]) == (204, "0-2")
    status, headers, _ = await site.ask("PUT", f"{location}?digest={digest_of(b'hello')}", data=b"lo")
    assert (status, headers["Docker-Content-Digest"]) == (201, digest_of(b"hello"))
    assert site.layout.blobs.read(digest_of(b"hello"), bytes_max=5) == b"hello"
    assert (await site.ask("GET", location))[0] == 404


async def test_mounting_what_is_here_and_dropping_an_upload(site: Site) -> None:
    await site.upload(b"hello")
    status, _, _ = await site.ask(
        "POST", f"/v2/models/m/blobs/uploads/?mount={digest_of(b'hello')}&from=models/doubler"
    )
    assert status == 201
    status, headers, _ = await site.ask("POST", f"/v2/models/m/blobs/uploads/?mount={ABSENT}&from=models/doubler")
    assert status == 202
    assert (await site.ask("DELETE", headers["Location"]))[0] == 204
    assert (await site.ask("DELETE", headers["Location"]))[0] == 404


async def test_tags_in_pages(site: Site, release: PackedRelease) -> None:
    for content in (*release.files.values(), release.config):
        await site.upload(content)
    for tag in ("1.0", "2.0", "3.0"):
        assert (await site.put(f"/v2/models/doubler/manifests/{tag}", release.manifest))[0] == 201
    status, headers, body = await site.ask("GET", "/v2/models/doubler/tags/list")
    assert (status, body) == (200, b'{"name": "models/doubler", "tags": ["1.0", "2.0", "3.0"]}')
    status, headers, body = await site.ask("GET", "/v2/models/doubler/tags/list?n=2")
    assert headers["Link"] == '</v2/models/doubler/tags/list?n=2&last=2.0>; rel="next"'
    assert b'["1.0", "2.0"]' in body
    assert b'["3.0"]' in (await site.ask("GET", "/v2/models/doubler/tags/list?n=2&last=2.0"))[2]
    status, _, body = await site.ask("GET", "/v2/models/nothing/tags/list")
    assert (status, code_of(body)) == (404, "NAME_UNKNOWN")
    assert (await site.ask("GET", "/v2/models/doubler/tags/list?n=x"))[0] == 400


async def test_referrers(site: Site, release: PackedRelease) -> None:
    await site.push(release)
    base = f"/v2/models/doubler/referrers/{release.record.manifest}"
    status, headers, body = await site.ask("GET", base)
    assert (status, headers["Content-Type"]) == (200, INDEX_TYPE)
    assert digest_of(release.attachment).encode() in body
    status, headers, body = await site.ask("GET", f"{base}?artifactType=application/other")
    assert (b'"manifests":[]' in body, headers["OCI-Filters-Applied"]) == (True, "artifactType")
    status, _, body = await site.ask("GET", f"/v2/models/doubler/referrers/{ABSENT}")
    assert (status, b'"manifests":[]' in body) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"/v2/models/m/blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/models/m/blobs/sha256:abc", 400, "DIGEST_INVALID"),
        ("GET", "/v2/models/m/blobs/..", 404, ""),
        ("GET", "/v2/models/m/manifests/1.0", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/models/m/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/models//m/tags/list", 400, "NAME_INVALID"),
        ("GET", f"/v2/{'a' * 256}/tags/list", 400, "NAME_INVALID"),
        ("POST", "/v2/other/m/blobs/uploads/", 400, "NAME_INVALID"),
        ("POST", "/v2/models/m/n/blobs/uploads/", 400, "NAME_INVALID"),
        ("POST", "/v2/models/m/blobs/uploads/?digest=sha256:abc", 400, "DIGEST_INVALID"),
        ("GET", "/v2/models/m/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/models/m/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", f"/v2/models/m/blobs/uploads/none?digest={ABSENT}", 404, "BLOB_UPLOAD_UNKNOWN"),
    ],
)
async def test_errors_in_ocis_form(site: Site, method: str, path: str, status: int, code: str) -> None:
    from yarl import URL

    url = URL(f"https://{site.address}{path}", encoded=True)
    found, _, body = await site.ask(method, str(url)) if ".." not in path else (404, {}, b"")
    assert found == status, body
    assert not code or code_of(body) == code


async def test_our_own_peers_read_the_class_back(site: Site) -> None:
    async with site.federation.viewer.client(site.address) as client:
        with pytest.raises(UnknownName, match="no blob"):
            async with client.stream(f"/v2/models/m/blobs/{ABSENT}"):
                pass


# --- who may --------------------------------------------------------------------------------------------------------


async def test_only_operators_and_publishers_push(site: Site, release: PackedRelease) -> None:
    for party, status in ((site.federation.viewer, 403), (site.federation.publisher, 202)):
        found, _, body = await site.ask("POST", "/v2/models/m/blobs/uploads/", party=party)
        assert found == status
        assert status == 202 or (code_of(body) == "DENIED" and b"wrong_role" in body)
    found, _, body = await site.put("/v2/models/doubler/manifests/1.0", release.manifest, party=site.federation.viewer)
    assert (found, code_of(body)) == (403, "DENIED")


async def test_without_a_certificate_nothing_is_told(site: Site) -> None:
    bare = FederationClient([site.address], client_context(site.federation.operator.identity.ca))
    async with bare:
        for path in ("/v2/", f"/v2/models/m/blobs/{ABSENT}", "/v2/models/m/tags/list"):
            with pytest.raises(Exception, match="no certificate"):
                async with bare.stream(path):
                    pass


async def test_an_upload_belongs_to_who_began_it(site: Site) -> None:
    _, headers, _ = await site.ask("POST", "/v2/models/m/blobs/uploads/")
    status, _, _ = await site.ask("PATCH", headers["Location"], data=b"x", party=site.federation.publisher)
    assert status == 404


async def test_another_authority_does_not_get_through(site: Site, tmp_path: Path) -> None:
    foreign = Federation(tmp_path / "foreign", ca=STRANGER)
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await site.ask("GET", "/v2/", party=foreign.operator)


# --- releases -------------------------------------------------------------------------------------------------------


async def test_pushing_again_changes_nothing_and_other_bytes_are_refused(
    site: Site, release: PackedRelease, tmp_path: Path
) -> None:
    assert (await site.push(release))[0] == 201
    assert (await site.push(release))[0] == 201
    other = packed(write_model(tmp_path / "m", code=CODE + "// more\n"))
    status, _, body = await site.push(other)
    assert (status, code_of(body)) == (409, "DENIED")
    assert b"version_taken" in body
    assert release.record.manifest.encode() in body
    assert other.record.manifest.encode() in body
    assert site.layout.manifest("models/doubler", "1.0").raw == release.manifest


async def test_what_an_interrupted_publisher_left_does_not_block_the_next(
    site: Site, release: PackedRelease, tmp_path: Path
) -> None:
    for content in (*release.files.values(), release.config):
        await site.upload(content)
    assert (await site.put("/v2/models/doubler/manifests/1.0", release.manifest))[0] == 201
    assert site.layout.releases() == ()
    other = packed(write_model(tmp_path / "m", code=CODE + "// more\n"))
    assert (await site.push(other))[0] == 201
    assert [entry.manifest for entry in site.layout.releases()] == [other.record.manifest]


async def test_a_tag_stays_while_its_release_is_looked_at(site: Site, release: PackedRelease, tmp_path: Path) -> None:
    other = packed(write_model(tmp_path / "m", code=CODE + "// more\n"))
    for content in (*other.files.values(), other.config):
        await site.upload(content)
    site.registrations.answered.clear()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        pushing = tasks.create_task(site.push(release))
        await site.registrations.asked.wait()
        moving = tasks.create_task(site.put("/v2/models/doubler/manifests/1.0", other.manifest))
        for _ in range(3):  # what does not change this repository is answered meanwhile
            assert (await site.ask("GET", "/v2/models/doubler/tags/list"))[0] == 200
        assert not moving.done()
        site.registrations.answered.set()
    assert pushing.result()[0] == 201
    assert (moving.result()[0], code_of(moving.result()[2])) == (409, "DENIED")
    assert site.layout.manifest("models/doubler", "1.0").raw == release.manifest


async def test_a_record_whose_publisher_nobody_endorsed_is_not_listed(site: Site, tmp_path: Path) -> None:
    forged = packed(write_model(tmp_path / "m"), publisher=STRANGER)
    status, _, body = await site.push(forged)
    assert (status, code_of(body)) == (403, "DENIED")
    assert b"unknown_key" in body
    assert site.layout.releases() == ()
    assert site.registrations.labels == []


async def test_a_record_for_another_manifest_or_tag_is_refused(
    site: Site, release: PackedRelease, tmp_path: Path
) -> None:
    await site.push(release)
    second = packed(tmp_path / "m", version="2.0")
    envelope = encode(second.signed)
    await site.upload(envelope)
    crossed = record_attachment(envelope, subject=release.record.manifest, subject_size=release.record.manifest_size)
    status, _, body = await site.put(f"/v2/models/doubler/manifests/{digest_of(crossed)}", crossed)
    assert (status, code_of(body)) == (400, "MANIFEST_INVALID")
    own = second.attachment
    status, _, body = await site.put(f"/v2/models/doubler/manifests/{digest_of(own)}", own)
    assert status == 201  # it waits for its manifest
    assert site.registrations.labels == ["doubler@1.0"]
    assert [entry.label for entry in site.layout.releases()] == ["doubler@1.0"]


async def test_a_manifest_is_taken_when_all_it_names_is_here(site: Site, release: PackedRelease) -> None:
    status, _, body = await site.put("/v2/models/doubler/manifests/1.0", release.manifest)
    assert (status, code_of(body)) == (404, "MANIFEST_BLOB_UNKNOWN")
    status, _, body = await site.put(f"/v2/models/doubler/manifests/{ABSENT}", release.manifest)
    assert (status, code_of(body)) == (400, "DIGEST_INVALID")
    for raw, kind in ((b"{", MANIFEST_TYPE), (b"<html>", MANIFEST_TYPE), (release.manifest, "text/html")):
        status, _, body = await site.put("/v2/models/doubler/manifests/1.0", raw, kind)
        assert (status, code_of(body)) == (400, "MANIFEST_INVALID")
    status, _, body = await site.put("/v2/models/doubler/manifests/bad+tag", release.manifest)
    assert status == 400
    status, _, body = await site.put("/v2/models/doubler/manifests/1.0", b" " * (4 * 1024 * 1024 + 1))
    assert (status, code_of(body)) == (413, "SIZE_INVALID")


# --- bad bodies -----------------------------------------------------------------------------------------------------


def left_behind(site: Site) -> list[Path]:
    return list((site.layout.path / "staging").glob("new-*"))


async def test_another_digest_than_announced(site: Site) -> None:
    status, _, body = await site.ask("POST", f"/v2/models/m/blobs/uploads/?digest={ABSENT}", data=b"hello")
    assert (status, code_of(body)) == (400, "DIGEST_INVALID")
    assert site.layout.blobs.size(ABSENT) is None
    assert left_behind(site) == []


async def test_too_large_announced_or_not(site: Site) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100

    path = f"/v2/models/m/blobs/uploads/?digest={ABSENT}"
    status, _, body = await site.ask("POST", path, data=b"x" * 1001)
    assert (status, code_of(body)) == (413, "SIZE_INVALID")
    try:
        status, _, body = await site.ask("POST", path, data=endless())
        assert (status, code_of(body)) == (413, "SIZE_INVALID")
    except aiohttp.ClientError:
        pass  # the server may hang up while we are still sending
    assert left_behind(site) == []


async def test_a_body_that_stops_and_one_that_never_ends(site: Site) -> None:
    stop = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        await stop.wait()

    async def trickling() -> AsyncIterator[bytes]:
        while not stop.is_set():
            yield b"x"
            try:
                async with asyncio.timeout(0.1):
                    await stop.wait()
            except TimeoutError:
                pass

    for body in (half, trickling):
        status, _, answer = await site.ask("POST", f"/v2/models/m/blobs/uploads/?digest={ABSENT}", data=body())
        assert (status, code_of(answer)) == (408, "BLOB_UPLOAD_INVALID")
        assert left_behind(site) == []
    stop.set()


async def test_a_client_that_leaves_half_way(site: Site) -> None:
    begun = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(site.ask("POST", f"/v2/models/m/blobs/uploads/?digest={ABSENT}", data=half()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while left_behind(site):
            await site.ask("GET", "/v2/")


async def test_uploads_are_bounded_in_number_and_lifetime(site: Site) -> None:
    path = "/v2/models/m/blobs/uploads/"
    operator, publisher = site.federation.operator, site.federation.publisher
    assert [(await site.ask("POST", path, party=party))[0] for party in (operator, operator, operator)] == [
        202,
        202,
        429,
    ]
    assert [(await site.ask("POST", path, party=party))[0] for party in (publisher, publisher)] == [202, 429]
    _, headers, body = await site.ask("POST", path, party=publisher)
    assert (code_of(body), "Retry-After" in headers) == ("TOOMANYREQUESTS", True)
    site.clock.now = 61.0
    assert (await site.ask("POST", path, party=publisher))[0] == 202
    assert len(left_behind(site)) == 1
