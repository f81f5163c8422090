"""The one memory budget of a peer: who counts how much, whether one more fits, and who makes room.

Pure. A graph counts once, however many hold it, by what its trial measured at its highest. What is to be replaced
counts too, since both are in memory for a moment. Only what was loaded on demand makes room, and only when that is
enough: what a group or a person asked for stays, and so does what others in memory need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.errors import OverMemory
from federation.documents import ReleaseRecord
from federation.names import Digest

if TYPE_CHECKING:
    from engine.servables import Servable

Graphs = Mapping[Digest, int]
"""Digest of a graph → bytes that it takes."""


def making_room(record: ReleaseRecord, graphs: Graphs, present: Iterable[Servable], budget: int) -> tuple[str, ...]:
    """The names that must go so that ``graphs`` fit, the least recently used first; none when they fit as it is.

    Raises :class:`OverMemory`, with both numbers, when they would not fit even then.
    """
    kept = tuple(present)
    going: list[str] = []
    leaving = iter(_least_used(kept, record))
    while True:
        held = _held(servable for servable in kept if servable.name not in going)
        needed = sum(size for graph, size in graphs.items() if graph not in held)
        used = sum(held.values())
        if used + needed <= budget:
            return tuple(going)
        name = next(leaving, None)
        if name is None:
            raise OverMemory(
                f"{record.label} needs {needed} bytes of memory and {used} are in use, of a budget of {budget}",
                hint="unload a model, or raise memory_bytes_max",
            )
        going.append(name)


def _held(servables: Iterable[Servable]) -> dict[Digest, int]:
    held: dict[Digest, int] = {}
    for servable in servables:
        for graph, size in servable.memory.items():
            held[graph] = max(size, held.get(graph, 0))
    return held


def _least_used(servables: Sequence[Servable], loading: ReleaseRecord) -> list[str]:
    stay = {name for record in (loading, *(one.record for one in servables)) for name in record.needs.releases}
    stay.add(loading.name)
    may_go = [one for one in servables if one.origin == "demand" and one.name not in stay]
    return [one.name for one in sorted(may_go, key=lambda one: max(one.counters.last_ns, one.counters.known_ns))]
