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
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

from federation import bundles, commands
from federation.documents import Bundle
from federation.events import Change, RootSet
from federation.functions import nameserver_functions
from federation.layout import ImageLayout
from federation.members import Member
from federation.polling import Director
from federation.roots import pin_of
from federation.tls import reason_of
from peers import founding, tracing
from peers.catalogues import PeerCatalogue
from peers.director_keys import DirectorKeys
from peers.discovery import announced
from peers.elsewhere import FanOut
from peers.faces import FederationFace, application_face, cancelled, federation_face
from peers.federation_imports import FederationImports
from peers.federation_listener import FederationListener
from peers.federation_releases import FederationReleases
from peers.homes import Home, Membership, RunRecord
from peers.inference_log_parts import log_finder, log_metrics, opened_inference_log
from peers.introduction_routes import introduction_routes
from peers.key_functions import KeyFunctions
from peers.local_parts import (
    OwnStatements,
    PeerSelf,
    local_functions,
    opened_engine,
    program_version,
    remotes_of,
)
from peers.memory import PlainMemory
from peers.nameserver_parts import (
    Authority,
    ChangeFollower,
    KnownEdges,
    Members,
    NameserverStore,
    Publishing,
    StateDirectory,
)
from peers.peer_functions import RosterFunctions
from peers.pipeline_standings import FederationStandings
from peers.presence import ContactBook
from peers.refusals import Refusals
from peers.registry_routes import registry_routes
from peers.release_lifecycle import ReleaseDeprecation, ReleaseLifecycle
from peers.repository_tidying import tidy_repository
from peers.repository_turns import RepositoryTurns
from peers.running import RunningQueries
from peers.serving_parts import ServingParts
from peers.settings import NameserverSettings, budget_of, dial_addresses, dial_names
from peers.statements import Statements
from peers.uplinks import Uplinks
from peers.vouching import Vouching
from peers.waiting_parts import WaitingParts
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
        parts = _Parts(home, settings, membership, clock)
        stack.callback(parts.close)
        await parts.tidy_repository()
        face = await stack.enter_async_context(
            federation_face(parts.listener().application(), home, settings, on_refused=parts.refused)
        )
        parts.addresses = dial_addresses(settings, port=face.port, host_name=socket.gethostname())
        for told in (home, foundation.admin_home):
            founding.put_addresses(told, membership.federation, parts.addresses)
        serving = parts.serving()
        stack.push_async_callback(serving.close)
        near = await stack.enter_async_context(application_face(serving.listener, home, settings))
        if settings.zeroconf:
            await stack.enter_async_context(_announced(membership, settings, parts.addresses, face.port))
        follower = ChangeFollower(parts.store, parts.uplinks, parts.contacts)
        stack.callback(parts.store.subscribe(follower))
        stack.callback(parts.store.subscribe(parts.follow_root))
        stack.callback(parts.store.subscribe(parts.patience.waiting.follow_changes))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [
            tasks.create_task(parts.uplinks.pace_nudges()),
            tasks.create_task(parts.patience.waiting.run()),
            tasks.create_task(_keep_own_certificate(home, membership, settings, clock, face)),
        ]
        stack.push_async_callback(cancelled, background)
        # The end, last first: queries tell their ledgers, nobody comes any more, and then edges are let go.
        stack.push_async_callback(parts.patience.stop)
        stack.push_async_callback(parts.uplinks.close)
        stack.push_async_callback(near.stop_accepting)
        stack.push_async_callback(face.stop_accepting)
        stack.push_async_callback(parts.running.stop)
        log.info("nameserver_ready", extra={"federation": membership.federation, "port": face.port})
        yield RunRecord(
            pid=os.getpid(),
            kind="nameserver",
            name=membership.name,
            socket=near.socket,
            application=near.near,
            federation=parts.addresses[0],
            started=clock(),
        )


class _Parts:
    """What a nameserver is made of, put together but not yet listening. ``addresses`` follow from the bound port."""

    def __init__(
        self, home: Home, settings: NameserverSettings, membership: Membership, clock: Callable[[], float]
    ) -> None:
        self._home = home
        self._membership = membership
        self._clock = clock
        self.addresses: tuple[str, ...] = ()
        self.store = NameserverStore.open(home.state_db)
        self._begin_epoch()
        self._director_keys = DirectorKeys(home, lambda: self.store.state.root)
        self._director_keys.settle()
        self._director_keys.current()  # without one nothing can be told to any edge: it says so now
        self._director = Director(self._director_keys.current, self.store)
        self._vouch = Vouching(self.store, key=self._director_keys.current, clock=clock)
        self.uplinks = Uplinks()
        self.contacts = ContactBook(self.uplinks)
        self._layout = ImageLayout(home.releases)
        self._turns = RepositoryTurns()
        remotes = remotes_of(home, self._layout, root=lambda: self.store.state.root)
        imports = FederationImports(self.store, self._layout, remotes=remotes, turns=self._turns, clock=clock)
        self._inferences = opened_inference_log(home, settings, membership)
        self._engine = opened_engine(settings, partition=membership.name, inferences=self._inferences)
        self._memory = PlainMemory(self._engine)
        self._releases = FederationReleases(
            self.store, self._layout, turns=self._turns, clock=clock, described=self._memory.described
        )
        self._tls_refused = 0
        self._refusals = Refusals()
        catalogue = PeerCatalogue()
        self.running = RunningQueries()
        self._statements = self._asking(catalogue, settings)
        catalogue.compose(
            *nameserver_functions(self.store, self._director, self.contacts, make_bundle=self._bundle, imports=imports),
            RosterFunctions(Members(self.store)),
            self.patience.functions,
            ReleaseLifecycle(self._releases),
            ReleaseDeprecation(self._releases),
            KeyFunctions(self.store, self._director_keys),
            *local_functions(
                PeerSelf(home, membership, settings),
                engine=self._engine,
                memory=self._memory,
                layout=self._layout,
                root=lambda: self.store.state.root,
                asking=OwnStatements(self._statements),
                running=self.running,
                client=None,
                agent=None,
                where=lambda: self.addresses[0] if self.addresses else "",
                remotes=remotes,
                register=imports,
                standings=FederationStandings(self.store, self.contacts),
                waiting=self.patience,
                inferences=self._inferences,
            ),
        )
        catalogue.follow(self._engine)

    def _asking(self, catalogue: PeerCatalogue, settings: NameserverSettings) -> Statements:
        """The statements of the nameserver, which fans out what goes elsewhere."""
        directory = StateDirectory(self.store, self._membership.name)
        fan_out = FanOut(
            name=self._membership.name,
            directory=directory,
            edges=KnownEdges(self.store, self.contacts),
            uplinks=self.uplinks,
            vouch=self._vouch,
            clock=self._clock,
        )
        self.patience = WaitingParts(
            self._home,
            self._membership,
            store=self.store,
            uplinks=self.uplinks,
            catalogue=catalogue,
            queries=self.running,
            silence=fan_out.away,
            vouch=self._vouch,
            clock=self._clock,
        )
        fan_out.patient = self.patience.requests
        return Statements(
            name=self._membership.name,
            is_nameserver=True,
            catalogue=catalogue,
            elsewhere=fan_out,
            running=self.running,
            federation_time=self._clock,
            directory=directory,
            budget=budget_of(settings),
        )

    def follow_root(self, changes: tuple[Change, ...]) -> None:
        """A root record came into force: its director key takes its place, and what it stops here stops."""
        if any(isinstance(change.event, RootSet) for change in changes):
            self._director_keys.settle()
            self._memory.obey(self.store.state.root)
            self._home.write_roots(self.store.state.root_documents)

    def close(self) -> None:
        self.patience.close()
        self._engine.close()
        if self._inferences is not None:
            self._inferences.close()
        self.store.close()

    async def tidy_repository(self) -> None:
        """To be done before anybody is served."""
        await asyncio.to_thread(tidy_repository, self._layout, self.store.state.published, now=self._clock())

    def listener(self) -> FederationListener:
        """The federation face, with the repository's routes."""
        listener = FederationListener(
            store=self.store,
            director=self._director,
            issuer=Authority(self._home, self._membership.federation),
            uplinks=self.uplinks,
            contacts=self.contacts,
            statements=self._statements,
            refusals=self._refusals,
            addresses=lambda: self.addresses,
            clock=self._clock,
            waits_for=self.patience.waits_for,
        )
        listener.add_routes(self.patience.routes(listener.own_edge))
        listener.add_routes(
            introduction_routes(
                lambda: self.store.state,
                member_of=listener.member,
                director=self._director_keys.current,
                clock=self._clock,
            )
        )
        publishing = Publishing(self.store, self._layout, self._clock)
        listener.add_routes(
            registry_routes(
                self._layout,
                member_of=listener.member,
                on_release=publishing.on_release,
                check_record=publishing.check_record,
                on_delete=self._releases.on_delete,
                turns=self._turns,
            )
        )
        return listener

    def serving(self) -> ServingParts:
        """The application face; a nameserver runs what people load on it, and groups speak of edges alone."""
        membership = self._membership
        return ServingParts(
            self._engine,
            layout=self._layout,
            statements=self._statements,
            caller=Caller(membership.name, Role.ADMIN, membership.uuid),
            version=program_version(),
            find_log=log_finder(self._inferences),
            extras=log_metrics(self._inferences),
            health=self._health,
            unready=lambda: None,
            tracing=tracing.opened(
                os.environ, version=program_version(), instance=membership.uuid, may_dial=lambda: True
            ),
        )

    def _health(self) -> dict[str, Any]:
        membership = self._membership
        return {
            "ready": True,
            "peer": membership.name,
            "kind": membership.kind,
            "federation": membership.federation,
            "edges": self.store.state.edge_count,
            "uplinks": len(self.uplinks.all_connected()),
            "tls_refused": self._tls_refused,
            "refused": self._refusals.count,
        }

    def refused(self, error: Exception, address: str) -> None:
        """Count and log a handshake that ended."""
        self._tls_refused += 1
        log.warning("tls_refused", extra={"address": address, "reason": reason_of(error)})

    def _begin_epoch(self) -> None:
        """A store that is older than what was answered from it begins anew, or edges would refuse it as a replay."""
        if not self.store.restored:
            return
        now = self._clock()
        draw = random.SystemRandom().random()
        events = commands.start_epoch(self.store.state, now=now, draw=draw, beyond=self.store.newest_epoch)
        self.store.append(events, caller=self._membership.name, now=now)
        log.warning("store_restored", extra={"epoch": self.store.state.epoch})

    def _bundle(self, member: Member, token: str) -> str:
        assert member.token_expires is not None
        state = self.store.state
        return bundles.encode(
            Bundle(
                federation=state.federation,
                addresses=self.addresses,
                ca=self._home.text(self._home.ca_crt),
                root=pin_of(state.root_documents[-1]),
                name=member.name,
                kind=member.kind,
                role=member.role,
                publisher=member.publisher,
                token=token,
                expires=int(member.token_expires),
            )
        )


def _announced(
    membership: Membership, settings: NameserverSettings, addresses: tuple[str, ...], port: int
) -> AbstractAsyncContextManager[None]:
    return announced(
        federation=membership.federation,
        name=membership.name,
        uuid=membership.uuid,
        port=port,
        addresses=[address.rpartition(":")[0].strip("[]") for address in addresses],
        interface=settings.zeroconf_interface,
    )


async def _keep_own_certificate(
    home: Home,
    membership: Membership,
    settings: NameserverSettings,
    clock: Callable[[], float],
    face: FederationFace,
) -> None:
    """Make the nameserver's own certificate anew each day and show it from then on; runs until cancelled."""
    while True:
        await asyncio.sleep(OWN_CERTIFICATE_S)
        names = dial_names(settings, host_name=socket.gethostname())
        founding.issue_own_certificate(home, membership, names=names, now=clock())
        face.reload_certificate()
