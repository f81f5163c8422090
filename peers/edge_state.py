"""The one thing about an edge that changes: what it should run, what it does run, and the copy of both on disk.

Owns the edge's store. Refuses to run ahead of it where that could lose a promise: :meth:`EdgeState.keep` is durable or
raises and changes nothing. Refuses to lag behind memory where that would be a lie: :meth:`EdgeState.become` takes what
has happened as happened, and writes it down as soon as the disk lets it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from federation.actual import Actual, brought, calmed, needed, report_digest, report_of
from federation.documents import ActualState, DesiredState, ExceededLimit, Mode, SignedDocument
from federation.errors import KeyRevoked, Replay
from federation.load_order import learned
from federation.names import Digest, PeerId
from federation.reconciliation import answered, restored
from federation.revocation import judged
from federation.verification import Cursor, cursor_of
from peers.edge_polling import Answer, Trust
from peers.edge_store import EdgeStore
from peers.failpoints import reach
from peers.history import Journal
from query.errors import Problem

CLOCK_OFFSET_KEPT_S: Final = 2.0  # a smaller change is not worth a write

log = logging.getLogger("peerage.agent")


class EdgeState:
    """Opened from the store. ``actual`` has nothing in memory until :meth:`restore`."""

    def __init__(
        self,
        store: EdgeStore,
        edge: PeerId,
        *,
        runtime: str,
        trust: Trust,
        properties: Mapping[str, str | int | float | bool],
        exceeded: Callable[[], Iterable[ExceededLimit]] = tuple,
        autonomous: bool = False,
    ) -> None:
        """``autonomous``: the device was told to be, whatever a desired state says."""
        stored = store.read()
        self._store = store
        self._edge = edge
        self._properties = properties
        self._exceeded = exceeded
        self._on_disk = stored.saved
        self._clock_offset_s = stored.clock_offset_s
        self._failing: str | None = None
        self.desired: DesiredState | None = stored.desired
        self.cursor: Cursor | None = stored.cursor
        self.mode: Mode = "AUTONOMOUS" if autonomous else self.desired_mode
        self.journal = Journal(store, recording=autonomous)
        self._trust = trust
        self.actual = Actual(runtime=runtime, root_version=trust.root.version)

    @property
    def desired_mode(self) -> Mode:
        """What the nameserver wants, as far as it is known here; AUTONOMOUS is not its to want."""
        wanted = self.desired.mode if self.desired else "INTERACTIVE"
        return "INTERACTIVE" if wanted == "AUTONOMOUS" else wanted

    def restore(self, installed: Mapping[Digest, str]) -> None:
        """Take up what the disk says, with nothing in memory yet."""
        self.actual = restored(
            self._on_disk, installed=installed, runtime=self.actual.runtime, root_version=self.actual.root_version
        )

    def reported(self) -> ActualState:
        """What this edge would report now, without the time; with what it did while it was AUTONOMOUS, afterwards."""
        told = report_of(
            self.desired,
            self.actual,
            edge=self._edge,
            mode=self.mode,
            properties=self._properties,
            exceeded=self._exceeded(),
        )
        return told if self.mode == "AUTONOMOUS" else replace(told, history=self.journal.entries)

    def report_digest(self) -> Digest:
        return report_digest(self.reported())

    def keep(
        self,
        actual: Actual,
        *,
        desired: tuple[SignedDocument, DesiredState] | None = None,
        records: tuple[SignedDocument, ...] = (),
    ) -> None:
        """Make a new state durable, then hold it; a desired state moves the cursor. Raises what the store raises."""
        saved = actual.saved()
        if desired is not None:
            keep = needed(desired[1], actual)
            self._store.commit(saved, desired=desired, records=records, keep=keep)
            self.desired, self.cursor = desired[1], cursor_of(*desired)
        elif saved != self._on_disk or records:
            self._store.commit(saved, records=records)
        self._on_disk = saved
        self.actual = actual

    def accept(
        self,
        answer: Answer,
        *,
        now: float,
        carried: frozenset[Digest] | None = None,
    ) -> None:
        """Compare with what the director wants, and keep both in one transaction. ``carried``: of an imported file, the
        releases in it.

        Polls and files cross: what another one overtook meanwhile is no news of a poll, and a replay in a file.
        """
        if answer.desired is not None and self.cursor is not None and cursor_of(*answer.desired)[:3] < self.cursor[:3]:
            if carried is not None:
                raise Replay(f"{answer.desired[1].etag} was overtaken by {self.cursor[:3]} while the file was read")
            answer = Answer(None, (), answer.poll_after_s)
        actual = self._under_root()
        desired = answer.desired[1] if answer.desired else self.desired
        if answer.desired is not None:
            reach("poll.verified")
            actual = calmed(actual)
        if desired is not None:
            actual = answered(desired, learned(actual, answer.records, desired), now)
        actual = self._judged(actual, now)
        if carried is not None:
            actual = brought(actual, carried)
        self.keep(actual, desired=answer.desired, records=answer.records)
        if answer.desired is not None:
            reach("poll.committed")
            new = answer.desired[1]
            log.info("desired_state", extra={"generation": new.generation, "models": [m.label for m in new.models]})

    def running(self) -> frozenset[Digest]:
        """The records of what this edge runs, or ran when it stopped and is to run again."""
        actual = self.actual
        return frozenset(entry.record for entry in actual.loaded.values()) | frozenset(
            run.record for run in actual.restoring.values()
        )

    def judge(self, now: float) -> None:
        """Look at what runs under the root record of now."""
        actual = self._judged(self.actual, now)
        if actual is not self.actual:
            self.become(actual)

    def _judged(self, actual: Actual, now: float) -> Actual:
        shown = self.actual.errors
        judgement = judged(actual, self._trust.root, self._store.record, now=now, shown=shown)
        for label, error in judgement.errors.items():
            if error.error == KeyRevoked.code and label not in shown:
                log.warning("revoked_key", extra={"model": label, "reason": error.message})
        return judgement

    def become(self, actual: Actual) -> None:
        """Hold a state that has come about. A disk that fails is logged once; the next change writes it all."""
        self.actual = actual
        saved = actual.saved()
        if saved == self._on_disk:
            return
        try:
            self._store.commit(saved)
        except Problem as problem:
            if self._failing != problem.code:
                log.warning("state_not_kept", extra={"code": problem.code, "reason": problem.message})
            self._failing = problem.code
            return
        self._failing = None
        self._on_disk = saved

    def _under_root(self) -> Actual:
        """The actual state as the root record of now sees it."""
        version = self._trust.root.version
        return self.actual if self.actual.root_version == version else replace(self.actual, root_version=version)

    def keep_clock(self, offset_s: float) -> None:
        """Remember what the nameserver told about the time, when it told something new."""
        known = self._clock_offset_s
        if known is not None and abs(offset_s - known) <= CLOCK_OFFSET_KEPT_S:
            return
        try:
            self._store.keep_clock_offset(offset_s)
        except Problem as problem:
            log.warning("clock_not_kept", extra={"code": problem.code, "reason": problem.message})
        else:
            self._clock_offset_s = offset_s
