"""Publishing through oras: to our registry, and to servers that are none."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from federation.blobs import DamagedBlob
from federation.errors import UnknownKey, WrongRole
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease, VersionTaken
from federation.names import digest_of
from peers.answers import TooBusy
from peers.oci_errors import (
    RegistryBusy,
    RegistryFailed,
    RegistryRefused,
    RegistryStalled,
    RegistryUnauthorized,
    RegistryUnreachable,
    RegistryUntrusted,
)
from peers.oci_push import NameserverRepository, push
from peers.oci_transfers import PROGRESS_BYTES, TransferLimits
from peers.registry_uploads import RegistryLimits
from query.errors import Problem
from tests.repository.site import (
    CODE,
    OPERATOR,
    STRANGER,
    Federation,
    Registrations,
    packed,
    registry,
    root_record,
    write_model,
)

QUICK = TransferLimits(connect_s=1.0, read_s=0.5, answer_s=2.0)


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int | None, str]] = []

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        self.calls.append((label, done, total, unit))


@dataclasses.dataclass
class Publisher:
    federation: Federation
    layout: ImageLayout
    release: InstalledRelease
    folder: Path


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    folder = write_model(tmp_path / "m", more='docs = ["large.txt"]\n')
    (folder / "large.txt").write_bytes(os.urandom(3 * PROGRESS_BYTES // 2).hex().encode())
    layout = ImageLayout(tmp_path / "home")
    return Publisher(Federation(tmp_path / "keys"), layout, layout.install(packed(folder)), folder)


@pytest.fixture
async def central(publisher: Publisher, tmp_path: Path) -> AsyncIterator[tuple[ImageLayout, str, Registrations]]:
    layout, registrations = ImageLayout(tmp_path / "central"), Registrations()
    async with registry(publisher.federation, layout, registrations=registrations) as address:
        yield layout, address, registrations


async def test_a_published_release_is_the_same_release_there(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations]
) -> None:
    layout, address, registrations = central
    told = Told()
    identity = publisher.federation.publisher.identity
    await push(publisher.layout, publisher.release, addresses=[address], identity=identity, progress=told)
    assert registrations.labels == ["doubler@1.0"]
    assert layout.releases() == (publisher.release,)
    assert layout.packed(publisher.release) == publisher.layout.packed(publisher.release)
    assert layout.verified(layout.signed(publisher.release), root=root_record()).label == "doubler@1.0"
    labels = {call[0] for call in told.calls}
    done = [call[1] for call in told.calls]
    assert labels == {"publish doubler@1.0"}
    assert done == sorted(done)
    assert done[-1] == told.calls[-1][2]
    assert len([amount for amount in done if amount < done[-1]]) > 2


async def test_published_again_nothing_is_sent_twice(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations]
) -> None:
    layout, address, _ = central
    repository = NameserverRepository(
        publisher.layout, addresses=lambda: [address], identity=publisher.federation.publisher.identity
    )
    assert repository.addresses == (address,)
    await repository.push(publisher.release, progress=Told())
    before = {path: path.stat().st_mtime_ns for path in (layout.path / "blobs" / "sha256").iterdir()}
    told = Told()
    await repository.push(publisher.release, progress=told)
    assert {path: path.stat().st_mtime_ns for path in (layout.path / "blobs" / "sha256").iterdir()} == before
    assert told.calls[-1][1] == told.calls[-1][2]


async def test_a_version_published_by_another_home_with_other_bytes(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations], tmp_path: Path
) -> None:
    layout, address, registrations = central
    identity = publisher.federation.publisher.identity
    await push(publisher.layout, publisher.release, addresses=[address], identity=identity)
    other = ImageLayout(tmp_path / "other")
    release = other.install(packed(write_model(publisher.folder, code=CODE + "// more\n")))
    with pytest.raises(VersionTaken) as refused:
        await push(other, release, addresses=[address], identity=identity)
    assert publisher.release.manifest in refused.value.message
    assert release.manifest in refused.value.message
    assert layout.releases() == (publisher.release,)
    assert registrations.labels == ["doubler@1.0"]


async def test_a_development_release_goes_by_digest_and_is_no_release_there(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations]
) -> None:
    layout, address, _ = central
    release = publisher.layout.install(packed(publisher.folder, publisher=OPERATOR, development=True))
    await push(publisher.layout, release, addresses=[address], identity=publisher.federation.operator.identity)
    assert layout.releases() == ()
    assert layout.releases(development=True) == (release,)
    assert layout.tags("development/doubler") == ()


async def test_refusals_come_back_in_their_own_class(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations], tmp_path: Path
) -> None:
    layout, address, _ = central
    federation = publisher.federation
    with pytest.raises(WrongRole, match='"viewer" may not push'):
        await push(publisher.layout, publisher.release, addresses=[address], identity=federation.viewer.identity)
    forging = ImageLayout(tmp_path / "forging")
    forged = forging.install(packed(publisher.folder, publisher=STRANGER))
    with pytest.raises(UnknownKey):
        await push(forging, forged, addresses=[address], identity=federation.operator.identity)
    assert layout.releases() == ()


async def test_a_full_registry_says_so(publisher: Publisher, tmp_path: Path) -> None:
    limits = RegistryLimits(uploads_max=0)
    async with registry(publisher.federation, ImageLayout(tmp_path / "central"), limits=limits) as address:
        with pytest.raises(TooBusy):
            await push(
                publisher.layout,
                publisher.release,
                addresses=[address],
                identity=publisher.federation.publisher.identity,
            )


async def test_the_next_address_is_tried_and_the_proxy_of_the_environment_is_not(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address, registrations = central
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{closed.getsockname()[1]}"
        identity = publisher.federation.publisher.identity
        await push(publisher.layout, publisher.release, addresses=[gone, address], identity=identity)
        assert registrations.labels == ["doubler@1.0"]
        with pytest.raises(RegistryUnreachable, match=f"^cannot reach {gone}: Connection refused$"):
            await push(publisher.layout, publisher.release, addresses=[gone], identity=identity)
        with pytest.raises(RegistryUnreachable, match="no address"):
            await push(publisher.layout, publisher.release, addresses=[], identity=identity)


async def test_another_federation_is_named(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations], tmp_path: Path
) -> None:
    _, address, registrations = central
    foreign = Federation(tmp_path / "foreign", ca=STRANGER).publisher.identity
    meant = f"^{address} is not the registry that was meant: "
    with pytest.raises(RegistryUntrusted, match=meant + "[^:()]*certificate[^:()]*$"):
        await push(publisher.layout, publisher.release, addresses=[address], identity=foreign)
    named = dataclasses.replace(publisher.federation.publisher.identity, hostname="registry.example")
    with pytest.raises(RegistryUntrusted, match=meant + "hostname 'registry.example' doesn't"):
        await push(publisher.layout, publisher.release, addresses=[address], identity=named)
    assert registrations.labels == []


async def test_a_blob_that_is_damaged_here_is_not_sent(
    publisher: Publisher, central: tuple[ImageLayout, str, Registrations]
) -> None:
    _, address, registrations = central
    publisher.layout.blobs.path(digest_of(CODE.encode())).write_bytes(b"short")
    with pytest.raises(DamagedBlob):
        await push(
            publisher.layout,
            publisher.release,
            addresses=[address],
            identity=publisher.federation.publisher.identity,
        )
    assert registrations.labels == []


# --- servers that are none ------------------------------------------------------------------------------------------


async def lied_to(publisher: Publisher, **answers: object) -> Problem:
    """What pushing to a server raises that answers ``GET /v2/``, HEAD and POST as told."""
    hang = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        told = answers.get(request.method, answers.get("any"))
        if told == "hang":
            await hang.wait()
        if told == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while not hang.is_set():
                await response.write(b"x" * 65536)
                await asyncio.sleep(0)  # asyncio drops what is written to a connection that is closing, without a word
            return response
        if isinstance(told, web.Response):
            return web.Response(status=told.status, headers=told.headers, body=told.body)
        return web.Response(status=404 if request.method == "HEAD" else 200)

    async with publisher.federation.serve([web.route("*", "/{rest:.*}", answer)]) as address:
        try:
            await push(
                publisher.layout,
                publisher.release,
                addresses=[address],
                identity=publisher.federation.publisher.identity,
                limits=QUICK,
            )
        except Problem as problem:
            return problem
        finally:
            hang.set()
    raise AssertionError("expected a problem")


@pytest.mark.parametrize(
    ("answers", "kind", "message"),
    [
        ({"GET": "hang"}, RegistryStalled, "no answer"),
        ({"POST": "hang"}, RegistryStalled, "no answer"),
        ({"GET": "endless"}, RegistryRefused, "more than 65536 bytes"),
        ({"any": web.Response(status=500)}, RegistryFailed, "status 500"),
        ({"any": web.Response(status=401)}, RegistryUnauthorized, "status 401"),
        ({"any": web.Response(status=403, text="<html>no</html>")}, RegistryUnauthorized, "status 403"),
        (
            {"any": web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})},
            RegistryRefused,
            "which is not followed",
        ),
        ({"POST": web.Response(status=202)}, RegistryRefused, "elsewhere"),
        (
            {"POST": web.Response(status=202, headers={"Location": "https://127.0.0.1:9/v2/x"})},
            RegistryRefused,
            "elsewhere",
        ),
        (
            {"POST": web.Response(status=429, text=json.dumps({"errors": [{"code": "TOOMANYREQUESTS"}]}))},
            RegistryBusy,
            "TOOMANYREQUESTS",
        ),
        ({"HEAD": web.Response(status=200)}, RegistryRefused, "status 200"),
    ],
)
async def test_what_is_no_registry(
    publisher: Publisher, answers: dict[str, object], kind: type[Problem], message: str
) -> None:
    problem = await lied_to(publisher, **answers)
    assert type(problem) is kind
    assert message in problem.message
