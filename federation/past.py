"""The federation as it was: its state at an earlier moment, and what an edge had reported by then.

Reads the log of changes and the log of reports, and writes nothing. Rules:

- The state as of a moment is the fold of all changes up to it. A change counts from its time on, or from that of the
  change before it where that was later, for a clock may have been set back; a time that lies ahead of now is none.
- A moment before the log begins, after now, or of a report that is not kept any more is an error: an answer is never
  made up. When a peer was seen or connected is not in any log.
- Folding gives way to others after every :data:`CHANGES_AT_ONCE` changes. The last state is kept for the next question
  while it is of no more than :data:`KEPT_MEMBERS_MAX` members: a later moment goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from federation.documents import ActualState
from federation.events import Change
from federation.members import Member
from federation.names import shown
from federation.reports import Contact, NoReport
from federation.state import FederationState
from query.declarations import Call
from query.errors import UnknownName, UserProblem

if TYPE_CHECKING:
    from federation.store import FederationStore

CHANGES_AT_ONCE: Final = 200
KEPT_MEMBERS_MAX: Final = 20_000


class BeforeLog(UserProblem):
    """A moment before the federation's log begins."""

    code = "before_log"


class NotYet(UserProblem):
    """A moment that lies ahead."""

    code = "not_yet"


class NotKept(UserProblem):
    """What was known then was dropped since."""

    code = "not_kept"


class _Fold:
    """A state under way: ``time`` is that of the last change in it."""

    def __init__(self) -> None:
        self.state = FederationState()
        self.time = float("-inf")


class Log(Protocol):
    """What is read of a store."""

    @property
    def state(self) -> FederationState: ...

    def read_from(self, seq: int) -> Iterator[Change]: ...


class Past:
    """The past of one store. States that it gives must not be changed, nor kept beyond the block."""

    def __init__(self, store: Log, *, kept_members_max: int = KEPT_MEMBERS_MAX) -> None:
        self._store = store
        self._kept_members_max = kept_members_max
        self._kept: _Fold | None = None
        self._folding = asyncio.Lock()

    @property
    def kept_members(self) -> int:
        """Of how many members the state is that is kept; 0 while none is."""
        return self._kept.state.member_count if self._kept is not None else 0

    @asynccontextmanager
    async def state(self, call: Call) -> AsyncIterator[FederationState]:
        """The state that a call is about: the present one, or that of the moment that it is asked ``as of``."""
        if call.as_of is None:
            yield self._store.state
            return
        moment = call.as_of.timestamp()
        now = call.now.timestamp()
        if moment > now:
            raise NotYet(f"as of {told(moment)} has not come: it is {told(now)}")
        async with self._folding:
            fold = await self._folded(moment, now)
            try:
                yield fold.state
            except UnknownName as problem:
                problem.message = f"as of {told(moment)}: {problem.message}"
                raise
            finally:
                self._kept = fold if fold.state.member_count <= self._kept_members_max else None

    async def _folded(self, moment: float, now: float) -> _Fold:
        fold, self._kept = self._kept, None
        if fold is None or fold.time > moment:
            fold = _Fold()
        while True:
            changes = list(islice(self._store.read_from(fold.state.seq + 1), CHANGES_AT_ONCE))
            for change in changes:
                counts_from = fold.time if change.time > now else max(fold.time, change.time)
                if counts_from > moment:
                    changes = []
                    if not fold.state.seq:
                        raise BeforeLog(
                            f"as of {told(moment)} is before the log of changes begins, {told(counts_from)}"
                        )
                    break
                fold.state.apply(change)
                fold.time = counts_from
            if not changes:
                return fold
            await asyncio.sleep(0)


def reported_by(store: FederationStore, member: Member, moment: float) -> tuple[ActualState | None, Contact]:
    """What an edge had reported last at a moment; None when it had reported nothing. Raises :class:`NotKept`."""
    report = store.reports.latest_by(member.uuid, moment)
    if report is not None:
        return report.actual, Contact(connected=None, reported_at=report.time)
    who = shown(member.name)
    present = store.state.member(member.uuid)
    if present is None or present.removed:
        raise NotKept(f"the reports of {who} are not kept: it was removed since")
    oldest = store.reports.oldest_when_full(member.uuid)
    if oldest is not None:
        raise NotKept(
            f"the report of {who} as of {told(moment)} is not kept: the oldest that is is of {told(oldest)}",
            hint="a nameserver keeps the last reports of an edge, and all changes",
        )
    return None, Contact(connected=None)


def no_report_by(member: Member, moment: float) -> NoReport:
    """The error of an edge that had not reported anything."""
    return NoReport(f'no report from "{shown(member.name)}" by {told(moment)}')


def told(seconds: float) -> str:
    """A moment as it stands in messages, to the second."""
    return f"|{datetime.fromtimestamp(seconds, UTC).isoformat(timespec='seconds').removesuffix('+00:00')}Z|"
