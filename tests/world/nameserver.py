"""A nameserver of the world: the production state, commands and director over a disk that can crash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from federation import commands
from federation.documents import SignedDocument
from federation.events import Change, Event
from federation.names import PeerId, digest_of
from federation.polling import Director, PollReply
from federation.state import FederationState
from query.errors import UnknownName
from tests.world.disk import Disk

if TYPE_CHECKING:
    from tests.world.world import World


class Nameserver:
    """``state`` is the fold over the log on disk; it dies with the process and is folded again."""

    name = "NAMESERVER"

    def __init__(self, world: World) -> None:
        self.world = world
        self.disk = Disk()
        self.disk.write(log=(), reports={})
        self.disk.sync()
        self.up = False
        self.life = 0
        self.acknowledged: tuple[Change, ...] = ()
        self.acknowledged_reports: dict[PeerId, bytes] = {}
        self.boot()

    def boot(self) -> None:
        self.state = FederationState()
        for change in self.disk.durable("log"):
            self.state.apply(change)
        self.director = Director(self.world.director_key, self)
        self.up = True

    def crash(self) -> None:
        self.disk.crash()
        self.up = False
        self.life += 1

    def append(self, events: Iterable[Event]) -> None:
        """Acknowledged when it returns."""
        first = self.state.seq + 1
        changes = tuple(Change(first + n, self.world.now, "operator", event) for n, event in enumerate(events))
        if not changes:
            return
        self.world.cores.commit(self.disk, self.crash_point, log=self.disk.read("log") + changes)
        for change in changes:
            self.state.apply(change)
        self.crash_point("change.durable")
        self.acknowledged += changes

    def crash_point(self, label: str) -> None:
        self.world.crash_point(self, label)

    def answer(self, uuid: PeerId, etag: str | None) -> PollReply:
        reply = self.director.answer(uuid, etag, now=self.world.now, draw=self.world.random.random())
        if reply.body is not None:
            self.world.answers.setdefault(uuid, []).append(reply)
        return reply

    def take_report(self, uuid: PeerId, body: bytes) -> None:
        reports = self.disk.read("reports") | {uuid: body}
        self.world.cores.commit(self.disk, self.crash_point, reports=reports)
        self.crash_point("report.durable")
        self.acknowledged_reports[uuid] = body

    def root(self, version: int) -> SignedDocument:
        documents = self.state.root_documents
        if version > len(documents):
            raise UnknownName(f"no root record {version}")
        return documents[version - 1]

    def restore_backup(self, backup: dict[str, object]) -> None:
        """Go back to an earlier copy of the disk, under a new epoch. What came after it is lost, and known to be."""
        epoch = self.state.epoch
        self.disk.restore(backup)
        self.boot()
        self.acknowledged = self.disk.durable("log")
        self.acknowledged_reports = dict(self.disk.durable("reports"))
        minted = commands.mint_epoch(now=self.world.now, previous=epoch, draw=self.world.random.random())
        self.append(commands.EpochStarted(minted) for _ in range(1))

    def violations(self) -> Iterable[str]:
        log = self.disk.durable("log")
        last = self.acknowledged[-1] if self.acknowledged else None
        if last is not None and (len(log) < last.seq or log[last.seq - 1] != last):
            yield f"an acknowledged change is gone: {last}, the log has {len(log)}"
        reports = self.disk.durable("reports")
        for uuid, body in self.acknowledged_reports.items():
            if uuid not in reports:
                yield f"an acknowledged report of {uuid} is gone: {digest_of(body)}"
