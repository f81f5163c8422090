"""What must hold of an edge: after every event, some time after a revocation, and once the faults have stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from federation.actual import Run, Saved
from federation.documents import ActualState, HistoryEntry, KeyId, ReleaseRecord, RootRecord, decode
from federation.names import Digest, digest_of
from federation.needs import satisfies
from federation.outcomes import RETRY_CAP_S
from tests.world.releases import FAILS

if TYPE_CHECKING:
    from tests.world.edge import Edge

TURN_S = 15.0  # an action under way ends (3 s), then a row of three models leaves memory (3 s each)


@dataclass(slots=True)
class Watch:
    """What the world remembers of an edge. ``running_then``: what ran when a key was seen to be revoked."""

    looked: Any = None
    highest: tuple[int, int, int] = (0, 0, 0)
    desired: Any = None
    contents: Any = None
    judged_version: int = 0
    running_then: dict[KeyId, set[Digest]] = field(default_factory=dict)
    noted: set[HistoryEntry] = field(default_factory=set)


def note_revocations(edge: Edge, root: RootRecord) -> None:
    """A newer root record is on the edge's disk, and about to be in force."""
    saved = msgspec.json.decode(edge.disk.durable("saved"), type=Saved)
    running = {entry.record for entry in saved.loaded.values()}
    running |= {release.record_digest for release in edge.memory.values()}
    for keyid in root.revoked:
        edge.watch.running_then.setdefault(keyid, running)


def violations(edge: Edge) -> Iterator[str]:
    watch = edge.watch
    stamp = (edge.disk.version, edge.changes, edge.root.version)
    if stamp == watch.looked:
        return
    watch.looked = stamp
    yield from _in_memory(edge)
    yield from _on_disk(edge)
    watch.noted |= {entry for _, entry in edge.disk.durable("history")}


def _in_memory(edge: Edge) -> Iterator[str]:
    for name, release in edge.memory.items():
        made = edge.world.endorsed.get(release.record_digest)
        if made is None or made.label != release.label or name != made.name:
            yield f"{release.label} is active and no endorsed publisher signed it"
            return
        if FAILS.encode() in b"".join(release.files.values()):
            yield f"{release.label} is active and fails its own test vectors"
        for name_needed, condition in release.record.needs.releases.items():
            beside = edge.memory.get(name_needed)
            if beside is None or not satisfies(beside.record.version, condition):
                yield f"{release.label} is active and needs {name_needed}{condition}, there is {beside}"
        gone = made.signers & edge.root.revoked.keys()
        if not gone:
            continue
        if any(release.record_digest not in edge.watch.running_then.get(keyid, ()) for keyid in gone):
            yield f"{release.label} came to be active after its key was revoked"
        told = edge.actual.errors.get(release.label)
        loaded = edge.actual.loaded.get(name)
        judged = edge.watch.judged_version == edge.root.version and loaded is not None
        if judged and loaded.record == release.record_digest and (told is None or told.error != "revoked_key"):
            yield f"{release.label} is active under a revoked key and that is not among its errors"
    for record, count in edge.bad_trials.items():
        if count > edge.life + 1:
            yield f"{record} was found bad {count} times in {edge.life + 1} lives"


def _on_disk(edge: Edge) -> Iterator[str]:
    watch, durable = edge.watch, edge.disk.durable("desired")
    if durable is not None and durable is not watch.desired:
        watch.desired = durable
        document, state = durable
        stands = (state.epoch, state.generation, state.window)
        if stands < watch.highest:
            yield f"went back from {watch.highest} to {stands}"
        watch.highest = stands
        if digest_of(document.payload) not in edge.world.signed(edge.uuid):
            yield "holds a desired state that was never signed for it"
        if not any(signature.keyid in edge.root.directors for signature in document.signatures):
            yield "was moved by a director that it knows to be replaced"
    if durable is not None:
        records = edge.disk.durable("records")
        missing = [model.label for model in durable[1].models if model.record not in records]
        if missing:
            yield f"has a desired state without the records of {missing}"
    yield from _contents(edge)


def _contents(edge: Edge) -> Iterator[str]:
    """What looks installed is what was signed."""
    listed, blobs = edge.disk.durable("listed"), edge.disk.durable("blobs")
    if edge.watch.contents is not None and edge.watch.contents[0] is listed and edge.watch.contents[1] is blobs:
        return
    before = edge.watch.contents[1] if edge.watch.contents is not None else {}
    edge.watch.contents = (listed, blobs)
    for digest, content in blobs.items():
        if before.get(digest) is not content and digest_of(content) != digest:
            yield f"keeps other content under {digest} than was signed"
    for record, document in listed.items():
        release = decode(document.payload, ReleaseRecord)
        wanted = [(release.manifest, release.manifest_size), *((entry.digest, entry.size) for entry in release.files)]
        if digest_of(document.payload) != record or any(len(blobs.get(d, b"")) != size for d, size in wanted):
            yield f"lists {release.label} as installed and has not all of it"


def check_stopped_later(edge: Edge, root: RootRecord) -> None:
    """Some time after an answered poll under ``root``: nothing answers that it stops. Days that passed at once in
    between were no time to do anything.
    """
    passed = edge.world.days_passed

    def check() -> None:
        if edge.world.days_passed != passed:
            check_stopped_later(edge, root)
            return
        for release in edge.memory.values():
            signers = edge.world.releases[release.record_digest].signers
            edge.world.expect(
                all(root.revoked[keyid].running == "keep" for keyid in signers & root.revoked.keys()),
                f"{edge.name}: {release.label} still answers {TURN_S:g} s after its key was stopped",
            )

    edge.world.after(edge, TURN_S, check)


def unconverged(edge: Edge) -> Iterator[str]:
    """What a healthy world must not leave, some time after the last fault."""
    server = edge.world.nameserver
    member = server.state.member(edge.uuid)
    if member is None or member.removed:
        return
    if edge.autonomous:
        yield "is still AUTONOMOUS"
    wanted = {model.name: model for model in server.director.desired(edge.uuid, now=edge.now()).models}
    if edge.desired is None or edge.desired[1].generation != server.state.generation(edge.uuid):
        yield "does not hold the newest desired state"
    for name, model in wanted.items():
        files = edge.world.releases[model.record].packed.files
        bad = FAILS.encode() in b"".join(files.values())
        present = edge.memory.get(name)
        told = edge.actual.errors.get(model.label)
        hindered = told is not None and told.error in ("needs_unmet", "still_needed")
        if edge.world.releases[model.record].signers & server.state.root.revoked.keys():
            if told is None or not (told.error == "revoked_key" or hindered or bad):
                yield f"does not say that the key of {model.label} was revoked: {told}"
            continue
        if bad and told is None:
            yield f"does not say why {model.label} does not run"
        if not bad and not hindered and (present is None or present.record_digest != model.record):
            yield f"runs {present} instead of {model.label}: {told}"
    used = {name for release in edge.memory.values() for name in release.record.needs.releases}
    for name in edge.memory.keys() - wanted.keys() - used:
        if edge.actual.loaded[name].origin == "group":
            yield f"still runs {name}, which nobody wants"
    if {name: release.record_digest for name, release in edge.memory.items()} != {
        name: entry.record for name, entry in edge.actual.loaded.items()
    }:
        yield "believes to run something else than it does"
    runs = [goal for goal in edge.actual.goals.values() if isinstance(goal, Run)]
    if any(goal.label not in edge.actual.errors for goal in runs):
        yield f"has unfinished goals {edge.actual.goals}"
    report = server.acknowledged_reports.get(edge.uuid)
    if report is None or _without_past(decode(report, ActualState)) != _without_past(edge.reported()):
        yield "has not reported its state"
    known = server.disk.durable("histories").get(edge.uuid, frozenset())
    untold = edge.watch.noted - known - edge.world.forgotten.get(edge.uuid, set())
    if untold:
        yield f"has not told what it did while it was AUTONOMOUS: {sorted(entry.event for entry in untold)}"


def _without_past(told: ActualState) -> ActualState:
    return replace(told, reported=0, history=())


assert RETRY_CAP_S <= 300.0, "the bound of convergence in tests/world/world.py counts on it"
