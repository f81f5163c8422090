"""A living federation inside one event loop: real listeners, TLS and stores on 127.0.0.1, homes in a folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from federation.documents import RootRecord, SignedDocument, decode, encode
from federation.keys import read_key
from federation.roots import endorse, sign_root
from peers.client import Answer, AsyncConnection, connect_async
from peers.edge_peer import run_edge
from peers.homes import Home, RunRecord
from peers.joining import join
from peers.nameserver_peer import run_nameserver
from peers.settings import EdgeSettings, NameserverSettings


@dataclass
class Running:
    """One peer's task; :meth:`stop` ends it cleanly."""

    record: RunRecord
    task: asyncio.Task[None]
    asked: asyncio.Event

    async def stop(self) -> None:
        self.asked.set()
        await self.task


@dataclass
class Living:
    """Start with :func:`living`. Names of edges are their homes' folders; each peer may have a clock of its own."""

    folder: Path
    clocks: dict[str, Callable[[], float]] = field(default_factory=dict)
    peers: dict[str, Running] = field(default_factory=dict)

    def home(self, name: str) -> Home:
        return Home(self.folder / name)

    @property
    def admin(self) -> Home:
        return self.home("ns-admin")

    async def start_nameserver(self, **settings: Any) -> RunRecord:
        usual = {"federation_host": "127.0.0.1", "federation_port": 0, "application_port": 0, "poll_interval": "1s"}
        chosen = NameserverSettings(zeroconf=False, **{**usual, **settings})
        return await self._start("ns", run_nameserver, chosen)

    async def add_edge(self, name: str, **settings: Any) -> RunRecord:
        bundle = await self.value(f'edge:register("{name}")')
        await join(self.home(name), bundle, clock=self.clocks.get(name, time.time))
        return await self.start_edge(name, **settings)

    async def start_edge(self, name: str, **settings: Any) -> RunRecord:
        chosen = EdgeSettings(**{"application_port": 0, "zeroconf": False, **settings})
        return await self._start(name, run_edge, chosen)

    async def _start(self, name: str, run: Any, settings: Any) -> RunRecord:
        stop: asyncio.Event = asyncio.Event()
        clock = self.clocks.get(name, time.time)
        ready: asyncio.Future[RunRecord] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(run(self.home(name), settings, stop=stop, ready=ready.set_result, clock=clock))
        await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await task
        self.peers[name] = Running(ready.result(), task, stop)
        return ready.result()

    async def stop(self, name: str) -> None:
        await self.peers.pop(name).stop()

    def connection(self, home: str | None = None) -> AsyncConnection:
        return connect_async(self.home(home).path if home else self.admin.path)

    async def ask(self, text: str, *, home: str | None = None, **options: Any) -> Answer:
        async with self.connection(home) as peer:
            return await peer.query(text, **options)

    async def value(self, text: str, *, home: str | None = None, **options: Any) -> Any:
        async with self.connection(home) as peer:
            return await peer.value(text, **options)

    async def until(self, text: str, wanted: Any, *, home: str | None = None, timeout_s: float = 20.0) -> None:
        """Ask again until the value is the wanted one; fails with the last value seen."""
        seen: Any = None
        async with self.connection(home) as peer:
            try:
                async with asyncio.timeout(timeout_s):
                    while True:
                        answer = await peer.query(text)
                        seen = answer.rows[0].value if answer.rows else answer.errors
                        if seen == wanted:
                            return
                        await asyncio.sleep(0.05)  # a poll of a real process, not a wait for luck: bounded above
            except TimeoutError:
                raise AssertionError(f"{text}: wanted {wanted!r}, last {seen!r}") from None


@asynccontextmanager
async def living(
    folder: Path, *edges: str, clocks: Mapping[str, Callable[[], float]] = MappingProxyType({})
) -> AsyncIterator[Living]:
    async with AsyncExitStack() as stack:
        federation = Living(folder, dict(clocks))

        async def stop_all() -> None:
            """The nameserver first; each, also when one before it failed, or its connections would outlive the loop."""
            async with AsyncExitStack() as each:
                for name in reversed(federation.peers):
                    each.push_async_callback(federation.stop, name)

        stack.push_async_callback(stop_all)
        await federation.start_nameserver()
        for name in edges:
            await federation.add_edge(name)
        yield federation


async def publisher_in(federation: Living, name: str = "ada", *, role: str = "operator") -> Home:
    """A publisher's home, joined and endorsed by the root key."""
    bundle = await federation.value(
        "peer:register(:name, :options)", params={"name": name, "options": {"role": role, "publisher": True}}
    )
    home = federation.home(name)
    await join(home, bundle)
    root_key = read_key(federation.home("ns-root").root_key)
    documents = await federation.ask("keys:root_documents()")
    root = decode(decode(documents.rows[-1].value.encode(), SignedDocument).payload, RootRecord)
    endorsed = endorse(root, publisher=name, key=read_key(home.publisher_key).public, now=root.created + 1.0)
    signed = sign_root(endorsed, root_key)
    await federation.value("keys:set_root(:document)", params={"document": encode(signed).decode()})
    return home


async def publish(federation: Living, name: str, version: str, *, home: str = "ada") -> None:
    """Make a release of a model's folder in a publisher's home, and send it to the nameserver."""
    await federation.value(f'models:create_release("{name}", "{version}")', home=home)
    await federation.value(f'models:publish("{name}", "{version}")', home=home)


async def publisher_of_thermo(federation: Living) -> Home:
    """The home of ada, who has published ``thermo@1.0``, made from the template of ``models:create``."""
    home = await publisher_in(federation)
    await federation.value('models:create("thermo")', home="ada")
    await publish(federation, "thermo", "1.0")
    return home
