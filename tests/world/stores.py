"""What the production code keeps things in, over a disk that forgets: blobs, a journal, reports and histories.

Each stands in for one store of a real peer and takes its calls: :class:`federation.blobs.BlobStore`,
:class:`peers.edge_store.EdgeStore` for the journal, :class:`federation.store.FederationStore` for what edges told.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

from federation.carried_state import Carried
from federation.documents import ActualState, HistoryEntry, decode
from federation.errors import WrongSize
from federation.names import Digest, PeerId
from query.errors import UnknownName
from tests.world.disk import Disk

Commit = Callable[..., None]


class Blobs:
    """Content by its digest: whole, or as a part that is on its way and that a crash loses."""

    def __init__(self, disk: Disk, commit: Commit, check: Callable[..., None]) -> None:
        self.disk = disk
        self.commit = commit
        self.check = check

    def size(self, digest: Digest) -> int | None:
        content = self.disk.read("blobs").get(digest)
        return None if content is None else len(content)

    def read(self, digest: Digest, *, bytes_max: int) -> bytes:
        content: bytes | None = self.disk.read("blobs").get(digest)
        if content is None:
            raise UnknownName(f"no blob {digest} here")
        return content

    def stage(self, digest: Digest, *, size: int) -> Staged:
        return Staged(self, digest, size)

    def remove(self, *digests: Digest) -> None:
        self.commit(blobs={d: content for d, content in self.disk.read("blobs").items() if d not in digests})

    def free_bytes(self) -> int:
        return 2**40


class Staged:
    """Content on its way, within ``bytes_max``."""

    def __init__(self, blobs: Blobs, digest: Digest, bytes_max: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._bytes_max = bytes_max
        self._content: bytes = blobs.disk.read("parts").get(digest, b"")

    @property
    def offset(self) -> int:
        return len(self._content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """A part stays for later."""
        parts = {d: content for d, content in self._blobs.disk.read("parts").items() if d != self._digest}
        if self._content:
            parts[self._digest] = self._content
        if parts != self._blobs.disk.read("parts"):
            self._blobs.disk.write(parts=parts)

    def restart(self) -> None:
        self._content = b""

    def write(self, chunk: bytes) -> None:
        if self.offset + len(chunk) > self._bytes_max:
            raise WrongSize(f"expected at most {self._bytes_max} bytes, found more")
        self._content += chunk

    def finish(self, digest: Digest) -> None:
        """In its place, or dropped."""
        content, self._content = self._content, b""
        self._blobs.check(content, str(digest), digest=digest, size=len(content))
        self._blobs.commit(blobs=self._blobs.disk.read("blobs") | {digest: content})


class JournalStore:
    """Where an edge's journal is kept."""

    def __init__(self, disk: Disk, commit: Commit) -> None:
        self._disk = disk
        self._commit = commit

    def history(self) -> list[tuple[int, HistoryEntry]]:
        return list(self._disk.read("history"))

    def add_history(self, entry: HistoryEntry, *, entries_max: int) -> int:
        number = int(self._disk.read("noted")) + 1
        kept = (*self._disk.read("history"), (number, entry))[-entries_max:]
        self._commit(history=kept, noted=number)
        return number

    def forget_history(self, upto: int) -> None:
        self._commit(history=tuple(kept for kept in self._disk.read("history") if kept[0] > upto))


class Told:
    """What edges told a nameserver: the last report, the history and the last carried report of each."""

    def __init__(self, disk: Disk, commit: Commit) -> None:
        self._disk = disk
        self._commit = commit

    def latest(self, uuid: PeerId) -> Any:
        body = self._disk.read("reports").get(uuid)
        if body is None:
            return None
        return SimpleNamespace(actual=decode(body, ActualState), time=self._disk.read("received")[uuid])

    def put_report(self, uuid: PeerId, body: bytes, *, now: float) -> None:
        received = self._disk.read("received") | {uuid: now}
        self._commit(reports=self._disk.read("reports") | {uuid: body}, received=received)

    def put(self, uuid: PeerId, entries: tuple[HistoryEntry, ...], *, carried: bool = False) -> None:
        known = self._disk.read("histories")
        if not set(entries) <= known.get(uuid, frozenset()):
            self._commit(histories=known | {uuid: known.get(uuid, frozenset()) | set(entries)})

    def last_carried(self, uuid: PeerId) -> Carried | None:
        found: Carried | None = self._disk.read("carried").get(uuid)
        return found

    def put_carried(self, uuid: PeerId, carried: Carried, *, log: tuple[str, ...], now: float) -> None:
        taken = Carried(carried.sequence, carried.digest, now)
        self._commit(carried=self._disk.read("carried") | {uuid: taken})
