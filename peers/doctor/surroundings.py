"""One peer and what is around it, each thing seen at most once: what the checks of :mod:`peers.doctor.looking` share.

Rules: whoever asks first makes something be seen, and all get the same; who gives up waiting stops nobody else; a home
whose certificate does not hold is not dialled with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from peers.doctor import seeing_home, seeing_network, seeing_peers
from peers.doctor.facts import HomeFacts, NameserverFacts
from peers.doctor.threads import in_thread
from peers.edge_parts import home_context
from peers.federation_client import FederationClient
from peers.homes import Home, RunRecord
from peers.settings import Settings
from query.errors import Problem, WorldProblem

_T = TypeVar("_T")
UNUSABLE: Final = frozenset(
    {"missing_file", "bad_file", "bad_key", "bad_certificate", "wrong_certificate", "foreign_certificate"}
)


@dataclass(slots=True)
class Surroundings:
    """One peer and what is around it, seen at most once each. ``nameserver``: an address to look at besides."""

    home: Home
    environment: Mapping[str, str]
    nameserver: str | None = None
    _seen: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    async def once(self, name: str, see: Callable[[], Awaitable[_T]]) -> _T:
        """What ``see`` gives, called by whoever comes first; an error is everybody's."""
        task = self._seen.get(name)
        if task is None:

            async def seeing() -> _T:
                return await see()

            task = self._seen[name] = asyncio.create_task(seeing())
        value: _T = await asyncio.shield(task)
        return value

    async def close(self) -> None:
        for task in self._seen.values():
            task.cancel()
        await asyncio.gather(*self._seen.values(), return_exceptions=True)

    async def facts(self) -> HomeFacts:
        return await self.once("home", lambda: in_thread(lambda: seeing_home.home_facts(self.home, self.environment)))

    async def kind(self) -> str:
        membership = (await self.facts()).membership
        return membership.kind if membership is not None else ""

    async def settings(self) -> Settings | None:
        facts = await self.facts()
        if facts.membership is None or facts.settings_problem is not None:
            return None
        return await in_thread(lambda: seeing_home.settings_of(self.home, self.environment))

    async def running(self) -> RunRecord | None:
        return await self.once("run", lambda: in_thread(self.home.read_run))

    async def version_here(self) -> str | None:
        """The version of the peer that runs in the home. Raises a :class:`Problem` where it does not answer."""
        run = await self.running()
        return None if run is None else await self.once("here", lambda: self._version(run.socket))

    async def _version(self, peer: str) -> str | None:
        try:
            async with asyncio.timeout(seeing_network.STAGE_S_MAX):
                return await seeing_peers.version_of(lambda text: seeing_peers.ask_running(peer, text))
        except TimeoutError:
            raise WorldProblem(f"no answer within {seeing_network.STAGE_S_MAX:g} s") from None

    async def ask_here(self, text: str) -> list[Any] | None:
        """Rows of the peer that runs in the home; None where none does, or it does not answer."""
        run = await self.running()
        try:
            if run is None or await self.version_here() is None:
                return None
        except Problem:
            return None  # told by the check of the process
        return await seeing_peers.ask_running(run.socket, text)

    async def may_dial(self) -> bool:
        facts = await self.facts()
        usable = not any(finding.kind in UNUSABLE for finding in facts.found)
        return usable and not facts.autonomous and facts.membership is not None and self.home.identity_crt.exists()

    # --- the nameserver -----------------------------------------------------------------------------------------

    async def network(self) -> NameserverFacts:
        return await self.once("network", self._network)

    async def _network(self) -> NameserverFacts:
        home, settings = self.home, await self.settings()
        membership = (await self.facts()).membership
        configured = getattr(settings, "nameserver", None)
        known = list(dict.fromkeys(filter(None, (self.nameserver, configured))))
        if membership is not None:
            stopped = membership.kind == "nameserver" and await self.running() is None
            known += () if stopped else membership.addresses  # a nameserver's own: what it tells its peers
        proxies = seeing_network.proxies_in(self.environment)
        authority = await in_thread(lambda: seeing_network.authority_name(home.text(home.ca_crt)))
        dialled = await seeing_network.dial_all(known, lambda: home_context(home))
        facts = NameserverFacts(
            dialled, configured=configured, tried=self.nameserver, proxies=proxies, authority=authority
        )
        if facts.reached is None and await self.kind() != "nameserver":
            heard = tuple(one for one in await self.heard() if one not in known)
            more = await seeing_network.dial_all(heard, lambda: home_context(home))
            facts = replace(facts, dialled=(*dialled, *more), announced=heard)
        return facts

    async def ask(self, text: str) -> list[Any]:
        """Rows of the nameserver: over the socket of one that runs here, else over the network."""
        run = await self.running()
        if run is not None and run.kind == "nameserver":
            return await seeing_peers.ask_running(run.socket, text)
        reached = (await self.network()).reached
        assert reached is not None
        context = await in_thread(lambda: home_context(self.home))
        async with FederationClient((reached.address,), context) as client:
            return await seeing_peers.ask_nameserver(client, text)

    async def answers(self) -> bool:
        """Whether the nameserver can be asked."""
        if await self.kind() == "nameserver":
            return await self.running() is not None
        return await self.may_dial() and (await self.network()).reached is not None

    async def heard(self) -> tuple[str, ...]:
        return await self.once("heard", self._heard)

    async def _heard(self) -> tuple[str, ...]:
        from peers.discovery import find_nameservers

        membership, settings = (await self.facts()).membership, await self.settings()
        if membership is None or settings is None or not settings.zeroconf:
            return ()
        return await find_nameservers(membership.federation, interface=settings.zeroconf_interface)
