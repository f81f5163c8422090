"""A nameserver's home with many edges that have joined, made without asking them, and processes on it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from federation.certificates import issue
from federation.documents import Kind
from federation.events import Event, Joined, Registered
from federation.keys import PrivateKey, read_key
from federation.names import PeerId
from federation.store import FederationStore
from peers.founding import found
from peers.homes import Home
from peers.settings import NameserverSettings

LOOPBACK: Final = "127.0.0.1"


class Joining(msgspec.Struct, frozen=True):
    """An edge that joined: its identity, and its key and certificate as PEM."""

    uuid: PeerId
    name: str
    key: str
    certificate: str


@dataclass(frozen=True)
class Founded:
    home: Home
    admin: Home
    federation: str
    edges: tuple[Joining, ...]


def founded(path: Path, count: int, *, name: str = "bench") -> Founded:
    """A nameserver's home with ``count`` edges."""
    home, now = Home(path), time.time()
    foundation = found(home, NameserverSettings(federation=name), now=now, host_name=socket.gethostname())
    authority, pem = read_key(home.ca_key), home.text(home.ca_crt)
    events: list[Event] = []
    edges = []
    kind: Kind = "edge"
    for number in range(count):
        key, uuid = PrivateKey.generate(), PeerId(f"00000000-0000-4000-8000-{number:012}")
        edge = f"edge-{number}"
        events += [
            Registered(uuid=uuid, name=edge, kind=kind, role="viewer", token_hash=f"{number:064x}"),
            Joined(uuid, key.public),
        ]
        certificate = issue(
            ca_pem=pem,
            ca_key=authority,
            subject_key=key.public,
            federation=foundation.membership.federation,
            kind=kind,
            uuid=uuid,
            now=now,
        )
        edges.append(Joining(uuid, edge, key.pem, certificate))
    store = FederationStore.open(home.state_db)
    try:
        store.append(events, caller="bench", now=now)
    finally:
        store.close()
    return Founded(home, foundation.admin_home, foundation.membership.federation, tuple(edges))


def start_nameserver(stack: ExitStack, home: Home) -> int:
    """Start a nameserver in a home, to end with the stack; the port of its federation face."""
    local = ["--federation-host", LOOPBACK, "--federation-port", "0", "--application-port", "0", "--no-zeroconf"]
    command = [sys.executable, "-m", "peers.cli", "nameserver", "--home", str(home), *local, "--log-level", "error"]
    told: dict[str, Any] = msgspec.json.decode(started(stack, [*command, "--json"]))
    return int(str(told["federation"]).rpartition(":")[2])


def started(stack: ExitStack, command: list[str]) -> bytes:
    """Start a process, to end with the stack, and give the first line that it says."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    stack.callback(stop, process)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(command[:4])} … ended before it was ready")
    return line


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
