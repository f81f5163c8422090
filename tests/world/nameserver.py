"""A nameserver of the world: the production state, commands and director over a disk that can crash.

:meth:`Nameserver.twin` is the same one going on beside what was restored from its backup: it knows nothing of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from federation.admission import admit
from federation.carried_state import Carried, read_signed
from federation.carrying_functions import CarryingFunctions
from federation.certificate_reading import PeerCertificate
from federation.documents import ActualState, HistoryEntry, SignedDocument, decode
from federation.events import Change, Event
from federation.keys import PrivateKey
from federation.names import PeerId, digest_of
from federation.polling import Director, PollReply
from federation.restoration import newer_roots
from federation.state import FederationState
from peers.director_keys import DirectorKeyMissing
from query.errors import UnknownName
from tests.world.disk import Disk
from tests.world.stores import Told

if TYPE_CHECKING:
    from tests.world.world import World


class Nameserver:
    """``state`` is the fold over the log on disk; it dies with the process and is folded again."""

    def __init__(self, world: World, director: PrivateKey, *, name: str = "NAMESERVER") -> None:
        self.world = world
        self.name = name
        self.disk = Disk()
        self.disk.write(log=(), reports={}, received={}, histories={}, carried={}, made={}, directors=(director,))
        self.disk.sync()
        self.up = False
        self.life = 0
        self.acknowledged: tuple[Change, ...] = ()
        self.acknowledged_reports: dict[PeerId, bytes] = {}
        self._looked: Any = None
        self._whole = False
        self.boot()

    def twin(self) -> Nameserver:
        other = Nameserver(self.world, self.disk.durable("directors")[0], name="OLD NAMESERVER")
        other.disk.restore(self.disk.copy())
        other.boot()
        return other

    def boot(self) -> None:
        self.state = FederationState()
        for change in self.disk.durable("log"):
            self.state.apply(change)
        self.director = Director(self.director_key, self)
        self.told = Told(self.disk, self.commit)
        self.histories = SimpleNamespace(
            put=self.put_history,
            last_carried=self.told.last_carried,
            put_carried=self.told.put_carried,
        )
        self.reports = SimpleNamespace(
            latest=self.told.latest, put=lambda uuid, body, now, digest: self.told.put_report(uuid, body, now=now)
        )
        self.carrying = CarryingFunctions(self, self.director)  # type: ignore[arg-type]
        self.up = True

    def crash(self) -> None:
        self.disk.crash()
        self.up = False
        self.life += 1

    def crash_point(self, label: str) -> None:
        if not self._whole:
            self.world.crash_point(self, label)

    def commit(self, **values: Any) -> None:
        self.world.cores.commit(self.disk, self.crash_point, **values)

    # --- changes ------------------------------------------------------------------------------------------------

    def append(self, events: Iterable[Event]) -> None:
        """Acknowledged when it returns."""
        first = self.state.seq + 1
        changes = tuple(Change(first + n, self.world.now, "operator", event) for n, event in enumerate(events))
        if not changes:
            return
        self.commit(log=self.disk.read("log") + changes)
        for change in changes:
            self.state.apply(change)
        self.crash_point("change.durable")
        self.acknowledged += changes

    def director_key(self) -> PrivateKey:
        """The newest of its keys that the root record names."""
        keys: Sequence[PrivateKey] = self.disk.read("directors")
        for key in reversed(keys):
            if key.keyid in self.state.root.directors:
                return key
        raise DirectorKeyMissing("none of the director keys here is named by the root record")

    # --- requests of edges --------------------------------------------------------------------------------------

    def admit(self, uuid: PeerId) -> None:
        """Raises what refuses an edge, as one that was removed."""
        shown = PeerCertificate("f", "edge", uuid, 0.0, float("inf"))
        admit(shown, self.state, now=self.world.now)

    def answer(self, uuid: PeerId, etag: str | None) -> PollReply:
        self.admit(uuid)
        reply = self.director.answer(uuid, etag, now=self.world.now, draw=self.world.random.random())
        if reply.body is not None:
            self.world.answers.setdefault(uuid, []).append(reply)
        return reply

    def take_report(self, uuid: PeerId, body: bytes, made: float) -> None:
        self.admit(uuid)
        self.put_history(uuid, decode(body, ActualState).history)
        self.told.put_report(uuid, body, now=self.world.now)
        self.crash_point("report.durable")
        self._told_at(uuid, made)
        self.acknowledged_reports[uuid] = body

    def put_history(self, uuid: PeerId, entries: tuple[HistoryEntry, ...], *, carried: bool = False) -> None:
        self.told.put(uuid, entries, carried=carried)
        if self is not self.world.nameserver:  # whoever tells this one tells nobody
            self.world.forgotten.setdefault(uuid, set()).update(entries)

    def _told_at(self, uuid: PeerId, made: float) -> None:
        """For the world alone: when what is known of an edge was made, by true time."""
        self.disk.write(made=self.disk.read("made") | {uuid: made})
        self.disk.sync()

    def root(self, version: int) -> SignedDocument:
        documents = self.state.root_documents
        if version > len(documents):
            raise UnknownName(f"no root record {version}")
        return documents[version - 1]

    # --- what is carried ----------------------------------------------------------------------------------------

    def _call(self) -> Any:
        return SimpleNamespace(now=datetime.fromtimestamp(self.world.now, UTC), caller=SimpleNamespace(name="ADMIN"))

    def export(self, edge: str, uuid: PeerId, *, groups: bool) -> dict[str, Any]:
        """``edge:export``."""
        told: dict[str, Any] = self.carrying.export(self._call(), edge, groups)
        reply = PollReply(200, told["state"], told["answer"].encode(), 10.0)
        self.world.answers.setdefault(uuid, []).append(reply)
        return told

    def take_carried(self, uuid: PeerId, text: str, made: float) -> None:
        """``edge:take_report``."""
        digest = digest_of(read_signed(text.encode()).payload)
        last: Carried | None = self.disk.read("carried").get(uuid)
        told = self.world.cores.take_report(self.carrying, self._call(), text)
        self.crash_point("report.taken")
        if told["new"]:
            self.world.expect(last is None or last.digest != digest, f"a carried report of {uuid} is counted twice")
            before = self.disk.read("made").get(uuid, 0.0)
            self.world.expect(
                made > before - 1.0, f"a carried report of {uuid} is {before - made:.0f} s older than the last"
            )
            self._told_at(uuid, made)
            self.acknowledged_reports[uuid] = self.disk.durable("reports")[uuid]

    # --- backups ------------------------------------------------------------------------------------------------

    def restore_backup(self, backup: dict[str, Any], *, roots: Sequence[SignedDocument]) -> None:
        """Go on from an earlier copy of the disk, and the root records of the root folder. What came after the copy is
        lost, and known to be. There is a whole new home or none.
        """
        self._whole = True
        for uuid, entries in self.disk.durable("histories").items():
            self.world.forgotten.setdefault(uuid, set()).update(entries)
        self.disk.restore(backup)
        self.boot()
        before, releases = self.disk.durable("log"), {release.digest for release in self.state.releases()}
        self.acknowledged = before
        self.acknowledged_reports = dict(self.disk.durable("reports"))
        events = self.world.cores.begin_again(
            self.state,
            roots=newer_roots(self.state.root_documents, roots, where="the root folder"),
            now=self.world.now,
            draw=self.world.random.random(),
            beyond=self.state.epoch,
            reason="restored",
        )
        self.append(events)
        self.world.expect(
            self.disk.durable("log")[: len(before)] == before
            and {release.digest for release in self.state.releases()} == releases,
            "a restored nameserver knows what its backup does not",
        )
        self._whole = False

    def violations(self) -> Iterable[str]:
        if self._looked == (self.disk.version, len(self.acknowledged)):
            return
        self._looked = (self.disk.version, len(self.acknowledged))
        log = self.disk.durable("log")
        last = self.acknowledged[-1] if self.acknowledged else None
        if last is not None and (len(log) < last.seq or log[last.seq - 1] != last):
            yield f"an acknowledged change is gone: {last}, the log has {len(log)}"
        reports = self.disk.durable("reports")
        for uuid, body in self.acknowledged_reports.items():
            if uuid not in reports:
                yield f"an acknowledged report of {uuid} is gone: {digest_of(body)}"
