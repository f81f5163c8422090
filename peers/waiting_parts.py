"""What a nameserver is composed of for statements that wait, put together; each part is in a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from federation.documents import SignedDocument
from federation.members import Member
from federation.names import PeerId
from federation.store import FederationStore
from peers.homes import Home, Membership
from peers.running import RunningQueries
from peers.uplinks import Uplinks
from peers.waiting import WaitingStatements
from peers.waiting_delivery import UplinkDelivery, WaitingRequests
from peers.waiting_functions import WaitingFunctions
from peers.waiting_intake import AnswerIntake
from peers.waiting_reading import WaitingAnswers
from peers.waiting_routes import waiting_routes
from peers.waiting_store import WaitingStore
from query.declarations import Caller
from query.evaluation import CurrentCatalogue
from query.ledger import Outcome

WAITING_FILE: Final = "waiting.db"  # in the nameserver's home


@dataclass(frozen=True, slots=True)
class _Roster:
    store: FederationStore
    silence: Callable[[Member], Outcome]

    def member(self, uuid: str) -> Member | None:
        return self.store.state.member(uuid)

    def member_named(self, name: str) -> Member:
        return self.store.state.find_member(name)

    def away(self, member: Member) -> Outcome:
        return self.silence(member)


class WaitingParts:
    """``silence``: what it means that a peer was not asked; ``vouch``: the director's word on a caller, of now."""

    def __init__(
        self,
        home: Home,
        membership: Membership,
        *,
        store: FederationStore,
        uplinks: Uplinks,
        catalogue: CurrentCatalogue,
        queries: RunningQueries,
        silence: Callable[[Member], Outcome],
        vouch: Callable[[str], SignedDocument | None],
        clock: Callable[[], float],
    ) -> None:
        self._store = WaitingStore.open(home.path / WAITING_FILE)
        self.waiting = WaitingStatements(
            self._store,
            federation=membership.federation,
            roster=_Roster(store, silence),
            vouch=vouch,
            clock=clock,
        )
        self.answers = WaitingAnswers(self.waiting, self._store, catalogue)
        self._intake = AnswerIntake(self.waiting, self._store)
        self._delivery = UplinkDelivery(self.waiting, self._intake, uplinks)
        self.requests = WaitingRequests(
            self.waiting, self.answers, name=membership.name, uuid=membership.uuid, queries=queries
        )
        self.functions = WaitingFunctions(self.answers)
        self.waiting.deliverer = self._delivery
        self.requests.begin()
        uplinks.opened = self._delivery.deliver

    def routes(self, edge_of: Callable[[web.Request], Member]) -> list[web.RouteDef]:
        return waiting_routes(self.waiting, self._intake, edge_of=edge_of)

    def listed(self, *, caller: Caller, now: float) -> list[dict[str, Any]]:
        return self.answers.listed(caller=caller, now=now)

    def cancel(self, query: str, *, caller: Caller) -> bool:
        return self.waiting.cancel(query, caller=caller)

    def waits_for(self, uuid: PeerId) -> bool:
        return self.waiting.waits_for(uuid)

    async def stop(self) -> None:
        """Ask nobody any more; what waits goes on with the next start."""
        await self._delivery.close()
        await self.requests.close()

    def close(self) -> None:
        self._store.close()
