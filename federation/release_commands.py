"""What callers may change about published releases: state and arguments in, events out; by the rules of
:mod:`federation.commands`.
"""

from __future__ import annotations

from typing import Final

from federation.commands import NotAllowed
from federation.documents import ReleaseRecord, SignedDocument
from federation.events import Event, ReleasePublished
from federation.state import FederationState
from query.errors import LimitExceeded

RELEASES_MAX: Final = 100_000


def publish_release(
    state: FederationState, document: SignedDocument, *, releases_max: int = RELEASES_MAX
) -> tuple[Event, ...]:
    """Take up a signed release. The same files under the same name and version once more change nothing.

    Raises :class:`VersionTaken`, naming both digests, for a version that exists with other bytes, and the classes of
    :func:`federation.verification.verify_record` for a record that no endorsed publisher signed.
    """
    from federation.layout_index import taken
    from federation.verification import verify_record

    record: ReleaseRecord = verify_record(document, state.root)
    if record.development:
        raise NotAllowed(f"{record.label} is a development release: it is loaded where it was made, not published")
    known = state.release(record.name, record.version)
    if known is not None and known.record.manifest == record.manifest:
        return ()
    manifest = known.record.manifest if known else state.published.deleted(record.name, record.version)
    if manifest not in (None, record.manifest):
        raise taken(record.label, manifest, record.manifest)
    if len(state.published) + state.published.deleted_count >= releases_max:
        raise LimitExceeded(f"the federation has or had {releases_max} releases, the most it can have")
    return (ReleasePublished(document),)
