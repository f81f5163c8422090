"""Taking a snapshot of a nameserver's home while the nameserver runs, or after it stopped.

    hold blobs → home's files → log → home's files again → repository's list → blobs → manifest → name

Owns this order. Decides nothing about the folder's form (:mod:`federation.snapshots`) and never writes to the home but
for the locks of its store and repository.

Rules: blobs are held before the log is read and until the last is copied, and a release is in the log only once its
blobs are stored, so every release that the copied log has can be copied. The log is read by SQLite's backup from a
connection of its own, in one transaction: the nameserver goes on writing. Keys and log fit each other: when a file of
the home changed meanwhile, both are read again. Blobs are copied, never linked, and hashed on the way; what the
repository itself lacks is told and does not keep the rest from being saved. A kill at any point leaves finished
snapshots as they were, and what was copied for the next attempt.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from federation.blobs import READ_BYTES, BlobStore, StorageFailed, StorageFull, storing, sync_folder
from federation.documents import DOCUMENT_BYTES_MAX
from federation.errors import BadKeyFile, WrongHash, WrongSize
from federation.keys import PrivateKey
from federation.layout_index import LayoutContents
from federation.manifest_store import INDEX_BYTES_MAX
from federation.manifests import MANIFEST_BYTES_MAX, BadManifest, read_index
from federation.names import Digest, digest_of
from federation.snapshots import (
    HOME_FILES_MAX,
    HOME_FOLDER,
    INDEX_FILE,
    STATE_FILE,
    Lacking,
    Snapshot,
    StoredFile,
    Wanted,
    encode_snapshot,
    is_home_file,
    manifest_line,
    snapshot_name,
)
from federation.state import FederationState
from federation.store import FederationStore
from peers.backup_folders import MANIFEST, MANIFEST_DIGEST, UNFINISHED, Backups, digest_of_file, prepared
from peers.failpoints import reach
from peers.homes import BadHome, Home, Membership, write_whole
from query.errors import Problem, WorldProblem

LOG_PAGES: Final = 4096  # copied at once, between two moments at which a person may interrupt
RESERVE_BYTES: Final = 16 * 1024 * 1024
SETTLING_TRIES: Final = 5
OF_THE_PROCESS: Final = frozenset({"run.json", "token", "peer.sock", "lock"})
WAITING: Final = "waiting.db"  # statements that wait, which a restored nameserver does not ask again

Progress = Callable[[int, int], None]  # bytes copied, bytes to copy


class HomeChanging(WorldProblem):
    """Files of the home changed each time that the log was read."""

    code = "home_changing"


@dataclass(frozen=True, slots=True)
class Taken:
    """A finished snapshot. ``left_out``: what lies in the home and is not of a nameserver."""

    name: str
    snapshot: Snapshot
    blobs_copied: int
    bytes_copied: int
    left_out: tuple[str, ...]
    forgotten: tuple[str, ...]


def take_backup(
    home: Home,
    folder: Path,
    *,
    clock: Callable[[], float],
    with_keys: bool = True,
    keep: int | None = None,
    progress: Progress = lambda copied, total: None,
) -> Taken:
    """Add a snapshot of a nameserver's home to a backup folder, which is made when missing.

    Raises :class:`BadHome`, ``BadBackup``, ``BackupInUse``, :class:`~federation.blobs.StorageFull` and the store's;
    finished snapshots are as they were then.
    """
    membership = _nameserver(home, folder)
    backups = prepared(folder, membership.federation)
    with backups.occupy():
        backups.sweep()
        attempt = _Attempt(home, backups, membership, with_keys=with_keys, progress=progress)
        name, snapshot = attempt.take(clock)
        forgotten = backups.keep_only(keep) if keep is not None else ()
        return Taken(name, snapshot, attempt.blobs_copied, attempt.bytes_copied, attempt.left_out, forgotten)


class _Attempt:
    """One snapshot on its way."""

    def __init__(
        self, home: Home, backups: Backups, membership: Membership, *, with_keys: bool, progress: Progress
    ) -> None:
        self._home = home
        self._backups = backups
        self._membership = membership
        self._with_keys = with_keys
        self._progress = progress
        self._source = BlobStore(home.releases)
        self._folder = backups.snapshots_path / UNFINISHED
        self._lacking: list[Lacking] = []
        self.left_out: tuple[str, ...] = ()
        self.blobs_copied = 0
        self.bytes_copied = 0

    def take(self, clock: Callable[[], float]) -> tuple[str, Snapshot]:
        with storing(self._folder):
            (self._folder / HOME_FOLDER).mkdir(mode=0o700, parents=True)
        with self._source.keeping():
            files, taken = self._settled(clock)
            state = _state_of(self._folder / STATE_FILE)
            reach("backup.log_copied")
            contents = self._contents(files)
            blobs = self._copy_blobs(self._wanted(state, contents))
        keys = {name: key_in(content, name).keyid for name, content in files.items() if is_private(name)}
        snapshot = Snapshot(
            federation=self._membership.federation,
            nameserver=self._membership.name,
            taken=taken,
            epoch=state.epoch,
            seq=state.seq,
            edges=state.edge_count,
            releases=len(state.published),
            with_keys=self._with_keys,
            keys=keys,
            files=self._write_files(files),
            blobs=blobs,
            lacking=tuple(self._lacking),
        )
        return self._finish(snapshot), snapshot

    # --- the log and the home's files -----------------------------------------------------------------------------

    def _settled(self, clock: Callable[[], float]) -> tuple[dict[str, bytes], float]:
        """The home's files, and the log in its place, as they stood at one moment."""
        before = self._home_files()
        for _ in range(SETTLING_TRIES):
            taken = clock()
            copy_log(self._home.state_db, self._folder / STATE_FILE)
            after = self._home_files()
            if after == before:
                return after, taken
            before = after
        raise HomeChanging(
            f"the files of {self._home} changed {SETTLING_TRIES} times while its log was read", hint="try again"
        )

    def _home_files(self) -> dict[str, bytes]:
        """The small files of the home by name, but for those of the process that runs there."""
        files: dict[str, bytes] = {}
        left_out: list[str] = []
        try:
            entries = sorted(os.scandir(self._home.path), key=lambda entry: entry.name)
            for entry in entries:
                name = entry.name
                if (
                    name.startswith((".", STATE_FILE, WAITING))
                    or name in OF_THE_PROCESS
                    or name == self._home.releases.name
                ):
                    continue
                small = entry.is_file() and entry.stat().st_size <= DOCUMENT_BYTES_MAX and is_home_file(name)
                if small and len(files) < HOME_FILES_MAX:
                    files[name] = Path(entry.path).read_bytes()
                else:
                    left_out.append(name)
        except OSError as error:
            raise BadHome(f"cannot read {self._home}: {error.strerror}") from error
        self.left_out = tuple(left_out)
        return files

    def _write_files(self, files: Mapping[str, bytes]) -> dict[str, StoredFile]:
        """Put the files of the snapshot in its folder; what each is."""
        state_db = self._folder / STATE_FILE
        digest = digest_of_file(state_db)
        if digest is None:
            raise StorageFailed(f"cannot read {state_db} again")
        stored = {STATE_FILE: StoredFile(digest, state_db.stat().st_size)}
        for name, content in files.items():
            if name == INDEX_FILE or (is_private(name) and not self._with_keys):
                continue
            write_whole(self._folder / HOME_FOLDER / name, content)
            stored[f"{HOME_FOLDER}/{name}"] = StoredFile(digest_of(content), len(content))
        if INDEX_FILE in files:
            write_whole(self._folder / INDEX_FILE, files[INDEX_FILE])
            stored[INDEX_FILE] = StoredFile(digest_of(files[INDEX_FILE]), len(files[INDEX_FILE]))
        return stored

    # --- the repository -------------------------------------------------------------------------------------------

    def _contents(self, files: dict[str, bytes]) -> LayoutContents:
        """What the repository lists, and the list itself among the files; a damaged one is left out."""
        path = self._home.releases / INDEX_FILE
        files.pop(INDEX_FILE, None)  # the home itself has none
        try:
            raw = path.read_bytes()
            contents = LayoutContents.of(read_index(raw, bytes_max=INDEX_BYTES_MAX).manifests)
        except FileNotFoundError:
            return LayoutContents()
        except (OSError, BadManifest) as error:
            self._lacking.append(Lacking(str(path), f"the repository's list is damaged: {error}"[:300]))
            return LayoutContents()
        files[INDEX_FILE] = raw
        return contents

    def _wanted(self, state: FederationState, contents: LayoutContents) -> Wanted:
        wanted = Wanted(state.published, contents)
        while (manifest := wanted.next_manifest()) is not None:
            digest, media_type = manifest
            try:
                try:
                    raw = self._source.read(digest, bytes_max=MANIFEST_BYTES_MAX)
                except Problem:
                    raw = self._backups.blobs.read(digest, bytes_max=MANIFEST_BYTES_MAX)
                wanted.read(digest, media_type, raw)
            except Problem:
                continue  # told when it is copied: it cannot be
        return wanted

    def _copy_blobs(self, wanted: Wanted) -> dict[Digest, int]:
        """Have all blobs in the backup folder; their sizes."""
        blobs: dict[Digest, int] = {}
        missing: dict[Digest, int] = {}
        for digest in wanted.blobs:
            here, there = self._source.size(digest), self._backups.blobs.size(digest)
            if there is not None:
                blobs[digest] = there
            elif here is not None:
                missing[digest] = here
            elif wanted.needed(digest):
                self._lacks(wanted, digest, "is not here")
        total = sum(missing.values())
        self._check_room(total)
        self._progress(0, total)
        for digest, size in missing.items():
            reason = self._copied(digest, size, total)
            if reason is None:
                blobs[digest] = size
                self.blobs_copied += 1
                reach("backup.blob_copied")
            else:
                self._lacks(wanted, digest, reason)
        return blobs

    def _copied(self, digest: Digest, size: int, total: int) -> str | None:
        """Copy a blob, going on where an earlier attempt ended; why its source cannot be copied."""
        for _ in range(2):  # what an earlier attempt left may be what is wrong
            with self._backups.blobs.stage(digest, size=size) as staged:
                resumed = staged.resumed
                try:
                    with self._source.path(digest).open("rb") as source:
                        source.seek(staged.offset)
                        while chunk := source.read(READ_BYTES):
                            staged.write(chunk)
                            self.bytes_copied += len(chunk)
                            self._progress(self.bytes_copied, total)
                    staged.finish(digest)
                except (WrongHash, WrongSize):
                    staged.discard()
                    if resumed:
                        continue
                    return "is damaged"
                except OSError as error:
                    return f"cannot be read: {error.strerror}"
                return None
        return "is damaged"

    def _lacks(self, wanted: Wanted, digest: Digest, reason: str) -> None:
        self._lacking.append(Lacking(digest, reason, wanted.blobs[digest]))

    def _check_room(self, total: int) -> None:
        free = self._backups.blobs.free_bytes()
        if total + RESERVE_BYTES > free:
            raise StorageFull(
                f"the backup needs {total} bytes more in {self._backups.path}, and {RESERVE_BYTES} in reserve: "
                f"the disk has {free}",
                hint="free some disk space and give the same command again: what is copied stays",
            )

    # --- the end --------------------------------------------------------------------------------------------------

    def _finish(self, snapshot: Snapshot) -> str:
        raw = encode_snapshot(snapshot)
        write_whole(self._folder / MANIFEST, raw)
        write_whole(self._folder / MANIFEST_DIGEST, manifest_line(raw))
        reach("backup.written")
        name = snapshot_name(snapshot.taken, others=self._backups.names())
        with storing(self._folder):
            self._folder.rename(self._backups.snapshots_path / name)
            sync_folder(self._backups.snapshots_path)
        reach("backup.named")
        return name


def copy_log(source: Path, target: Path) -> None:
    """Copy a store's file as it is at one moment, whoever writes to it; durable on return."""
    target.unlink(missing_ok=True)
    with storing(target):
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        reading = sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)
        with closing(reading), closing(sqlite3.connect(target)) as writing:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on it stands still
            reading.backup(writing, pages=LOG_PAGES)
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise StorageFull(
                f"no space left to copy {source} to {target}", hint="free some disk space and try again"
            ) from error
        raise StorageFailed(f"cannot copy {source} to {target}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise BadHome(f"{source} is damaged: {error}") from error


def _state_of(path: Path) -> FederationState:
    """The state in a copied log; its tables are checked, and brought to this version."""
    store = FederationStore.open(path)
    state = store.state
    store.close()
    for beside in (".lock", "-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return state


def _nameserver(home: Home, folder: Path) -> Membership:
    """Whose home it is. Raises when it is no nameserver's, or the folder lies in it."""
    membership = home.membership()
    if membership.kind != "nameserver":
        raise BadHome(
            f"{home} is the home of {membership.kind} {membership.name}: expected a nameserver's home",
            hint="give another --home",
        )
    if Path(os.path.abspath(folder)).is_relative_to(home.path):  # noqa: PTH100 — no links
        raise BadHome(f"{folder} lies in {home}: expected a folder outside of it, and better on another disk")
    return membership


def is_private(name: str) -> bool:
    return name.endswith(".key")


def key_in(content: bytes, name: str) -> PrivateKey:
    """The key in the bytes of a key file. Raises ``BadKeyFile`` with its name."""
    try:
        return PrivateKey.from_pem(content.decode("ascii"))
    except (UnicodeDecodeError, BadKeyFile):
        raise BadKeyFile(f"{name} is not a key file: expected the PEM of an Ed25519 private key") from None
