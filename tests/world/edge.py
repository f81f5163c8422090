"""An edge of the world: the production decisions and checks, over a disk, a memory and a network that fail.

Here is its life: starts and crashes, polls, what is taken of an answer, and the mode AUTONOMOUS. What it does about it
is in :mod:`tests.world.turn`, what comes and goes by file in :mod:`tests.world.carrying`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from federation.actual import (
    Action,
    Actual,
    Fetch,
    Load,
    Run,
    Saved,
    Verify,
    alarmed,
    brought,
    calmed,
    needed,
)
from federation.documents import ActualState, DesiredState, Mode, PollAnswer, SignedDocument
from federation.errors import Replay, UnknownKey, Untrusted
from federation.keys import PrivateKey
from federation.load_order import learned
from federation.names import Digest, PeerId, digest_of
from federation.outcomes import full_jitter
from federation.polling import PollReply
from federation.roots import advance, trust_chain
from federation.verification import Cursor, VerifiedRelease, cursor_of
from peers.edge_polling import ROOTS_PER_POLL_MAX, Answer, named
from peers.history import Journal
from query.errors import Problem, UnknownName, WorldProblem
from tests.world import invariants
from tests.world.carrying import Carrying
from tests.world.disk import Disk
from tests.world.stores import Blobs, JournalStore
from tests.world.turn import Turning

if TYPE_CHECKING:
    from tests.world.world import World

POLL_CAP_S = 40.0
RUNTIME = "world"


class Edge(Turning, Carrying):
    """``memory`` is the engine's: what would answer."""

    def __init__(self, world: World, uuid: PeerId, name: str, root: SignedDocument, key: PrivateKey) -> None:
        self.world = world
        self.uuid = uuid
        self.name = name
        self.key = key
        self.pin = digest_of(root.payload)
        self.disk = Disk()
        self.disk.write(saved=msgspec.json.encode(Saved()), desired=None, records={}, roots=(root,), skew=0.0)
        self.disk.write(blobs={}, parts={}, listed={}, mode=None, history=(), noted=0, sequence=0)
        self.disk.sync()
        self.blobs = Blobs(self.disk, self.commit, world.cores.check_content)
        self.up = False
        self.life = 0
        self.changes = 0
        self.turns_of_mode = 0
        self.partitioned = False
        self.bad_trials: dict[Digest, int] = {}
        self.watch = invariants.Watch()
        self.boot()

    # --- life ---------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        saved = msgspec.json.decode(self.disk.durable("saved"), type=Saved)
        self.root = trust_chain(self.disk.read("roots"), self.pin)
        self.desired: tuple[SignedDocument, DesiredState] | None = self.disk.read("desired")
        self.skew = self.disk.read("skew") if self.disk.read("skew") is not None else 0.0
        if self.world.faulty and self.world.random.random() < 0.2:
            self.skew = self.world.random.choice((-86_400.0, 86_400.0))  # until somebody tells the time
        self.actual: Actual = self.world.cores.restored(
            saved, installed=self.installed(), runtime=RUNTIME, root_version=self.root.version
        )
        self.journal = Journal(JournalStore(self.disk, self.commit), recording=self.autonomous)
        self.memory: dict[str, VerifiedRelease] = {}
        self.flying: dict[str, Action] = {}
        self.failures = 0
        self.up = True
        self.changes += 1
        left = len(self.actual.restoring) + 1
        while len(self.actual.restoring) < left:  # whoever needs others comes after them
            left = len(self.actual.restoring)
            for name in saved.loaded:
                self._restore(name)
        lost = [
            entry.label
            for name, entry in saved.loaded.items()
            if name not in self.memory and name not in self.actual.restoring and entry.label not in self.actual.errors
        ]
        self.world.expect(not lost, f"{self.name} started without {lost}, which it had loaded")
        self.journal.note("started", now=self.now())
        self.world.after(self, 0.0, self.poll)
        self.world.after(self, 0.0, self.act)

    def _restore(self, name: str) -> None:
        while (run := self.actual.restoring.get(name)) is not None and not run.attempts:
            alone = replace(self.actual, restoring={name: run}, goals={})
            action = next(iter(self.world.cores.decide(None, alone, self.now())), None)
            if not isinstance(action, Verify | Load):
                return
            self.end(action, self.attempt(action))

    def crash(self) -> None:
        self.disk.crash()
        self.memory = {}
        self.up = False
        self.life += 1

    def crash_point(self, label: str) -> None:
        self.world.crash_point(self, label)

    def now(self) -> float:
        return self.world.now + self.skew

    def commit(self, **values: Any) -> None:
        self.world.cores.commit(self.disk, self.crash_point, **values)

    def become(self, actual: Actual) -> None:
        """Hold what has happened, and write it down."""
        self.actual = actual
        saved = msgspec.json.encode(actual.saved())
        if saved != self.disk.read("saved"):
            self.commit(saved=saved)

    @property
    def cursor(self) -> Cursor | None:
        return cursor_of(*self.desired) if self.desired else None

    # --- the mode -----------------------------------------------------------------------------------------------

    @property
    def autonomous(self) -> bool:
        return self.disk.read("mode") is not None

    @property
    def mode(self) -> Mode:
        return "AUTONOMOUS" if self.autonomous else "ONLINE"

    @property
    def silent(self) -> bool:
        return self.world.cores.silent(self.mode)

    def become_autonomous(self) -> None:
        """A fact first; then the nameserver is told once, if it can be."""
        self.commit(mode="AUTONOMOUS")
        self.turns_of_mode += 1
        self.journal.recording = True
        self.journal.note("autonomous", now=self.now())
        body, made = self.sealed_body(self.reported()), self.world.now
        self.world.call(self, lambda server: server.take_report(self.uuid, body, made), lambda reply: None, last=True)
        self.give_up_unwanted()
        self.act()

    def leave_autonomous(self) -> None:
        """Through a renewal: whoever was removed stays as it is."""

        def renewed(reply: Any) -> None:
            if isinstance(reply, Problem) or not self.autonomous:
                self.world.trace(f"{self.name} stays AUTONOMOUS: {reply}")
                return
            self.skew = 0.0
            self.commit(mode=None, skew=0.0)
            self.turns_of_mode += 1
            self.journal.note("left", "ONLINE", now=self.now())
            self.journal.recording = False
            self.become(replace(self.actual, carried=frozenset()))
            self.poll()
            self.act()

        self.world.call(self, lambda server: server.admit(self.uuid), renewed, last=True)

    # --- polling ------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        if self.silent:
            return
        etag = self.desired[1].etag if self.desired else None
        cursor, turn = self.cursor, self.turns_of_mode

        def came(reply: PollReply | Problem) -> None:
            if turn == self.turns_of_mode:  # else the connection was closed
                self.answered(reply, cursor)

        self.world.call(self, lambda server: server.answer(self.uuid, etag), came, attack=self.world.strangers.polled)

    def answered(self, reply: PollReply | Problem, cursor: Cursor | None) -> None:
        if not isinstance(reply, Problem):
            self.skew = 0.0  # every answer tells the time
            try:
                self.accept(self.checked_answer(reply, cursor))
            except Problem as problem:
                reply = problem
        if isinstance(reply, Problem):
            self.failures += 1
            if isinstance(reply, Untrusted):
                self.become(alarmed(self.actual, f"{reply.code}: {reply.message}"))
            pause_s = min(POLL_CAP_S, full_jitter(self.failures, self.world.random.random()))
        else:
            self.failures = 0
            pause_s = reply.poll_after_s
        turn = self.turns_of_mode
        self.world.after(self, pause_s, lambda: self.poll() if turn == self.turns_of_mode else None)
        self.act()

    def checked_answer(self, reply: PollReply, cursor: Cursor | None) -> Answer:
        if reply.body is not None:
            answer = msgspec.json.decode(reply.body, type=PollAnswer)
            state = self.verified(answer.desired, cursor)
            if state is not None:
                return Answer((answer.desired, state), named(state, answer.releases), reply.poll_after_s)
        return Answer(None, (), reply.poll_after_s)

    def accept(self, answer: Answer, *, carried: frozenset[Digest] | None = None) -> None:
        """Compare with what the director wants, and keep both in one transaction."""
        if answer.desired is not None and self.cursor and self.world.cores.overtaken(answer.desired, self.cursor):
            if carried is not None:
                raise Replay(f"{answer.desired[1].etag} was overtaken")
            answer = Answer(None, (), answer.poll_after_s)
        actual = replace(self.actual, root_version=self.root.version)
        if answer.desired is not None:
            actual = calmed(actual)
        desired = answer.desired or self.desired
        known = self.disk.read("records")
        if desired is not None:
            actual = learned(actual, answer.records, desired[1])
            actual = self.world.cores.answered(desired[1], actual, self.now())
        actual = self.judged(actual)
        if carried is not None:
            actual = brought(actual, carried)
        values: dict[str, Any] = {"saved": msgspec.json.encode(actual.saved()), "skew": self.skew}
        if answer.desired is not None:
            kept = needed(answer.desired[1], actual)
            known = {d: document for d, document in known.items() if d in kept}
            values["desired"] = answer.desired
            values["records"] = known | {digest_of(document.payload): document for document in answer.records}
        self.crash_point("poll.verified")
        self.commit(**values)
        self.desired, self.actual = desired, actual
        self.changes += 1
        self.watch.judged_version = self.root.version
        if self.root.revoked:
            invariants.check_stopped_later(self, self.root)
        self.crash_point("poll.committed")
        self.give_up_unwanted()

    def judged(self, actual: Actual) -> Actual:
        judgement: Actual = self.world.cores.judged(
            actual, self.root, self.disk.read("records").get, now=self.now(), shown=self.actual.errors
        )
        return judgement

    def give_up_unwanted(self) -> None:
        """Fetches and trials that no goal wants any more are cancelled."""
        runs = (*self.actual.goals.values(), *self.actual.restoring.values())
        wanted = {(run.name, run.record) for run in runs if isinstance(run, Run)}
        for name, action in tuple(self.flying.items()):
            if isinstance(action, Fetch | Verify) and (name, action.record) not in wanted:
                del self.flying[name]

    def verified(self, document: SignedDocument, cursor: Cursor | None) -> DesiredState | None:
        def check() -> DesiredState | None:
            checked: DesiredState | None = self.world.cores.verify_desired(
                document, root=self.root, federation="f", edge=self.uuid, cursor=cursor, now=self.now()
            )
            return checked

        try:
            state = check()
        except UnknownKey:
            if not self.follow(ROOTS_PER_POLL_MAX):
                raise
            state = check()
        if state is not None and state.root_version > self.root.version:
            self.follow(min(state.root_version - self.root.version, ROOTS_PER_POLL_MAX))
            state = check()
        return state

    def follow(self, versions_max: int) -> bool:
        before = self.root.version
        while self.root.version < before + versions_max:
            server = self.world.nameserver
            if not server.up or self.world.loses(self):
                raise WorldProblem("the way to the root record is lost")
            try:
                document = server.root(self.root.version + 1)
            except UnknownName:
                break
            self.extend(document)
        return self.root.version > before

    def extend(self, document: SignedDocument) -> None:
        record = advance(self.root, document)
        self.commit(roots=(*self.disk.read("roots"), document))
        invariants.note_revocations(self, record)
        self.root = record
        self.crash_point("root.committed")

    def reported(self) -> ActualState:
        told = self.actual_state()
        return told if self.autonomous else replace(told, history=self.journal.entries)

    # --- what must hold -----------------------------------------------------------------------------------------

    def violations(self) -> Iterable[str]:
        return invariants.violations(self)

    def unconverged(self) -> Iterable[str]:
        return invariants.unconverged(self)
