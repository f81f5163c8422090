"""Many real uplinks, held by a few processes that run the production executor, and the nameserver they are open to.

    python -m benchmarks.held_uplinks FOLDER ADDRESS FIRST COUNT

opens the uplinks of the edges FIRST … of the federation in FOLDER, and says ``ready`` when all are open. Told
``bytes``, it says what went up and down all of them since they were opened, as TCP counts it; it ends when its input
does.

An edge here has a key, a certificate, an uplink and the functions of the language, and checks envelopes and the
director's word as every edge does; it has no models, polls nothing and keeps no home.
"""

from __future__ import annotations

import asyncio
import socket as sockets
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from federation.certificates import issue
from federation.documents import RootRecord, decode
from federation.events import Event, Joined, Registered
from federation.keys import PrivateKey, read_key
from federation.names import PeerId
from federation.store import FederationStore
from federation.tls import client_context
from peers.carried import CarriedStatements
from peers.catalogues import PeerCatalogue
from peers.elsewhere import Identity, Upward
from peers.federation_client import FederationClient
from peers.founding import found
from peers.homes import Home
from peers.running import RunningQueries
from peers.settings import NameserverSettings
from peers.statements import Statements
from peers.uplink_client import UplinkClient
from query.functions import language_functions

PROCESSES: Final = 4
OPENED_AT_ONCE: Final = 16
START_S_MAX: Final = 120.0
EDGES_FILE: Final = "edges.json"
_ACKED_AND_RECEIVED: Final = 120  # offset of two numbers in Linux' tcp_info


class Edge(msgspec.Struct, frozen=True):
    """An edge that is held: its identity, and its key and certificate as PEM."""

    uuid: PeerId
    name: str
    key: str
    certificate: str


@dataclass(frozen=True)
class Bytes:
    up: int
    down: int

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.up - other.up, self.down - other.down)


class Held:
    """A nameserver's process and those that hold its edges' uplinks."""

    def __init__(self, nameserver: subprocess.Popen[str], home: Home, holding: list[subprocess.Popen[str]]) -> None:
        self.nameserver = nameserver
        self.home = home
        self.admin = Path(f"{home.path}-admin")
        self._holding = holding

    def bytes(self) -> Bytes:
        """What went over all uplinks so far."""
        up = down = 0
        for process in self._holding:
            assert process.stdin is not None
            process.stdin.write("bytes\n")
            process.stdin.flush()
            assert process.stdout is not None
            one, other = process.stdout.readline().split()
            up, down = up + int(one), down + int(other)
        return Bytes(up, down)


@contextmanager
def held(folder: Path, count: int) -> Iterator[Held]:
    """A federation of ``count`` edges whose uplinks are open."""
    home = _federation(folder / "ns", count)
    with ExitStack() as stack:
        nameserver = _process(stack, "-m", "peers.cli", "nameserver", "--home", str(home.path), *_LOCAL)
        assert nameserver.stdout is not None
        address = str(msgspec.json.decode(nameserver.stdout.readline())["federation"])
        share = -(-count // PROCESSES)
        holding = [
            _process(stack, "-m", "benchmarks.held_uplinks", str(home.path), address, str(first), str(share))
            for first in range(0, count, share)
        ]
        for process in holding:
            assert process.stdout is not None
            told = process.stdout.readline().strip()
            assert told == "ready", told
        yield Held(nameserver, home, holding)


_LOCAL: Final = (
    *("--federation-host", "127.0.0.1", "--federation-port", "0", "--application-port", "0", "--no-zeroconf"),
    *("--log-level", "error", "--json"),
)


def _process(stack: ExitStack, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _federation(path: Path, count: int) -> Home:
    """A founded nameserver's home with edges that have joined; beside its files, the edges' keys."""
    home, settings, now = Home(path), NameserverSettings(federation="bench"), time.time()
    foundation = found(home, settings, now=now, host_name=sockets.gethostname())
    ca, authority = home.text(home.ca_crt), read_key(home.ca_key)
    events: list[Event] = []
    edges = []
    for number in range(count):
        uuid, name, key = PeerId(f"00000000-0000-4000-8000-{number:012}"), f"edge-{number}", PrivateKey.generate()
        events.append(Registered(uuid=uuid, name=name, kind="edge", role="viewer", token_hash=f"{number:064x}"))
        events.append(Joined(uuid, key.public))
        certificate = issue(
            ca_pem=ca,
            ca_key=authority,
            subject_key=key.public,
            federation=foundation.membership.federation,
            kind="edge",
            uuid=uuid,
            now=now,
        )
        edges.append(Edge(uuid, name, key.pem, certificate))
    store = FederationStore.open(home.state_db)
    try:
        store.append(events, caller="bench", now=now)
    finally:
        store.close()
    (path / EDGES_FILE).write_bytes(msgspec.json.encode(edges))
    return home


# --- a process that holds -------------------------------------------------------------------------------------------


class _Counted(UplinkClient):
    """An uplink whose socket can be asked for what went over it."""

    socket: aiohttp.ClientWebSocketResponse | None = None

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        await super()._serve(socket)

    def bytes(self) -> Bytes:
        assert self.socket is not None
        plain = self.socket.get_extra_info("socket")
        info = plain.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        return Bytes(*struct.unpack_from("<QQ", info, _ACKED_AND_RECEIVED))


def _uplink(edge: Edge, client: FederationClient, *, federation: str, root: RootRecord) -> _Counted:
    catalogue, running = PeerCatalogue(), RunningQueries()
    catalogue.compose(*language_functions())
    identity = Identity(edge.name, _no_seal)
    statements = Statements(
        name=edge.name,
        is_nameserver=False,
        catalogue=catalogue,
        elsewhere=Upward(identity=identity, client=client),
        running=running,
        federation_time=client.federation_time,
    )
    executor = CarriedStatements(
        name=edge.name,
        federation=federation,
        root=lambda: root,
        statements=statements,
        federation_time=client.federation_time,
    )
    return _Counted(client, executor, on_nudge=lambda: None, pause=lambda attempt: 0.2, sooner=asyncio.Event())


def _no_seal(body: bytes, *, lifetime_s: float, waits: bool = False) -> Any:
    raise NotImplementedError("an edge that is held asks nobody")


async def _hold(folder: Path, address: str, first: int, count: int) -> None:
    home = Home(folder)
    federation = home.membership().federation
    root = decode(home.roots()[-1].payload, RootRecord)
    edges = msgspec.json.decode((folder / EDGES_FILE).read_bytes(), type=list[Edge])[first : first + count]
    ca = home.text(home.ca_crt)
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        uplinks, holding = [], []
        for number, edge in enumerate(edges, 1):
            client = FederationClient([address], client_context(ca, edge.certificate, edge.key))
            await stack.enter_async_context(client)
            uplink = _uplink(edge, client, federation=federation, root=root)
            uplinks.append(uplink)
            holding.append(tasks.create_task(uplink.hold()))
            if number % OPENED_AT_ONCE == 0:
                await _all_open(uplinks)
        await _all_open(uplinks)
        print("ready", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.readline():
            found = [uplink.bytes() for uplink in uplinks]
            print(sum(one.up for one in found), sum(one.down for one in found), flush=True)
        for task in holding:
            task.cancel()


async def _all_open(uplinks: list[_Counted]) -> None:
    async with asyncio.timeout(START_S_MAX):
        while not all(uplink.connected for uplink in uplinks):  # noqa: ASYNC110 — sockets, looked at
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(_hold(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
