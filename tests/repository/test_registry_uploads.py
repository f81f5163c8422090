"""Uploads that are broken off and gone on with, what is no endpoint, who is not admitted, and a disk that is full."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from federation.blobs import BlobStore, StorageFull
from federation.layout import ImageLayout
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.tls import NAMESERVER_HOSTNAME, client_context
from peers.federation_client import FederationClient
from peers.registry_requests import PAGE_MAX, page
from peers.registry_uploads import RegistryLimits
from query.errors import Problem, UserProblem
from tests.badinput.test_full_disk import small_disk
from tests.repository.conformance import manifest
from tests.repository.site import Federation, Registrations, packed, registry, write_model
from tests.repository.test_registry import LIMITS, Clock, Site, code_of, left_behind, release, site

__all__ = ["release", "site"]

UPLOADS = "/v2/models/m/blobs/uploads/"
WHOLE = b"0123456789" * 10


@contextlib.asynccontextmanager
async def opened(
    folder: Path, *, limits: RegistryLimits = LIMITS, cancels: bool = True, central: Path | None = None
) -> AsyncIterator[Site]:
    federation, layout = Federation(folder / "keys"), ImageLayout(central or folder / "central")
    clock, registrations = Clock(), Registrations()
    async with registry(
        federation, layout, registrations=registrations, clock=clock, limits=limits, cancels=cancels
    ) as address:
        made = Site(federation, layout, address, clock, registrations)
        yield made
        for session in made.sessions.values():
            await session.close()


async def broken_off(site: Site, location: str, content: bytes, *, declared: int | None) -> None:
    """Send the beginning of a PATCH's body and hang up; returns once the server has kept what came."""
    identity = site.federation.operator.identity
    host, _, port = site.address.rpartition(":")
    context = client_context(identity.ca, identity.certificate, identity.key)
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=NAMESERVER_HOSTNAME)
    length = "Transfer-Encoding: chunked" if declared is None else f"Content-Length: {declared}"
    body = b"%x\r\n%s\r\n" % (len(content), content) if declared is None else content
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: registry\r\n{length}\r\n\r\n".encode() + body)
    writer.close()
    async with asyncio.timeout(10):
        while (await site.ask("GET", location))[1]["Range"] != f"0-{len(content) - 1}":
            pass
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("cancels", [True, False], ids=["cancelled", "told"])
@pytest.mark.parametrize("declared", [100, None], ids=["declared", "chunked"])
async def test_an_upload_goes_on_after_a_broken_connection(tmp_path: Path, cancels: bool, declared: int | None) -> None:
    patient = RegistryLimits(upload_bytes_max=1000, idle_s=30.0, request_s=60.0)
    async with opened(tmp_path, limits=patient, cancels=cancels) as site:
        _, headers, _ = await site.ask("POST", UPLOADS)
        location = headers["Location"]
        await broken_off(site, location, WHOLE[:40], declared=declared)
        status, headers, _ = await site.ask("PATCH", location, data=WHOLE[40:70], headers={"Content-Range": "40-69"})
        assert (status, headers["Range"]) == (202, "0-69")
        status, headers, _ = await site.ask("PUT", f"{location}?digest={digest_of(WHOLE)}", data=WHOLE[70:])
        assert (status, headers["Docker-Content-Digest"]) == (201, digest_of(WHOLE))
        assert left_behind(site) == []


async def test_a_body_that_falls_silent_can_be_gone_on_with(site: Site) -> None:
    _, headers, _ = await site.ask("POST", UPLOADS)
    location = headers["Location"]

    async def silent() -> AsyncIterator[bytes]:
        yield WHOLE[:40]
        await asyncio.Event().wait()

    status, _, body = await site.ask("PATCH", location, data=silent())
    assert (status, code_of(body)) == (408, "BLOB_UPLOAD_INVALID")
    assert (await site.ask("GET", location))[1]["Range"] == "0-39"
    status, _, _ = await site.ask("PUT", f"{location}?digest={digest_of(WHOLE)}", data=WHOLE[40:])
    assert status == 201


async def test_a_refused_chunk_tells_what_is_there(site: Site) -> None:
    _, headers, _ = await site.ask("POST", UPLOADS)
    location = headers["Location"]
    assert (await site.ask("PATCH", location, data=b"abc"))[0] == 202
    for told in ("7-9", "0-2", "x", "3-9", "9" * 19 + "-" + "9" * 19, "5-3"):
        for method, path in (("PATCH", location), ("PUT", f"{location}?digest={digest_of(b'abcdef')}")):
            status, headers, body = await site.ask(method, path, data=b"def", headers={"Content-Range": told})
            assert (status, code_of(body)) == (416, "BLOB_UPLOAD_INVALID"), told
            assert (headers["Range"], headers["Location"]) == ("0-2", location)
    status, _, _ = await site.ask(
        "PUT", f"{location}?digest={digest_of(b'abcdef')}", data=b"def", headers={"Content-Range": "bytes 3-5/*"}
    )
    assert status == 201


async def test_requests_without_a_body(site: Site) -> None:
    """All of a process have the same empty one in aiohttp, which says something else when it is read again."""
    for _ in range(3):
        _, headers, _ = await site.ask("POST", UPLOADS)
        location = headers["Location"]
        assert (await site.ask("PATCH", location, data=b"hello"))[0] == 202
        for method, status in (("PATCH", 202), ("PUT", 201)):
            assert (await site.ask(method, f"{location}?digest={digest_of(b'hello')}"))[0] == status


async def test_an_upload_belongs_to_its_repository(site: Site) -> None:
    _, headers, _ = await site.ask("POST", UPLOADS)
    elsewhere = headers["Location"].replace("models/m/", "models/other/")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        status, _, body = await site.ask(method, f"{elsewhere}?digest={digest_of(b'')}")
        assert (status, code_of(body)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await site.ask("HEAD", headers["Location"]))[0] == 204


# --- no endpoints, no members ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v2/models", 404, None),
        ("GET", "/v2/models/m/blobs/", 404, None),
        ("POST", "/v2/models/m/blobs/uploads", 405, "GET, HEAD, DELETE"),  # a blob with an odd digest
        ("GET", "/v2/models/m/nothing/x", 404, None),
        ("DELETE", "/v2/", 405, "GET, HEAD"),
        ("POST", "/v2", 405, "GET, HEAD"),
        ("PUT", "/v2/_catalog", 405, "GET, HEAD"),
        ("POST", "/v2/models/m/manifests/1.0", 405, "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v2/models/m/blobs/x", 405, "GET, HEAD, DELETE"),
        ("POST", "/v2/models/m/blobs/uploads/x", 405, "GET, HEAD, PATCH, PUT, DELETE"),
        ("PUT", "/v2/models/m/tags/list", 405, "GET, HEAD"),
        ("OPTIONS", "/v2/models/m/referrers/x", 405, "GET, HEAD"),
        ("TRACE", "/v2/models/m/tags/list", 405, "GET, HEAD"),
    ],
)
async def test_what_is_no_endpoint(site: Site, method: str, path: str, status: int, allowed: str | None) -> None:
    found, headers, body = await site.ask(method, path)
    assert (found, code_of(body), headers.get("Allow")) == (status, "UNSUPPORTED", allowed)
    assert msgspec.json.decode(body)["error"]["code"] in ("endpoint_unknown", "method_not_allowed")


@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/v2/models/m/tags/list", "/v2/nothing", "/v2/Models/../x"])
async def test_who_is_not_admitted(site: Site, path: str) -> None:
    bare = FederationClient([site.address], client_context(site.federation.operator.identity.ca))
    async with bare:
        with pytest.raises(Problem, match="no certificate"):
            async with bare.stream(path):
                pass


async def test_names_that_are_none(site: Site) -> None:
    for name in ("Models/m", "models/%20", "models//m", "models/m%2F..%2Fx", "-models/m", "a" * 300):
        status, _, body = await site.ask("GET", f"https://{site.address}/v2/{name}/tags/list")
        assert (status, code_of(body)) == (400, "NAME_INVALID"), name


async def test_repositories_in_pages(site: Site) -> None:
    for name in ("c", "a", "b"):
        site.layout.put_manifest(f"models/{name}", manifest(), tag="1.0")
    status, headers, body = await site.ask("GET", "/v2/_catalog?n=2")
    assert (status, json.loads(body)) == (200, {"repositories": ["models/a", "models/b"]})
    assert headers["Link"] == '</v2/_catalog?n=2&last=models%2Fb>; rel="next"'
    status, headers, body = await site.ask("GET", "/v2/_catalog?n=2&last=models%2Fb")
    assert (json.loads(body), headers.get("Link")) == ({"repositories": ["models/c"]}, None)
    assert (await site.ask("GET", "/v2/_catalog?n=-1"))[0] == 400


async def test_ranges_that_are_none(site: Site) -> None:
    site.layout.blobs.put(b"0123456789")
    path = f"/v2/models/m/blobs/{digest_of(b'0123456789')}"
    for asked in ("bytes=10-", "bytes=99-100", "bytes=5-3", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b"):
        status, headers, body = await site.ask("GET", path, headers={"Range": asked})
        assert (status, headers["Content-Range"], code_of(body)) == (416, "bytes */10", "SIZE_INVALID"), asked


# --- a full disk ----------------------------------------------------------------------------------------------------


async def test_a_disk_that_fills_during_a_push(tmp_path: Path) -> None:
    """At every step: refused by its name, nothing half listed, and the next attempt goes through once there is room."""
    large = RegistryLimits(upload_bytes_max=64 << 20)
    with small_disk(tmp_path / "disk", megabytes=2) as disk:
        async with opened(tmp_path, limits=large, central=tmp_path / "disk" / "central") as site:
            first = packed(write_model(tmp_path / "m"))
            assert (await site.push(first))[0] == 201
            second = packed(
                write_model(tmp_path / "m", more='docs = ["large.txt"]\n') and large_file(tmp_path), version="2.0"
            )
            disk.fill(leave_bytes=1 << 16)
            content = second.files["large.txt"]
            path = f"/v2/models/doubler/blobs/uploads/?digest={digest_of(content)}"
            await refused_for_room(site, "POST", path, content)
            _, headers, _ = await site.ask("POST", "/v2/models/doubler/blobs/uploads/")
            await refused_for_room(site, "PATCH", headers["Location"], content)
            assert (await site.ask("GET", headers["Location"]))[0] == 404  # how far it came is not known
            assert left_behind(site) == []
            disk.fill()
            status, _, body = await site.put("/v2/models/doubler/manifests/latest", first.manifest)
            assert (status, code_of(body)) == (507, "DENIED")
            assert site.layout.tags("models/doubler") == ("1.0",)
            assert [entry.label for entry in site.layout.releases()] == ["doubler@1.0"]
            disk.empty()
            assert (await site.push(second))[0] == 201
            assert (await site.put("/v2/models/doubler/manifests/latest", first.manifest))[0] == 201
            assert [entry.label for entry in site.layout.releases()] == ["doubler@1.0", "doubler@2.0"]
            for entry in site.layout.releases():
                site.layout.packed(entry)


def test_content_goes_on_where_a_write_failed(tmp_path: Path) -> None:
    """A part of a piece may be on disk then; it is written over, and cut off at the end."""
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        store = BlobStore(tmp_path / "disk" / "blobs")
        content = b"0123456789abcdef" * (1 << 14)
        with store.stage_new(bytes_max=len(content)) as staged:
            staged.write(content[:1000])
            disk.fill(leave_bytes=1 << 14)
            with pytest.raises(StorageFull):
                staged.write(content[1000:])
            assert staged.offset == 1000
            disk.empty()
            staged.write(content[1000:2000])
            assert staged.finish(digest_of(content[:2000])) == digest_of(content[:2000])
        assert store.read(digest_of(content[:2000]), bytes_max=2000) == content[:2000]


def large_file(folder: Path) -> Path:
    (folder / "m" / "large.txt").write_bytes(b"0123456789abcdef" * (1 << 16))
    return folder / "m"


async def refused_for_room(site: Site, method: str, path: str, content: bytes) -> None:
    import io

    status, _, body = await site.ask(method, path, data=io.BytesIO(content))
    assert (status, code_of(body)) == (507, "DENIED")
    assert msgspec.json.decode(body)["error"]["code"] == "storage_full"


async def test_a_push_cut_at_any_step_leaves_the_old_or_the_new(site: Site, release: PackedRelease) -> None:
    """Nothing is a release until all is there, and pushing again finishes what somebody left."""
    await site.push(release)
    later = packed(
        write_model(site.layout.path.parent / "m", code="create function f(Real x) -> Real as x;\n", more=""),
        version="2.0",
    )
    steps = [*later.files.values(), later.config]
    for sent in range(len(steps) + 1):
        for content in steps[:sent]:
            await site.upload(content)
        assert [entry.label for entry in site.layout.releases()] == ["doubler@1.0"]
    assert (await site.put("/v2/models/doubler/manifests/2.0", later.manifest))[0] == 201
    assert [entry.label for entry in site.layout.releases()] == ["doubler@1.0"]
    assert (await site.push(later))[0] == 201
    assert [entry.label for entry in site.layout.releases()] == ["doubler@1.0", "doubler@2.0"]


def test_a_page_has_so_many_names() -> None:
    names = [f"{number:05}" for number in range(PAGE_MAX + 2)]
    for asked in ("", f"?n={PAGE_MAX + 1}", "?n=999999999"):
        shown, headers = page(names, make_mocked_request("GET", f"/v2/_catalog{asked}"), "/v2/_catalog")
        assert shown == names[:PAGE_MAX]
        assert headers == {"Link": f'</v2/_catalog?n={PAGE_MAX}&last={names[PAGE_MAX - 1]}>; rel="next"'}
    shown, headers = page(names, make_mocked_request("GET", f"/v2/_catalog?last={shown[-1]}"), "/v2/_catalog")
    assert (shown, headers) == (names[PAGE_MAX:], {})
    assert page(names, make_mocked_request("GET", "/v2/_catalog?n=0"), "/v2/_catalog") == ([], {})
    with pytest.raises(UserProblem):
        page(names, make_mocked_request("GET", "/v2/_catalog?n=9999999999"), "/v2/_catalog")
