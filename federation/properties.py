"""What an edge is: what it told of itself, what operators set, and what the federation knows of it.

A condition as ``//peer: where …`` is put to this, and ``edge:properties`` shows it. Rules: of a property that the edge
told and an operator set, what was set counts; the names of :data:`OF_THE_FEDERATION` nobody can set. Owns the memory of
what edges told, which is read from the log of reports when it is first asked for and follows the log from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from federation.documents import Mode
from federation.entries import ALL, Group
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


def properties_of(member: Member, groups: Sequence[Group], told: Told | None) -> dict[str, Any]:
    """An edge's properties by name. ``groups`` are all it is in; ``told`` is None before its first report."""
    return {
        **(told.properties if told is not None else {}),
        **member.properties,
        "name": shown(member.name),
        "mode": told.mode if told is not None else member.mode,
        "tags": list(member.tags),
        "groups": [group.name for group in groups if group.name != ALL],
    }


def edge_properties(store: FederationStore, member: Member) -> dict[str, Any]:
    """A registered edge's, as of its last report."""
    report = store.reports.latest(member.uuid)
    told = None if report is None else _DECODER.decode(report.body)
    return properties_of(member, store.state.groups_of(member.uuid), told)


class EdgeProperties:
    """The properties of all edges, as of the last report of each, for who asks often."""

    def __init__(self, store: FederationStore) -> None:
        self._store = store
        self._told: dict[PeerId, Told] | None = None
        self._older: set[PeerId] = set()
        store.reports.subscribe(self._older.add)

    def of_all(self) -> list[tuple[str, dict[str, Any]]]:
        """The name and properties of every edge, in the order of registration."""
        told, state = self._newest(), self._store.state
        return [
            (member.name, properties_of(member, state.groups_of(member.uuid), told.get(member.uuid)))
            for member in state.edges()
        ]

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
