"""A nameserver, composed: store, director, repository, listeners and functions, for as long as it runs.

    founding → store → director, repository, engine → catalogue → statements → faces → run.json

Everything is put together here and nowhere else; no part knows the whole.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from federation import bundles, commands
from federation.documents import Bundle, SignedDocument
from federation.envelopes import credential
from federation.events import Change, Removed
from federation.functions import nameserver_functions
from federation.keys import PrivateKey, read_key
from federation.layout import ImageLayout
from federation.members import Member
from federation.names import PeerId
from federation.polling import Director
from federation.roots import pin_of
from federation.store import FederationStore
from federation.tls import reason_of
from peers import founding
from peers.application_listener import ApplicationListener
from peers.catalogues import PeerCatalogue
from peers.discovery import announced
from peers.elsewhere import FanOut
from peers.faces import application_face, federation_face
from peers.federation_listener import FederationListener
from peers.homes import Home, Membership, RunRecord
from peers.key_functions import KeyFunctions
from peers.local_parts import OwnStatements, PeerSelf, local_functions, opened_engine
from peers.memory import PlainMemory
from peers.nameserver_parts import (
    Authority,
    Counters,
    KnownEdges,
    Members,
    NameserverStore,
    Publishing,
    StateDirectory,
)
from peers.peer_functions import RosterFunctions
from peers.presence import ContactBook
from peers.registry_routes import registry_routes
from peers.running import RunningQueries
from peers.settings import NameserverSettings, dial_addresses, dial_names
from peers.statements import Statements
from peers.uplinks import Uplinks
from query.declarations import Caller, Role

OWN_CERTIFICATE_S: Final = 24 * 3600.0  # how often the nameserver's own certificate is made anew

log = logging.getLogger("peerage.nameserver")


async def run_nameserver(
    home: Home,
    settings: NameserverSettings,
    *,
    stop: asyncio.Event,
    ready: Callable[[RunRecord], None],
    clock: Callable[[], float] = time.time,
) -> None:
    """Run until ``stop`` is set. ``ready`` is told once where everything listens."""
    home.prepare()
    with home.occupy():
        foundation = founding.found(home, settings, now=clock(), host_name=socket.gethostname())
        async with _nameserver(home, settings, foundation, clock=clock) as run:
            home.write_run(run)
            try:
                ready(run)
                await stop.wait()
                log.info("stopping")
            finally:
                home.remove_run()


@asynccontextmanager
async def _nameserver(
    home: Home, settings: NameserverSettings, foundation: founding.Foundation, *, clock: Callable[[], float]
) -> AsyncIterator[RunRecord]:
    membership = foundation.membership
    async with AsyncExitStack() as stack:
        store = NameserverStore.open(home.state_db)
        stack.callback(store.close)
        if store.restored:
            events = commands.start_epoch(
                store.state, now=clock(), draw=random.SystemRandom().random(), beyond=store.newest_epoch
            )
            store.append(events, caller=membership.name, now=clock())
            log.warning("store_restored", extra={"epoch": store.state.epoch})
        director_key = read_key(home.director_key)
        director = Director(director_key, store)
        uplinks = Uplinks()
        contacts = ContactBook(uplinks)
        counters = Counters()
        layout = ImageLayout(home.releases)
        engine = opened_engine(settings)
        stack.callback(engine.close)
        running = RunningQueries()
        where = _Where()
        catalogue = PeerCatalogue()
        directory = StateDirectory(store, membership.name)
        fan_out = FanOut(
            name=membership.name,
            directory=directory,
            edges=KnownEdges(store, contacts),
            uplinks=uplinks,
            vouch=lambda uuid: _vouch(store, uuid, director_key, clock()),
            clock=clock,
        )
        statements = Statements(
            name=membership.name,
            is_nameserver=True,
            catalogue=catalogue,
            elsewhere=fan_out,
            running=running,
            federation_time=clock,
            directory=directory,
        )
        asking = OwnStatements(statements)
        catalogue.compose(
            *nameserver_functions(
                store, director, contacts, make_bundle=lambda member, token: _bundle(home, store, where, member, token)
            ),
            RosterFunctions(Members(store)),
            KeyFunctions(store),
            *local_functions(
                PeerSelf(home, membership, settings),
                engine=engine,
                memory=PlainMemory(engine),
                layout=layout,
                root=lambda: store.state.root,
                asking=asking,
                running=running,
                client=None,
                agent=None,
                where=lambda: where.told[0] if where.told else "",
                catalogue=catalogue,
            ),
        )
        catalogue.follow(engine)
        listener = FederationListener(
            store=store,
            director=director,
            issuer=Authority(home, membership.federation),
            uplinks=uplinks,
            contacts=contacts,
            statements=statements,
            addresses=lambda: where.told,
            clock=clock,
        )
        publishing = Publishing(store, layout, clock)
        listener.add_routes(registry_routes(layout, member_of=listener.member, on_release=publishing.on_release))

        def refused(error: Exception, address: str) -> None:
            counters.tls_refused += 1
            log.warning("tls_refused", extra={"address": address, "reason": reason_of(error)})

        port = await stack.enter_async_context(
            federation_face(listener.application(), home, settings, on_refused=refused)
        )
        where.told = dial_addresses(settings, port=port, host_name=socket.gethostname())
        _tell_homes(home, foundation, where.told)
        application = ApplicationListener(
            statements=statements,
            caller=Caller(membership.name, Role.ADMIN, membership.uuid),
            health=lambda: _health(membership, store, uplinks, counters),
        )
        unix, near = await stack.enter_async_context(application_face(application, home, settings))
        if settings.zeroconf:
            await stack.enter_async_context(
                announced(
                    federation=membership.federation,
                    name=membership.name,
                    uuid=membership.uuid,
                    port=port,
                    addresses=[address.rpartition(":")[0].strip("[]") for address in where.told],
                    interface=settings.zeroconf_interface,
                )
            )
        unsubscribe = store.subscribe(_Follower(store, uplinks, contacts))
        stack.callback(unsubscribe)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [
            tasks.create_task(uplinks.pace_nudges()),
            tasks.create_task(_keep_own_certificate(home, membership, settings, clock)),
        ]
        stack.push_async_callback(_cancelled, background)
        stack.push_async_callback(uplinks.close)
        log.info("nameserver_ready", extra={"federation": membership.federation, "port": port})
        yield RunRecord(
            pid=os.getpid(),
            kind="nameserver",
            name=membership.name,
            socket=unix,
            application=near,
            federation=where.told[0],
            started=clock(),
        )


class _Where:
    """The addresses that peers dial, known once the port is bound."""

    told: tuple[str, ...] = ()


class _Follower:
    """After each change: nudge the edges it touches, drop those that were removed or told to be ONLINE."""

    def __init__(self, store: FederationStore, uplinks: Uplinks, contacts: ContactBook) -> None:
        self._store = store
        self._uplinks = uplinks
        self._contacts = contacts
        self._dropping: set[asyncio.Task[None]] = set()

    def __call__(self, changes: tuple[Change, ...]) -> None:
        first = changes[0].seq
        state = self._store.state
        for uuid in self._uplinks.all_connected():
            if state.entry(uuid) is not None and state.generation(uuid) >= first:
                self._uplinks.nudge(uuid)
        for change in changes:
            match change.event:
                case Removed(uuid=uuid):
                    self._contacts.forget(uuid)
                    self._drop(uuid)
                case _:
                    pass

    def _drop(self, uuid: PeerId) -> None:
        task = asyncio.get_running_loop().create_task(self._uplinks.drop(uuid))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)


def _vouch(store: FederationStore, uuid: str, director: PrivateKey, now: float) -> SignedDocument | None:
    member = store.state.member(uuid)
    if member is None or member.removed or member.key is None:
        return None
    return credential(member, director=director, federation=store.state.federation, now=now)


def _bundle(home: Home, store: FederationStore, where: _Where, member: Member, token: str) -> str:
    assert member.token_expires is not None
    return bundles.encode(
        Bundle(
            federation=store.state.federation,
            addresses=where.told,
            ca=home.text(home.ca_crt),
            root=pin_of(store.state.root_documents[-1]),
            name=member.name,
            kind=member.kind,
            role=member.role,
            publisher=member.publisher,
            token=token,
            expires=int(member.token_expires),
        )
    )


def _tell_homes(home: Home, foundation: founding.Foundation, addresses: tuple[str, ...]) -> None:
    for told in (home, foundation.admin_home):
        founding.put_addresses(told, foundation.membership.federation, addresses)


def _health(membership: Membership, store: FederationStore, uplinks: Uplinks, counters: Counters) -> dict[str, Any]:
    return {
        "ready": True,
        "peer": membership.name,
        "kind": membership.kind,
        "federation": membership.federation,
        "edges": store.state.edge_count,
        "uplinks": len(uplinks.all_connected()),
        "tls_refused": counters.tls_refused,
    }


async def _keep_own_certificate(
    home: Home, membership: Membership, settings: NameserverSettings, clock: Callable[[], float]
) -> None:
    """Make the nameserver's own certificate anew each day, for connections of the next start; runs until cancelled."""
    while True:
        await asyncio.sleep(OWN_CERTIFICATE_S)
        names = dial_names(settings, host_name=socket.gethostname())
        founding.issue_own_certificate(home, membership, names=names, now=clock())


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
