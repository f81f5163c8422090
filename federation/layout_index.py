"""What ``index.json`` of a layout says: which manifests are listed, under which repository, tag and release.

Pure: entries in, entries out. An entry's annotations carry what OCI has no field for:

    peerage.repository    the repository; a tag is ``org.opencontainers.image.ref.name`` = ``repository:tag``
    peerage.subject       the manifest that this one is attached to
    peerage.release       of an attached release record: ``name@version``
    peerage.record        of an attached release record: the digest of its payload

Rules: a manifest stands once in its repository, and once more for each further tag; a tag is on one manifest alone; a
version's tag never moves once a record is attached, any other may. A record that is attached but has no
``peerage.record`` waits for its release's manifest, or says again what another says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import UNSET

from federation.manifests import REF_NAME, Descriptor
from federation.names import Digest
from query.errors import LimitExceeded, UserProblem

REPOSITORY: Final = "peerage.repository"
SUBJECT: Final = "peerage.subject"
RELEASE: Final = "peerage.release"
RECORD: Final = "peerage.record"
DEVELOPMENT: Final = "development/"
DEVELOPMENT_RELEASES_MAX: Final = 16  # of one model; the oldest go first
REPOSITORY_ENTRIES_MAX: Final = 4096  # manifests and further tags of one repository
ATTACHMENTS_MAX: Final = 128  # of one manifest


class VersionTaken(UserProblem):
    """A version was made or published before, with other content."""

    code = "version_taken"


class ContentNeeded(UserProblem):
    """Something that is listed needs what should go."""

    code = "content_needed"


class RepositoryFull(LimitExceeded):
    """More manifests in a repository, or attached to one, than it may have."""

    code = "repository_full"


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
    """The entries after one was put: once by digest in its repository, its tag on it alone.

    What is told of a manifest holds for all its entries and is never taken back. Raises :class:`VersionTaken` or
    :class:`RepositoryFull`.
    """
    told = annotations_of(entry)
    repository, name = told[REPOSITORY], told.get(REF_NAME)
    for release in contents.releases.values():
        if f"{release.repository}:{release.version}" == name and release.manifest != entry.digest:
            raise taken(name, release.manifest, Digest(entry.digest))
    known = contents.by_name.get(f"{repository}@{entry.digest}")
    facts = {**_facts(known), **_facts(entry)}
    entries = list(contents.entries)
    if known is None:
        _check_room(contents, repository, facts.get(SUBJECT))
    elif facts != _facts(known):
        entries = [_telling(other, facts) if _same(other, known) else other for other in entries]
    before = contents.by_name.get(name) if name is not None else known
    if known is not None and before is not None and before.digest == known.digest:
        return entries
    # A manifest has one tag here: a release has one version. Pushed again under another, it stands twice.
    entries = [
        other
        for other in entries
        if (name is None or annotations_of(other).get(REF_NAME) != name)
        and (known is None or REF_NAME in annotations_of(other) or not _same(other, known))
    ]
    if sum(annotations_of(other).get(REPOSITORY) == repository for other in entries) >= REPOSITORY_ENTRIES_MAX:
        raise RepositoryFull(f'"{repository}" has {REPOSITORY_ENTRIES_MAX} manifests and tags, the most it can have')
    entries.append(_telling(entry, facts))
    return _bounded(entries, repository) if repository.startswith(DEVELOPMENT) else entries


def _check_room(contents: LayoutContents, repository: str, subject: str | None) -> None:
    if subject is None:
        return
    beside = {
        other.digest
        for other in contents.entries
        if annotations_of(other).get(SUBJECT) == subject and annotations_of(other).get(REPOSITORY) == repository
    }
    if len(beside) >= ATTACHMENTS_MAX:
        raise RepositoryFull(f"{ATTACHMENTS_MAX} manifests are attached to {subject}, the most it can have")


def _facts(entry: Descriptor | None) -> dict[str, str]:
    """What an entry says of its manifest, under whichever tag."""
    told = {} if entry is None else annotations_of(entry)
    return {key: text for key, text in told.items() if key != REF_NAME}


def _telling(entry: Descriptor, told: dict[str, str]) -> Descriptor:
    tag = annotations_of(entry).get(REF_NAME)
    return msgspec.structs.replace(entry, annotations={**told, **({} if tag is None else {REF_NAME: tag})})


def _same(one: Descriptor, other: Descriptor) -> bool:
    """Whether two entries are of one manifest in one repository."""
    mine, theirs = annotations_of(one).get(REPOSITORY), annotations_of(other).get(REPOSITORY)
    return one.digest == other.digest and mine == theirs


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
