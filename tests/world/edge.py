"""An edge of the world: the production decisions and checks, over a disk, a memory and a network that fail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from federation.actual import (
    Action,
    Actual,
    Done,
    Fetch,
    Lasting,
    Load,
    Outcome,
    Passing,
    Report,
    Run,
    Saved,
    Unload,
    Verify,
    Wait,
    alarmed,
    calmed,
    dispensable,
    needed,
    removed,
    report_digest,
    report_of,
)
from federation.documents import DesiredState, PollAnswer, SignedDocument, encode
from federation.errors import UnknownKey, Untrusted, WrongHash
from federation.load_order import learned
from federation.names import Digest, PeerId, digest_of
from federation.needs import satisfies
from federation.outcomes import RETRY_CAP_S, full_jitter
from federation.polling import PollReply
from federation.reconciliation import in_force, requested
from federation.roots import advance, trust_chain
from federation.verification import VerifiedRelease, cursor_of
from peers.edge_actions import outcome_of
from peers.edge_polling import named
from query.errors import PeerProblem, Problem, WorldProblem
from tests.world.disk import Disk
from tests.world.releases import FAILS, Made

if TYPE_CHECKING:
    from tests.world.world import World

POLL_CAP_S = 40.0
RUNTIME = "world"


class Edge:
    """``memory`` is the engine's: what would answer. ``files`` on disk are releases, whole or damaged."""

    def __init__(self, world: World, uuid: PeerId, name: str, root: SignedDocument) -> None:
        self.world = world
        self.uuid = uuid
        self.name = name
        self.pin = digest_of(root.payload)
        self.disk = Disk()
        self.disk.write(saved=msgspec.json.encode(Saved()), desired=None, records={}, roots=(root,), files={}, skew=0.0)
        self.disk.sync()
        self.up = False
        self.life = 0
        self.partitioned = False
        self.bad_trials: dict[Digest, int] = {}
        self.highest = (0, 0, 0)
        self.boot()

    # --- life ---------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        saved = msgspec.json.decode(self.disk.durable("saved"), type=Saved)
        self.root = trust_chain(self.disk.read("roots"), self.pin)
        self.desired: tuple[SignedDocument, DesiredState] | None = self.disk.read("desired")
        self.skew = self.disk.read("skew") if self.disk.read("skew") is not None else 0.0
        if self.world.faulty and self.world.random.random() < 0.2:
            self.skew = self.world.random.choice((-86_400.0, 86_400.0))  # until somebody tells the time
        installed = {digest: made.label for digest, made in self.disk.read("files").items()}
        self.actual: Actual = self.world.cores.restored(
            saved, installed=installed, runtime=RUNTIME, root_version=self.root.version
        )
        self.memory: dict[str, VerifiedRelease] = {}
        self.flying: dict[str, Action] = {}
        self.failures = 0
        self.up = True
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

    # --- polling ------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        etag = self.desired[1].etag if self.desired else None
        self.world.call(self, lambda server: server.answer(self.uuid, etag), self.answered, attack=self.world.attacked)

    def answered(self, reply: PollReply | Problem) -> None:
        if not isinstance(reply, Problem):
            self.skew = 0.0  # every answer tells the time
            try:
                self.accept(reply)
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
        self.world.after(self, pause_s, self.poll)
        self.act()

    def accept(self, reply: PollReply) -> None:
        accepted: tuple[SignedDocument, DesiredState] | None = None
        records: tuple[SignedDocument, ...] = ()
        if reply.body is not None:
            answer = msgspec.json.decode(reply.body, type=PollAnswer)
            state = self.verified(answer.desired)
            if state is not None:
                accepted, records = (answer.desired, state), named(state, answer.releases)
        actual = self.actual
        if actual.root_version != self.root.version:
            actual = replace(actual, root_version=self.root.version)
        if accepted is not None:
            actual = calmed(actual)
        desired = accepted or self.desired
        if desired is not None:
            actual = learned(actual, records, desired[1])
            actual = self.world.cores.answered(desired[1], actual, self.now())
        values: dict[str, Any] = {"saved": msgspec.json.encode(actual.saved()), "skew": self.skew}
        if accepted is not None:
            kept = needed(accepted[1], actual)
            known = {d: document for d, document in self.disk.read("records").items() if d in kept}
            values["desired"] = accepted
            values["records"] = known | {digest_of(document.payload): document for document in records}
        self.crash_point("poll.verified")
        self.commit(**values)
        self.desired, self.actual = desired, actual
        self.crash_point("poll.committed")

    def verified(self, document: SignedDocument) -> DesiredState | None:
        def check() -> DesiredState | None:
            cursor = cursor_of(*self.desired) if self.desired else None
            checked: DesiredState | None = self.world.cores.verify_desired(
                document, root=self.root, federation="f", edge=self.uuid, cursor=cursor, now=self.now()
            )
            return checked

        try:
            state = check()
        except UnknownKey:
            if not self.follow(self.root.version + 1):
                raise
            state = check()
        if state is not None and state.root_version > self.root.version:
            self.follow(state.root_version)
            state = check()
        return state

    def follow(self, version: int) -> bool:
        before = self.root.version
        while self.root.version < version:
            server = self.world.nameserver
            if not server.up or self.world.loses(self):
                raise WorldProblem("the way to the root record is lost")
            document = server.root(self.root.version + 1)
            record = advance(self.root, document)
            self.commit(roots=(*self.disk.read("roots"), document))
            self.root = record
        return self.root.version > before

    # --- acting -------------------------------------------------------------------------------------------------

    def act(self) -> None:
        report = report_digest(self.reported())
        desired = self.desired[1] if self.desired else None
        for action in self.world.cores.decide(desired, self.actual, self.now(), report=report):
            name = "" if isinstance(action, Report) else getattr(action, "name", None)
            if name in self.flying:
                continue
            match action:
                case Wait(until=until):
                    self.world.after(self, max(0.01, until - self.now()), self.act)
                case Report():
                    self.flying[""] = action
                    self.send_report()
                case Fetch(record=record):
                    self.flying[name] = action
                    self.fetch(action, record)
                case _:
                    self.flying[name] = action
                    self.begin(action, desired)
        if not self.flying:
            for record in dispensable(desired, self.actual):
                files = {d: made for d, made in self.disk.read("files").items() if d != record}
                self.commit(files=files)
                self.become(removed(self.actual, record))

    def reported(self) -> Any:
        desired = self.desired[1] if self.desired else None
        return report_of(desired, self.actual, edge=self.uuid, mode="ONLINE", properties={})

    def send_report(self) -> None:
        told = self.reported()

        def sent(reply: Any) -> None:
            outcome = Passing(reply.code, reply.message) if isinstance(reply, Problem) else Done()
            self.end(Report(report_digest(told)), outcome)

        self.world.call(self, lambda server: server.take_report(self.uuid, encode(told)), sent)

    def fetch(self, action: Fetch, record: Digest) -> None:
        document = self.disk.read("records").get(record)
        if document is None:
            self.world.after(self, 0.1, lambda: self.end(action, Passing("release_missing", "no record")))
            return
        try:
            self.world.cores.verify_record(document, self.root)
        except Problem as problem:
            outcome = outcome_of(problem)
            self.world.after(self, 0.1, lambda: self.end(action, outcome))
            return

        def came(reply: Made | Problem) -> None:
            if isinstance(reply, Problem):
                self.end(action, outcome_of(reply))
                return
            if self.world.faulty and self.world.random.random() < 0.1:
                self.end(action, Passing("disk_full", "no room"))
                return
            self.commit(files=self.disk.read("files") | {record: reply})
            self.crash_point("fetch.done")
            self.end(action, Done())

        self.world.call(self, lambda server: self.world.releases[record], came)

    def begin(self, action: Verify | Load | Unload, desired: DesiredState | None) -> None:
        match action:
            case Load(origin="group", name=name) if name not in self.actual.restoring:
                self.world.expect(
                    in_force(desired, self.now()), f"{self.name} loads {action.label} by an expired desired state"
                )
            case Unload(name=name, again=again):
                wanted = {model.name for model in desired.models} if desired else set()
                makes_room = again or isinstance(self.actual.goals.get(name), Run)
                self.world.expect(name not in wanted or makes_room, f"{self.name} unloads {name}, which is desired")
        self.world.after(self, self.world.random.uniform(0.05, 3.0), lambda: self.perform(action))

    def perform(self, action: Verify | Load | Unload) -> None:
        """One at a time, and only while it stands."""
        desired = self.desired[1] if self.desired else None
        if isinstance(action, Verify) or action in self.world.cores.decide(desired, self.actual, self.now()):
            self.end(action, self.attempt(action))
            return
        del self.flying[action.name]
        self.world.after(self, 0.0, self.act)

    def attempt(self, action: Verify | Load | Unload) -> Outcome:
        """What the engine makes of it."""
        random = self.world.random
        if isinstance(action, Unload):
            self.memory.pop(action.name, None)
            self.crash_point("unload.done")
            return Done()
        if self.world.faulty and random.random() < 0.1:
            return Passing("over_memory", "not now")
        try:
            release = self.checked(action.record, action.label)
        except Problem as problem:
            return outcome_of(problem)
        if isinstance(action, Verify):
            if any(FAILS.encode() in content for content in release.files.values()):
                self.bad_trials[action.record] = self.bad_trials.get(action.record, 0) + 1
                return Lasting("failed_vectors", "otherwise")
            self.crash_point("verify.done")
            return Done("{}")
        self.memory[action.name] = release
        self.crash_point("load.swapped")
        return Done()

    def checked(self, record: Digest, label: str) -> VerifiedRelease:
        made: Made | None = self.disk.read("files").get(record)
        if made is None:
            raise WrongHash(f"{label} is not there")
        files = dict(made.packed.files)
        if self.world.faulty and self.world.random.random() < 0.02:
            files = {path: b"?" * len(content) for path, content in files.items()}
        release: VerifiedRelease = self.world.cores.verify(
            made.packed.signed, root=self.root, manifest=made.packed.manifest, files=files
        )
        if release.label != label:
            raise PeerProblem(f"expected {label}, found {release.label}")
        return release

    def end(self, action: Action, outcome: Outcome) -> None:
        self.flying.pop("" if isinstance(action, Report) else action.name, None)
        draw = self.world.random.random()
        self.become(self.world.cores.finished(self.actual, action, outcome, self.now(), draw))
        self.crash_point("recorded")
        self.world.after(self, 0.0, self.act)

    # --- a person -----------------------------------------------------------------------------------------------

    def load_by_hand(self, made: Made) -> None:
        """``models:import``: bring it here, note the request, then act."""
        records = self.disk.read("records") | {made.record: made.packed.signed}
        self.commit(files=self.disk.read("files") | {made.record: made}, records=records)
        actual = replace(self.actual, installed=self.actual.installed | {made.record: made.label})
        actual = learned(actual, (made.packed.signed,), self.desired[1] if self.desired else None)
        try:
            wanted = requested(actual, name=made.name, version=made.version, record=made.record, origin="manual")
        except Problem:
            return
        self.become(wanted)
        self.act()

    # --- what must hold -----------------------------------------------------------------------------------------

    def violations(self) -> Iterable[str]:
        for name, release in self.memory.items():
            made = self.world.endorsed.get(release.record_digest)
            if made is None or made.label != release.label or name != made.name:
                yield f"{release.label} is active and no endorsed publisher signed it"
            elif FAILS.encode() in b"".join(release.files.values()):
                yield f"{release.label} is active and fails its own test vectors"
            for name_needed, condition in release.record.needs.releases.items():
                beside = self.memory.get(name_needed)
                if beside is None or not satisfies(beside.record.version, condition):
                    yield f"{release.label} is active and needs {name_needed}{condition}, there is {beside}"
        for record, count in self.bad_trials.items():
            if count > self.life + 1:
                yield f"{record} was found bad {count} times in {self.life + 1} lives"
        durable = self.disk.durable("desired")
        if durable is not None:
            state = durable[1]
            stands = (state.epoch, state.generation, state.window)
            if stands < self.highest:
                yield f"went back from {self.highest} to {stands}"
            self.highest = stands
            if digest_of(durable[0].payload) not in self.world.signed(self.uuid):
                yield "holds a desired state that was never signed for it"
            records = self.disk.durable("records")
            missing = [model.label for model in state.models if model.record not in records]
            if missing:
                yield f"has a desired state without the records of {missing}"

    def unconverged(self) -> Iterable[str]:
        """What a healthy world must not leave, some time after the last fault."""
        state = self.world.nameserver.state
        wanted = {
            model.name: model for model in self.world.nameserver.director.desired(self.uuid, now=self.now()).models
        }
        if self.desired is None or self.desired[1].generation != state.generation(self.uuid):
            yield "does not hold the newest desired state"
        for name, model in wanted.items():
            bad = FAILS.encode() in b"".join(self.world.releases[model.record].packed.files.values())
            present = self.memory.get(name)
            if bad and model.label not in self.actual.errors:
                yield f"does not say why {model.label} does not run"
            told = self.actual.errors.get(model.label)
            hindered = told is not None and told.error in ("needs_unmet", "still_needed")
            if not bad and not hindered and (present is None or present.record_digest != model.record):
                yield f"runs {present} instead of {model.label}"
        used = {name for release in self.memory.values() for name in release.record.needs.releases}
        for name in self.memory.keys() - wanted.keys() - used:
            if self.actual.loaded[name].origin == "group":
                yield f"still runs {name}, which nobody wants"
        if {name: release.record_digest for name, release in self.memory.items()} != {
            name: entry.record for name, entry in self.actual.loaded.items()
        }:
            yield "believes to run something else than it does"
        runs = [goal for goal in self.actual.goals.values() if isinstance(goal, Run)]
        if any(goal.label not in self.actual.errors for goal in runs):
            yield f"has unfinished goals {self.actual.goals}"
        report = self.world.nameserver.acknowledged_reports.get(self.uuid)
        if report is None or report != encode(self.reported()):
            yield "has not reported its state"


assert RETRY_CAP_S <= 300.0, "the bound of convergence in tests/world/world.py counts on it"
