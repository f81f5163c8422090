"""Taking in the answers of many edges that come at once: all that came in one turn of the loop are one commit.

Rules: who brought an answer is told only once it is durable, and nobody sees it before. When the disk refuses, nothing
of the turn was taken: what waits stands as it is on the disk, and each edge keeps its answer and brings it again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from federation.names import PeerId
from peers.waiting import WaitingStatements
from peers.waiting_store import WaitingStore
from query.errors import Problem

log = logging.getLogger("peerage.waiting")


class _Arrived(NamedTuple):
    uuid: PeerId
    statement: str
    whole: bytes
    taken: asyncio.Future[None]


class AnswerIntake:
    """Use on one event loop."""

    def __init__(self, waiting: WaitingStatements, store: WaitingStore) -> None:
        self._waiting = waiting
        self._store = store
        self._arrived: list[_Arrived] = []

    async def take(self, uuid: PeerId, statement: str, whole: bytes) -> None:
        """Durable on return. Raises as :meth:`~peers.waiting.WaitingStatements.answered` does."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[None] = loop.create_future()
        self._arrived.append(_Arrived(uuid, statement, whole, taken))
        if len(self._arrived) == 1:
            loop.call_soon(self._take_all)
        await taken

    def _take_all(self) -> None:
        arrived, self._arrived = self._arrived, []
        ends: list[Problem | None] = []
        try:
            with self._store.together():
                for one in arrived:
                    ends.append(self._take(one))
        except Problem as problem:
            ends = [problem] * len(arrived)
            self._stand_as_on_disk()
        for one, end in zip(arrived, ends, strict=True):
            if one.taken.done():
                continue  # who brought it is gone
            if end is None:
                one.taken.set_result(None)
            else:
                one.taken.set_exception(end)

    def _stand_as_on_disk(self) -> None:
        try:
            self._waiting.reload()
        except Problem as problem:  # what could not be read waits as it did, and who brought it is told all the same
            log.warning("waiting_not_read", extra={"code": problem.code, "reason": problem.message})

    def _take(self, one: _Arrived) -> Problem | None:
        try:
            self._waiting.answered(one.uuid, one.statement, one.whole)
        except self._store.failures:
            raise
        except Problem as problem:
            return problem
        return None
