"""What every kind of peer is composed of: its engine, the functions at home everywhere, asking as itself."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.providers import CPU_ALONE, Choice
from federation.bundles import ADDRESSES_MAX
from federation.documents import RootRecord, SignedDocument
from federation.envelopes import ENVELOPE_LIFETIME_S_MAX, WAITING_LIFETIME_S_MAX, seal
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import shown
from peers.addresses import Look
from peers.agent import Agent
from peers.catalogues import PeerCatalogue, check_functions
from peers.client import Answer
from peers.device_functions import Device, DeviceFunctions
from peers.device_mode import autonomous, read_mode
from peers.edge_functions import OwnEdgeFunctions
from peers.edge_parts import home_context
from peers.elsewhere import Identity, Upward
from peers.federation_client import FederationClient
from peers.homes import Home, Membership
from peers.memory import AgentMemory, PlainMemory
from peers.own_releases import OwnReleases
from peers.peer_functions import PeerFunctions, Waits
from peers.pipeline_standings import Standings
from peers.release_lifecycle import ReleaseLifecycle
from peers.release_parts import composed_releases
from peers.release_ports import Registering, ReleaseSite, nothing_newer
from peers.remote_repositories import RemoteRepositories
from peers.remote_settings import RemoteBook
from peers.requests import Origin, StatementRequest, encode_request
from peers.running import RunningQueries
from peers.settings import CommonSettings, budget_of
from peers.statements import Elsewhere, Statements
from query.declarations import Call, Progress
from query.errors import PeerProblem, Problem, UserProblem
from query.values import encode_value

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.inference_log import InferenceLog

log = logging.getLogger("peerage.federation")


@dataclass(frozen=True, slots=True)
class PeerSelf:
    """Who a peer is and how it is set."""

    home: Home
    membership: Membership
    settings: CommonSettings

    @property
    def models(self) -> Path:
        return Path(self.settings.models).expanduser() if self.settings.models else self.home.models


class OwnStatements:
    """Asks other peers from inside a function: at most with the role of who called it, elsewhere as this home."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def answer(self, peer: str, text: str, *, call: Call, params: Mapping[str, Any] | None = None) -> Answer:
        """Everything that a statement answers on ``peer``, in the words of ``//peer:``."""
        encoded = {name: encode_value(value) for name, value in (params or {}).items()}
        body = encode_request(StatementRequest(text=text, params=encoded, targets=peer))
        origin = Origin(call.caller, own=True)
        answer = Answer()
        running = self._statements.run(body, origin=origin, query=self._statements.new_query())
        async with aclosing(running) as frames:
            async for frame in frames:
                answer.add(frame)
        return answer

    async def values(self, peer: str, text: str, *, call: Call) -> Sequence[Any]:
        return [row.value for row in (await self.answer(peer, text, call=call)).checked()]

    async def value(self, peer: str, text: str, *, call: Call) -> Any:
        values = await self.values(peer, text, call=call)
        if len(values) != 1:
            raise UserProblem(f"expected one value from {peer}, found {len(values)}")
        return values[0]


@dataclass(frozen=True, slots=True)
class PushingRepository:
    """The federation's repository, reached with this home's identity."""

    home: Home
    layout: ImageLayout
    client: FederationClient

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.client.addresses

    async def push(self, release: InstalledRelease, *, progress: Progress) -> None:
        from peers.oci_push import PushIdentity, push

        self.client.check_open()
        await self.client.begin()
        await self.client.hear_the_time()  # which looks for a nameserver that moved, and keeps where it is
        identity = PushIdentity(self.home.ca_crt, self.home.identity_crt, self.home.identity_key)
        await push(
            self.layout,
            release,
            addresses=self.addresses,
            identity=identity,
            progress=progress,
            may_go=self.client.check_open,
        )


class StatementsElsewhere:
    """Statements at other peers for the functions about releases: one value or problem a target."""

    def __init__(self, asking: OwnStatements) -> None:
        self._asking = asking

    async def run(
        self, targets: Sequence[str], text: str, params: Mapping[str, Any], *, call: Call
    ) -> Mapping[str, Any]:
        answer = await self._asking.answer(", ".join(targets), text, call=call, params=params)
        found: dict[str, Any] = {}
        for row in answer.rows:
            found[row.peer or shown(targets[0])] = row.value
        for problem in answer.errors:
            found.setdefault(problem.peer or shown(targets[0]), problem)
        for ledger in answer.ledgers:
            for outcome in ledger.outcomes:
                if outcome.peer not in found:
                    found[outcome.peer] = PeerProblem(f"{outcome.peer} did not answer: {outcome}", peer=outcome.peer)
        return found


def opened_engine(settings: CommonSettings, *, partition: str = "", inferences: InferenceLog | None = None) -> Engine:
    """``partition``: the peer's name, which every inference of a pipeline tells; ``inferences``: where they go."""
    from engine.engine import Engine, EngineSettings

    defaults = EngineSettings()
    return Engine(
        EngineSettings(
            memory_budget_bytes=settings.memory_bytes_max or defaults.memory_budget_bytes,
            trial_wall_s=settings.load_timeout_s,
            run_s=settings.run_timeout_s,
            threads=settings.run_threads,
            queue_max=settings.run_queue_max,
            providers=settings.execution_providers,
        ),
        check_functions=check_functions,
        partition=partition,
        record=inferences.append if inferences is not None else None,
    )


def program_version() -> str:
    return version("peerage")


def built_in_properties(providers: Choice = CPU_ALONE, *, site: str = "") -> dict[str, str | int | float | bool]:
    """What an edge reports of its device. ``providers``: what models run on, and what is wanted and absent; ``site``:
    where it is, as its settings say.
    """
    absent = {"execution_providers_absent": ", ".join(providers.absent)} if providers.absent else {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "arch": platform.machine(),
        "os": platform.system().lower(),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "memory": memory,
        "version": program_version(),
        **({"site": site} if site else {}),
        "execution_providers": ", ".join(providers.chosen),
        **absent,
    }


def local_functions(
    me: PeerSelf,
    *,
    engine: Engine,
    memory: AgentMemory | PlainMemory,
    layout: ImageLayout,
    root: Callable[[], RootRecord],
    asking: OwnStatements,
    running: RunningQueries,
    client: FederationClient | None,
    agent: Agent | None,
    where: Callable[[], str],
    follow_root: Callable[[], Awaitable[None]] = nothing_newer,
    remotes: RemoteRepositories | None = None,
    register: Registering | None = None,
    device: Device | None = None,
    standings: Standings | None = None,
    inferences: InferenceLog | None = None,
    waiting: Waits | None = None,
) -> tuple[object, ...]:
    """The functions at home everywhere. ``client`` is None on the nameserver, ``agent`` on all but an edge;
    ``standings`` and ``waiting`` are the nameserver's.
    """
    from engine.inference_log_functions import LogFunctions
    from engine.pipeline_functions import PipelineInference

    home = me.home
    site = _site(me, layout, client=client, loads_imports=agent is not None, follow_root=follow_root, register=register)
    own = OwnReleases(layout, root=root, follow_root=follow_root, use=memory)
    return (
        *([ReleaseLifecycle(own)] if client is not None else []),  # the nameserver speaks of the federation's
        _peer_functions(me, where=where, asking=asking, running=running, waiting=waiting),
        OwnEdgeFunctions(agent),
        LogFunctions(inferences),
        DeviceFunctions(device, uuid=me.membership.uuid),
        *composed_releases(
            home,
            me.models,
            layout,
            site=site,
            remotes=remotes or remotes_of(home, layout, root=root, follow_root=follow_root),
            engine=engine,
            memory=memory,
            root=root,
            statements=StatementsElsewhere(asking),
            agent=agent,
            standings=standings,
            load_on_demand=me.settings.load_on_demand,
        ),
        PipelineInference(engine),
    )


def _peer_functions(
    me: PeerSelf,
    *,
    where: Callable[[], str],
    asking: OwnStatements,
    running: RunningQueries,
    waiting: Waits | None,
) -> PeerFunctions:
    return PeerFunctions(
        name=me.membership.name,
        kind=me.membership.kind,
        nameserver=where,
        asking=asking,
        running=running,
        version=program_version(),
        waiting=waiting,
    )


def _site(
    me: PeerSelf,
    layout: ImageLayout,
    *,
    client: FederationClient | None,
    loads_imports: bool,
    follow_root: Callable[[], Awaitable[None]],
    register: Registering | None,
) -> ReleaseSite:
    """Where the functions about releases run."""
    home = me.home

    async def before_signing() -> None:
        if home.publisher_next_key.exists():  # has it been endorsed?
            with suppress(Problem):  # else the present one signs
                await follow_root()

    return ReleaseSite(
        accept_development=me.settings.accept_development,
        loads_imports=loads_imports,
        source=client,
        repository=PushingRepository(home, layout, client) if client is not None else None,
        follow_root=follow_root,
        before_signing=before_signing,
        register=register,
    )


def remotes_of(
    home: Home,
    layout: ImageLayout,
    *,
    root: Callable[[], RootRecord],
    follow_root: Callable[[], Awaitable[None]] = nothing_newer,
) -> RemoteRepositories:
    """The remote repositories of a home; not dialled while the device is AUTONOMOUS."""

    def may_dial() -> None:
        if read_mode(home) is not None:
            raise autonomous()

    book = RemoteBook(home.repositories_json)
    return RemoteRepositories(book, layout, root=root, follow_root=follow_root, may_dial=may_dial)


def opened_client(
    home: Home, nameserver: str | None, *, clock: Callable[[], float], look: Look | None = None
) -> FederationClient:
    """The client of a home that joined; dials nothing before it is asked something.

    An address that worked is kept in the home. ``look``: see :mod:`peers.addresses`.
    """
    membership = home.membership()

    def remember(address: str) -> None:
        try:
            kept = home.membership()
            if address not in kept.addresses:
                addresses = (address, *kept.addresses)[:ADDRESSES_MAX]
                home.write_membership(msgspec.structs.replace(kept, addresses=addresses))
        except Problem as problem:  # it works without, until the next start
            log.warning("address_not_kept", extra={"address": address, "reason": problem.message})

    return FederationClient(
        (nameserver,) if nameserver else membership.addresses,
        home_context(home),
        clock=clock,
        clock_offset_s=membership.clock_offset_s,
        look=look,
        remember=remember,
    )


def statements_of(
    me: PeerSelf,
    *,
    key: PrivateKey,
    client: FederationClient,
    catalogue: PeerCatalogue,
    running: RunningQueries,
    front: Callable[[Elsewhere, Identity], Elsewhere],
) -> Statements:
    """The statements of a peer that is not the nameserver: what goes elsewhere is signed with this home's identity.

    ``front`` puts before the way by the nameserver what goes another way.
    """
    membership = me.membership

    def sealed(body: bytes, *, lifetime_s: float, waits: bool = False) -> SignedDocument:
        return seal(
            body,
            key=key,
            federation=membership.federation,
            caller=membership.uuid,
            now=client.federation_time(),
            lifetime_s=min(lifetime_s, WAITING_LIFETIME_S_MAX if waits else ENVELOPE_LIFETIME_S_MAX),
            waits=waits,
        )

    identity = Identity(membership.name, sealed)
    return Statements(
        name=membership.name,
        is_nameserver=False,
        catalogue=catalogue,
        elsewhere=front(Upward(identity=identity, client=client), identity),
        running=running,
        federation_time=client.federation_time,
        budget=budget_of(me.settings),
    )
