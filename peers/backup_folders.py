"""Backup folders on disk: which snapshots one holds, whether they are whole, and which go when only some are kept.

Owns the folder in the form of :mod:`federation.snapshots`. Refuses a folder that holds other things, backups of another
federation, and two commands that write to it at once. Rules: private, 0700; a snapshot gets its name when it is whole
and loses it before anything of it is removed; a blob is removed when no snapshot names it, and never while one cannot
be read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

from federation.blobs import READ_BYTES, BlobStore, StorageFailed, storing, sync_folder
from federation.names import Digest
from federation.snapshots import (
    FORMAT_VERSION,
    MANIFEST_BYTES_MAX,
    BackupFolder,
    BadBackup,
    Snapshot,
    chosen_snapshot,
    is_snapshot_name,
    read_snapshot,
    superfluous,
    unnamed,
)
from peers.failpoints import reach
from peers.homes import write_whole
from query.errors import PeerProblem

FOLDER_FILE: Final = "peerage-backup.json"
SNAPSHOTS: Final = "snapshots"
UNFINISHED: Final = ".unfinished"
REMOVED: Final = ".removed"
LOCK: Final = ".lock"
MANIFEST: Final = "manifest.json"
MANIFEST_DIGEST: Final = "manifest.sha256"
_FOLDER_BYTES_MAX: Final = 64 * 1024
_OWN: Final = frozenset({FOLDER_FILE, SNAPSHOTS, "blobs", "staging", LOCK, "lost+found"})

Told = Callable[[str], None]


class BackupInUse(PeerProblem):
    """Another command works in the same backup folder."""

    code = "backup_in_use"


class Backups:
    """An existing backup folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snapshots_path = path / SNAPSHOTS
        self.federation = _read_folder(path).federation

    @cached_property
    def blobs(self) -> BlobStore:
        """For who writes; a folder on a disk that takes none can still be read."""
        return BlobStore(self.path)

    def blob(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def names(self) -> tuple[str, ...]:
        """The finished snapshots, the oldest first."""
        try:
            found = [entry.name for entry in self.snapshots_path.iterdir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StorageFailed(f"cannot read {self.snapshots_path}: {error.strerror}") from error
        return tuple(sorted(name for name in found if is_snapshot_name(name)))

    def choose(self, wanted: str | None) -> str:
        return chosen_snapshot(self.names(), wanted)

    def read(self, name: str) -> Snapshot:
        """What a snapshot says of itself. Raises :class:`BadBackup`."""
        folder = self.snapshots_path / name
        try:
            with (folder / MANIFEST).open("rb") as file:
                raw = file.read(MANIFEST_BYTES_MAX + 1)
            line = (folder / MANIFEST_DIGEST).read_bytes()
        except OSError as error:
            raise BadBackup(f"snapshot {name} in {self.path} cannot be read: {error.strerror}") from error
        if len(raw) > MANIFEST_BYTES_MAX:
            raise BadBackup(f"snapshot {name} has a manifest of more than {MANIFEST_BYTES_MAX} bytes")
        snapshot = read_snapshot(raw, line, where=f"snapshot {name}")
        if snapshot.federation != self.federation:
            raise BadBackup(f"snapshot {name} is of federation {snapshot.federation}: expected {self.federation}")
        return snapshot

    def damage(self, name: str, snapshot: Snapshot, *, seen: set[Digest]) -> Iterator[str]:
        """What is missing or altered in a snapshot, from hashing all of it; ``seen`` blobs are not hashed again."""
        for file, stored in snapshot.files.items():
            path = self.snapshots_path / name / file
            if (found := digest_of_file(path)) != stored.digest:
                yield f"{name}/{file} {_told(found)}"
        for digest in sorted(snapshot.blobs):
            if digest in seen:
                continue
            found = digest_of_file(self.blob(digest))
            if found == digest:
                seen.add(digest)
            else:
                yield f"{digest} {_told(found)}"

    def keep_only(self, count: int) -> tuple[str, ...]:
        """Remove all but the newest snapshots and the newest with keys, and the blobs that none of these needs.

        Under :meth:`occupy`.
        """
        found = {name: self.read(name) for name in self.names()}
        with_keys = [name for name, snapshot in found.items() if snapshot.with_keys]
        gone = superfluous(tuple(found), keep=count, with_keys=with_keys)
        kept = [snapshot for name, snapshot in found.items() if name not in gone]
        self.sweep()
        for name in gone:
            with storing(self.snapshots_path):
                (self.snapshots_path / name).rename(self.snapshots_path / REMOVED)
                sync_folder(self.snapshots_path)
            reach("backup.forgotten")
            self.sweep()
        with storing(self.path):
            for digest in unnamed(self.blobs.digests(), kept):
                self.blobs.remove(digest)
        return gone

    def sweep(self) -> None:
        """Remove what a command left that was killed. Under :meth:`occupy`."""
        for name in (UNFINISHED, REMOVED):
            with storing(self.snapshots_path):
                if (self.snapshots_path / name).exists():
                    shutil.rmtree(self.snapshots_path / name)

    @contextmanager
    def occupy(self) -> Iterator[None]:
        """Be the only one who works with the folder. Raises :class:`BackupInUse`."""
        with storing(self.path):
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._locked(handle, fcntl.LOCK_EX):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Nobody writes to the folder meanwhile; nothing is asked of a disk that takes no lock, where nobody can."""
        handle = None
        with suppress(OSError):
            handle = os.open(self.path / LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if handle is None:
            yield
        else:
            with self._locked(handle, fcntl.LOCK_SH):
                yield

    @contextmanager
    def _locked(self, handle: int, how: int) -> Iterator[None]:
        try:
            try:
                fcntl.flock(handle, how | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupInUse(
                    f"another command works in the backup folder {self.path}", hint="wait until it is done"
                ) from None
            yield
        finally:
            os.close(handle)


def prepared(path: Path, federation: str) -> Backups:
    """The backup folder of a federation, made when there is none. Raises :class:`BadBackup` for any other folder."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        present = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise BadBackup(f"cannot use {path} as a backup folder: {error.strerror}") from error
    if FOLDER_FILE not in present:
        strange = sorted(name for name in present - _OWN if not name.startswith(f".{FOLDER_FILE}"))
        if strange or present & {"blobs", "staging"}:
            raise BadBackup(
                f"{path} holds other things than backups, as {(strange or sorted(present))[0][:80]}: "
                "expected an empty folder or a new name"
            )
        with storing(path):
            path.chmod(0o700)
        write_whole(path / FOLDER_FILE, msgspec.json.encode(BackupFolder(federation)) + b"\n")
    found = _read_folder(path).federation
    if found != federation:
        raise BadBackup(f"{path} holds backups of federation {found}: expected {federation}", hint="use another folder")
    with storing(path):
        (path / SNAPSHOTS).mkdir(mode=0o700, exist_ok=True)
    return Backups(path)


def digest_of_file(path: Path) -> Digest | None:
    """The digest of a file's bytes; None when it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                found.update(chunk)
    except OSError:
        return None
    return Digest(f"sha256:{found.hexdigest()}")


def _told(found: Digest | None) -> str:
    return "is missing" if found is None else "is damaged"


def _read_folder(path: Path) -> BackupFolder:
    try:
        with (path / FOLDER_FILE).open("rb") as file:
            folder = msgspec.json.decode(file.read(_FOLDER_BYTES_MAX), type=BackupFolder)
    except (FileNotFoundError, NotADirectoryError):
        raise BadBackup(
            f"{path} is no backup folder: expected {FOLDER_FILE} in it", hint='make one with "peerage backup"'
        ) from None
    except OSError as error:
        raise BadBackup(f"cannot read {path / FOLDER_FILE}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise BadBackup(f"{path / FOLDER_FILE} is damaged: {error}") from error
    if folder.version != FORMAT_VERSION:
        raise BadBackup(f"{path} has version {folder.version} of backups: expected {FORMAT_VERSION}")
    return folder
