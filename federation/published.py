"""The releases that a federation has, by name and version; a part of the nameserver's state.

Changed only by :class:`~federation.state.FederationState`. Rules: a version names one content for ever, also after it
was deleted: of a deleted one the digest of its manifest stays.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from federation.entries import Assignment, Release
from federation.events import PinnedRelease, ReleaseDeleted, ReleaseDeprecated
from federation.names import Digest
from query.errors import UnknownName, nearest, unknown


class PublishedReleases:
    """In the order of publishing."""

    def __init__(self, releases: Iterable[Release] = (), deleted: Iterable[tuple[str, str, Digest]] = ()) -> None:
        self._releases: dict[str, dict[str, Release]] = {}
        self._deleted: dict[tuple[str, str], Digest] = {(name, version): digest for name, version, digest in deleted}
        for release in releases:
            self.put(release)

    def get(self, name: str, version: str) -> Release | None:
        return self._releases.get(name, {}).get(version)

    def find(self, name: str, version: str) -> Release:
        """Raises :class:`UnknownName` that says whether the model or only the version is missing."""
        versions = self._releases.get(name)
        if not versions:
            raise unknown("model", name, self._releases, hint=_publish(name, version))
        release = versions.get(version)
        if release is None:
            close = nearest(version, versions) or next(reversed(versions))
            raise UnknownName(
                f'no version "{version}" of model "{name}" — did you mean "{close}"?',
                hint=_publish(name, version),
            )
        return release

    def versions(self, name: str) -> tuple[Release, ...]:
        """Every version of a model; nothing for a model that is not here."""
        return tuple(self._releases.get(name, {}).values())

    def all(self) -> tuple[Release, ...]:
        """By name and then in the order of publishing."""
        return tuple(release for name in sorted(self._releases) for release in self._releases[name].values())

    def __len__(self) -> int:
        return sum(len(versions) for versions in self._releases.values())

    def deleted(self, name: str, version: str) -> Digest | None:
        """The manifest of a version that was deleted and is not back."""
        return self._deleted.get((name, version))

    @property
    def deleted_count(self) -> int:
        return len(self._deleted)

    # --- changes, by the state alone -----------------------------------------------------------------------------

    def put(self, release: Release) -> None:
        self._releases.setdefault(release.record.name, {})[release.record.version] = release
        self._deleted.pop((release.record.name, release.record.version), None)

    def deprecate(self, event: ReleaseDeprecated) -> None:
        versions = self._releases[event.name]
        versions[event.version] = msgspec.structs.replace(versions[event.version], deprecated=event.reason)

    def let_go(self, assignment: Assignment, time: float) -> None:
        """An assignment ended: until then, desired states named its release and those that it needs."""
        ended: tuple[Assignment | PinnedRelease, ...] = (assignment, *assignment.needs)
        for named in ended:
            versions = self._releases.get(named.name, {})
            release = versions.get(named.version)
            if release is not None and release.digest == named.record:
                until = max(release.named_until or 0.0, time)
                versions[named.version] = msgspec.structs.replace(release, named_until=until)

    def delete(self, event: ReleaseDeleted) -> None:
        versions = self._releases[event.name]
        del versions[event.version]
        if not versions:
            del self._releases[event.name]
        self._deleted[event.name, event.version] = event.manifest


def _publish(name: str, version: str) -> str:
    return f'publish it first: models:publish("{name}", "{version}"), from the home that made it'
