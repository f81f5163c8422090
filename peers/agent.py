"""The edge's agent: poll → decide → act → report, and what a person asks for in between.

Owns the composition of the turn's two halves, :class:`~peers.edge_rhythm.Rhythm` (polls) and
:class:`~peers.edge_turn.Turn` (acts), over one :class:`~peers.edge_state.EdgeState`. This is the agent's whole public
face:

    agent = Agent(identity, store=…, nameserver=…, …)
    await agent.restore()      loads what was loaded, before any network; then ``agent.ready`` is set
    await agent.run()          restores if that was not done, then polls and acts until cancelled

Rules: a state is on disk before anything is done for it; the loop has no memory of its own, so that a crash between
any two steps resumes by deciding again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from federation.actual import used
from federation.documents import ActualState, DesiredState, ExceededLimit, HistoryEntry, LoadedEntry, Mode
from federation.names import Digest, PeerId
from federation.verification import Cursor
from peers.edge_actions import Actions, Engine, Releases
from peers.edge_polling import Answer, Nameserver, Poller, RootFollower, Trust
from peers.edge_rhythm import Certificate, Clock, Contact, Rhythm, skew_of
from peers.edge_state import EdgeState
from peers.edge_store import EdgeStore
from peers.edge_turn import Turn

__all__ = ["Agent", "Certificate", "Clock", "Contact", "Engine", "Identity", "Nameserver", "Releases", "Trust"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the edge is."""

    federation: str
    uuid: PeerId
    name: str


def _unheard(mode: Mode) -> None:
    """Nobody wants to know of the mode."""


class Agent:
    """One edge. ``ready`` is set once what was loaded is loaded again."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: EdgeStore,
        nameserver: Nameserver,
        trust: Trust,
        releases: Releases,
        engine: Engine,
        clock: Clock,
        random: Callable[[], float],
        certificate: Certificate | None = None,
        mode_changed: Callable[[Mode], None] = _unheard,
        properties: Mapping[str, str | int | float | bool] | None = None,
        exceeded: Callable[[], Iterable[ExceededLimit]] = tuple,
        free_bytes: Callable[[], int] = lambda: 0,
        development_key: bytes | None = None,
        autonomous: bool = False,
    ) -> None:
        """``mode_changed`` is told the mode at the end of :meth:`restore` and at every change after it.

        ``autonomous``: the device was told to be.

        ``development_key`` (public) admits development releases signed with it; None admits none. ``free_bytes`` is
        the room left on the home's disk. ``exceeded``: the limits that what is loaded ran into.
        """
        self.identity = identity
        self.ready = asyncio.Event()
        self._mode_changed = mode_changed
        self._clock = clock
        self._trust = trust
        self._releases = releases
        self._state = EdgeState(
            store,
            identity.uuid,
            runtime=engine.runtime_version,
            trust=trust,
            properties=dict(properties or {}),
            exceeded=exceeded,
            autonomous=autonomous,
        )
        self._roots = RootFollower(nameserver, trust)
        self._turn = Turn(
            self._state,
            Actions(
                releases,
                engine,
                trust,
                record=store.record,
                development_key=development_key,
                running=self._state.running,
            ),
            releases,
            nameserver,
            identity=identity.uuid,
            clock=clock,
            random=random,
        )
        self._rhythm = Rhythm(
            self._state,
            Poller(nameserver, trust, federation=identity.federation, edge=identity.uuid, roots=self._roots),
            identity=identity.uuid,
            clock=clock,
            random=random,
            certificate=certificate,
            free_bytes=free_bytes,
            changed=self._turn.changed,
            mode_changed=mode_changed,
        )

    @property
    def mode(self) -> Mode:
        return self._state.mode

    @property
    def contact(self) -> Contact:
        """How the last poll ended, since when, and when the next one is due."""
        return self._rhythm.contact

    @property
    def answers_again(self) -> asyncio.Event:
        """Set when a poll is answered after one that was not; whoever waits for that clears it."""
        return self._rhythm.answers_again

    @property
    def clock_skew(self) -> str | None:
        """How this device's clock differs from federation time, in words; None while it agrees."""
        return skew_of(self._clock.offset_s())

    @property
    def desired(self) -> DesiredState | None:
        """The last desired state that was accepted."""
        return self._state.desired

    @property
    def missing(self) -> tuple[str, ...]:
        """What the desired state names and memory has in no version, as `name@version`."""
        if self.desired is None:
            return ()
        loaded = {entry.name for entry in self._state.actual.loaded.values()}
        return tuple(f"{model.name}@{model.version}" for model in self.desired.models if model.name not in loaded)

    def actual_state(self) -> ActualState:
        """What this edge would report now; ``reported`` is 0."""
        return self._state.reported()

    async def restore(self) -> None:
        """Load what was loaded when the edge stopped, from this disk alone."""
        if not self.ready.is_set():
            await self._turn.restore()
            self._mode_changed(self._state.mode)
            self.ready.set()

    async def run(self) -> None:
        """Restore, then poll and act until cancelled."""
        await self.restore()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rhythm.run())
            tasks.create_task(self._turn.run())

    async def follow_root(self) -> bool:
        """Take up newer root records, and poll soon when there were any; whether there were. Raises why it cannot."""
        moved = await self._roots.follow()
        if moved:
            self._rhythm.nudge()
        return moved

    def nudge(self) -> None:
        """Something changed at the nameserver: poll as soon as the pace allows."""
        self._rhythm.nudge()

    async def poll_now(self) -> None:
        """Poll at once and return when it was answered. Raises why it was not."""
        await self._rhythm.poll_now()

    @property
    def cursor(self) -> Cursor | None:
        """How far this edge has followed its director."""
        return self._state.cursor

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        """What it did while it was AUTONOMOUS and has not told yet, the oldest first."""
        return self._state.journal.entries

    def note(self, event: str, detail: str = "") -> None:
        """Put into the history what the agent does not do itself."""
        self._state.journal.note(event, detail, now=self._clock.now())

    @asynccontextmanager
    async def bringing(self) -> AsyncIterator[None]:
        """What a file brings counts on contents that are here: one file at a time, and nothing is pruned meanwhile."""
        async with self._turn.pruning:
            yield
        self._turn.changed()

    async def take(self, answer: Answer, *, carried: frozenset[Digest]) -> None:
        """An answered poll that came by file, with the releases in it: kept first, then acted on as any other."""
        await self.ready.wait()
        installed = await asyncio.to_thread(self._releases.installed)
        self._state.actual = replace(self._state.actual, installed=dict(installed))
        self._state.accept(answer, now=self._clock.now(), carried=carried)
        self._rhythm.follow_desired_mode()
        self._turn.changed()

    async def look_again(self) -> None:
        """Releases were put into the repository by somebody else."""
        installed = await asyncio.to_thread(self._releases.installed)
        self._state.become(replace(self._state.actual, installed=dict(installed)))
        self._turn.changed()

    async def report_once(self, *, mode: Mode) -> None:
        """Tell the nameserver what this edge is about to be. Raises why it could not be told."""
        await self._turn.report_once(mode=mode)

    def become_autonomous(self, *, since: int) -> None:
        """Poll and report no more; what is done from now on is noted."""
        self._state.journal.recording = True
        self._state.journal.note("autonomous", now=since)
        self._rhythm.set_mode("AUTONOMOUS")
        self._turn.changed()

    def end_autonomous(self, mode: Mode) -> None:
        """Poll at once, and report what was done meanwhile."""
        self._state.journal.note("left", mode, now=self._clock.now())
        self._state.journal.recording = False
        self._state.become(replace(self._state.actual, carried=frozenset()))
        self._rhythm.set_mode(mode)
        self._rhythm.nudge()
        self._turn.changed()

    async def load_manual(
        self, name: str, version: str, record: Digest, *, origin: Literal["manual", "development"] = "manual"
    ) -> LoadedEntry:
        """Load an installed release at once, by a person's word: it survives restarts, and is replaced at the next
        answered poll when a group says otherwise. Raises why it could not be loaded; what answered before still does.
        """
        await self.ready.wait()
        return await self._turn.load(name, version, record, origin=origin)

    def used(self) -> frozenset[Digest]:
        """The records of the releases that are in memory, on their way there, or should be."""
        return used(self._state.desired, self._state.actual)

    def forget(self, record: Digest) -> None:
        """A person took a release off this disk that was not used."""
        self._turn.forget(record)

    async def unload_manual(self, name: str) -> None:
        """Take a model out of memory at once, until a group wants it again."""
        await self.ready.wait()
        await self._turn.unload(name)
