"""A federation in small for tests of the repository: keys, certificates, a root record, models and servers on TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from federation.certificates import issue, make_authority
from federation.documents import Kind, ReleaseRecord, RootRecord, SignedDocument, decode
from federation.folders import read_folder
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.members import Member
from federation.names import Digest, PeerId
from federation.packing import Inspection, PackedRelease, pack
from federation.retention import ReleaseHeld
from federation.roots import first_root
from federation.tls import NAMESERVER_HOSTNAME, client_context, server_context
from federation.verification import verify_record
from peers.federation_client import FederationClient
from peers.oci_push import PushIdentity
from peers.registry_routes import registry_routes
from peers.registry_uploads import RegistryLimits
from query.errors import PeerProblem, Problem

FEDERATION = "f0000000-0000-4000-8000-000000000000"
CODE = "create function double(Real x) -> Real as 2 * x;\n"


def key(number: int) -> PrivateKey:
    return PrivateKey(bytes([number]) * 32)


CA, NAMESERVER, PUBLISHER, VIEWER, OPERATOR, ROOT, DIRECTOR, STRANGER = (key(number) for number in range(1, 9))


def root_record() -> RootRecord:
    document = first_root(
        FEDERATION, roots=[ROOT], director=DIRECTOR.public, now=1.0, publishers={"publisher": PUBLISHER.public}
    )
    return decode(document.payload, RootRecord)


def write_model(folder: Path, *, name: str = "doubler", code: str = CODE, more: str = "") -> Path:
    """A model of functions alone: no engine is needed to pack it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(f'name = "{name}"\nkind = "functions"\nfunctions = ["f.pql"]\n{more}')
    (folder / "f.pql").write_text(code)
    return folder


def packed(
    folder: Path, *, version: str = "1.0", publisher: PrivateKey = PUBLISHER, now: float = 100.0, **options: bool
) -> PackedRelease:
    inspection = Inspection((), (), {})
    return pack(read_folder(folder), version=version, publisher=publisher, inspection=inspection, now=now, **options)


@dataclass(frozen=True, slots=True)
class Party:
    """A peer with its files."""

    member: Member
    key: PrivateKey
    identity: PushIdentity

    def client(self, *addresses: str) -> FederationClient:
        context = client_context(self.identity.ca, self.identity.certificate, self.identity.key)
        return FederationClient(addresses, context)


class Federation:
    """Certificates on disk and members by the uuid in them."""

    def __init__(self, folder: Path, *, ca: PrivateKey = CA) -> None:
        self._folder = folder
        self._ca = ca
        self._now = time.time()  # OpenSSL has no other clock
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_text(make_authority(FEDERATION, ca, now=self._now))
        self.nameserver = self.party("nameserver", NAMESERVER, kind="nameserver", role="admin")
        self.publisher = self.party("publisher", PUBLISHER, role="viewer", publisher=True)
        self.operator = self.party("operator", OPERATOR, role="operator")
        self.viewer = self.party("viewer", VIEWER, role="viewer")
        self._members = {
            party.member.uuid: party.member for party in (self.publisher, self.operator, self.viewer, self.nameserver)
        }

    def party(
        self, name: str, identity: PrivateKey, *, role: str, kind: Kind = "client", publisher: bool = False
    ) -> Party:
        uuid = PeerId(f"00000000-0000-4000-8000-{identity.public[:6].hex()}")
        certificate, keyfile = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_text(
            issue(
                ca_pem=(self._folder / "ca.crt").read_text(),
                ca_key=self._ca,
                subject_key=identity.public,
                federation=FEDERATION,
                kind=kind,
                uuid=uuid,
                now=self._now,
                dns=[NAMESERVER_HOSTNAME] if kind == "nameserver" else [],
                ips=["127.0.0.1"] if kind == "nameserver" else [],
            )
        )
        keyfile.write_text(identity.pem)
        member = Member(
            uuid=uuid,
            name=name,
            kind=kind,
            role=role,  # type: ignore[arg-type]
            registered=1.0,
            publisher=publisher,
            key=identity.public,
            publisher_key=identity.public if publisher else None,
        )
        return Party(member, identity, PushIdentity(self._folder / "ca.crt", certificate, keyfile))

    def member_of(self, request: web.Request) -> Member:
        assert request.transport is not None
        shown = request.transport.get_extra_info("peercert")
        for kind, uri in (shown or {}).get("subjectAltName", ()):
            if kind == "URI" and uri.rsplit("/", 1)[1] in self._members:
                return self._members[uri.rsplit("/", 1)[1]]
        raise PeerProblem("no certificate of a member")

    @asynccontextmanager
    async def serve(self, routes: Iterable[web.RouteDef], *, cancels: bool = True) -> AsyncIterator[str]:
        """``host:port`` of a server with the nameserver's certificate; ``cancels`` requests of who has left, as it."""
        identity = self.nameserver.identity
        context = server_context(identity.certificate, identity.key, identity.ca)
        async with served(routes, context=context) as address:
            yield address


@asynccontextmanager
async def served(routes: Iterable[web.RouteDef], *, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """``host:port`` of a server on loopback, whose connections end with the block."""
    opened: dict[asyncio.Transport, socket.socket] = {}

    @web.middleware
    async def seen(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.transport is not None:
            opened[request.transport] = request.transport.get_extra_info("socket")  # type: ignore[index]
        return await handler(request)

    application = web.Application(middlewares=[seen])
    application.add_routes(list(routes))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        assert runner.server is not None
        server = await asyncio.get_running_loop().create_server(
            runner.server, "127.0.0.1", 0, ssl=context, ssl_shutdown_timeout=None if context is None else 0.1
        )
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
        server.close()
    finally:
        await _hang_up(runner, opened)
        await runner.cleanup()


async def _hang_up(runner: web.AppRunner, opened: dict[asyncio.Transport, socket.socket]) -> None:
    """End every connection at once: one that waits for the other side's goodbye outlives the test's loop."""
    assert runner.server is not None
    for connection in runner.server.connections:
        if connection.transport is not None:
            opened.setdefault(connection.transport, connection.transport.get_extra_info("socket"))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while any(raw.fileno() != -1 for raw in opened.values()):
            for transport in opened:
                transport.abort()
            await asyncio.sleep(0)


class Registrations:
    """What a nameserver does with releases: believes those of endorsed publishers, and of who develops them."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.refusing: Problem | None = None
        self.held: set[str] = set()
        self.deleted: list[tuple[str, Digest]] = []
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        self.answered.set()

    async def __call__(self, signed: SignedDocument, manifest: bytes, member: Member) -> None:
        record = verify_record(signed, root_record(), development_key=member.key)
        self.asked.set()
        await self.answered.wait()
        if self.refusing is not None:
            raise self.refusing
        self.labels.append(record.label)

    def check(self, signed: SignedDocument, member: Member) -> None:
        verify_record(signed, root_record(), development_key=member.key)

    async def let_go(self, record: ReleaseRecord, digest: Digest, member: Member) -> None:
        if record.label in self.held:
            raise ReleaseHeld(f"{record.label} is held by 1, expected nobody: group field has it")
        self.deleted.append((record.label, digest))


@asynccontextmanager
async def registry(
    federation: Federation,
    layout: ImageLayout,
    *,
    registrations: Registrations | None = None,
    clock: Callable[[], float] = time.monotonic,
    limits: RegistryLimits | None = None,
    cancels: bool = True,
) -> AsyncIterator[str]:
    """A nameserver's repository on TLS."""
    registrations = registrations or Registrations()
    routes = registry_routes(
        layout,
        member_of=federation.member_of,
        on_release=registrations,
        check_record=registrations.check,
        on_delete=registrations.let_go,
        clock=clock,
        limits=limits,
    )
    async with federation.serve(routes, cancels=cancels) as address:
        yield address
