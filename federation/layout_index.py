"""What ``index.json`` of a layout says: which manifests are listed, under which repository, tag and release.

Pure: entries in, entries out. An entry's annotations carry what OCI has no field for:

    peerage.repository    the repository; a tag is ``org.opencontainers.image.ref.name`` = ``repository:tag``
    peerage.subject       the manifest that this one is attached to
    peerage.release       of an attached release record: ``name@version``
    peerage.record        of an attached release record: the digest of its payload

Rules: a manifest stands once in its repository; a tag is on one manifest alone; a tag that names a release with a
record attached never moves, any other may.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET

from federation.manifests import REF_NAME, Descriptor
from federation.names import Digest
from query.errors import UserProblem

REPOSITORY: Final = "peerage.repository"
SUBJECT: Final = "peerage.subject"
RELEASE: Final = "peerage.release"
RECORD: Final = "peerage.record"
DEVELOPMENT: Final = "development/"
DEVELOPMENT_RELEASES_MAX: Final = 16  # of one model; the oldest go first


class VersionTaken(UserProblem):
    """A version was made or published before, with other content."""

    code = "version_taken"


@dataclass(frozen=True, slots=True)
class InstalledRelease:
    """What the listing says of a release; nothing of it is verified."""

    label: str
    repository: str
    manifest: Digest
    record_digest: Digest
    attachment: Digest

    @property
    def name(self) -> str:
        return self.label.partition("@")[0]

    @property
    def version(self) -> str:
        return self.label.partition("@")[2]

    @property
    def development(self) -> bool:
        return self.repository.startswith(DEVELOPMENT)


@dataclass(frozen=True, slots=True)
class LayoutContents:
    """``index.json``, read, with the ways it is asked. Entries keep the order in which they were put."""

    entries: tuple[Descriptor, ...] = ()
    by_name: dict[str, Descriptor] = field(default_factory=dict)  # "repository:tag" and "repository@digest"
    releases: dict[Digest, InstalledRelease] = field(default_factory=dict)  # by record digest

    @staticmethod
    def of(entries: Iterable[Descriptor]) -> LayoutContents:
        contents = LayoutContents(tuple(entries))
        for entry in contents.entries:
            told = annotations_of(entry)
            repository = told.get(REPOSITORY, "")
            contents.by_name[f"{repository}@{entry.digest}"] = entry
            if REF_NAME in told:
                contents.by_name[told[REF_NAME]] = entry
            if RECORD in told:
                installed = InstalledRelease(
                    label=told[RELEASE],
                    repository=repository,
                    manifest=Digest(told[SUBJECT]),
                    record_digest=Digest(told[RECORD]),
                    attachment=Digest(entry.digest),
                )
                contents.releases[installed.record_digest] = installed
        return contents


def annotations_of(entry: Descriptor) -> dict[str, str]:
    return {} if entry.annotations is UNSET else entry.annotations


def with_entry(contents: LayoutContents, entry: Descriptor) -> list[Descriptor]:
    """The entries after one was put: once by digest in its repository, its tag on it alone."""
    told = annotations_of(entry)
    repository, name = told[REPOSITORY], told.get(REF_NAME)
    before = contents.by_name.get(name) if name is not None else None
    if before is not None and before.digest != entry.digest:
        released = {release.manifest for release in contents.releases.values() if release.repository == repository}
        if before.digest in released:
            raise taken(name or "", Digest(before.digest), Digest(entry.digest))
    known = contents.by_name.get(f"{repository}@{entry.digest}")
    if name is None and known is not None:
        return list(contents.entries)
    # A manifest has one tag here: a release has one version. Pushed again under another, it stands twice.
    entries = [other for other in contents.entries if other is not before]
    if known is not None and REF_NAME not in annotations_of(known):
        entries = [other for other in entries if other is not known]
    entries.append(entry)
    return _bounded(entries, repository) if repository.startswith(DEVELOPMENT) else entries


def _bounded(entries: list[Descriptor], repository: str) -> list[Descriptor]:
    """Without the oldest development releases of one model: two manifests each, the release and its record."""
    mine = [entry for entry in entries if annotations_of(entry).get(REPOSITORY) == repository]
    gone = {entry.digest for entry in mine[: max(0, len(mine) - 2 * DEVELOPMENT_RELEASES_MAX)]}
    return [e for e in entries if e.digest not in gone or annotations_of(e).get(REPOSITORY) != repository]


def taken(label: str, known: Digest, found: Digest) -> VersionTaken:
    return VersionTaken(
        f"{label} exists already with other content: expected {known}, found {found}",
        hint="a version is made once; choose another",
    )
