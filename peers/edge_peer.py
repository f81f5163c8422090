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

import msgspec

from federation.bundles import ADDRESSES_MAX
from federation.certificate_reading import check_issued
from federation.documents import Mode, RootRecord, decode
from federation.envelopes import seal
from federation.keys import read_key
from federation.layout import ImageLayout
from peers.agent import Agent
from peers.agent import Identity as AgentIdentity
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
    home_context,
)
from peers.edge_store import EdgeStore
from peers.elsewhere import Identity, Upward
from peers.faces import application_face
from peers.federation_client import FederationClient
from peers.homes import BadHome, Home, Membership, RunRecord
from peers.local_parts import OwnStatements, PeerSelf, built_in_properties, local_functions, opened_engine
from peers.memory import AgentMemory
from peers.running import RunningQueries
from peers.settings import EdgeSettings
from peers.statements import Statements
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


def trusted_root(home: Home) -> RootRecord:
    """The newest root record of a home; the chain was verified before each was written."""
    roots = home.roots()
    if not roots:
        raise BadHome(f"{home.roots_json} holds no root record: expected at least one", hint="join again in a new home")
    try:
        return decode(roots[-1].payload, RootRecord)
    except msgspec.MsgspecError as error:
        raise BadHome(f"{home.roots_json} is damaged: {error}") from error


@asynccontextmanager
async def _edge(
    home: Home, settings: EdgeSettings, membership: Membership, *, clock: Callable[[], float]
) -> AsyncIterator[RunRecord]:
    async with AsyncExitStack() as stack:
        key = read_key(home.identity_key)
        client = FederationClient(
            (settings.nameserver,) if settings.nameserver else membership.addresses,
            home_context(home),
            clock=clock,
            clock_offset_s=membership.clock_offset_s,
        )
        stack.push_async_callback(client.close)
        store = EdgeStore.open(home.state_db)
        stack.callback(store.close)
        trust = HomeTrust(home, trusted_root(home))
        layout = ImageLayout(home.releases)
        engine = opened_engine(settings)
        stack.callback(engine.close)
        running = RunningQueries()
        catalogue = PeerCatalogue()
        draw = random.Random().random  # noqa: S311 — jitter, not a secret
        upward = Upward(
            identity=Identity(
                membership.name,
                lambda body, *, lifetime_s: seal(
                    body,
                    key=key,
                    federation=membership.federation,
                    caller=membership.uuid,
                    now=client.federation_time(),
                    lifetime_s=lifetime_s,
                ),
            ),
            client=client,
        )
        statements = Statements(
            name=membership.name,
            is_nameserver=False,
            catalogue=catalogue,
            elsewhere=upward,
            running=running,
            federation_time=client.federation_time,
        )
        modes = _Modes()
        agent = Agent(
            AgentIdentity(membership.federation, membership.uuid, membership.name),
            store=store,
            nameserver=client,
            trust=trust,
            releases=LayoutReleases(layout, client),
            engine=EngineMemory(engine),
            clock=FederationClock(client),
            random=draw,
            certificate=HomeCertificate(home, client, key=key.public),
            mode_changed=modes.change,
            properties=built_in_properties(),
            free_bytes=free_bytes(home.path),
            development_key=key.public if settings.accept_development else None,
        )
        catalogue.compose(
            *local_functions(
                PeerSelf(home, membership, settings),
                engine=engine,
                memory=AgentMemory(agent, engine),
                layout=layout,
                root=lambda: trust.root,
                asking=OwnStatements(statements),
                running=running,
                client=client,
                agent=agent,
                where=lambda: client.addresses[0] if client.addresses else "",
                catalogue=catalogue,
            )
        )
        catalogue.follow(engine)
        await agent.restore()
        application = ApplicationListener(
            statements=statements,
            caller=Caller(membership.name, Role.ADMIN, membership.uuid),
            health=lambda: _health(membership, agent),
        )
        unix, near = await stack.enter_async_context(application_face(application, home, settings))
        carried = CarriedStatements(
            name=membership.name,
            federation=membership.federation,
            root=lambda: trust.root,
            statements=statements,
            federation_time=client.federation_time,
        )
        backoff = Backoff(draw, base_s=UPLINK_BACKOFF_BASE_S, cap_s=UPLINK_BACKOFF_CAP_S)
        uplink = UplinkClient(client, carried, on_nudge=agent.nudge, pause=lambda _: backoff.failed())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [
            tasks.create_task(agent.run()),
            tasks.create_task(modes.hold_uplink(uplink)),
            tasks.create_task(_keep_discovering(client, membership, settings, agent)),
        ]
        stack.push_async_callback(_cancelled, background)
        log.info("edge_ready", extra={"edge": membership.name, "mode": agent.mode})
        yield RunRecord(
            pid=os.getpid(),
            kind="edge",
            name=membership.name,
            socket=unix,
            application=near,
            federation=None,
            started=clock(),
        )


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
                    await _cancelled([holding])
                    holding = None
                await self._changed.wait()
        finally:
            if holding is not None:
                await _cancelled([holding])


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


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
