"""What callers may change about published releases: state and arguments in, events out; by the rules of
:mod:`federation.commands`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

from federation.commands import NotAllowed
from federation.documents import KeyId, ReleaseRecord, SignedDocument
from federation.entries import published
from federation.errors import RemovedPeer
from federation.events import Change, Event, ReleaseDeleted, ReleaseDeprecated, ReleasePublished
from federation.names import fold
from federation.needs import check_needs
from federation.published import PublishedReleases
from federation.record_shape import check_kind
from federation.retention import Holder, check_free
from federation.revocation import check_assignable, check_new
from federation.state import FederationState
from query.errors import LimitExceeded, WrongArguments

RELEASES_MAX: Final = 100_000
REASON_LENGTH_MAX: Final = 500


def publish_release(
    state: FederationState, document: SignedDocument, *, releases_max: int = RELEASES_MAX
) -> tuple[Event, ...]:
    """Take up a signed release. The same files under the same name and version once more change nothing, and bring
    back a version that was deleted.

    Raises :class:`VersionTaken`, naming both digests, for a version that exists or was deleted with other bytes, and
    the classes of :func:`federation.verification.verify_record` for a record that no endorsed publisher signed.
    """
    from federation.layout_index import taken
    from federation.verification import verify_record

    record: ReleaseRecord = verify_record(document, state.root)
    if record.development:
        raise NotAllowed(f"{record.label} is a development release: it is loaded where it was made, not published")
    known = state.release(record.name, record.version)
    if known is not None and known.record.manifest == record.manifest:
        check_assignable(known.document, state.root, record.label)
        return ()
    if record.needs.releases:
        check_needs(record.name, record.needs.releases)
    check_kind(record, (release.record for release in state.published.versions(record.name)))
    _check_publisher(state, check_new(document, state.root, record.label), record.label)
    deleted = state.published.deleted(record.name, record.version)
    manifest = known.record.manifest if known else deleted
    if manifest is not None and manifest != record.manifest:
        raise taken(record.label, manifest, record.manifest)
    if deleted is None and len(state.published) + state.published.deleted_count >= releases_max:
        raise LimitExceeded(f"the federation has or had {releases_max} releases, the most it can have")
    return (ReleasePublished(document),)


def _check_publisher(state: FederationState, keyid: KeyId, label: str) -> None:
    """Who was removed publishes nothing, whoever brings it. Raises :class:`~federation.errors.RemovedPeer`."""
    trusted = state.root.publishers[keyid]
    publishers = [member for member in state.members(removed=True) if member.publisher]
    by_key = (member for member in publishers if member.publisher_key == trusted.key)
    by_name = (member for member in reversed(publishers) if fold(member.name) == fold(trusted.name))
    # Who has the key, else who has the name that it is endorsed under, else who had it last.
    owner = next(by_key, None) or state.member_named(trusted.name) or next(by_name, None)
    if owner is not None and owner.removed:
        raise RemovedPeer(
            f'publisher "{owner.name}", who signed {label}, was removed from the federation',
            hint="its earlier releases stay good until its key is revoked: peerage keys revoke",
        )


def as_if(state: FederationState, events: Sequence[Event]) -> FederationState:
    """The state with releases that are about to be published, to decide on and nothing else: it shares the rest."""
    view = copy.copy(state)
    view.published = PublishedReleases(state.published.all())
    for event in events:
        if isinstance(event, ReleasePublished):
            view.published.put(published(Change(state.seq + 1, 0.0, "", event), event))
    return view


def deprecate_release(state: FederationState, name: str, version: str, reason: str | None) -> tuple[Event, ...]:
    """Note that a release should not be chosen any more, and why; None takes that back."""
    release = state.find_release(name, version)
    if reason is not None and not 1 <= len(reason) <= REASON_LENGTH_MAX:
        raise WrongArguments(f"a reason has 1 to {REASON_LENGTH_MAX} characters, found {len(reason)}")
    return () if release.deprecated == reason else (ReleaseDeprecated(name, version, reason),)


def delete_release(
    state: FederationState, name: str, version: str, *, holders: tuple[Holder, ...]
) -> tuple[Event, ...]:
    """Forget a release but for its version, which stays taken by the same bytes.

    ``holders`` are those of :func:`federation.retention.holders`. Raises :class:`ReleaseHeld`, naming them.
    """
    release = state.find_release(name, version)
    check_free(release.record.label, holders)
    return (ReleaseDeleted(name, version, release.record.manifest),)
