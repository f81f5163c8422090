"""The world: virtual time, a lossy network, machines that crash, ten edges, one nameserver, one random source.

Drives the production cores (commands, state, director, verification, reconciliation) and looks after every event that

- nothing runs that no endorsed publisher signed, or that fails its own test vectors;
- what is on a disk is old or new: a desired state with its records, signed for that edge, never an older one;
- no acknowledged change or report is gone, in whatever moment a machine crashed before its disk had it;
- what was loaded is loaded again at a start, and no desired model is unloaded but to make room;
- nothing is in memory whose needs are not;
- bad content is tried once a life, and an expired desired state changes nothing;

and, once the faults stop, that every edge comes to what is wanted within ``CONVERGENCE_S``. No asyncio, no threads, no
clock: a seed is a run. ``python -m tests.world --seed N`` runs one again and prints what happened.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec.structs import replace

from federation import commands, release_commands
from federation.assignments import WantedModel, remove_group_models, set_group_models
from federation.documents import DESIRED_TYPE, DesiredModel, PollAnswer, decode, encode
from federation.keys import PrivateKey
from federation.names import Digest, PeerId, digest_of
from federation.polling import PollReply, desired_state, window_of
from federation.roots import endorse, first_root, sign_root
from federation.signing import sign
from query.errors import Problem, WorldProblem
from tests.world.cores import PRODUCTION, Cores
from tests.world.edge import Edge
from tests.world.nameserver import Nameserver
from tests.world.releases import FAILS, GOOD, Made, made

EDGES = 10
FAULTY_S = 240.0
CONVERGENCE_S = 900.0  # three times the longest back-off
START = 1_750_000_000.0
LOST = 0.08
CRASHES = 0.01  # at each labelled point
GROUPS = ("north", "south", "staging")
MODELS = ("digits", "types", "gauges")

ROOT = PrivateKey(b"r" * 32)
DIRECTOR = PrivateKey(b"d" * 32)
PUBLISHERS = tuple(PrivateKey(bytes([65 + n]) * 32) for n in range(3))
ROGUE = PrivateKey(b"x" * 32)


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
        self.director_key = DIRECTOR
        self._trace = trace
        self._events: list[tuple[float, int, Any, int, Callable[[], None]]] = []
        self._count = 0
        self._end = START
        self.steps = 0
        self.releases: dict[Digest, Made] = {}
        self.endorsed: dict[Digest, Made] = {}
        self.answers: dict[PeerId, list[PollReply]] = {}
        self._signed: dict[PeerId, set[Digest]] = {}
        self._counted: dict[PeerId, int] = {}
        self._backup: dict[str, Any] | None = None
        self.nameserver = Nameserver(self)
        self.edges: list[Edge] = []
        self._found()
        self.faulty = True

    def _found(self) -> None:
        root = first_root(
            "f", roots=[ROOT], director=DIRECTOR.public, now=START, publishers={"p0": PUBLISHERS[0].public}
        )
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
            server.append(commands.register(server.state, name, uuid=uuid, token_hash=f"t{number}", now=START))
            self.edges.append(Edge(self, uuid, name, root))
        self._backup = server.disk.copy()

    # --- time, machines, network --------------------------------------------------------------------------------

    def after(self, node: Edge | Nameserver | None, delay_s: float, event: Callable[[], None]) -> None:
        """``event`` happens later, unless ``node`` has crashed by then."""
        self._count += 1
        life = node.life if node is not None else 0
        heapq.heappush(self._events, (self.now + delay_s, self._count, node, life, event))

    def crash_point(self, node: Edge | Nameserver, label: str) -> None:
        if self.faulty and self.random.random() < CRASHES:
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
    ) -> None:
        """A request and its answer; either may be lost, and the server may crash having done what was asked."""
        way_s = self.random.uniform(0.001, 1.5 if self.faulty else 0.05)
        lost = WorldProblem("no answer in time")
        if self.loses(edge):
            self.after(edge, 5.0, lambda: reply(lost))
            return

        def arrive() -> None:
            server = self.nameserver
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
        for node in (self.nameserver, *self.edges):
            if not node.up:
                node.life += 1
                node.boot()
        for edge in self.edges:
            edge.partitioned = False
        release = self._publish(self.random.choice(MODELS), content=GOOD)
        wanted = [WantedModel(release.name, release.version)]
        try:
            self.nameserver.append(set_group_models(self.nameserver.state, "all", wanted).events)
        except Problem as problem:  # an edge has a model that does not go with it
            self.trace(f"refused: {problem}")

    # --- what people do -----------------------------------------------------------------------------------------

    def _operate(self) -> None:
        if self.faulty:
            self.after(None, self.random.expovariate(1 / 4.0), self._operate)
            if self.nameserver.up:
                try:
                    self._command()
                except Problem as problem:
                    self.trace(f"refused: {problem}")

    def _command(self) -> None:
        server, random = self.nameserver, self.random
        edge, group = random.choice(self.edges), random.choice(GROUPS)
        match random.randrange(9):
            case 0 | 1:
                content = FAILS if random.random() < 0.3 else GOOD
                self._publish(random.choice(MODELS), content=content)
            case 2 | 3:
                known = server.state.releases()
                if known:
                    release = random.choice(known).record
                    target = random.choice((*GROUPS, "all"))
                    wanted = [WantedModel(release.name, release.version)]
                    self.trace(f"{target} shall run {release.label}")
                    server.append(set_group_models(server.state, target, wanted).events)
            case 4:
                server.append(remove_group_models(server.state, group, [random.choice(MODELS)]))
            case 5 | 6:
                server.append(commands.add_group(server.state, edge.name, group))
            case 7:
                server.append(commands.remove_group(server.state, edge.name, group))
            case 8:
                self._endorse()

    def _publish(self, name: str, *, content: str) -> Made:
        server = self.nameserver
        endorsed = [key for key in PUBLISHERS if key.keyid in server.state.root.publishers]
        version = f"{len(self.releases)}.0"
        release = made(name, version, self.random.choice(endorsed), content=content, needs=self._needs(name))
        self.releases[release.record] = self.endorsed[release.record] = release
        server.append(release_commands.publish_release(server.state, release.packed.signed))
        self.trace(f"published {release.label}, {content}, needs {dict(release.needs)}")
        return release

    def _needs(self, name: str) -> dict[str, str]:
        """Of most releases nothing; else of a model before it in the row, so that there are no circles."""
        before = MODELS[: MODELS.index(name)]
        if not before or self.random.random() < 0.4:
            return {}
        number = self.random.randrange(len(self.releases) + 1)
        return {self.random.choice(before): self.random.choice((">=0", f">={number}", f"<{number + 1}"))}

    def _endorse(self) -> None:
        server = self.nameserver
        for number, key in enumerate(PUBLISHERS):
            if key.keyid not in server.state.root.publishers:
                record = endorse(server.state.root, publisher=f"p{number}", key=key.public, now=self.now)
                server.append(commands.set_root(server.state, sign_root(record, ROOT)))
                self.trace(f"root record {record.version}")
                return

    # --- what happens to them -----------------------------------------------------------------------------------

    def _disturb(self) -> None:
        if not self.faulty:
            return
        self.after(None, self.random.expovariate(1 / 3.0), self._disturb)
        edge, random = self.random.choice(self.edges), self.random
        match random.randrange(14):
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
                self._backup = self.nameserver.disk.copy()
            case 7 if self.nameserver.up and random.random() < 0.15 and self._backup is not None:
                self.trace("NAMESERVER is restored from a backup")
                self.nameserver.restore_backup(self._backup)
            case 8 if random.random() < 0.4:
                self.trace("fifteen days pass")
                self.now += 15 * 86_400.0
                self._end += 15 * 86_400.0
            case _:
                present = list(self.endorsed.values())
                if edge.up and present:
                    release = random.choice(present)
                    self.trace(f"somebody loads {release.label} on {edge.name}")
                    try:
                        edge.load_by_hand(release)
                    except Crash as crash:
                        self._crashed(crash.args[0])

    # --- who wants harm -----------------------------------------------------------------------------------------

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

    def attacked(self, edge: Edge, reply: Any) -> Any:
        """An old answer, another's answer, an altered one, or one from a nameserver that was taken over."""
        if not self.faulty or isinstance(reply, Problem) or self.random.random() > 0.06:
            return reply
        replies = self.answers.get(edge.uuid) or [reply]
        match self.random.randrange(4):
            case 0:
                return self.random.choice(replies)
            case 1:
                others = self.answers.get(self.random.choice(self.edges).uuid)
                return self.random.choice(others) if others else reply
            case 2 if reply.body is not None:
                answer = decode(reply.body, PollAnswer)
                payload = answer.desired.payload.replace(b'"generation":', b'"generation":9')
                forged = replace(answer, desired=replace(answer.desired, payload=payload))
                return replace(reply, body=encode(forged))
            case _:
                return self._taken_over(edge)

    def _taken_over(self, edge: Edge) -> PollReply:
        """The director's key is the attacker's: still no model runs that no publisher signed."""
        rogue = made(self.random.choice(MODELS), "6.6.6", ROGUE)
        self.releases[rogue.record] = rogue
        state = desired_state(self.nameserver.state, edge.uuid, window=window_of(edge.uuid, self.now))
        model = DesiredModel(rogue.name, rogue.version, rogue.record, "all", 1)
        signed = sign(encode(replace(state, models=(model,))), DESIRED_TYPE, DIRECTOR)
        reply = PollReply(200, state.etag, encode(PollAnswer(signed, (rogue.packed.signed,))), 10.0)
        self.answers.setdefault(edge.uuid, []).append(reply)
        self.trace(f"{edge.name} is told to run {rogue.label} of a rogue")
        return reply
