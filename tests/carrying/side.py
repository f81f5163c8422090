"""Both sides of a carried file without a network: a real director and repository, and a device's home."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.carrying_functions import CarryingFunctions
from federation.layout import ImageLayout
from peers import device_mode
from peers.archives import ArchiveWriter
from peers.exporting import Exported, LayoutSource, write_export
from peers.homes import Home, Membership
from peers.importing import attach, import_file, opened
from peers.stopped_edge import StoppedEdge, stopped_edge
from query.declarations import Call, Caller, Role
from tests.turn.bench import EDGE, PUBLISHER, START, DirectorTwin, Made, ManualClock, made


class Side:
    """The nameserver's side. ``clock`` is federation time; files lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(START + 1000.0)
        self.director = DirectorTwin(self.clock)
        self.layout = ImageLayout(folder / "repository")
        self.functions = CarryingFunctions(self.director.store, self.director.director)

    def call(self) -> Call:
        return Call(Caller("adm", Role.ADMIN), datetime.fromtimestamp(self.clock.now(), UTC), "ns")

    def published(self, name: str, version: str, **how: Any) -> Made:
        release = made(name, version, how.pop("publisher", PUBLISHER), **how)
        self.director.publish(release)
        self.layout.install(release.packed)
        return release

    def told(self, edge: str = "E1", *, groups: bool = False) -> dict[str, Any]:
        return self.functions.export(self.call(), edge, groups)

    async def bytes(self, edge: str = "E1", *, groups: bool = False) -> bytes:
        stream = io.BytesIO()
        await write_export(Exported.of(self.told(edge, groups=groups)), stream, source=LayoutSource(self.layout))
        return stream.getvalue()

    async def file(self, name: str, edge: str = "E1", *, groups: bool = False) -> Path:
        path = self.folder / name
        path.write_bytes(await self.bytes(edge, groups=groups))
        return path


class Device:
    """A device whose edge does not run."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.home = Home(folder).prepare()
        self.clock = clock
        device_mode.enter(self.home, now=clock.now(), name="BOX")

    def attach(self, path: Path, fingerprint: str) -> Membership:
        with opened(path) as reader:
            layout = ImageLayout(self.home.releases)
            return attach(self.home, reader, layout=layout, fingerprint=fingerprint, now=self.clock.now())

    def attached(self, side: Side) -> Device:
        """As one that a file was imported on before: it belongs to the federation and has no state yet."""
        self.home.write_roots(tuple(side.director.store.state.root_documents))
        self.home.write_membership(
            Membership(federation="f", uuid=EDGE, name="E1", kind="edge", role="viewer", addresses=(), not_after=0)
        )
        return self

    async def take(self, path: Path) -> dict[str, Any]:
        """Import; what it brought."""
        with stopped_edge(self.home, clock=self.clock.now) as edge:
            return await importing(edge, path)

    def standing(self) -> tuple[Any, ...]:
        """Everything of this device that an import may change, but for what is written about the attempt."""
        files = {path.name: path.read_bytes() for path in (self.home.roots_json, self.home.membership_json)}
        with stopped_edge(self.home, clock=self.clock.now) as edge:
            stored = edge.store.read()
            blobs = sorted(edge.layout.blobs.digests())
            labels = [release.label for release in edge.layout.releases()]
        return files, stored.desired, stored.cursor, stored.saved, blobs, labels

    def events(self) -> list[tuple[str, str]]:
        with stopped_edge(self.home, clock=self.clock.now) as edge:
            return [(entry.event, entry.detail) for entry in edge.history]


async def importing(edge: StoppedEdge, path: Path) -> dict[str, Any]:
    return await import_file(
        path, membership=edge.membership, trust=edge.trust, layout=edge.layout, taking=edge, now=edge.now
    )


def rewritten(members: list[tuple[str, bytes]]) -> bytes:
    """A file of other members, with the checksum that fits them: what somebody makes who can count."""
    stream = io.BytesIO()
    writer = ArchiveWriter(stream)
    for name, content in members:
        writer.put(name, content)
    writer.finish()
    return stream.getvalue()


def members_of(raw: bytes) -> list[tuple[str, bytes]]:
    """The members of a good file but for its checksum."""
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        found = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    return found[:-1]
