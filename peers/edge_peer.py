"""An edge, composed: state on disk, agent, engine, uplink, application face, for as long as it runs.

What was loaded answers before any network: the agent restores first, then the faces open, then discovery and polls. An
AUTONOMOUS edge dials nobody from the first moment on. One that belongs to no federation yet is put together anew once a
file has made it somebody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from federation.certificate_reading import check_issued
from federation.layout import ImageLayout
from federation.names import shown
from peers import tracing
from peers.agent import Agent, Identity
from peers.backoff import Backoff
from peers.carried import CarriedStatements
from peers.catalogues import PeerCatalogue
from peers.device_functions import Device
from peers.device_mode import DeviceMode, autonomous, check_local, enter, read_mode, unattached
from peers.direct_parts import DirectParts
from peers.edge_health import health, unready
from peers.edge_links import EdgeLinks, keep_discovering
from peers.edge_parts import (
    EngineMemory,
    FederationClock,
    HomeCertificate,
    HomeTrust,
    LayoutReleases,
    exceeded_limits,
    free_bytes,
    no_root,
    own_key,
    trusted_root,
)
from peers.edge_reports import make_report
from peers.edge_store import EdgeStore
from peers.errand_parts import ErrandParts
from peers.faces import application_face, cancelled
from peers.federation_client import FederationClient
from peers.homes import BadHome, Home, Membership, RunRecord
from peers.importing import attach, import_file, opened
from peers.inference_log_parts import log_finder, log_metrics, opened_inference_log
from peers.kept_log import KeptLog, kept_lines
from peers.local_parts import (
    OwnStatements,
    PeerSelf,
    built_in_properties,
    local_functions,
    opened_client,
    opened_engine,
    program_version,
    statements_of,
)
from peers.memory import AgentMemory
from peers.own_mode import OwnMode, cannot_renew
from peers.running import RunningQueries
from peers.serving_parts import ServingParts
from peers.settings import EdgeSettings
from peers.uplink_client import UplinkClient
from query.declarations import Caller, Progress, Role
from query.errors import Problem

_JOIN: Final = '"peerage register NAME" makes a bundle, and "peerage join --home DIR FILE" an edge\'s home of it'
QUIET_S_MAX: Final = 5.0  # for the statements under way when a device has come to belong to a federation
UPLINK_BACKOFF_BASE_S: Final = 0.5
UPLINK_BACKOFF_CAP_S: Final = 30.0

log = logging.getLogger("peerage.edge")


async def run_edge(
    home: Home,
    settings: EdgeSettings,
    *,
    stop: asyncio.Event,
    ready: Callable[[RunRecord], None],
    clock: Callable[[], float] = time.time,
    name: str | None = None,
) -> None:
    """Run until ``stop`` is set. ``ready`` is told once where everything listens and what was loaded is loaded.

    ``name``: what an AUTONOMOUS device is called that belongs to no federation yet.
    """
    fact = read_mode(home)
    if fact is None and settings.mode != "AUTONOMOUS":
        home.membership()  # raises: it must have joined
    known, told = fact is not None, False
    home.prepare()
    with home.occupy():
        if fact is None and settings.mode == "AUTONOMOUS":
            check_local(settings.application_host)
            _check_kind(home, home.read_membership())
            fact = enter(home, now=clock(), name=name)
        again, entered = True, fact is not None and settings.mode == "AUTONOMOUS" and not known
        while again and not stop.is_set():
            membership = home.read_membership() or unattached(fact.name if fact else "EDGE")
            _check_kind(home, membership)
            anew = asyncio.Event()
            async with _edge(home, settings, membership, clock=clock, anew=anew, entered=entered) as run:
                home.write_run(run)
                try:
                    if not told:
                        ready(run)
                    told = True
                    await _first(stop, anew)
                    log.info("stopping")
                finally:
                    home.remove_run()
            again, entered = anew.is_set(), False


def _check_kind(home: Home, membership: Membership | None) -> None:
    if membership is not None and membership.kind != "edge":
        raise BadHome(f"{home} is the home of {membership.kind} {membership.name}: expected an edge's home", hint=_JOIN)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


@asynccontextmanager
async def _edge(
    home: Home,
    settings: EdgeSettings,
    membership: Membership,
    *,
    clock: Callable[[], float],
    anew: asyncio.Event,
    entered: bool,
) -> AsyncIterator[RunRecord]:
    """``anew`` is set when it is to be put together again; ``entered``: the mode AUTONOMOUS begins with this start."""
    async with AsyncExitStack() as stack:
        fact = read_mode(home)
        client = _client(home, settings, fact, clock)
        stack.push_async_callback(client.close)
        if fact is not None:
            check_local(settings.application_host)
            await client.seal(autonomous)
        parts = _Parts(home, settings, membership, client, fact=fact, clock=clock, anew=anew)
        stack.callback(parts.close)
        stack.push_async_callback(parts.errands.errands.close)
        await parts.agent.restore()
        if entered:
            parts.agent.note("autonomous")
        parts.agent.note("started")
        stack.callback(parts.agent.note, "stopped")
        serving = parts.serving()
        stack.push_async_callback(serving.close)
        near = await stack.enter_async_context(application_face(serving.listener, home, settings))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [
            tasks.create_task(parts.agent.run()),
            tasks.create_task(parts.errands.polling(parts.carried).run()),
            tasks.create_task(parts.hold_links(settings)),
        ]
        # The end, last first: queries tell their ledgers, nobody comes any more, and then the uplink ends.
        stack.push_async_callback(cancelled, background)
        stack.push_async_callback(near.stop_accepting)
        stack.push_async_callback(parts.running.stop)
        log.info("edge_ready", extra={"edge": membership.name, "mode": parts.agent.mode})
        yield RunRecord(
            pid=os.getpid(),
            kind="edge",
            name=membership.name,
            socket=near.socket,
            application=near.near,
            federation=None,
            started=clock(),
        )


def _client(
    home: Home, settings: EdgeSettings, fact: DeviceMode | None, clock: Callable[[], float]
) -> FederationClient:
    """The client of a home; of a device without a certificate one that trusts nobody, and is sealed."""
    if home.identity_crt.exists() and home.joined:
        check_issued(home.text(home.identity_crt), home.text(home.ca_crt))
        return opened_client(home, settings.nameserver, clock=clock)
    if fact is None:
        raise cannot_renew(home)
    return FederationClient((), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), clock=clock)


class _Parts:
    """What an edge is made of, put together but not yet running."""

    def __init__(
        self,
        home: Home,
        settings: EdgeSettings,
        membership: Membership,
        client: FederationClient,
        *,
        fact: DeviceMode | None,
        clock: Callable[[], float],
        anew: asyncio.Event,
    ) -> None:
        """``anew`` is set when the device has come to belong to a federation."""
        key = own_key(home)
        self._home = home
        self._key = key
        self._anew = anew
        self._membership = membership
        self._client = client
        self._store = EdgeStore.open(home.state_db)
        if (offset_s := self._store.read().clock_offset_s) is not None:
            client.clock_offset_s = offset_s
        self._trust = HomeTrust(home, trusted_root(home) if home.joined else no_root())
        self._inferences = opened_inference_log(home, settings, membership)
        self._engine = opened_engine(settings, partition=membership.name, inferences=self._inferences)
        self._draw = random.Random().random  # noqa: S311 — jitter, not a secret
        self.links = EdgeLinks()
        self._layout = layout = ImageLayout(home.releases)
        self._kept = KeptLog(home)
        self._kept.keep(fact is not None)
        certificate = HomeCertificate(home, client, key=key.public) if home.identity_crt.exists() else None
        self.running = RunningQueries()
        catalogue = PeerCatalogue()
        me = PeerSelf(home, membership, settings)
        self.direct = DirectParts(me, client=client, root=lambda: self._trust.root, follow_root=self._follow_root)
        self._statements = statements_of(
            me, key=key, client=client, catalogue=catalogue, running=self.running, front=self.direct.front
        )
        self.errands = ErrandParts(self._store, membership, client, queries=self.running)
        self.agent = self._agent(settings, certificate, autonomous=fact is not None)
        self.carried = self._carrying()
        mode = OwnMode(
            home,
            settings,
            client=client,
            agent=self.agent,
            certificate=certificate,
            clock=clock,
            keep_log=self._kept.keep,
        )
        memory = AgentMemory(self.agent, self._engine)
        self._trust.changed = memory.obey
        catalogue.compose(
            *local_functions(
                me,
                engine=self._engine,
                memory=memory,
                layout=layout,
                root=lambda: self._trust.root,
                asking=OwnStatements(self._statements),
                running=self.running,
                client=client,
                agent=self.agent,
                device=self._device(mode),
                where=lambda: client.addresses[0] if client.addresses else "",
                follow_root=self._follow_root,
                inferences=self._inferences,
            )
        )
        catalogue.follow(self._engine)

    async def _follow_root(self) -> None:
        with suppress(Problem):  # out of reach: what is not endorsed by the root known here is refused as such
            await self.agent.follow_root()

    def _carrying(self) -> CarriedStatements:
        return CarriedStatements(
            name=self._membership.name,
            federation=self._membership.federation,
            root=lambda: self._trust.root,
            statements=self._statements,
            federation_time=self._client.federation_time,
            follow_root=self.agent.follow_root,
            errands=self.errands.errands,
        )

    def _device(self, mode: OwnMode) -> Device:
        return Device(
            agent=self.agent,
            mode=mode,
            import_file=self._import,
            attach=None if self._home.joined else self._attach,
            report=self._report,
        )

    def _agent(self, settings: EdgeSettings, certificate: HomeCertificate | None, *, autonomous: bool) -> Agent:
        membership = self._membership
        return Agent(
            Identity(membership.federation, membership.uuid, membership.name),
            store=self._store,
            nameserver=self.errands.nameserver,
            trust=self._trust,
            releases=LayoutReleases(self._layout, self._client),
            engine=EngineMemory(self._engine),
            clock=FederationClock(self._client),
            random=self._draw,
            certificate=certificate,
            mode_changed=self.links.change,
            properties=built_in_properties(self._engine.providers(), site=settings.site),
            exceeded=lambda: exceeded_limits(self._engine),
            free_bytes=free_bytes(self._home.path),
            development_key=self._key.public if settings.accept_development else None,
            autonomous=autonomous,
        )

    def close(self) -> None:
        self._kept.keep(False)
        self._engine.close()
        if self._inferences is not None:
            self._inferences.close()
        self._store.close()

    async def hold_links(self, settings: EdgeSettings) -> None:
        """What the mode asks to be kept open; runs until cancelled."""
        discovering = partial(keep_discovering, self._client, self._membership, settings, self.agent)
        listening = partial(self.direct.listen, self.carried)
        await self.links.hold(self.uplink().hold, discover=discovering, listen=listening, neighbours=self.direct.keep)

    async def _import(self, path: Path, progress: Progress) -> dict[str, Any]:
        return await import_file(
            path,
            membership=self._membership,
            trust=self._trust,
            layout=self._layout,
            taking=self.agent,
            now=self._client.federation_time,
            progress=progress,
        )

    async def _attach(self, path: Path, fingerprint: str, progress: Progress) -> dict[str, Any]:
        """The device becomes somebody on disk; the process is put together anew once its answers are out."""
        with opened(path) as reader:
            now = self._client.federation_time()
            membership = await asyncio.to_thread(
                attach, self._home, reader, layout=self._layout, fingerprint=fingerprint, now=now, progress=progress
            )
        log.info("attached", extra={"edge": membership.name, "federation": membership.federation})
        self._attached = asyncio.get_running_loop().create_task(self._put_together_anew())
        return {"edge": shown(membership.name), "federation": membership.federation}

    async def _put_together_anew(self) -> None:
        await self.running.quiet(within_s=QUIET_S_MAX)
        self._anew.set()

    def _report(self) -> str:
        return make_report(
            self._membership,
            self._key,
            replace(self.agent.actual_state(), history=self.agent.history),
            store=self._store,
            lines=kept_lines(self._home),
            now=self._client.federation_time(),
        )

    def serving(self) -> ServingParts:
        membership = self._membership
        return ServingParts(
            self._engine,
            layout=self._layout,
            statements=self._statements,
            caller=Caller(membership.name, Role.ADMIN, membership.uuid),
            version=program_version(),
            find_log=log_finder(self._inferences),
            extras=log_metrics(self._inferences),
            health=lambda: health(membership, self.agent, direct=self.direct.open_at),
            unready=lambda: unready(self.agent),
            tracing=tracing.opened(
                os.environ,
                version=program_version(),
                instance=membership.uuid or membership.name,
                may_dial=lambda: read_mode(self._home) is None,
            ),
        )

    def uplink(self) -> UplinkClient:
        backoff = Backoff(self._draw, base_s=UPLINK_BACKOFF_BASE_S, cap_s=UPLINK_BACKOFF_CAP_S)

        def pause(attempt: int) -> float:
            if attempt == 1:  # the first since an uplink was open
                backoff.succeeded()
            return backoff.failed()

        sooner = self.agent.answers_again
        return UplinkClient(
            self._client,
            self.carried,
            on_nudge=self.agent.nudge,
            pause=pause,
            sooner=sooner,
            on_done=self.errands.done,
        )
