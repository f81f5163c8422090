"""What an edge is: what it told of itself, what operators set, and what the federation knows of it.

A condition as ``//peer: where …`` is put to this, and ``edge:properties`` shows it. Rules: of a property that the edge
told and an operator set, what was set counts; the names of :data:`OF_THE_FEDERATION` nobody can set. Owns the memory of
what edges told, which is read from the log of reports when it is first asked for and follows the log from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from federation.documents import Mode
from federation.entries import Entry
from federation.members import Member, PropertyValue
from federation.names import PeerId, shown

if TYPE_CHECKING:
    from federation.store import FederationStore

OF_THE_FEDERATION: Final[Mapping[str, str]] = {
    "name": "it is the edge's own",
    "groups": "edge:add_group puts an edge into a group",
    "tags": "edge:register gives an edge its tags",
    "mode": "edge:set_mode sets it",
}
"""Properties that follow from something else, and what."""

REPORTS_PER_PAGE: Final = 500


class Told(Struct, frozen=True):
    """What a report says of the device that made it."""

    mode: Mode
    properties: dict[str, PropertyValue] = {}


_DECODER = msgspec.json.Decoder(Told)


class PropertiesOf(Mapping[str, Any]):
    """An edge's properties by name, each made when it is asked for. ``told`` is None before the edge's first report."""

    __slots__ = ("_entry", "_told")

    def __init__(self, entry: Entry, told: Told | None) -> None:
        self._entry = entry
        self._told = told

    def get(self, key: str, default: Any = None) -> Any:
        member = self._entry.member
        if key in OF_THE_FEDERATION:
            match key:
                case "name":
                    return shown(member.name)
                case "mode":
                    return self._told.mode if self._told is not None else member.mode
                case "tags":
                    return list(member.tags)
                case _:
                    return [group.name for group in self._entry.groups]
        if key in member.properties:
            return member.properties[key]
        return self._told.properties.get(key, default) if self._told is not None else default

    def __getitem__(self, key: str) -> Any:
        found = self.get(key, _ABSENT)
        if found is _ABSENT:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        told = self._told.properties if self._told is not None else {}
        return iter({**told, **self._entry.member.properties, **OF_THE_FEDERATION})

    def __len__(self) -> int:
        return sum(1 for _ in self)


_ABSENT: Final = object()


def edge_properties(store: FederationStore, member: Member) -> PropertiesOf:
    """A registered edge's, as of its last report."""
    report = store.reports.latest(member.uuid)
    told = None if report is None else _DECODER.decode(report.body)
    entry = store.state.entry(member.uuid)
    assert entry is not None
    return PropertiesOf(entry, told)


class EdgeProperties:
    """The properties of all edges, as of the last report of each, for who asks often."""

    def __init__(self, store: FederationStore) -> None:
        self._store = store
        self._told: dict[PeerId, Told] | None = None
        self._older: set[PeerId] = set()
        store.reports.subscribe(self._older.add)

    def of_all(self) -> list[tuple[str, PropertiesOf]]:
        """The name and properties of every edge, in the order of registration."""
        told, state = self._newest(), self._store.state
        found = ((state.entry(member.uuid), told.get(member.uuid)) for member in state.edges())
        return [(entry.member.name, PropertiesOf(entry, known)) for entry, known in found if entry is not None]

    def _newest(self) -> dict[PeerId, Told]:
        reports = self._store.reports
        if self._told is None:
            self._told = {}
            after = ""
            while page := reports.page(after, limit=REPORTS_PER_PAGE):
                self._told |= {report.edge: _DECODER.decode(report.body) for report in page}
                after = page[-1].edge
        else:
            for edge in self._older:
                report = reports.latest(edge)
                if report is None:
                    self._told.pop(edge, None)
                else:
                    self._told[edge] = _DECODER.decode(report.body)
        self._older.clear()
        return self._told
