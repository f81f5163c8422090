"""Snapshots of a nameserver: what a backup folder says of itself. Pure; reading and writing is the shell's.

    peerage-backup.json             {"federation": …, "version": 1}: whose backups these are
    blobs/sha256/<hex>              contents of the repository, each once for all snapshots
    snapshots/<time>/               20260131T235959Z, when its log was read
      state.db index.json home/…    the log with its tables, the repository's list, the home's small files
      manifest.json                 :class:`Snapshot`: all of these files and every blob, by digest and size
      manifest.sha256               the manifest's own digest, as ``sha256sum --check`` reads it
    snapshots/.unfinished/          a snapshot on its way; never read, begun anew by the next backup
    staging/                        contents on their way, taken up again by the next backup

Rules: a snapshot is finished when its folder has the name of a time, which is the last thing that happens to it; a
backup folder holds the snapshots of one federation. Names of files in a manifest are those that a home may have, so
that no manifest leads elsewhere. Digests find damage, not malice: who may write the folder may write another snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct

from federation.layout_index import LayoutContents
from federation.manifests import INDEX_TYPE, MANIFEST_TYPE, read_index, read_manifest
from federation.names import Digest, checked_digest, digest_of
from federation.published import PublishedReleases
from query.errors import UserProblem, unknown

FORMAT_VERSION: Final = 1
MANIFEST_BYTES_MAX: Final = 256 * 1024 * 1024
HOME_FILES_MAX: Final = 256
STATE_FILE: Final = "state.db"
INDEX_FILE: Final = "index.json"
HOME_FOLDER: Final = "home"

_LIST: Final = "peerage backup --list DIR shows them"
_TIME: Final = re.compile(r"\d{8}T\d{6}Z(-\d{1,4})?")
_HOME_FILE: Final = re.compile(r"home/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class BadBackup(UserProblem):
    """A backup folder, or a snapshot in it, that is damaged or something else."""

    code = "bad_backup"


class BackupFolder(Struct, frozen=True, forbid_unknown_fields=True):
    """``peerage-backup.json``."""

    federation: str
    version: int = FORMAT_VERSION


class StoredFile(Struct, frozen=True):
    digest: Digest
    size: int


class Lacking(Struct, frozen=True):
    """Something the repository lists but does not have whole; ``what`` is a digest or a file, ``release`` a label or
    empty.
    """

    what: str
    reason: str
    release: str = ""


class Snapshot(Struct, frozen=True, kw_only=True):
    """A manifest. ``keys``: the ids of the private keys that a restored home needs; ``with_keys``: they are in it."""

    federation: str
    nameserver: str
    taken: float
    epoch: int
    seq: int
    edges: int
    releases: int
    with_keys: bool
    keys: Mapping[str, str]
    files: Mapping[str, StoredFile]
    blobs: Mapping[Digest, int]
    lacking: tuple[Lacking, ...] = ()
    version: int = FORMAT_VERSION

    @property
    def bytes(self) -> int:
        return sum(self.blobs.values()) + sum(file.size for file in self.files.values())


# --- names ----------------------------------------------------------------------------------------------------------


def snapshot_name(taken: float, *, others: Iterable[str] = ()) -> str:
    """The name of a snapshot of that second, unlike ``others``; names sort by time."""
    name = datetime.fromtimestamp(int(taken), UTC).strftime("%Y%m%dT%H%M%SZ")
    known = set(others)
    further = (f"{name}-{number:04}" for number in range(1, 10_000))
    return name if name not in known else next(candidate for candidate in further if candidate not in known)


def is_home_file(name: str) -> bool:
    """Whether a snapshot may hold a file of the home under its name."""
    return _HOME_FILE.fullmatch(f"{HOME_FOLDER}/{name}") is not None


def is_snapshot_name(name: str) -> bool:
    return _TIME.fullmatch(name) is not None


def chosen_snapshot(names: Sequence[str], wanted: str | None) -> str:
    """The newest of ``names``, or the only one that begins with ``wanted``."""
    if not names:
        raise BadBackup("the backup folder holds no finished snapshot", hint='take one with "peerage backup"')
    if wanted is None:
        return max(names)
    if wanted in names:
        return wanted
    fitting = [name for name in names if name.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise BadBackup(
            f'"{wanted[:40]}" is the beginning of {len(fitting)} snapshots: expected one of them', hint=_LIST
        )
    problem = unknown("snapshot", wanted[:40], names)
    problem.hint = _LIST
    raise problem


def superfluous(names: Sequence[str], *, keep: int, with_keys: Iterable[str] = ()) -> tuple[str, ...]:
    """The snapshots to remove so that the newest ``keep`` stay, the oldest first.

    Of those ``with_keys`` the newest stays in any case: without it a folder could restore nothing by itself.
    """
    last_with_keys = max(with_keys, default=None)
    return tuple(name for name in sorted(names)[: max(0, len(names) - keep)] if name != last_with_keys)


# --- manifests ------------------------------------------------------------------------------------------------------


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return msgspec.json.format(msgspec.json.encode(snapshot, order="deterministic"), indent=1) + b"\n"


def manifest_line(raw: bytes) -> bytes:
    """``manifest.sha256``."""
    return f"{digest_of(raw).removeprefix('sha256:')}  manifest.json\n".encode("ascii")


def read_snapshot(raw: bytes, line: bytes, *, where: str) -> Snapshot:
    """A manifest that is what was written. Raises :class:`BadBackup` with the name of what is wrong."""
    if line != manifest_line(raw):
        raise BadBackup(
            f"{where} is damaged: its manifest is not the one that was written", hint="use another snapshot"
        )
    try:
        snapshot = msgspec.json.decode(raw, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise BadBackup(f"{where} has a manifest of another version: {error}") from error
    if snapshot.version != FORMAT_VERSION:
        raise BadBackup(f"{where} has a manifest of version {snapshot.version}: expected {FORMAT_VERSION}")
    if len(snapshot.files) > HOME_FILES_MAX + 2:
        raise BadBackup(f"{where} names {len(snapshot.files)} files: expected at most {HOME_FILES_MAX + 2}")
    for name in snapshot.files:
        if name not in (STATE_FILE, INDEX_FILE) and not _HOME_FILE.fullmatch(name):
            raise BadBackup(f"{where} names a file {name[:100]!r} that no snapshot has")
    if STATE_FILE not in snapshot.files:
        raise BadBackup(f"{where} has no {STATE_FILE}")
    for digest in (*snapshot.blobs, *(file.digest for file in snapshot.files.values())):
        checked_digest(digest)
    return snapshot


# --- what a repository needs ----------------------------------------------------------------------------------------


class Wanted:
    """Every blob that a snapshot must have, from the log's releases and the repository's list, found by reading one
    manifest after another: :meth:`next_manifest` tells what to look into, :meth:`read` takes what is in it.
    """

    def __init__(self, releases: PublishedReleases, contents: LayoutContents) -> None:
        self.blobs: dict[Digest, str] = {}
        self._needed: set[Digest] = set()
        self._left: list[tuple[Digest, str]] = []
        for release in releases.all():
            label = release.record.label
            self._want(release.record.manifest, MANIFEST_TYPE, label, needed=True)
            for entry in release.record.files:
                self._want(entry.digest, "", label, needed=True)
        for listed in contents.entries:
            self._want(Digest(listed.digest), listed.media_type, "", needed=True)

    def next_manifest(self) -> tuple[Digest, str] | None:
        """A manifest or an index that was not read yet, with its type."""
        return self._left.pop() if self._left else None

    def read(self, digest: Digest, media_type: str, raw: bytes) -> None:
        """Want what a manifest names. Raises :class:`~federation.manifests.BadManifest`."""
        label, needed = self.blobs[digest], digest in self._needed
        if media_type == INDEX_TYPE:
            for part in read_index(raw).manifests:
                self._want(Digest(part.digest), part.media_type, label, needed=False)
            return
        manifest = read_manifest(raw)
        for part in (manifest.config, *manifest.layers):
            self._want(Digest(part.digest), "", label, needed=needed)
        if manifest.subject is not msgspec.UNSET:
            self._want(Digest(manifest.subject.digest), manifest.subject.media_type, "", needed=False)

    def needed(self, digest: Digest) -> bool:
        """False for what is only spoken of: an index or an attachment may name what was never pushed."""
        return digest in self._needed

    def _want(self, digest: Digest, media_type: str, label: str, *, needed: bool) -> None:
        if needed:
            self._needed.add(digest)
        known = self.blobs.get(digest)
        self.blobs[digest] = known or label
        if known is None and media_type in (MANIFEST_TYPE, INDEX_TYPE):
            self._left.append((digest, media_type))


def unnamed(present: Iterable[Digest], snapshots: Iterable[Snapshot]) -> set[Digest]:
    """The blobs of a backup folder that none of its snapshots needs."""
    found = set(present)
    for snapshot in snapshots:
        found -= snapshot.blobs.keys()
    return found
