"""What an edge did while nobody could watch: a bounded journal on its disk, told with the first report afterwards.

Owns the order and the bound. An entry is a word and what it was done to:

    autonomous  left  started  stopped  imported  refused  loaded  unloaded  failed

Rules: entries are durable when :meth:`Journal.note` returns, or the disk refused and the log says so: what an edge does
never fails for its journal. Beyond :data:`ENTRIES_MAX` the oldest go. Entries that the nameserver has acknowledged are
forgotten, and no others; the same failure of the same model is noted once until something else happens to it.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from federation.documents import HistoryEntry
from query.errors import Problem

ENTRIES_MAX: Final = 500
DETAIL_LENGTH_MAX: Final = 160

log = logging.getLogger("peerage.agent")


class JournalStore(Protocol):
    """Where entries are kept (:class:`peers.edge_store.EdgeStore`)."""

    def history(self) -> list[tuple[int, HistoryEntry]]: ...

    def add_history(self, entry: HistoryEntry, *, entries_max: int) -> int: ...

    def forget_history(self, upto: int) -> None: ...


class Journal:
    """One edge's. ``recording``: entries are made; only while the edge is AUTONOMOUS, and at both ends of that."""

    def __init__(self, store: JournalStore, *, recording: bool = False) -> None:
        self._store = store
        self._entries = store.history()
        self._failing: dict[str, str] = {}
        self.recording = recording

    @property
    def entries(self) -> tuple[HistoryEntry, ...]:
        """The oldest first."""
        return tuple(entry for _, entry in self._entries)

    def note(self, event: str, detail: str = "", *, now: float) -> None:
        if not self.recording:
            return
        entry = HistoryEntry(int(now), event, detail[:DETAIL_LENGTH_MAX])
        try:
            number = self._store.add_history(entry, entries_max=ENTRIES_MAX)
        except Problem as problem:
            log.warning("history_not_kept", extra={"code": problem.code, "reason": problem.message})
            return
        self._entries = [*self._entries, (number, entry)][-ENTRIES_MAX:]

    def note_failure(self, model: str, code: str, *, now: float) -> None:
        if self._failing.get(model) != code:
            self._failing[model] = code
            self.note("failed", f"{model}: {code}", now=now)

    def note_success(self, event: str, model: str, label: str, *, now: float) -> None:
        self._failing = {failed: code for failed, code in self._failing.items() if failed.partition("@")[0] != model}
        self.note(event, label, now=now)

    def acknowledged(self, told: tuple[HistoryEntry, ...]) -> None:
        """The nameserver has these durably: the entries from the first on, as :attr:`entries` gave them."""
        known = self._entries[: len(told)]
        if not told or tuple(entry for _, entry in known) != told:
            return  # meanwhile the oldest went: they are told again, which is no harm
        try:
            self._store.forget_history(known[-1][0])
        except Problem as problem:
            log.warning("history_not_forgotten", extra={"code": problem.code, "reason": problem.message})
        else:
            self._entries = self._entries[len(told) :]
