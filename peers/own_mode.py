"""How a running edge enters AUTONOMOUS and leaves it, at once.

Owns the order. Entering: the mode is a fact on disk first, so that nothing is told that a crash takes back; polls and
uplink end; the nameserver is told once, if it can be; then the client dials nobody. Leaving: the certificate is renewed
first, over a connection of its own; only when that worked does the mode end, and the next poll and report are those of
any other edge. Refuses to enter while a listener reaches beyond this device, and to leave where the nameserver refuses
or no certificate is there to renew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from federation.documents import Mode
from federation.keys import read_key
from federation.reports import moment
from peers import device_mode
from peers.device_mode import autonomous, check_local, read_mode
from peers.edge_parts import HomeCertificate, renew_home
from peers.federation_client import FederationClient
from peers.homes import Home, NotJoined
from peers.local_parts import opened_client
from peers.settings import EdgeSettings
from query.errors import Problem, WrongArguments

if TYPE_CHECKING:
    from peers.agent import Agent

LAST_REPORT_S_MAX: Final = 3.0

log = logging.getLogger("peerage.edge")


class OwnMode:
    """``keep_log`` begins and ends keeping the log in the home."""

    def __init__(
        self,
        home: Home,
        settings: EdgeSettings,
        *,
        client: FederationClient,
        agent: Agent,
        certificate: HomeCertificate | None,
        clock: Callable[[], float],
        keep_log: Callable[[bool], None],
    ) -> None:
        self._home = home
        self._settings = settings
        self._client = client
        self._agent = agent
        self._certificate = certificate
        self._clock = clock
        self._keep_log = keep_log
        self._changing = asyncio.Lock()

    def record(self) -> dict[str, Any]:
        fact = read_mode(self._home)
        return {"mode": self._agent.mode, "since": moment(fact.since) if fact else None}

    async def change(self, mode: Mode) -> dict[str, Any]:
        """Raises why the mode is as it was."""
        async with self._changing:
            if mode == "AUTONOMOUS":
                if self._agent.mode != "AUTONOMOUS":
                    await self._enter()
            elif self._agent.mode == "AUTONOMOUS":
                await self._leave(mode)
            elif mode != self._agent.mode:
                raise decided_elsewhere(self._agent.mode, mode, self._agent.identity.name)
        return self.record()

    async def _enter(self) -> None:
        check_local(self._settings.application_host)
        fact = device_mode.enter(self._home, now=self._client.federation_time())
        self._agent.become_autonomous(since=fact.since)
        try:
            async with asyncio.timeout(LAST_REPORT_S_MAX):
                await self._agent.report_once(mode="AUTONOMOUS")
        except (Problem, TimeoutError) as problem:
            log.info("mode_not_told", extra={"reason": str(problem) or "no answer in time"})
        finally:
            await self._client.seal(autonomous)
        self._keep_log(True)
        log.info("mode_changed", extra={"mode": "AUTONOMOUS"})

    async def _leave(self, mode: Mode) -> None:
        if self._certificate is None:
            raise cannot_renew(self._home)
        async with renewing_client(self._home, self._settings, clock=self._clock) as client:
            await self._certificate.renew(by=client)
            self._client.clock_offset_s = client.clock_offset_s
        device_mode.leave(self._home)
        await self._client.seal(None)
        self._agent.end_autonomous(mode)
        self._keep_log(False)
        log.info("mode_changed", extra={"was": "AUTONOMOUS", "mode": mode})


async def leave_stopped(home: Home, settings: EdgeSettings, *, clock: Callable[[], float]) -> None:
    """Leave the mode in a home where nothing runs. Raises why it cannot be left."""
    if not home.identity_crt.exists():
        raise cannot_renew(home)
    async with renewing_client(home, settings, clock=clock) as client:
        await renew_home(home, client, key=read_key(home.identity_key).public)
    device_mode.leave(home)


def renewing_client(home: Home, settings: EdgeSettings, *, clock: Callable[[], float]) -> FederationClient:
    """A connection for the renewal alone, so that nothing else is dialled before it worked."""
    federation = home.membership().federation

    async def look() -> tuple[str, ...]:
        from peers.discovery import find_nameservers

        return await find_nameservers(federation, interface=settings.zeroconf_interface)

    named = settings.nameserver or not settings.zeroconf
    return opened_client(home, settings.nameserver, clock=clock, look=None if named else look)


def cannot_renew(home: Home) -> NotJoined:
    return NotJoined(
        f"{home} has no certificate to renew: its edge never joined, so it stays AUTONOMOUS",
        hint=f'join with the bundle of this edge: "peerage join --home {home} FILE"',
    )


def decided_elsewhere(present: Mode, wanted: Mode, name: str) -> WrongArguments:
    return WrongArguments(
        f"this edge is {present} by the nameserver's word: only AUTONOMOUS is entered and left on the device",
        hint=f'at the nameserver: edge:set_mode("{name}", "{wanted}")',
    )
