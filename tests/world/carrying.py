"""What comes to an edge and goes from it by file: exports of a nameserver, taken by the production import; its reports.

A file is made of the nameserver's own answer, put into the production archive, and may be cut or have a byte flipped
on its way. It is read, checked and staged by the production code, in the order of :mod:`peers.importing`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

from federation.actual import Actual
from federation.carried_state import CarriedContents, CarriedReport, seal_report
from federation.documents import (
    ActualState,
    DesiredState,
    PollAnswer,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
    encode,
)
from federation.keys import PrivateKey
from federation.manifests import read_manifest
from federation.names import Digest, PeerId, checked_digest, digest_of
from federation.verification import Cursor
from peers.archives import ANSWER, CONTENTS, RELEASES, ROOTS, ArchiveReader, ArchiveWriter, blob_name
from peers.homes import Membership
from peers.import_staging import Staging
from peers.importing import FORM, Checked, read_documents
from query.errors import Problem
from tests.world.disk import Disk
from tests.world.stores import Blobs

if TYPE_CHECKING:
    from peers.history import Journal
    from tests.world.world import World

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class File:
    """Made for an edge, at some time. ``whole``: nothing happened to it on its way."""

    edge: PeerId
    content: bytes
    whole: bool = True


@dataclass(frozen=True, slots=True)
class CarriedBack:
    """A sealed report, and when it was made by true time."""

    edge: PeerId
    text: str
    made: float


def driven(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of production code that is written to wait, and here never has to."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("it waits for something")


def export_file(told: dict[str, Any], uuid: PeerId, contents: dict[Digest, bytes]) -> File:
    """What :mod:`peers.exporting` writes; its blobs are ``contents`` by their digest."""
    answer = told["answer"].encode()
    roots = msgspec.json.encode([decode(text.encode(), SignedDocument) for text in told["roots"]])
    further = [decode(text.encode(), SignedDocument) for text in told["releases"]]
    desired = decode(decode(answer, PollAnswer).desired.payload, DesiredState)
    releases = msgspec.json.encode(further)
    listing = CarriedContents(
        form=FORM,
        federation=desired.federation,
        edge=desired.edge,
        name=desired.name,
        etag=desired.etag,
        answer=digest_of(answer),
        roots=digest_of(roots),
        releases=digest_of(releases),
    )
    stream = BytesIO()
    archive = ArchiveWriter(stream)
    for name, content in ((CONTENTS, encode(listing)), (ROOTS, roots), (ANSWER, answer), (RELEASES, releases)):
        archive.put(name, content)
    written: set[Digest] = set()
    records = [decode(document.payload, ReleaseRecord) for document in (*decode(answer, PollAnswer).releases, *further)]
    wanted = [record.manifest for record in records]
    wanted += [checked_digest(read_manifest(contents[manifest]).config.digest) for manifest in tuple(wanted)]
    wanted += [entry.digest for record in records for entry in record.files]
    for digest in wanted:
        if digest not in written:
            written.add(digest)
            archive.put(blob_name(digest), contents[digest])
    archive.finish()
    return File(uuid, stream.getvalue())


def harmed(file: File, random: Random) -> File:
    """Cut, or with one bit turned."""
    content = bytearray(file.content)
    if random.random() < 0.5:
        del content[random.randrange(len(content)) :]
    else:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return File(file.edge, bytes(content), whole=False)


class Carrying:
    """A part of :class:`tests.world.edge.Edge`."""

    world: World
    uuid: PeerId
    name: str
    key: PrivateKey
    disk: Disk
    blobs: Blobs
    root: RootRecord
    actual: Actual
    journal: Journal
    cursor: Cursor | None

    def import_file(self, file: File) -> None:
        """Read, checked and staged at once; kept a little later, when a poll may have been here."""
        membership = Membership(
            federation="f", uuid=self.uuid, name=self.name, kind="edge", role="viewer", addresses=(), not_after=0
        )
        reader = ArchiveReader(BytesIO(file.content), size=len(file.content))
        before = self.disk.durable("blobs")
        try:
            documents = read_documents(reader)
            checked: Checked = driven(
                self.world.cores.check_carried(
                    documents, membership=membership, root=self.root, cursor=self.cursor, now=self.now()
                )
            )
            Staging(self.blobs, checked.releases, strict=not checked.refused).stage(reader)  # type: ignore[arg-type]
        except Problem as problem:
            self.world.trace(f"{self.name} refuses a file: {problem.code}")
            self.journal.note("refused", f"a file: {problem.code}", now=self.now())
            self.world.expect(
                self.disk.durable("blobs") == before, f"{self.name} keeps blobs of a file that it refused"
            )
            return
        self.world.expect(file.whole, f"{self.name} takes a file that was harmed on its way")
        self.crash_point("import.staged")
        self.world.after(self, self.world.random.uniform(0.0, 2.0), lambda: self._take(checked))

    def _take(self, checked: Checked) -> None:
        for document, record in checked.roots:
            if record.version == self.root.version + 1:  # else a poll was here first
                self.extend(document)
        documents: Sequence[SignedDocument] = [signed for signed, _ in checked.releases]
        self.actual = replace(self.actual, installed=self.installed())
        try:
            self.accept(checked.answer, carried=frozenset(digest_of(signed.payload) for signed in documents))
        except Problem as problem:
            self.world.trace(f"{self.name} does not take a file: {problem.code}")
            return
        self.attach(*(signed for signed in documents if self._missing(signed) is None))
        self.become(replace(self.actual, installed=self.installed()))
        if checked.new:
            self.journal.note("imported", f"generation {checked.generation}", now=self.now())
        self.world.trace(f"{self.name} imported generation {checked.generation}, new: {checked.new}")
        self.act()

    def carry_report(self) -> CarriedBack:
        """``peerage export --report``: signed, under a number that only grows."""
        told: ActualState = replace(self.actual_state(), history=self.journal.entries)
        sequence = max(int(self.disk.read("sequence")) + 1, int(self.now()))
        self.commit(sequence=sequence)
        report = CarriedReport(
            federation="f",
            edge=self.uuid,
            name=self.name,
            sequence=sequence,
            key=self.key.public,
            actual=replace(told, reported=int(self.now())),
        )
        return CarriedBack(self.uuid, encode(seal_report(report, self.key)).decode(), self.world.now)
