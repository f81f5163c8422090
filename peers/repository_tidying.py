"""Before a nameserver serves anybody: its repository is made to list what the log has, and nothing that it has not.

Owns what is done about a kill between the log and the repository. A release that was published and is not listed is
listed, if its files are all here; one that was deleted and is listed still leaves; what nothing names goes. Decides
nothing anew: the log did. Refuses to guess: what a damaged repository lacks stays, and the log of the process says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from federation.entries import Release
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import Digest
from federation.published import PublishedReleases
from peers.registry_uploads import RegistryLimits
from query.errors import Problem, UnknownName

log = logging.getLogger("peerage.nameserver")


def tidy_repository(layout: ImageLayout, published: PublishedReleases, *, now: float) -> None:
    """A release whose files are not all here stays unlisted until it is published again; what is left of it is kept."""
    try:
        lacking = [release for release in published.all() if layout.find_record(release.digest) is None]
        for installed in deleted_but_listed(layout, published.deleted):
            layout.remove(installed)
            log.warning("deletion_repaired", extra={"release": installed.label})
    except Problem as problem:
        log.error("repository_damaged", extra={"reason": problem.message})  # noqa: TRY400 — the reason says it all
        return
    keep: set[Digest] = set()
    for release in lacking:
        record = release.record
        missing = listed(layout, release)
        if missing is None:
            log.warning("release_repaired", extra={"release": record.label})
        else:
            keep |= {record.manifest, *(entry.digest for entry in record.files)}
            log.error("release_incomplete", extra={"release": record.label, "reason": missing.message})
    try:
        removed = layout.collect_garbage(keep=keep, written_before=now - RegistryLimits().upload_life_s)
    except Problem as problem:
        log.warning("garbage_kept", extra={"reason": problem.message})
    else:
        if removed.blobs:
            log.info("garbage_removed", extra={"blobs": removed.blobs, "bytes": removed.size})


def listed(layout: ImageLayout, release: Release) -> Problem | None:
    """List a release that the log has, or say what is in the way."""
    record = release.record
    sizes = {record.manifest: record.manifest_size, **{entry.digest: entry.size for entry in record.files}}
    for digest, size in sizes.items():
        if layout.blobs.size(digest) != size:
            return UnknownName(f"{digest} of {size} bytes is not here: publish the release again from where it is")
    try:
        layout.attach(release.document)
    except Problem as problem:
        return problem
    return None


def deleted_but_listed(layout: ImageLayout, deleted: Callable[[str, str], Digest | None]) -> list[InstalledRelease]:
    """The releases that are listed and that the log has deleted."""
    return [
        installed for installed in layout.releases() if deleted(installed.name, installed.version) == installed.manifest
    ]
