"""The world: virtual time, a lossy network, machines that crash, ten edges, one nameserver, one random source.

Drives the production cores (commands, state, director, verification, reconciliation, revocation, restoration, import)
and looks after every event that

- nothing runs that no endorsed publisher signed, or that fails its own test vectors;
- what is on a disk is old or new: a desired state with its records, signed for that edge, never an older one, never by
  a director that the edge knows to be replaced; a release is listed with all that was signed, or not at all;
- no acknowledged change or report is gone, in whatever moment a machine crashed before its disk had it;
- what was loaded is loaded again at a start, and no desired model is unloaded but to make room;
- nothing is in memory whose needs are not;
- of a revoked key nothing comes to be active; what goes on is told, and what is stopped is gone within a turn;
- an AUTONOMOUS edge calls nobody, and no file moves an edge back, or to what is not its own;
- what an edge has it does not fetch again, whatever a registry or a nameserver from a backup tells it;
- bad content is tried once a life, and an expired desired state changes nothing;

and, once the faults stop, that every edge comes to what is wanted within ``CONVERGENCE_S``, says what it does not run
and has told what it did while it was AUTONOMOUS. No asyncio, no threads, no clock: a seed is a run.
``python -m tests.world --seed N`` runs one again and prints what happened.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from federation import commands
from federation.assignments import WantedModel, set_group_models
from federation.documents import HistoryEntry, PollAnswer, decode
from federation.events import Joined
from federation.keys import PrivateKey
from federation.names import Digest, PeerId, digest_of
from federation.polling import PollReply
from query.errors import Problem, UnknownName, WorldProblem
from tests.world.carrying import CarriedBack, File, export_file, harmed
from tests.world.cores import PRODUCTION, Cores
from tests.world.edge import Edge
from tests.world.faults import Blob, Strangers, blob
from tests.world.nameserver import Nameserver
from tests.world.people import People
from tests.world.releases import GOOD, MODELS, Made

EDGES = 10
FAULTY_S = 240.0
CONVERGENCE_S = 900.0  # three times the longest back-off
START = 1_750_000_000.0
LOST = 0.08
CRASHES = 0.01  # at each labelled point
CRASHES_AT = {"root.committed": 0.1, "import.staged": 0.1}  # which are passed rarely
FILES_MAX = 40  # that lie about
AUTONOMOUS_MAX = 3
OLD_S = 60.0  # that a nameserver goes on beside the one that was restored from its backup
TO_OLD = 0.3  # of the calls that reach it meanwhile


class Crash(Exception):
    """A machine is gone, in the middle of what it did."""


class Violated(AssertionError):
    """Something that must always hold did not."""


class World:
    def __init__(self, seed: int, *, cores: Cores = PRODUCTION, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.cores = cores
        self.random = Random(seed)
        self.now = START
        self.faulty = False
        self._trace = trace
        self._events: list[tuple[float, int, Any, int, Callable[[], None]]] = []
        self._count = 0
        self._end = START
        self.days_passed = 0
        self.steps = 0
        self.releases: dict[Digest, Made] = {}
        self.endorsed: dict[Digest, Made] = {}
        self.blobs: dict[Digest, bytes] = {}
        self.answers: dict[PeerId, list[PollReply]] = {}
        self.forgotten: dict[PeerId, set[HistoryEntry]] = {}  # told to a nameserver that lost it
        self.files: list[File] = []
        self.carried: list[CarriedBack] = []
        self._signed: dict[PeerId, set[Digest]] = {}
        self._counted: dict[PeerId, int] = {}
        self.backup: dict[str, Any] | None = None
        self.strangers = Strangers(self)
        self.people = People(self)
        self.nameserver = Nameserver(self, self.people.directors[0])
        self.old: Nameserver | None = None
        self.edges: list[Edge] = []
        self._found()
        self.faulty = True

    def _found(self) -> None:
        root = self.people.folder[0]
        server = self.nameserver
        founders = [commands.Founder(uuid=PeerId(f"u-{name}"), name=name, key=bytes(32)) for name in ("ns", "admin")]
        server.append(
            commands.found(
                server.state,
                "f",
                root=root,
                nameserver=founders[0],
                admin=founders[1],
                now=START,
                draw=self.random.random(),
                poll_interval="10s~10%",
            )
        )
        for number in range(EDGES):
            uuid, name = PeerId(f"00000000-0000-4000-8000-{number:012d}"), f"E{number}"
            key = PrivateKey(hashlib.sha256(name.encode()).digest())
            server.append(commands.register(server.state, name, uuid=uuid, token_hash=f"t{number}", now=START))
            server.append((Joined(uuid, key.public),))
            self.edges.append(Edge(self, uuid, name, root, key))
        self.backup = server.disk.copy()

    def know(self, release: Made) -> None:
        """It exists, and its content can be had."""
        self.releases[release.record] = release
        self.blobs |= release.blobs

    def blob(self, digest: Digest, offset: int) -> Blob:
        """What the repository answers."""
        if digest not in self.blobs:
            raise UnknownName(f"no blob {digest}")
        return blob(self.blobs[digest], offset)

    # --- time, machines, network --------------------------------------------------------------------------------

    def after(self, node: Edge | Nameserver | None, delay_s: float, event: Callable[[], None]) -> None:
        """``event`` happens later, unless ``node`` has crashed by then."""
        self._count += 1
        life = node.life if node is not None else 0
        heapq.heappush(self._events, (self.now + delay_s, self._count, node, life, event))

    def crash_point(self, node: Edge | Nameserver, label: str) -> None:
        if self.faulty and self.random.random() < CRASHES_AT.get(label, CRASHES):
            self.trace(f"{node.name} crashes at {label}")
            raise Crash(node)

    def loses(self, edge: Edge) -> bool:
        return self.faulty and (edge.partitioned or self.random.random() < LOST)

    def call(
        self,
        edge: Edge,
        request: Callable[[Nameserver], Any],
        reply: Callable[[Any], None],
        *,
        attack: Callable[[Edge, Any], Any] = lambda edge, answer: answer,
        last: bool = False,
    ) -> None:
        """A request and its answer; either may be lost, and the server may crash having done what was asked.

        ``last``: what an AUTONOMOUS edge may, which is to tell that it is, and to ask to come back.
        """
        self.expect(last or not edge.autonomous, f"{edge.name} is AUTONOMOUS and calls the nameserver")
        way_s = self.random.uniform(0.001, 1.5 if self.faulty else 0.05)
        lost = WorldProblem("no answer in time")
        if self.loses(edge):
            self.after(edge, 5.0, lambda: reply(lost))
            return

        def arrive() -> None:
            server = self.nameserver
            if self.old is not None and self.random.random() < TO_OLD:
                server = self.old
            if not server.up:
                self.after(edge, 0.1, lambda: reply(WorldProblem("refused to connect")))
                return
            try:
                answer = request(server)
            except Problem as problem:
                answer = problem
            except Crash:
                self.after(edge, 5.0, lambda: reply(lost))
                raise
            if self.loses(edge):
                self.after(edge, 5.0, lambda: reply(lost))
            else:
                self.after(edge, way_s, lambda: reply(attack(edge, answer)))

        self.after(edge, way_s, arrive)

    def trace(self, text: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.now - START:10.2f}  {text}")

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            raise Violated(f"{text}\nreplay with: python -m tests.world --seed {self.seed}")

    def run(self) -> None:
        """Faults for a while, then peace until everybody must have come to what is wanted."""
        for event in (self._operate, self._disturb):
            self.after(None, self.random.uniform(0, 5), event)
        self._run_until(self.now + FAULTY_S)
        self._heal()
        self._run_until(self.now + CONVERGENCE_S)
        for edge in self.edges:
            for text in edge.unconverged():
                self.expect(False, f"{CONVERGENCE_S:g} s after the last fault {edge.name} {text}")

    def _run_until(self, end: float) -> None:
        self._end = end
        while self._events and self._events[0][0] <= self._end:
            at, _, node, life, event = heapq.heappop(self._events)
            self.now = max(self.now, at)
            if node is not None and node.life != life:
                continue
            self.steps += 1
            try:
                event()
            except Crash as crash:
                self._crashed(crash.args[0])
            self._check()
        self.now = max(self.now, self._end)

    def _crashed(self, node: Edge | Nameserver) -> None:
        node.crash()
        self.after(node, self.random.uniform(0.5, 20.0), lambda: self._boot(node))

    def _boot(self, node: Edge | Nameserver) -> None:
        self.trace(f"{node.name} starts")
        node.boot()

    def _check(self) -> None:
        for node in (self.nameserver, *self.edges):
            for text in node.violations():
                self.expect(False, f"{node.name}: {text}")

    def _heal(self) -> None:
        self.trace("the faults stop")
        self.faulty = False
        self.old = None
        for node in (self.nameserver, *self.edges):
            if not node.up:
                node.life += 1
                node.boot()
        self.people.mend_director()
        for edge in self.edges:
            edge.partitioned = False
            if edge.autonomous:
                edge.leave_autonomous()
        server = self.nameserver
        server.append(commands.set_poll_interval(server.state, "all", "10s~11%"))  # news for whoever was deceived
        try:
            release = self.people.publish(self.random.choice(MODELS), content=GOOD, signer=self.people.signer())
            wanted = [WantedModel(release.name, release.version)]
            server.append(set_group_models(server.state, "all", wanted).events)
        except Problem as problem:  # an edge has a model that does not go with it
            self.trace(f"refused: {problem}")

    # --- what people do -----------------------------------------------------------------------------------------

    def _operate(self) -> None:
        if self.faulty:
            self.after(None, self.random.expovariate(1 / 4.0), self._operate)
            if self.nameserver.up:
                try:
                    self.people.act()
                except Problem as problem:
                    self.trace(f"refused: {problem}")

    # --- what happens to them -----------------------------------------------------------------------------------

    def _disturb(self) -> None:
        if not self.faulty:
            return
        self.after(None, self.random.expovariate(1 / 3.0), self._disturb)
        edge, random = self.random.choice(self.edges), self.random
        match random.randrange(18):
            case 0 | 1 | 2:
                if edge.up:
                    self.trace(f"{edge.name} is killed")
                    self._crashed(edge)
            case 3 | 4:
                edge.partitioned = not edge.partitioned
            case 5 if self.nameserver.up:
                self.trace("NAMESERVER is killed")
                self._crashed(self.nameserver)
            case 6 if self.nameserver.up and random.random() < 0.3:
                self.backup = self.nameserver.disk.copy()
            case 7 if self.nameserver.up and random.random() < 0.2 and self.backup is not None:
                self._restore()
            case 8 if random.random() < 0.4:
                self.trace("fifteen days pass")
                self.days_passed += 15
                self.now += 15 * 86_400.0
                self._end += 15 * 86_400.0
            case 9 | 10 | 11 | 12 | 13 if edge.up:
                self._acted(edge, lambda: self._carry(edge))
            case _:
                present = list(self.endorsed.values())
                if edge.up and present:
                    release = random.choice(present)
                    self.trace(f"somebody loads {release.label} on {edge.name}")
                    self._acted(edge, lambda: edge.load_by_hand(release))

    def _acted(self, edge: Edge, act: Callable[[], None]) -> None:
        try:
            act()
        except Crash as crash:
            self._crashed(crash.args[0])
        except Problem as problem:
            self.trace(f"refused: {problem}")

    def _restore(self) -> None:
        """From a backup; what ran before may go on beside it for a while."""
        self.trace("NAMESERVER is restored from a backup")
        if self.random.random() < 0.5:
            self.old = old = self.nameserver.twin()
            self.after(None, OLD_S, lambda: self._end_old(old))
        self.people.restore()

    def _end_old(self, old: Nameserver) -> None:
        if self.old is old:
            self.old = None

    # --- what is carried ----------------------------------------------------------------------------------------

    def _carry(self, edge: Edge) -> None:
        """An edge enters the mode or leaves it; a file is made, or brought to an edge; a report too. A few edges are
        mostly meant, so that it happens to them again and again.
        """
        random, server = self.random, self.nameserver
        away = [one for one in self.edges if one.autonomous and one.up]
        match random.randrange(10):
            case 0 if not edge.autonomous and len(away) < AUTONOMOUS_MAX:
                self.trace(f"{edge.name} becomes AUTONOMOUS")
                edge.become_autonomous()
            case 1 if away:
                edge = random.choice(away)
                self.trace(f"{edge.name} leaves AUTONOMOUS")
                edge.leave_autonomous()
            case 2 | 3 | 4 if server.up:
                edge = random.choice(away or self.edges[:3])
                told = server.export(edge.name, edge.uuid, groups=random.random() < 0.5)
                self.files = [*self.files, export_file(told, edge.uuid, self.blobs)][-FILES_MAX:]
            case 5 | 6 | 7 if self.files:
                file = random.choice(self.files[-random.choice((5, FILES_MAX)) :])
                own = [one for one in self.edges if one.uuid == file.edge and one.up]
                edge = own[0] if own and random.random() < 0.85 else edge
                self._acted(edge, lambda: edge.import_file(harmed(file, random) if random.random() < 0.2 else file))
            case 8:
                edge = random.choice([*away, edge])
                self.carried = [*self.carried, edge.carry_report()][-FILES_MAX:]
            case 9 if server.up and self.carried:
                back = random.choice(self.carried[-random.choice((2, FILES_MAX)) :])
                server.take_carried(back.edge, back.text, back.made)
                self.trace(f"a report of {back.edge} is taken")

    def signed(self, uuid: PeerId) -> set[Digest]:
        """Digests of all desired states that the director's key has signed for an edge."""
        known = self._signed.setdefault(uuid, set())
        replies = self.answers.get(uuid, [])
        if len(replies) > self._counted.get(uuid, 0):
            for reply in replies[self._counted.get(uuid, 0) :]:
                assert reply.body is not None
                known.add(digest_of(decode(reply.body, PollAnswer).desired.payload))
            self._counted[uuid] = len(replies)
        return known
