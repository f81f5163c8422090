"""An edge, composed: state on disk, agent, engine, uplink, application face, for as long as it runs.

What was loaded answers before any network: the agent restores first, then the faces open, then discovery and polls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from federation.bundles import ADDRESSES_MAX
from federation.certificate_reading import check_issued
from federation.documents import Mode
from federation.keys import read_key
from federation.layout import ImageLayout
from peers.agent import Agent, Identity
from peers.application_listener import ApplicationListener
from peers.backoff import Backoff
from peers.carried import CarriedStatements
from peers.catalogues import PeerCatalogue
from peers.discovery import find_nameservers
from peers.edge_parts import (
    EngineMemory,
    FederationClock,
    HomeCertificate,
    HomeTrust,
    LayoutReleases,
    free_bytes,
    trusted_root,
)
from peers.edge_store import EdgeStore
from peers.faces import application_face, cancelled
from peers.federation_client import FederationClient
from peers.homes import BadHome, Home, Membership, RunRecord
from peers.local_parts import (
    OwnStatements,
    PeerSelf,
    built_in_properties,
    local_functions,
    opened_client,
    opened_engine,
    statements_of,
)
from peers.memory import AgentMemory
from peers.running import RunningQueries
from peers.settings import EdgeSettings
from peers.uplink_client import UplinkClient
from query.declarations import Caller, Role

DISCOVER_S_MIN: Final = 1.0  # between looks for a nameserver that does not answer where it was; doubles
DISCOVER_S_MAX: Final = 30.0
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
) -> None:
    """Run until ``stop`` is set. ``ready`` is told once where everything listens and what was loaded is loaded."""
    membership = home.membership()
    if membership.kind != "edge":
        raise BadHome(f"{home} is the home of {membership.kind} {membership.name}: expected an edge's home")
    home.prepare()
    with home.occupy():
        check_issued(home.text(home.identity_crt), home.text(home.ca_crt))
        async with _edge(home, settings, membership, clock=clock) as run:
            home.write_run(run)
            try:
                ready(run)
                await stop.wait()
                log.info("stopping")
            finally:
                home.remove_run()


@asynccontextmanager
async def _edge(
    home: Home, settings: EdgeSettings, membership: Membership, *, clock: Callable[[], float]
) -> AsyncIterator[RunRecord]:
    async with AsyncExitStack() as stack:
        client = opened_client(home, settings.nameserver, clock=clock)
        stack.push_async_callback(client.close)
        parts = _Parts(home, settings, membership, client)
        stack.callback(parts.close)
        await parts.agent.restore()
        near = await stack.enter_async_context(application_face(parts.application(), home, settings))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [
            tasks.create_task(parts.agent.run()),
            tasks.create_task(parts.modes.hold_uplink(parts.uplink())),
            tasks.create_task(_keep_discovering(client, membership, settings, parts.agent)),
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


class _Parts:
    """What an edge is made of, put together but not yet running."""

    def __init__(self, home: Home, settings: EdgeSettings, membership: Membership, client: FederationClient) -> None:
        key = read_key(home.identity_key)
        self._membership = membership
        self._client = client
        self._store = EdgeStore.open(home.state_db)
        known_offset_s = self._store.read().clock_offset_s
        if known_offset_s is not None:
            client.clock_offset_s = known_offset_s
        self._trust = HomeTrust(home, trusted_root(home))
        self._engine = opened_engine(settings)
        self._draw = random.Random().random  # noqa: S311 — jitter, not a secret
        self.modes = _Modes()
        layout = ImageLayout(home.releases)
        self.running = RunningQueries()
        catalogue = PeerCatalogue()
        self._statements = statements_of(membership, key=key, client=client, catalogue=catalogue, running=self.running)
        self.agent = Agent(
            Identity(membership.federation, membership.uuid, membership.name),
            store=self._store,
            nameserver=client,
            trust=self._trust,
            releases=LayoutReleases(layout, client),
            engine=EngineMemory(self._engine),
            clock=FederationClock(client),
            random=self._draw,
            certificate=HomeCertificate(home, client, key=key.public),
            mode_changed=self.modes.change,
            properties=built_in_properties(),
            free_bytes=free_bytes(home.path),
            development_key=key.public if settings.accept_development else None,
        )
        catalogue.compose(
            *local_functions(
                PeerSelf(home, membership, settings),
                engine=self._engine,
                memory=AgentMemory(self.agent, self._engine),
                layout=layout,
                root=lambda: self._trust.root,
                asking=OwnStatements(self._statements),
                running=self.running,
                client=client,
                agent=self.agent,
                where=lambda: client.addresses[0] if client.addresses else "",
            )
        )
        catalogue.follow(self._engine)

    def close(self) -> None:
        self._engine.close()
        self._store.close()

    def application(self) -> ApplicationListener:
        membership = self._membership
        return ApplicationListener(
            statements=self._statements,
            caller=Caller(membership.name, Role.ADMIN, membership.uuid),
            health=lambda: _health(membership, self.agent),
        )

    def uplink(self) -> UplinkClient:
        carried = CarriedStatements(
            name=self._membership.name,
            federation=self._membership.federation,
            root=lambda: self._trust.root,
            statements=self._statements,
            federation_time=self._client.federation_time,
            follow_root=self.agent.follow_root,
        )
        backoff = Backoff(self._draw, base_s=UPLINK_BACKOFF_BASE_S, cap_s=UPLINK_BACKOFF_CAP_S)

        def pause(attempt: int) -> float:
            if attempt == 1:  # the first since an uplink was open
                backoff.succeeded()
            return backoff.failed()

        return UplinkClient(self._client, carried, on_nudge=self.agent.nudge, pause=pause)


class _Modes:
    """Holds the uplink while the mode is INTERACTIVE."""

    def __init__(self) -> None:
        self._mode: Mode = "ONLINE"
        self._changed = asyncio.Event()

    def change(self, mode: Mode) -> None:
        self._mode = mode
        self._changed.set()

    async def hold_uplink(self, uplink: UplinkClient) -> None:
        """Runs until cancelled."""
        holding: asyncio.Task[None] | None = None
        try:
            while True:
                self._changed.clear()
                if self._mode == "INTERACTIVE" and holding is None:
                    holding = asyncio.create_task(uplink.hold())
                elif self._mode != "INTERACTIVE" and holding is not None:
                    await cancelled([holding])
                    holding = None
                await self._changed.wait()
        finally:
            if holding is not None:
                await cancelled([holding])


async def _keep_discovering(
    client: FederationClient, membership: Membership, settings: EdgeSettings, agent: Agent
) -> None:
    """Look for the nameserver on the local network while it does not answer where it was; a hint only."""
    if settings.nameserver or not settings.zeroconf:
        return
    pause_s = DISCOVER_S_MIN
    while True:
        if agent.contact.state not in ("never", "unreachable"):
            pause_s = DISCOVER_S_MIN
        else:
            found = await find_nameservers(membership.federation, interface=settings.zeroconf_interface)
            fresh = [address for address in found if address not in client.addresses]
            if fresh:
                log.info("nameserver_found", extra={"addresses": fresh})
                client.use_addresses(fresh[:ADDRESSES_MAX])
                agent.nudge()
            pause_s = min(DISCOVER_S_MAX, 2 * pause_s)
        await asyncio.sleep(pause_s)


def _health(membership: Membership, agent: Agent) -> dict[str, Any]:
    contact = agent.contact
    return {
        "ready": agent.ready.is_set(),
        "peer": membership.name,
        "kind": membership.kind,
        "federation": membership.federation,
        "mode": agent.mode,
        "contact": contact.state,
        "generation": agent.desired.generation if agent.desired else None,
    }
