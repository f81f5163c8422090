"""An agent between twins: a real director over a store in memory, releases on a shelf, an engine that keeps a list.

Nothing sleeps: tests wait for reports, loads and answered polls, and move the clock by hand.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from engine.errors import FailedVectors, OverMemory
from federation import commands, release_commands
from federation.actual import Origin
from federation.assignments import WantedModel, set_group_models
from federation.documents import ActualState, Mode, ReleaseRecord, RootRecord, SignedDocument, decode
from federation.keys import PrivateKey
from federation.names import Digest, PeerId
from federation.polling import Director, PollReply
from federation.roots import endorse, first_root, sign_root
from federation.store import FederationStore
from federation.verification import VerifiedRelease
from peers.agent import Agent, Identity
from peers.edge_actions import ReleaseMissing, StoredRelease
from peers.edge_store import EdgeStore, StoreFull
from query.errors import Problem, UnknownName
from tests.world.releases import FAILS, Made, made

ROOT = PrivateKey(b"r" * 32)
DIRECTOR = PrivateKey(b"d" * 32)
PUBLISHER = PrivateKey(b"p" * 32)
DEVELOPER = PrivateKey(b"v" * 32)
EDGE = PeerId("11111111-1111-4111-8111-111111111111")
START = 1_750_000_000.0
INTERVAL = "10s"


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self, now: float = START) -> None:
        self._now = now
        self.offset = 0.0
        self._waiting: list[tuple[float, int, asyncio.Event]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self._now

    def offset_s(self) -> float:
        return self.offset

    async def wait(self, wake: asyncio.Event, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
            return
        passed = asyncio.Event()
        if seconds is not None:
            heapq.heappush(self._waiting, (self._now + seconds, next(self._count), passed))
        waits = [asyncio.create_task(wake.wait()), asyncio.create_task(passed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    def advance(self, seconds: float) -> None:
        self._now += seconds
        while self._waiting and self._waiting[0][0] <= self._now:
            heapq.heappop(self._waiting)[2].set()

    @property
    def next_at(self) -> float | None:
        return self._waiting[0][0] if self._waiting else None


class DirectorTwin:
    """The nameserver's answers without a network. ``problem`` is raised instead of answering."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.store = FederationStore.open(None)
        self.problem: Problem | None = None
        self.report_problem: Problem | None = None
        self.tamper: Callable[[PollReply], PollReply] = lambda reply: reply
        self.polls: list[tuple[str | None, str]] = []
        self.polled: asyncio.Queue[int] = asyncio.Queue()
        self.reports: asyncio.Queue[ActualState] = asyncio.Queue()
        root = first_root("f", roots=[ROOT], director=DIRECTOR.public, now=START, publishers={"p": PUBLISHER.public})
        founders = [
            commands.Founder(uuid=PeerId(f"uuid-{name}"), name=name, key=name[0].encode() * 32)
            for name in ("ns", "adm")
        ]
        self.change(
            commands.found(
                self.store.state,
                "f",
                root=root,
                nameserver=founders[0],
                admin=founders[1],
                now=START,
                draw=0.5,
                poll_interval=INTERVAL,
            )
        )
        self.change(commands.register(self.store.state, "E1", uuid=EDGE, token_hash="t", now=START))
        self.director = Director(DIRECTOR, self.store)

    def change(self, events: object) -> None:
        self.store.append(events, caller="test", now=self.clock.now())

    def publish(self, release: Made) -> None:
        self.change(release_commands.publish_release(self.store.state, release.packed.signed))

    def assign(self, *releases: Made, group: str = "all") -> None:
        wanted = [WantedModel(release.name, release.version) for release in releases]
        self.change(set_group_models(self.store.state, group, wanted).events)

    def unassign(self, *names: str, group: str = "all") -> None:
        from federation.assignments import remove_group_models

        self.change(remove_group_models(self.store.state, group, names))

    def endorse(self, name: str, key: PrivateKey) -> None:
        record = endorse(self.store.state.root, publisher=name, key=key.public, now=START)
        self.change(commands.set_root(self.store.state, sign_root(record, ROOT)))

    async def poll(self, uuid: PeerId, *, etag: str | None, status: str) -> PollReply:
        self.polls.append((etag, status))
        try:
            if self.problem is not None:
                raise self.problem
            return self.tamper(self.director.answer(uuid, etag, now=self.clock.now(), draw=0.5))
        finally:
            self.polled.put_nowait(len(self.polls))

    async def report(self, uuid: PeerId, body: bytes) -> None:
        if self.report_problem is not None:
            raise self.report_problem
        self.reports.put_nowait(decode(body, ActualState))

    async def root(self, version: int) -> SignedDocument:
        documents = self.store.state.root_documents
        if version > len(documents):
            raise UnknownName(f"no root record {version}")
        return documents[version - 1]


class Shelf:
    """Releases on disk, of which ``offered`` can be fetched. Survives an agent's end."""

    def __init__(self) -> None:
        self.offered: dict[Digest, Made] = {}
        self.here: dict[Digest, Made] = {}
        self.damaged: set[Digest] = set()
        self.fetches: list[str] = []
        self.problem: Problem | None = None
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()

    def installed(self) -> Mapping[Digest, str]:
        return {record: release.label for record, release in self.here.items()}

    async def fetch(self, document: SignedDocument, record: ReleaseRecord) -> None:
        self.fetches.append(record.label)
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        release = next(made for made in self.offered.values() if made.packed.signed == document)
        self.here[release.record] = release
        self.damaged.discard(release.record)

    def read(self, record: Digest) -> StoredRelease:
        release = self.here.get(record)
        if release is None:
            raise ReleaseMissing("not here")
        files = dict(release.packed.files)
        if record in self.damaged:
            files = {path: content[:-1] + b"?" for path, content in files.items()}
        return StoredRelease(release.packed.signed, release.packed.manifest, files)

    def remove(self, record: Digest) -> None:
        del self.here[record]


class ListEngine:
    """Remembers what was tried and what is in memory; content with ``FAILS`` in it fails its vectors."""

    def __init__(self, runtime: str = "runtime 1") -> None:
        self.runtime_version = runtime
        self.memory: dict[str, VerifiedRelease] = {}
        self.trials: list[str] = []
        self.history: list[str] = []
        self.full = False
        self.with_trial: list[bool] = []
        self.begun = asyncio.Event()
        self.trying: asyncio.Event | None = None

    async def trial(self, release: VerifiedRelease) -> msgspec.Raw:
        self.trials.append(release.label)
        if self.trying is not None:
            self.begun.set()
            await self.trying.wait()
        if any(FAILS.encode() in content for content in release.files.values()):
            raise FailedVectors(f"{release.label} answers vector 1 otherwise")
        return msgspec.Raw(b'{"peak":1}')

    async def load(self, release: VerifiedRelease, *, origin: Origin, trial: msgspec.Raw | None) -> None:
        if self.full:
            raise OverMemory(f"{release.label} needs more memory than there is")
        self.with_trial.append(trial is not None)
        self.history.append(f"load {release.label}")
        self.memory[release.record.name] = release

    async def unload(self, name: str) -> None:
        self.history.append(f"unload {name}")
        self.memory.pop(name, None)

    def labels(self) -> list[str]:
        return sorted(release.label for release in self.memory.values())


class FillableStore(EdgeStore):
    """A store whose disk can be full."""

    full = False

    def commit(self, *args: Any, **kwargs: Any) -> None:
        if self.full:
            raise StoreFull("no room")
        super().commit(*args, **kwargs)


class HeldTrust:
    """Root records in memory; survives an agent's end."""

    def __init__(self, record: RootRecord) -> None:
        self.root = record
        self.documents: list[SignedDocument] = []

    def extend(self, document: SignedDocument, record: RootRecord) -> None:
        self.documents.append(document)
        self.root = record


class Bench:
    """What outlives an agent, and agents over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.nameserver = DirectorTwin(self.clock)
        self.shelf = Shelf()
        self.trust = HeldTrust(self.nameserver.store.state.root)
        self.modes: list[Mode] = []
        self.engine = ListEngine()

    def published(self, name: str, version: str, **how: object) -> Made:
        release = made(name, version, PUBLISHER, **how)
        self.nameserver.publish(release)
        self.shelf.offered[release.record] = release
        return release

    def agent(self, *, runtime: str = "runtime 1", **parts: object) -> Agent:
        self.engine = ListEngine(runtime)
        self.store = FillableStore.open(self.path / "state.db")
        return Agent(
            Identity("f", EDGE, "E1"),
            store=self.store,
            nameserver=parts.pop("nameserver", self.nameserver),
            trust=self.trust,
            releases=self.shelf,
            engine=self.engine,
            clock=self.clock,
            random=Random(7).random,
            mode_changed=self.modes.append,
            properties={"arch": "test"},
            free_bytes=lambda: 12345,
            **parts,
        )

    @asynccontextmanager
    async def running(self, **parts: object):
        """An agent that runs, and is killed without a word at the end."""
        agent = self.agent(**parts)
        task = asyncio.create_task(agent.run())
        ready = asyncio.create_task(agent.ready.wait())
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        try:
            yield agent
        finally:
            ready.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.store.close()
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()

    async def poll(self, agent: Agent) -> None:
        """Have the agent poll, half a second later, so that its pace does not hold it up."""
        self.clock.advance(0.5)
        await agent.poll_now()

    async def reported(self, wanted: Callable[[ActualState], bool]) -> ActualState:
        """The next report that is as wanted; time passes while there is none."""
        async with asyncio.timeout(20):
            while True:
                try:
                    report = self.nameserver.reports.get_nowait()
                except asyncio.QueueEmpty:
                    await asyncio.sleep(0)
                    continue
                if wanted(report):
                    return report

    async def loaded(self, *labels: str) -> ActualState:
        return await self.reported(lambda report: sorted(entry.label for entry in report.loaded) == sorted(labels))
