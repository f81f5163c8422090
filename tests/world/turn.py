"""The acting half of a world's edge: fetches, trials, loads and reports, with what a registry and an engine make of it.

A fetch goes blob by blob. What comes is held against the signed record by the production check before it counts as
here; the classes of what is wrong are those of :mod:`peers.fetching`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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
    Stop,
    Unload,
    Verify,
    Wait,
    dispensable,
    removed,
    report_digest,
    report_of,
)
from federation.documents import ActualState, DesiredState, ReleaseRecord, RootRecord, SignedDocument, decode, encode
from federation.errors import WrongHash, WrongSize
from federation.load_order import learned
from federation.manifests import read_manifest
from federation.names import Digest, PeerId, checked_digest, digest_of
from federation.reconciliation import in_force, requested
from federation.record_shape import MANIFEST_BYTES_MAX
from federation.verification import VerifiedRelease
from peers.device_mode import autonomous
from peers.edge_actions import ReleaseMissing, outcome_of
from peers.fetching import AlteredContent, Truncated, WrongAnswer, WrongLength
from peers.history import Journal
from query.errors import PeerProblem, Problem
from tests.world.disk import Disk
from tests.world.faults import Blob
from tests.world.releases import FAILS, Made
from tests.world.stores import Blobs

if TYPE_CHECKING:
    from tests.world.world import World


class Turning:
    """A part of :class:`tests.world.edge.Edge`."""

    world: World
    uuid: PeerId
    name: str
    disk: Disk
    blobs: Blobs
    root: RootRecord
    desired: tuple[SignedDocument, DesiredState] | None
    actual: Actual
    journal: Journal
    memory: dict[str, VerifiedRelease]
    flying: dict[str, Action]
    bad_trials: dict[Digest, int]
    changes: int

    def act(self) -> None:
        report = None if self.silent else report_digest(self.reported())
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
                self.remove(record)
                self.become(removed(self.actual, record))

    # --- reports ------------------------------------------------------------------------------------------------

    def actual_state(self) -> ActualState:
        desired = self.desired[1] if self.desired else None
        return report_of(desired, self.actual, edge=self.uuid, mode=self.mode, properties={})

    def sealed_body(self, told: ActualState) -> bytes:
        return encode(replace(told, reported=int(self.now())))

    def send_report(self) -> None:
        told, made = self.reported(), self.world.now
        body = self.sealed_body(told)

        def sent(reply: Any) -> None:
            outcome: Outcome = Done()
            digest = report_digest(told)
            if isinstance(reply, Problem):
                outcome = Passing(reply.code, reply.message)
            else:
                self.journal.acknowledged(told.history)
                digest = report_digest(replace(told, history=self.reported().history))
            self.end(Report(digest), outcome)

        self.world.call(self, lambda server: server.take_report(self.uuid, body, made), sent)

    # --- what is on the disk ------------------------------------------------------------------------------------

    def installed(self) -> dict[Digest, str]:
        """As :func:`peers.edge_parts.installed_in` finds it."""
        found = {}
        for record, document in self.disk.read("listed").items():
            release = decode(document.payload, ReleaseRecord)
            if self.blobs.size(release.manifest) is not None:
                found[record] = release.label
        return found

    def parts(self, release: ReleaseRecord) -> Iterator[tuple[Digest, int]]:
        """The blobs of a release. The manifest is read once it is here."""
        yield release.manifest, release.manifest_size
        config = read_manifest(self.blobs.read(release.manifest, bytes_max=MANIFEST_BYTES_MAX)).config
        yield checked_digest(config.digest), config.size
        for entry in release.files:
            yield entry.digest, entry.size

    def attach(self, *documents: SignedDocument) -> None:
        known = self.disk.read("listed")
        self.commit(listed=known | {digest_of(document.payload): document for document in documents})

    def remove(self, record: Digest) -> None:
        """Off the list, and the blobs that nothing else names."""
        listed = dict(self.disk.read("listed"))
        gone = listed.pop(record)
        used = {d for document in listed.values() for d, _ in self.parts(decode(document.payload, ReleaseRecord))}
        dropped = {digest for digest, _ in self.parts(decode(gone.payload, ReleaseRecord))} - used
        blobs = {digest: content for digest, content in self.disk.read("blobs").items() if digest not in dropped}
        self.commit(listed=listed, blobs=blobs)

    # --- fetching -----------------------------------------------------------------------------------------------

    def fetch(self, action: Fetch, record: Digest) -> None:
        document = self.disk.read("records").get(record)
        problem: Problem | None = ReleaseMissing("no record") if document is None else None
        if document is not None:
            try:
                self.world.cores.verify_record(document, self.root)
            except Problem as refused:
                problem = refused
        if problem is None and self.silent and self._missing(document) is not None:
            problem = autonomous()
        if problem is not None:
            outcome = outcome_of(problem)
            self.world.after(self, 0.1, lambda: self._ended(action, outcome))
            return
        self._fetch_on(action, document)

    def _missing(self, document: SignedDocument) -> tuple[Digest, int] | None:
        """The next blob that is not here."""
        parts = self.parts(decode(document.payload, ReleaseRecord))
        return next(((digest, size) for digest, size in parts if self.blobs.size(digest) != size), None)

    def _fetch_on(self, action: Fetch, document: SignedDocument) -> None:
        try:
            wanted = self._missing(document)
        except Problem as problem:
            self._ended(action, outcome_of(problem))
            return
        if wanted is None:
            self.attach(document)
            self.crash_point("fetch.done")
            self.world.after(self, 0.0, lambda: self._ended(action, Done()))
            return
        digest, size = wanted
        offset = len(self.disk.read("parts").get(digest, b""))
        self.world.expect(
            digest not in self.disk.durable("blobs"), f"{self.name} fetches {digest} of {action.label}, which it has"
        )

        def came(reply: Blob | Problem) -> None:
            if self.flying.get(action.name) is not action:
                return  # nobody wants it any more
            try:
                if isinstance(reply, Problem):
                    raise reply
                self._receive(reply, digest, size)
            except Problem as problem:
                self._ended(action, outcome_of(problem))
                return
            if self.silent:
                self._ended(action, outcome_of(autonomous()))
                return
            self._fetch_on(action, document)

        self.world.call(self, lambda server: self.world.blob(digest, offset), came, attack=self.world.strangers.fetched)

    def _receive(self, reply: Blob, digest: Digest, size: int) -> None:
        """Keep what comes, within its signed size; under its digest only what has it."""
        if reply.page:
            raise WrongAnswer("expected a blob, found a page")
        if self.world.faulty and self.world.random.random() < 0.05:
            raise PeerProblem("no room")
        bytes_max = self.world.cores.bytes_max(size, reply.offset + reply.length)
        with self.blobs.stage(digest, size=bytes_max) as staged:
            if staged.offset != reply.offset:
                staged.restart()
                raise WrongAnswer("another range than the one asked for")
            try:
                for chunk in reply.chunks:
                    staged.write(chunk)
                    self.world.expect(
                        staged.offset <= size, f"{self.name} keeps {staged.offset} bytes of a blob of {size}"
                    )
            except WrongSize as error:
                staged.restart()
                raise WrongLength(error.message) from error
            if staged.offset != size:
                raise Truncated(f"the answer ended after {staged.offset} of {size} bytes")
            try:
                staged.finish(digest)
            except WrongHash as error:
                raise AlteredContent(error.message) from error

    def _ended(self, action: Fetch, outcome: Outcome) -> None:
        if self.flying.get(action.name) is action:
            self.end(action, outcome)

    # --- trials, loads, unloads ---------------------------------------------------------------------------------

    def begin(self, action: Verify | Load | Unload, desired: DesiredState | None) -> None:
        match action:
            case Load(origin="group", name=name) if name not in self.actual.restoring:
                self.world.expect(
                    in_force(desired, self.now()), f"{self.name} loads {action.label} by an expired desired state"
                )
            case Unload(name=name, again=again) if name in self.memory:
                wanted = {model.name for model in desired.models} if desired else set()
                makes_room = again or isinstance(self.actual.goals.get(name), Run) or self._stops(name)
                self.world.expect(name not in wanted or makes_room, f"{self.name} unloads {name}, which is desired")
        self.world.after(self, self.world.random.uniform(0.05, 3.0), lambda: self.perform(action))

    def _stops(self, name: str) -> bool:
        """Whether a revoked key takes it out."""
        gone = self.root.revoked.get(self.memory[name].keyid)
        return gone is not None and gone.running == "stop" and isinstance(self.actual.goals.get(name), Stop)

    def perform(self, action: Verify | Load | Unload) -> None:
        """One at a time, and only while it stands."""
        if self.flying.get(action.name) is not action:
            return
        desired = self.desired[1] if self.desired else None
        if isinstance(action, Verify) or action in self.world.cores.decide(desired, self.actual, self.now()):
            self.end(action, self.attempt(action))
            return
        del self.flying[action.name]
        self.world.after(self, 0.0, self.act)

    def attempt(self, action: Verify | Load | Unload) -> Outcome:
        """What the engine makes of it."""
        random = self.world.random
        self.changes += 1
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
        signers = {release.keyid, *(member.keyid for member in release.members)}
        self.world.expect(
            all(self.root.revoked[keyid].running == "keep" for keyid in signers & self.root.revoked.keys()),
            f"{self.name} loads {action.label}, whose key was stopped",
        )
        self.memory[action.name] = release
        self.crash_point("load.swapped")
        return Done()

    def checked(self, record: Digest, label: str) -> VerifiedRelease:
        document = self.disk.read("listed").get(record)
        if document is None or self._missing(document) is not None:
            raise ReleaseMissing(f"{label} is not there")
        told = decode(document.payload, ReleaseRecord)
        files = {entry.path: self.blobs.read(entry.digest, bytes_max=entry.size) for entry in told.files}
        if self.world.faulty and self.world.random.random() < 0.02:
            files = {path: b"?" * len(content) for path, content in files.items()}
        running = {entry.record for entry in (*self.actual.loaded.values(), *self.actual.restoring.values())}
        release: VerifiedRelease = self.world.cores.verify(
            document,
            root=self.root,
            manifest=self.blobs.read(told.manifest, bytes_max=MANIFEST_BYTES_MAX),
            files=files,
            running=running,
        )
        if release.label != label:
            raise PeerProblem(f"expected {label}, found {release.label}")
        return release

    def end(self, action: Action, outcome: Outcome) -> None:
        self.flying.pop("" if isinstance(action, Report) else action.name, None)
        draw = self.world.random.random()
        actual = self.world.cores.finished(self.actual, action, outcome, self.now(), draw)
        if isinstance(action, Load) and isinstance(outcome, Done):
            actual = self.judged(actual)  # what goes on under a revoked key goes on being shown
        self.become(actual)
        if not isinstance(action, Report):
            self._note(action, outcome)
        self.crash_point("recorded")
        self.world.after(self, 0.0, self.act)

    def _note(self, action: Action, outcome: Outcome) -> None:
        match action, outcome:
            case Load(), Done():
                self.journal.note_success("loaded", action.name, action.label, now=self.now())
            case Unload(), Done():
                self.journal.note_success("unloaded", action.name, action.name, now=self.now())
            case Fetch() | Verify() | Load(), Passing() | Lasting():
                self.journal.note_failure(action.label, outcome.error, now=self.now())

    # --- a person -----------------------------------------------------------------------------------------------

    def load_by_hand(self, made: Made) -> None:
        """``models:import``: bring it here, note the request, then act."""
        try:
            self.world.cores.verify_record(made.packed.signed, self.root)
        except Problem:
            return
        self.commit(blobs=self.disk.read("blobs") | made.blobs)
        self.attach(made.packed.signed)
        records = self.disk.read("records") | {made.record: made.packed.signed}
        actual = replace(self.actual, installed=self.actual.installed | {made.record: made.label})
        actual = learned(actual, (made.packed.signed,), self.desired[1] if self.desired else None)
        try:
            actual = requested(actual, name=made.name, version=made.version, record=made.record, origin="manual")
        except Problem:
            return
        self.commit(records=records)
        self.become(actual)
        self.give_up_unwanted()
        self.act()
