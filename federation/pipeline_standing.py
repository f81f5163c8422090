"""How a pipeline stands on each edge: starting, running, or why not.

Pure, and the same for who looks at reports and for the edge that looks at itself. An edge that runs an earlier version
while the wanted one cannot be loaded is in error, and says which version answers.

    Running    the wanted version is in memory
    Starting   it was assigned and is on its way: told, being fetched, tried or loaded; or the edge was not heard of yet
    Error      the edge tried and could not; ``reason`` and ``code`` say why, and it tries again where that may help
    Stopping   nobody wants it any more and the edge has not said yet that it is gone
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from federation.documents import LoadedEntry, LoadError
from federation.explanation import Waiting
from federation.names import Digest, shown
from federation.reports import moment

Status = Literal["Running", "Starting", "Error", "Stopping", "Undeployed"]

EDGES_TOLD_MAX: Final = 1000
_ORDER: Final[Sequence[Status]] = ("Error", "Starting", "Stopping", "Running")


class WantedVersion(Struct, frozen=True):
    """What an edge should run, and for which group."""

    version: str
    record: Digest
    group: str


class EdgeStanding(Struct, frozen=True):
    """One edge. ``version`` is what answers there now, ``wanted`` what should."""

    edge: str
    status: Status
    version: str | None = None
    wanted: str | None = None
    group: str | None = None
    since: int | None = None
    code: str | None = None
    reason: str | None = None
    exceeded: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {
            "edge": shown(self.edge),
            "status": self.status,
            "version": self.version,
            "wanted": self.wanted,
            "group": self.group,
            "since": moment(self.since),
            "code": self.code,
            "reason": self.reason,
            "exceeded": list(self.exceeded),
        }


def standing_of(
    edge: str,
    *,
    wanted: WantedVersion | None,
    loaded: LoadedEntry | None,
    errors: Iterable[LoadError] = (),
    waiting: Waiting | None = None,
    exceeded: Sequence[str] = (),
) -> EdgeStanding:
    """``errors``: those that the edge tells of this pipeline, of any version; ``waiting``: what stands in the way."""
    told = list(errors)
    version = loaded.version if loaded else None
    here = EdgeStanding(
        edge,
        "Running",
        version,
        wanted.version if wanted else None,
        wanted.group if wanted else None,
        loaded.since if loaded else None,
        exceeded=tuple(exceeded),
    )
    if wanted is None:
        if loaded is not None and loaded.origin == "group":
            return _because(here, "Stopping", waiting)
        return _failed(here, told, version, status="Running" if loaded is not None else "Error")
    if loaded is not None and loaded.record == wanted.record:
        return _failed(here, told, wanted.version, status="Running")
    failed = _failed(here, told, wanted.version, status="Error")
    return failed if failed.code is not None else _because(here, "Starting", waiting)


def summary(edges: Sequence[EdgeStanding]) -> Status:
    """One word for all edges: the worst of them."""
    found = {one.status for one in edges}
    return next((status for status in _ORDER if status in found), "Undeployed")


def status_record(name: str, edges: Sequence[EdgeStanding], **more: Any) -> Mapping[str, Any]:
    """As ``pipeline:status`` shows it: how many edges stand how, and the first ``EDGES_TOLD_MAX``, the worst first."""
    worst = sorted(edges, key=lambda one: _ORDER.index(one.status))
    return {
        "pipeline": name,
        "status": summary(edges),
        "counts": dict(Counter(one.status for one in worst)),
        **more,
        "edges": [one.record() for one in worst[:EDGES_TOLD_MAX]],
    }


def _failed(here: EdgeStanding, errors: list[LoadError], version: str | None, *, status: Status) -> EdgeStanding:
    """With the error of a version, or where none is named, of the latest that was tried."""
    named = [error for error in errors if version is None or error.model.partition("@")[2] == version]
    latest = max(named, key=lambda error: error.since, default=None)
    return _replaced(here, status, latest.error if latest else None, latest.message if latest else None)


def _because(here: EdgeStanding, status: Status, waiting: Waiting | None) -> EdgeStanding:
    return _replaced(here, status, waiting.reason if waiting else None, waiting.message if waiting else None)


def _replaced(here: EdgeStanding, status: Status, code: str | None, reason: str | None) -> EdgeStanding:
    return EdgeStanding(
        here.edge,
        status,
        here.version,
        here.wanted,
        here.group,
        here.since,
        code,
        reason,
        here.exceeded,
    )
