"""The federation's releases, as the nameserver tells of them and lets them go.

Owns the one way in which a release leaves the federation: who holds it is decided by :mod:`federation.retention`, its
end is written into the log, and then its files leave the repository. A kill between the last two is made good at the
next start (:func:`peers.repository_tidying.tidy_repository`). Functions, the repository's DELETE and the collection of
garbage all come here.

Rules: one after the other in a repository, see :mod:`peers.repository_turns`; reports of many edges are read a page at
a time, so that polls are answered in between; blobs that somebody claimed a short while ago outlive their release.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from federation import release_commands, release_records, retention
from federation.documents import ReleaseRecord
from federation.entries import Release
from federation.errors import WrongRole
from federation.keys import keyid_of
from federation.layout import ImageLayout
from federation.members import Member
from federation.names import Digest, model_repository
from federation.reports import moment
from federation.retention import Holder, ReleaseHeld
from federation.store import FederationStore, Report
from peers.endings import to_the_end
from peers.failpoints import reach
from peers.release_lifecycle import UNNAMED_LIFE_S, GarbageOptions
from peers.repository_turns import RepositoryTurns
from query.declarations import Call

REPORTS_PER_PAGE: Final = 500
LABELS_TOLD_MAX: Final = 1000

log = logging.getLogger("peerage.nameserver")


class FederationReleases:
    """The nameserver's :class:`~peers.release_lifecycle.Releases`. ``clock`` is federation time; ``described``
    tells of what the nameserver itself has loaded."""

    def __init__(
        self,
        store: FederationStore,
        layout: ImageLayout,
        *,
        turns: RepositoryTurns,
        clock: Callable[[], float],
        described: Callable[[Digest], dict[str, Any]],
    ) -> None:
        self._store = store
        self._layout = layout
        self._turns = turns
        self._clock = clock
        self._described = described

    # --- telling ------------------------------------------------------------------------------------------------

    async def listed(self, name: str | None, call: Call) -> AsyncIterator[dict[str, Any]]:
        state = self._store.state
        if name is not None and not state.published.versions(name):
            state.find_release(name, "")  # raises with the nearest name
        running: Counter[str] = Counter()
        async for _, report in self._reports():
            running.update({entry.record for entry in report.actual.loaded})
        for release in state.releases() if name is None else state.published.versions(name):
            signer = release_records.signer_of(release.document, state.root)
            yield {
                **release_records.listed(release.record, release.digest, signer),
                **_publication(release),
                "edges": running[release.digest],
            }

    async def told(self, name: str, version: str, call: Call) -> dict[str, Any]:
        state = self._store.state
        release = state.find_release(name, version)
        signer = release_records.signer_of(release.document, state.root)
        words = (release.digest.encode(), release.record.label.encode())
        reports = [
            (edge, report.actual)
            async for edge, report in self._reports()
            if any(word in report.body for word in words)
        ]
        installed = await asyncio.to_thread(self._layout.find_record, release.digest)
        return {
            **release_records.told(release.record, release.digest, signer),
            **_publication(release),
            "attachment": installed.attachment if installed else None,
            **self._described(release.digest),
            **release_records.held(retention.holders(state, release, now=self._clock(), reports=reports)),
        }

    # --- changing -----------------------------------------------------------------------------------------------

    def deprecate(self, name: str, version: str, reason: str | None, call: Call) -> None:
        events = release_commands.deprecate_release(self._store.state, name, version, reason)
        self._store.append(events, caller=call.caller.name, now=self._clock())

    async def delete(self, name: str, version: str, call: Call) -> None:
        async with self._turns.of(model_repository(name)):
            await to_the_end(self.delete_in_turn(name, version, by=call.caller.name))

    async def delete_in_turn(self, name: str, version: str, *, by: str, drops: bool = True) -> None:
        """Delete a release, by who has the turn in its repository. ``drops``: its blobs too, where nobody counts on
        them. Raises :class:`ReleaseHeld`.
        """
        release = self._store.state.find_release(name, version)
        events = release_commands.delete_release(self._store.state, name, version, holders=self._holders(release))
        self._store.append(events, caller=by, now=self._clock())
        reach("delete.durable")
        oldest = self._clock() - UNNAMED_LIFE_S if drops else 0.0
        await asyncio.to_thread(unlist, self._layout, release.record, written_before=oldest)
        log.info("deleted", extra={"release": release.record.label, "by": by})

    async def on_delete(self, record: ReleaseRecord, digest: Digest, member: Member) -> None:
        """The repository's DELETE of a release's manifest, by who has the turn in its repository.

        A publisher who is no operator lets go of its own releases alone. What the log does not have, nobody decides on.
        """
        known = self._store.state.release(record.name, record.version)
        if known is None:
            return
        if member.role == "viewer":
            signer = release_records.signer_of(known.document, self._store.state.root)
            if member.publisher_key is None or signer.key != keyid_of(member.publisher_key):
                raise WrongRole(f'"{member.name}" may not delete {record.label}: expected the role operator or its key')
        await self.delete_in_turn(record.name, record.version, by=member.name)

    async def collect_garbage(self, options: GarbageOptions, call: Call) -> dict[str, Any]:
        deleted, held = await self._delete_deprecated(options, call) if options.deprecated else ([], 0)
        keep = unlisted(self._layout, self._store.state.releases())
        written_before = self._clock() - options.unnamed_s
        removed = await asyncio.to_thread(
            self._layout.collect_garbage, keep=keep, written_before=written_before, dry_run=options.dry_run
        )
        return {
            "deleted": deleted[:LABELS_TOLD_MAX],
            "deprecated_and_held": held,
            "blobs": removed.blobs,
            "bytes": removed.size,
            "dry_run": options.dry_run,
        }

    async def _delete_deprecated(self, options: GarbageOptions, call: Call) -> tuple[list[str], int]:
        """The labels of the deprecated releases that went, or in a dry run would; and how many are held."""
        candidates = [release for release in self._store.state.releases() if release.deprecated is not None]
        if not candidates:
            return [], 0
        found: set[str] = set(retention.held(self._store.state, now=self._clock()))
        async for _, report in self._reports():
            found.update(retention.running(report.actual))
        free = [release for release in candidates if not found & {release.digest, release.record.label}]
        deleted = []
        for number, release in enumerate(free):
            record = release.record
            call.progress("delete deprecated releases", number, len(free), "releases")
            if not options.dry_run:
                try:  # what was assigned or loaded meanwhile stays
                    async with self._turns.of(model_repository(record.name)):
                        await to_the_end(
                            self.delete_in_turn(record.name, record.version, by=call.caller.name, drops=False)
                        )
                except ReleaseHeld:
                    continue
            deleted.append(record.label)
        return deleted, len(candidates) - len(deleted)

    # --- who holds a release ------------------------------------------------------------------------------------

    def _holders(self, release: Release) -> tuple[Holder, ...]:
        state = self._store.state
        reports = self._store.reports.mentioning(release.digest, release.record.label)
        known = ((state.entry(report.edge), report) for report in reports)
        named = [(entry.member.name, report.actual) for entry, report in known if entry is not None]
        return retention.holders(state, release, now=self._clock(), reports=named)

    async def _reports(self) -> AsyncIterator[tuple[str, Report]]:
        """The last report of every registered edge, with the edge's name."""
        after = ""
        while page := self._store.reports.page(after, limit=REPORTS_PER_PAGE):
            for report in page:
                entry = self._store.state.entry(report.edge)
                if entry is not None:
                    yield entry.member.name, report
            after = page[-1].edge
            await asyncio.sleep(0)


def _publication(release: Release) -> dict[str, Any]:
    return {"published": moment(release.time), "by": release.by, "deprecated": release.deprecated}


def unlist(layout: ImageLayout, record: ReleaseRecord, *, written_before: float) -> None:
    """Take a deleted release out of a repository, under every record that was attached to its manifest."""
    for installed in layout.releases():
        if installed.label == record.label:
            layout.remove(installed, written_before=written_before)


def unlisted(layout: ImageLayout, releases: tuple[Release, ...]) -> set[Digest]:
    """What is to be kept of releases that the log has and the repository does not list: a part of them was lost, and
    who publishes them again sends only the rest.
    """
    listed: set[Digest] = {installed.record_digest for installed in layout.releases()}
    records = [release.record for release in releases if release.digest not in listed]
    return {digest for record in records for digest in (record.manifest, *(entry.digest for entry in record.files))}
