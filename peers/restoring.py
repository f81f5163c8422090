"""A nameserver's home from a snapshot: verified whole, then put in its place at once.

    .HOME.restoring/        beside the new home: files, log and blobs, each hashed as it is copied
      log                   newer root records, a new epoch with the reason, unused bundles end
      repository            lists what the log has, and no release that it does not have
    HOME/                   the same folder, renamed

Owns this order. Refuses a home that holds anything. Rules: until the rename there is no home, after it there is a whole
one; an attempt that was killed leaves the folder beside it, of which the next takes over the blobs and nothing else.
Nothing is written to the backup. What cannot be known after a restore is for the command to say.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from federation.blobs import READ_BYTES, BlobStore, StorageFull, storing, sync_folder
from federation.documents import SignedDocument
from federation.errors import WrongHash, WrongKey, WrongSize
from federation.keys import read_key
from federation.layout import ImageLayout
from federation.names import Digest, digest_of
from federation.restoration import begin_again, newer_roots, unused_bundles
from federation.snapshots import HOME_FOLDER, INDEX_FILE, BadBackup, Lacking, Snapshot
from federation.state import FederationState
from federation.store import FederationStore
from peers.backup_folders import Backups
from peers.backups import RESERVE_BYTES, Progress, is_private
from peers.director_keys import DirectorKeys
from peers.failpoints import reach
from peers.homes import BadHome, Home, write_whole
from query.errors import Problem

_KEPT: Final = frozenset({"releases", "lock"})  # of an attempt that was killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What stands in the new home. ``ended_bundles``: whose bundle is void; ``missing_keys``: file → id of the key.

    ``director_replaced``: the root record names another director than the one in the backup.
    """

    home: Home
    snapshot: str
    taken: float
    federation: str
    epoch: int
    seq: int
    root_version: int
    newer_roots: int
    members: int
    edges: int
    releases: int
    ended_bundles: tuple[str, ...]
    missing_keys: Mapping[str, str]
    director_replaced: bool
    lacking: tuple[Lacking, ...]
    clock_behind: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is restored and with what: ``roots`` are folders that may keep newer root records, ``keys`` one with the
    private keys that a backup without keys lacks.
    """

    snapshot: str | None = None
    roots: tuple[Home, ...] = ()
    keys: Path | None = None
    allow_damaged: bool = False


def restore(
    folder: Path,
    home: Home,
    wishes: Wishes,
    *,
    clock: Callable[[], float],
    progress: Progress = lambda copied, total: None,
) -> Restored:
    """Make a nameserver's home from a backup. Raises ``BadBackup``, :class:`BadHome`, subclasses of ``Untrusted`` and
    what the disk says; there is no home then.
    """
    backups = Backups(folder)
    with backups.reading():
        name = backups.choose(wishes.snapshot)
        snapshot = backups.read(name)
        _check_free(home)
        with _building(home) as place:
            attempt = _Attempt(backups, name, snapshot, place, wishes)
            restored = replace(attempt.restore(clock=clock, progress=progress), home=home)
            reach("restore.begun")
            _put_in_place(place, home)
    reach("restore.placed")
    return restored


class _Attempt:
    """One home on its way, in the folder beside its place."""

    def __init__(self, backups: Backups, name: str, snapshot: Snapshot, place: Home, wishes: Wishes) -> None:
        self._backups = backups
        self._name = name
        self._snapshot = snapshot
        self._place = place
        self._wishes = wishes
        self._lacking = list(snapshot.lacking)

    def restore(self, *, clock: Callable[[], float], progress: Progress) -> Restored:
        self._check_room()
        self._copy_files()
        self._copy_blobs(progress)
        missing = self._take_keys()
        reach("restore.copied")
        store = FederationStore.open(self._place.state_db)
        try:
            now = clock()
            ended = tuple(member.name for member in unused_bundles(store.state, now=now))
            roots = self._begin_again(store, now=now)
            self._place.write_roots(store.state.root_documents)
            self._lacking += _list_as_logged(ImageLayout(self._place.releases), store.state)
            return self._told(store.state, ended=ended, missing=missing, newer=len(roots), now=now)
        finally:
            store.close()

    # --- copying --------------------------------------------------------------------------------------------------

    def _check_room(self) -> None:
        free = BlobStore(self._place.releases).free_bytes()
        present = BlobStore(self._place.releases)
        left = sum(size for digest, size in self._snapshot.blobs.items() if present.size(digest) is None)
        needed = left + sum(file.size for file in self._snapshot.files.values())
        if needed + RESERVE_BYTES > free:
            raise StorageFull(
                f"the home needs {needed} bytes in {self._place.path.parent}, and {RESERVE_BYTES} in reserve: "
                f"the disk has {free}",
                hint="free some disk space and give the same command again",
            )

    def _copy_files(self) -> None:
        for name, stored in self._snapshot.files.items():
            if name == INDEX_FILE:
                target = self._place.releases / INDEX_FILE
            else:
                target = self._place.path / name.removeprefix(f"{HOME_FOLDER}/")
            source = self._backups.snapshots_path / self._name / name
            if _copied_file(source, target) != stored.digest:
                raise self._damaged(f"{self._name}/{name}")

    def _copy_blobs(self, progress: Progress) -> None:
        blobs = BlobStore(self._place.releases)
        total, copied = sum(self._snapshot.blobs.values()), 0
        progress(0, total)
        for digest, size in self._snapshot.blobs.items():
            if blobs.size(digest) is None:
                self._copy_blob(blobs, digest, size)
            copied += size
            progress(copied, total)

    def _copy_blob(self, blobs: BlobStore, digest: Digest, size: int) -> None:
        with blobs.stage(digest, size=size) as staged:
            staged.restart()
            try:
                with self._backups.blob(digest).open("rb") as source:
                    while chunk := source.read(READ_BYTES):
                        staged.write(chunk)
                staged.finish(digest)
            except (OSError, WrongHash, WrongSize) as error:
                staged.discard()
                if not self._wishes.allow_damaged:
                    raise self._damaged(digest) from error
                self._lacking.append(Lacking(digest, "is damaged in the backup"))

    def _damaged(self, what: str) -> BadBackup:
        return BadBackup(
            f"{what} in {self._backups.path} is missing or damaged: nothing was restored",
            hint='see "peerage backup --verify"; another snapshot may be whole (--snapshot), '
            "and --allow-damaged goes on without damaged blobs",
        )

    # --- keys -----------------------------------------------------------------------------------------------------

    def _take_keys(self) -> dict[str, str]:
        """Have the private keys; those that are not there, by file and id."""
        missing: dict[str, str] = {}
        for name, keyid in self._snapshot.keys.items():
            place = self._place.path / name
            if not is_private(name) or place.parent != self._place.path:
                raise BadBackup(f"snapshot {self._name} names a key {name[:100]!r} that no home has")
            given = self._wishes.keys / name if self._wishes.keys is not None else None
            if not place.exists() and given is not None and given.exists():
                write_whole(place, read_key(given).pem.encode("ascii"))
            if not place.exists():
                missing[name] = keyid
            elif (found := read_key(place).keyid) != keyid:
                raise WrongKey(f"{given or name} is key {found[:16]}: the backup is of a home with key {keyid[:16]}")
        return missing

    # --- the log --------------------------------------------------------------------------------------------------

    def _begin_again(self, store: FederationStore, *, now: float) -> tuple[SignedDocument, ...]:
        """Append what a restored log is told; the newer root records among it."""
        state = store.state
        roots: tuple[SignedDocument, ...] = ()
        for home in self._wishes.roots:
            found = newer_roots(state.root_documents, home.roots(), where=str(home.roots_json))
            _check_same(roots, found, where=str(home.roots_json))
            roots = max(roots, found, key=len)
        epochs = [self._backups.read(name).epoch for name in self._backups.names()]
        events = begin_again(
            state,
            roots=roots,
            now=now,
            draw=secrets.SystemRandom().random(),
            beyond=max(epochs),
            reason=f"restored from snapshot {self._name} by {_who()}",
        )
        store.append(events, caller=self._snapshot.nameserver, now=now)
        return roots

    def _told(
        self, state: FederationState, *, ended: tuple[str, ...], missing: Mapping[str, str], newer: int, now: float
    ) -> Restored:
        directors = DirectorKeys(self._place, lambda: state.root)
        return Restored(
            home=self._place,
            snapshot=self._name,
            taken=self._snapshot.taken,
            federation=state.federation,
            epoch=state.epoch,
            seq=state.seq,
            root_version=state.root.version,
            newer_roots=newer,
            members=state.member_count,
            edges=state.edge_count,
            releases=len(state.published),
            ended_bundles=ended,
            missing_keys=missing,
            director_replaced=not missing and not directors.names_one(state.root),
            lacking=tuple(self._lacking),
            clock_behind=now < self._snapshot.taken,
        )


def as_of(taken: float) -> str:
    return datetime.fromtimestamp(int(taken), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _list_as_logged(layout: ImageLayout, state: FederationState) -> Iterator[Lacking]:
    """Make the repository list the log's releases and, development releases aside, no other; what it cannot list."""
    logged = {release.digest: release for release in state.releases()}
    for listed in layout.releases():
        if listed.record_digest not in logged:
            layout.remove(listed)
    for digest, release in logged.items():
        if layout.find_record(digest) is not None:
            continue
        try:
            layout.attach(release.document)
        except Problem as problem:
            yield Lacking(release.record.manifest, problem.message, release.record.label)


def _check_same(known: Sequence[SignedDocument], found: Sequence[SignedDocument], *, where: str) -> None:
    """Two folders that both know newer root records know the same ones."""
    for one, other in zip(known, found, strict=False):
        if digest_of(one.payload) != digest_of(other.payload):
            raise BadHome(
                f"{where} has other root records than the other folder: expected one chain",
                hint="somebody has signed with the root key twice: find out which is right, and name that folder alone",
            )


# --- places -----------------------------------------------------------------------------------------------------------


def _check_free(home: Home) -> None:
    try:
        found = [entry.name for entry in home.path.iterdir()]
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadHome(f"cannot restore to {home}: {error.strerror}") from error
    if home.joined:
        raise BadHome(
            f"{home} is the home of {home.membership().kind} {home.membership().name}: expected an empty folder",
            hint="restored already? then start it; else give a new name with --home",
        )
    if found:
        raise BadHome(f"{home} holds {sorted(found)[0][:80]}: expected an empty folder or a new name")


@contextmanager
def _building(home: Home) -> Iterator[Home]:
    """The folder beside the new home, held; of an attempt that was killed the blobs are still there."""
    place = Home(home.path.with_name(f".{home.path.name}.restoring"))
    with storing(place.path):
        place.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with place.occupy():
        with storing(place.path):
            for entry in place.path.iterdir():
                if entry.name not in _KEPT:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            (place.releases / INDEX_FILE).unlink(missing_ok=True)
        yield place


def _put_in_place(place: Home, home: Home) -> None:
    try:
        sync_folder(place.path)
        place.path.rename(home.path)
        sync_folder(home.path.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BadHome(f"{home} is not empty any more: expected an empty folder or a new name") from error
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise BadHome(
                f"{home} is where a disk is mounted: expected a folder that can be put in place whole",
                hint="name a folder below it",
            ) from error
        raise BadHome(f"cannot put {home} in place: {error.strerror}") from error


def _copied_file(source: Path, target: Path) -> Digest | None:
    """Copy a file, durable on return; its digest, or None when it cannot be read."""
    found = hashlib.sha256()
    try:
        reading = source.open("rb")
    except OSError:
        return None
    with reading, storing(target):
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(writing, "wb") as file:
            while chunk := reading.read(READ_BYTES):
                found.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    return Digest(f"sha256:{found.hexdigest()}")


def _who() -> str:
    """Who restores, for the log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.geteuid()}"
    return f"{user} on {socket.gethostname()}"[:200]
