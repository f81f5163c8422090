"""Statements that wait in a world of lost messages, kills and restarts, drawn from a seed: the production cores, no
loop.

After every event: no statement ran twice on an edge; what a ledger says is what the edge did; who follows has seen
every state once. When faults stop, everything that still waits is answered at the next polls.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from federation.envelopes import claimed, nonce_of
from federation.errors import EnvelopeExpired, NonceReused
from federation.names import PeerId, shown
from peers.edge_store import EdgeStore
from peers.errand_book import ErrandBook, ErrandKey
from peers.uplink_messages import StatementMessage
from peers.waiting import WaitingStatements
from peers.waiting_store import WaitingStore
from peers.whole_frames import WholeFrames, read_whole
from query.errors import UnknownName
from query.frames import Column, EndFrame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State
from tests.many.test_waiting_rules import EDGES, OLGA, World, errand
from tests.trust.material import NOW

SEEDS = 40
EVENTS = 120
INTERRUPTED = Outcome("X", State.ERROR, "interrupted")


class Killed(Exception):
    """The process of an edge ended here."""


class Edge:
    """One edge's disk, and its process over it."""

    def __init__(self, uuid: PeerId, random: Random) -> None:
        self.uuid = uuid
        self._random = random
        self._store = EdgeStore.open()
        self.ran: dict[str, int] = {}
        self.restart()

    def restart(self) -> None:
        self._book = ErrandBook(self._store, began=lambda: 0.0)

    def answer(self, message: StatementMessage, *, now: float, kills: float) -> bytes:
        """As :class:`peers.carried.CarriedStatements` and :class:`peers.errands.Errands` do it."""
        assert message.envelope is not None
        sealed = claimed(message.envelope)
        key = ErrandKey(sealed.caller, nonce_of(sealed, str(message.index)))
        try:
            self._book.use(
                key.nonce,
                caller=key.caller,
                expires=sealed.issued + sealed.lifetime_s,
                now=now,
                issued=sealed.issued,
                errand=message.errand,
            )
        except NonceReused:
            return self._book.answer(key) or _whole(None, INTERRUPTED)
        except EnvelopeExpired as problem:
            return _whole(None, Outcome("X", State.REFUSED, problem.code))
        self._die(kills)
        self.ran[message.errand] = self.ran.get(message.errand, 0) + 1
        self._die(kills)
        answer = _whole(self._value(message.errand), Outcome("X", State.ROWS, rows=1))
        self._book.keep(key, answer, now=now)
        self._die(kills)
        return answer

    def done(self, statement: str) -> None:
        self._book.done([statement])

    def _value(self, statement: str) -> str:
        return f"{self.uuid} {statement}"

    def _die(self, kills: float) -> None:
        if self._random.random() < kills:
            self.restart()
            raise Killed


class Federation:
    """A nameserver, its edges, and a reader that follows everything."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = World()
        self.store = WaitingStore.open()
        self.waiting = self.world.waiting(self.store)
        self.edges = [Edge(edge.uuid, self.random) for edge in EDGES]
        self.cursors: dict[str, int] = {}
        self.seen: dict[str, list[str]] = {}
        self.number = 0
        self.faults = 0.25

    def step(self) -> None:
        match self.random.choices(("begin", "poll", "pass", "restart", "cancel"), (2, 8, 4, 1, 0.5))[0]:
            case "begin":
                self.begin()
            case "poll":
                self.poll(self.random.choice(self.edges))
            case "pass":
                self.world.now += self.random.uniform(0, 30)
                self.waiting.look()
            case "restart":
                self.waiting = self.world.waiting(self.store)
            case "cancel" if self.seen:
                self.waiting.cancel(self.random.choice(list(self.seen)), caller=OLGA)
        self.follow()
        self.check()

    def begin(self) -> None:
        self.number += 1
        targets = tuple(edge.name for edge in self.random.sample(EDGES, self.random.randint(1, len(EDGES))))
        asked = errand(f"q-{self.number}", lifetime_s=100_000.0, targets=targets)
        wait_s = self.random.uniform(20, 400)
        statement, new = self.waiting.begin(asked, wait_s=wait_s, variables={})
        assert new
        if self.random.random() < self.faults:  # whoever asked was not told, and sends it again
            assert self.waiting.begin(asked, wait_s=wait_s, variables={}) == (statement, False)
        self.seen[statement] = []
        self.cursors[statement] = 0

    def poll(self, edge: Edge) -> None:
        for statement in self.waiting.open_for(edge.uuid):
            if self.random.random() < self.faults:
                continue  # the request was lost
            try:
                message = self.waiting.message(edge.uuid, statement)
                answer = edge.answer(message, now=self.world.now, kills=self.faults / 3)
            except Killed:
                return
            if self.random.random() < self.faults:
                continue  # the answer was lost, or comes when it is over
            for _ in range(self.random.choice((1, 1, 2))):
                try:
                    self.waiting.answered(edge.uuid, statement, answer)
                except UnknownName:
                    break
            if self.random.random() >= self.faults:
                edge.done(statement)

    def follow(self) -> None:
        for statement, after in self.cursors.items():
            for target in self.store.settled(statement, after=after):
                assert target.seq is not None
                assert target.name not in self.seen[statement] or target.late
                self.seen[statement].append(target.name)
                self.cursors[statement] = target.seq

    def check(self) -> None:
        for edge in self.edges:
            assert max(edge.ran.values(), default=1) == 1
        for statement in self.seen:
            targets = self.store.targets(statement)
            settled = [target for target in targets if target.outcome is not None]
            assert sorted(set(self.seen[statement])) == sorted(target.name for target in settled)
            for target in settled:
                self.check_told(statement, target.peer, target.outcome, target.answer)

    def check_told(self, statement: str, peer: PeerId, outcome: Any, answer: bytes | None) -> None:
        edge = next(edge for edge in self.edges if edge.uuid == peer)
        if outcome.state is State.ROWS:
            assert answer is not None
            rows = [frame.values for frame in read_whole(answer) if isinstance(frame, RowFrame)]
            assert rows == [(f"{peer} {statement}",)]
            assert edge.ran[statement] == 1

    def calm(self) -> None:
        """Faults stop: at the next polls everything that still waits is answered."""
        self.faults = 0.0
        waits = [statement for statement in self.seen if self.waiting.changed(statement) is not None]
        for edge in self.edges:
            edge.restart()
            self.poll(edge)
        self.follow()
        self.check()
        for statement in waits:
            assert self.waiting.changed(statement) is None
            states = {str(target.outcome) for target in self.store.targets(statement)}
            assert states <= {"rows", "error(interrupted)"}


def _whole(value: str | None, outcome: Outcome) -> bytes:
    made = WholeFrames()
    made.take(SchemaFrame(0, (Column("x", "Object"),)))
    if value is not None:
        made.take(RowFrame(0, (value,)))
    made.take(EndFrame(0, Ledger((outcome,)), outcome.rows, 0.0))
    return made.written(shown("x"), index=0)


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_statements_that_wait_keep_their_promises(first: int) -> None:
    told: set[str] = set()
    for seed in range(first, first + 20):
        made = Federation(seed)
        try:
            for _ in range(EVENTS):
                made.step()
            made.calm()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} at {made.world.now - NOW:.0f} s: {error}") from error
        told |= {str(target.outcome) for statement in made.seen for target in made.store.targets(statement)}
    assert {"rows", "error(interrupted)", "timeout", "cancelled", "unreachable(never)"} <= told


def test_the_world_uses_what_runs_for_real() -> None:
    assert isinstance(Federation(0).waiting, WaitingStatements)
