"""What an edge is composed of for statements that wait, put together; each part is in a module of its own."""

from __future__ import annotations

import time

from peers.edge_store import EdgeStore
from peers.errand_book import ErrandBook
from peers.errand_polling import ErrandCalls, ErrandPolling, Executor, TellingNameserver
from peers.errands import Errands
from peers.federation_client import FederationClient
from peers.homes import Membership
from peers.running import RunningQueries


class ErrandParts:
    """``errands`` runs what waits, ``nameserver`` hears of it at polls; :meth:`polling` fetches it then."""

    def __init__(
        self, store: EdgeStore, membership: Membership, client: FederationClient, *, queries: RunningQueries
    ) -> None:
        began = time.monotonic()
        book = ErrandBook(store, began=lambda: client.federation_time() - (time.monotonic() - began))
        self._calls = ErrandCalls(client, membership.uuid)
        self._polling: ErrandPolling | None = None
        self.errands = Errands(book, name=membership.name, queries=queries, now=client.federation_time)
        self.nameserver = TellingNameserver(client, self._told)

    def polling(self, executor: Executor) -> ErrandPolling:
        """To be run as one task of the edge."""
        self._polling = ErrandPolling(self._calls, executor, self.errands)
        return self._polling

    def done(self, errand: str) -> None:
        """The nameserver wants a statement's answer no more."""
        self.errands.done([errand])

    def _told(self) -> None:
        if self._polling is not None:
            self._polling.told()
