"""Content on disk by its digest: ``blobs/sha256/<hex>`` of an OCI image layout, and what is still on its way there.

Owns the bytes and their durability. A blob is written beside its place, hashed while it is written, synced, renamed,
and its folder synced; so under its digest there is the whole content or nothing, whatever is killed when. Content that
is fetched by its digest is staged as ``staging/<hex>.part`` and may be resumed later, also by another process; content
whose digest is not known yet is staged as ``staging/new-<random>`` and forgotten with its writer.

Refuses to give out bytes under a digest that they do not have. Rules: one writer for one staged file, by a lock of the
operating system; at most ``PARTS_MAX`` resumable files are kept, the oldest go first; nothing is removed while somebody
copies the whole store. Who counts on a blob that is here already claims it, so that it is as new as one written now
to whoever collects garbage by age.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from federation.errors import WrongHash, WrongSize
from federation.names import Digest, checked_digest, digest_of
from query.errors import LimitExceeded, UnknownName, WorldProblem

PARTS_MAX: Final = 32
READ_BYTES: Final = 1024 * 1024
CLAIM_S: Final = 3600.0  # a blob that is younger is new enough for whoever claims it
WITNESSES_MAX: Final = 4096  # blobs that a store remembers to have hashed


class StorageFull(WorldProblem):
    """The disk, or the quota on it, has no room left."""

    code = "storage_full"


class StorageFailed(WorldProblem):
    """The disk refused to read or write."""

    code = "storage_failed"


class BusyBlob(WorldProblem):
    """Somebody else is writing the same blob right now."""

    code = "blob_busy"


class DamagedBlob(WorldProblem):
    """A blob on disk no longer has its digest."""

    code = "damaged_blob"


@contextmanager
def storing(what: str | Path) -> Iterator[None]:
    """Translates what the operating system says while ``what`` is written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left to write {what}", hint="free some disk space and try again") from error
        raise StorageFailed(f"cannot write {what}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a small file: old or new after any crash, durable on return. One caller at a time, by a lock of its own:
    the file beside it has one name, so that what a crash leaves is overwritten by the next.
    """
    temporary = path.with_name(f".{path.name}.new")
    with storing(path):
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)


class StagedBlob:
    """Content on its way to its place. A context manager: leaving it keeps a resumable part and drops any other.

    ``offset`` is how many bytes are there; ``resumed`` whether some were found there.
    """

    def __init__(self, store: BlobStore, path: Path, *, bytes_max: int, resumable: bool) -> None:
        self._store = store
        self._path = path
        self.bytes_max = bytes_max
        self._resumable = resumable
        with storing(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            raise BusyBlob(f"{path.name} is being written by somebody else") from error
        self._open = True
        self._hash = hashlib.sha256()
        self.offset = 0
        self._take_up()
        self.resumed = self.offset > 0

    def _take_up(self) -> None:
        if os.fstat(self._handle).st_size > self.bytes_max:
            self.restart()
            return
        while chunk := os.read(self._handle, READ_BYTES):
            self._hash.update(chunk)
            self.offset += len(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, chunk: bytes | memoryview) -> None:
        """Append. Raises :class:`WrongSize` without writing when the content would grow beyond its bound. A write that
        fails leaves ``offset`` at what is hashed and on disk, and may be tried again from there.
        """
        if self.offset + len(chunk) > self.bytes_max:
            raise WrongSize(f"expected at most {self.bytes_max} bytes, found more")
        with storing(self._path), memoryview(chunk) as whole:
            done = 0
            while done < len(whole):
                done += os.pwrite(self._handle, whole[done:], self.offset + done)
        self._hash.update(chunk)
        self.offset += len(chunk)

    def sync(self) -> None:
        """Bring what is written to the disk, beside further writing, so that :meth:`finish` has less left to do."""
        with storing(self._path):
            os.fdatasync(self._handle)

    def restart(self) -> None:
        """Forget what is there and begin again."""
        with storing(self._path):
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.ftruncate(self._handle, 0)
        self._hash = hashlib.sha256()
        self.offset = 0
        self.resumed = False

    def finish(self, digest: Digest | None = None) -> Digest:
        """Put the content in its place, durable on return; blocks for the disk.

        Raises :class:`WrongHash` when it is not what ``digest`` says; nothing of it is kept then.
        """
        found = Digest(f"sha256:{self._hash.hexdigest()}")
        if digest is not None and found != digest:
            self.discard()
            raise WrongHash(f"expected content of {digest}, found {found}")
        place = self._store.path(found)
        with storing(place):
            if os.fstat(self._handle).st_size != self.offset:
                os.ftruncate(self._handle, self.offset)  # what a failed write has left
            os.fsync(self._handle)
            self._path.replace(place)
            sync_folder(place.parent)
            self._store.witness(found, os.fstat(self._handle))
        self._release()
        return found

    def discard(self) -> None:
        """Drop what was staged."""
        if self._open:
            self._path.unlink(missing_ok=True)
            self._release()

    def close(self) -> None:
        """Stop writing: a resumable part stays for later, anything else is dropped."""
        if self._resumable and self.offset:
            self._release()
        else:
            self.discard()

    def _release(self) -> None:
        if self._open:
            self._open = False
            os.close(self._handle)


class BlobStore:
    """The blobs of one image layout. Blocking; content goes through :class:`StagedBlob`."""

    def __init__(self, path: Path) -> None:
        self._blobs = path / "blobs" / "sha256"
        self._staging = path / "staging"
        self._witnesses: dict[Digest, tuple[int, ...]] = {}
        self._witnessing = threading.Lock()
        with storing(path):
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._staging.mkdir(exist_ok=True, mode=0o700)
        self._sweep()

    def path(self, digest: Digest) -> Path:
        """Where the content of ``digest`` is, or would be."""
        return self._blobs / checked_digest(digest).removeprefix("sha256:")

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob; None when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def written(self, digest: Digest) -> float:
        """When a blob's last byte was written, by this device's clock; 0.0 when it is not here."""
        try:
            return self.path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def read(self, digest: Digest, *, bytes_max: int) -> bytes:
        """The content, hashed again. Raises ``UnknownName``, ``LimitExceeded`` or :class:`DamagedBlob`."""
        content = self.read_unchecked(digest, bytes_max=bytes_max)
        found = digest_of(content)
        if found != digest:
            raise DamagedBlob(f"the blob {digest} on this disk has the content of {found}")
        return content

    def read_unchecked(self, digest: Digest, *, bytes_max: int) -> bytes:
        """The content as it is on disk, for a caller that hashes it itself."""
        try:
            with self.path(digest).open("rb") as stream:
                content = stream.read(bytes_max + 1)
        except FileNotFoundError as error:
            raise UnknownName(f"no blob {digest} here") from error
        except OSError as error:
            raise StorageFailed(f"cannot read the blob {digest}: {error.strerror}") from error
        if len(content) > bytes_max:
            raise LimitExceeded(f"the blob {digest} has more than {bytes_max} bytes")
        return content

    def hashed(self, digest: Digest) -> tuple[Digest, int]:
        """The digest and size that a blob really has; a piece of it at a time is in memory. Raises ``UnknownName``.

        Content that this store hashed itself, and that nobody has touched since, is not read again.
        """
        try:
            with self.path(digest).open("rb") as stream:
                looked = os.fstat(stream.fileno())
                if self._witnesses.get(digest) == _state(looked):
                    return digest, looked.st_size
                sha256, size = hashlib.sha256(), 0
                while piece := stream.read(READ_BYTES):
                    sha256.update(piece)
                    size += len(piece)
        except FileNotFoundError as error:
            raise UnknownName(f"no blob {digest} here") from error
        except OSError as error:
            raise StorageFailed(f"cannot read the blob {digest}: {error.strerror}") from error
        return Digest(f"sha256:{sha256.hexdigest()}"), size

    def witness(self, digest: Digest, looked: os.stat_result) -> None:
        """Remember that content was hashed as ``digest`` while its file looked like this."""
        with self._witnessing:
            while len(self._witnesses) >= WITNESSES_MAX:
                del self._witnesses[next(iter(self._witnesses))]
            self._witnesses[digest] = _state(looked)

    def put(self, content: bytes) -> Digest:
        """Keep ``content``, durable on return."""
        digest = digest_of(content)
        if self.claim(digest) != len(content):
            with self.stage_new(bytes_max=len(content)) as staged:
                staged.write(content)
                staged.finish(digest)
        return digest

    def stage(self, digest: Digest, *, size: int) -> StagedBlob:
        """Content that is known by digest and size; takes up what an earlier attempt left.

        Raises :class:`BusyBlob` while another attempt is under way.
        """
        name = checked_digest(digest).removeprefix("sha256:") + ".part"
        self._make_room(name)
        return StagedBlob(self, self._staging / name, bytes_max=size, resumable=True)

    def stage_new(self, *, bytes_max: int) -> StagedBlob:
        """Content whose digest is known when it ends."""
        with self._staging_lock(fcntl.LOCK_SH):
            path = self._staging / f"new-{secrets.token_hex(12)}"
            return StagedBlob(self, path, bytes_max=bytes_max, resumable=False)

    def free_bytes(self) -> int:
        """Room on the disk for this user."""
        found = os.statvfs(self._staging)
        return found.f_bavail * found.f_frsize

    def digests(self) -> Iterator[Digest]:
        for path in self._blobs.iterdir():
            if len(path.name) == 64:
                yield Digest(f"sha256:{path.name}")

    def claim(self, digest: Digest) -> int | None:
        """Bytes of a blob that somebody is about to name, None when it is not here. It is not removed by age until
        it is old again: what was told here and what :meth:`remove` does exclude each other.
        """
        path = self.path(digest)
        with self._lock(".removing", fcntl.LOCK_SH):
            try:
                found = path.stat()
                if time.time() - found.st_mtime > CLAIM_S:
                    os.utime(path)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise StorageFailed(f"cannot claim the blob {digest}: {error.strerror}") from error
        return found.st_size

    def remove(self, digest: Digest, *, written_before: float = math.inf) -> bool:
        """Whether a blob is gone now: while anybody keeps all of them it stays, for whoever collects garbage later, as
        does one that was written or claimed meanwhile.
        """
        with self._lock(".removing", fcntl.LOCK_EX), self._lock(".keeping", fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            if not free or self.written(digest) >= written_before:
                return False
            self.path(digest).unlink(missing_ok=True)
        return True

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """No blob is removed meanwhile, by any process; for who copies them one after another."""
        with self._lock(".keeping", fcntl.LOCK_SH):
            yield

    def _make_room(self, name: str) -> None:
        parts = sorted(self._staging.glob("*.part"), key=lambda path: path.stat().st_mtime_ns)
        for path in parts[: max(0, len(parts) - PARTS_MAX + 1)]:
            if path.name != name:
                _remove_unlocked(path)

    def _sweep(self) -> None:
        """Remove what writers that died have left; their locks died with them."""
        with self._staging_lock(fcntl.LOCK_EX):
            for path in self._staging.glob("new-*"):
                _remove_unlocked(path)

    @contextmanager
    def _staging_lock(self, how: int) -> Iterator[None]:
        """Shared while a staged file is made and locked, exclusive while unlocked ones are swept."""
        with self._lock(".lock", how):
            yield

    @contextmanager
    def _lock(self, name: str, how: int) -> Iterator[bool]:
        """Whether a lock was taken; without ``LOCK_NB`` it is waited for."""
        with storing(self._staging / name):
            handle = os.open(self._staging / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, how)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)


def _state(looked: os.stat_result) -> tuple[int, ...]:
    """What changes with every change of a file, also one that puts its times back."""
    return looked.st_dev, looked.st_ino, looked.st_size, looked.st_mtime_ns, looked.st_ctime_ns


def _remove_unlocked(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # in use
    else:
        path.unlink(missing_ok=True)
    finally:
        os.close(handle)
