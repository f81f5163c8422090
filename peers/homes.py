"""A peer's home: the folder that holds all that one peer keeps, under fixed names.

    identity.key identity.crt ca.crt    this peer's key, its certificate, the federation's authority
    membership.json roots.json          who this peer is; all root records it trusts, oldest first
    publisher.key                       of who publishes releases
    ca.key director.key                 of the nameserver alone; root.key lies in the root folder alone
    publisher.next.key director.next.key    made to replace one of these, until the root record names it
    peerage.toml mode.json              settings; that this device is AUTONOMOUS, while it is
    repositories.json                   the remote repositories that this peer knows, without secrets
    state.db releases/ models/          what the nameserver or edge knows, releases, model folders
    pipelines/                          pipelines that are edited here, and their versions
    inferences/                         the inference log (engine/inference_log_segments.py)
    run.json token peer.sock lock       of the process that runs here now

Owns these names, who may read them (folder 0700, files 0600), and how small files are written: whole or not at all,
durable on return. Refuses to settle in a folder that holds other things, or in one of another user.

Rules: a process that runs in a home holds its lock; the lock ends with the process, so a ``run.json`` without it is
stale. Where the Unix socket's path would pass :data:`SOCKET_PATH_BYTES_MAX` bytes it lies in a folder of this user.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from federation.blobs import sync_folder
from federation.documents import DOCUMENT_BYTES_MAX, ROOTS_BYTES_MAX, Kind, RoleName, SignedDocument
from federation.names import PeerId
from query.errors import PeerProblem, UserProblem, WorldProblem

HOME_VARIABLE: Final = "PEERAGE_HOME"
DEFAULT_HOME: Final = "~/.peerage"
SOCKET_PATH_BYTES_MAX: Final = 100  # of 108 that Linux takes, 104 elsewhere

_T = TypeVar("_T")


class BadHome(UserProblem):
    """A folder that cannot be the home of a peer, or a file in one that is not what its name says."""

    code = "bad_home"


class NotJoined(PeerProblem):
    """The home belongs to no federation yet."""

    code = "not_joined"


class HomeInUse(PeerProblem):
    """Another process runs in this home."""

    code = "home_in_use"


class HomeUnwritable(WorldProblem):
    """The disk refused: full, read-only or broken. The file is as it was."""

    code = "home_unwritable"


class Membership(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who this peer is. ``addresses``: where the nameserver was last known to be, ``host:port``."""

    federation: str
    uuid: PeerId
    name: str
    kind: Kind
    role: RoleName
    addresses: tuple[str, ...]
    not_after: int
    clock_offset_s: float = 0.0


class RunRecord(Struct, frozen=True, kw_only=True):
    """Where the process in a home listens. ``federation`` and ``application`` are ``host:port`` as bound."""

    pid: int
    kind: Kind
    name: str
    socket: str
    application: str | None = None
    federation: str | None = None
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Home:
    """One peer's folder. Making one touches no disk."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(Path(self.path).expanduser())))  # noqa: PTH100 — no links

    def __str__(self) -> str:
        return str(self.path)

    # --- names --------------------------------------------------------------------------------------------------

    @property
    def identity_key(self) -> Path:
        return self.path / "identity.key"

    @property
    def identity_crt(self) -> Path:
        return self.path / "identity.crt"

    @property
    def ca_crt(self) -> Path:
        return self.path / "ca.crt"

    @property
    def membership_json(self) -> Path:
        return self.path / "membership.json"

    @property
    def roots_json(self) -> Path:
        return self.path / "roots.json"

    @property
    def publisher_key(self) -> Path:
        return self.path / "publisher.key"

    @property
    def ca_key(self) -> Path:
        return self.path / "ca.key"

    @property
    def director_key(self) -> Path:
        return self.path / "director.key"

    @property
    def publisher_next_key(self) -> Path:
        return self.path / "publisher.next.key"

    @property
    def director_next_key(self) -> Path:
        return self.path / "director.next.key"

    @property
    def root_key(self) -> Path:
        return self.path / "root.key"

    @property
    def settings_toml(self) -> Path:
        return self.path / "peerage.toml"

    @property
    def repositories_json(self) -> Path:
        return self.path / "repositories.json"

    @property
    def state_db(self) -> Path:
        return self.path / "state.db"

    @property
    def releases(self) -> Path:
        return self.path / "releases"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def pipelines(self) -> Path:
        return self.path / "pipelines"

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def socket(self) -> Path:
        """Where the Unix socket lies; see the module. Does not make the folder: :meth:`prepare_socket` does."""
        direct = self.path / "peer.sock"
        if len(os.fsencode(direct)) <= SOCKET_PATH_BYTES_MAX:
            return direct
        named = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return Path(base) / f"peerage-{os.geteuid()}" / f"{named}.sock"

    # --- the folder ---------------------------------------------------------------------------------------------

    def prepare(self) -> Home:
        """Make the folder, 0700. Raises :class:`BadHome` for a file, another user's folder or one of other things."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
            entries = {entry.name for entry in self.path.iterdir()}
        except (FileExistsError, NotADirectoryError):
            raise BadHome(f"{self.path} is not a folder: expected a folder, or a new name, for the home") from None
        except OSError as error:
            raise _unusable(self.path, error) from error
        if status.st_uid != os.geteuid():
            raise BadHome(f"{self.path} belongs to another user (uid {status.st_uid}): expected a folder of this user")
        if entries and not entries & _KNOWN:
            raise BadHome(
                f"{self.path} holds other things than a peer's home: expected an empty folder or a new name",
                hint="give another folder with --home",
            )
        if status.st_mode & 0o077:
            self.path.chmod(0o700)
        return self

    def prepare_socket(self) -> Path:
        """Where to bind the Unix socket: its folder exists, is 0700 and of this user; a stale socket is gone."""
        path = self.socket
        if path.parent != self.path:
            _make_user_folder(path.parent)
        with suppress(FileNotFoundError):
            path.unlink()
        return path

    @contextmanager
    def occupy(self) -> Iterator[None]:
        """Hold the home's lock: at most one process runs in a home. Raises :class:`HomeInUse`."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.lock_file, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running = self._run_record()
                who = f"{running.kind} {running.name}, process {running.pid}" if running else "another process"
                raise HomeInUse(f"{self.path} is in use by {who}", hint="stop it first, or use another home") from None
            yield
        finally:
            os.close(descriptor)

    @property
    def in_use(self) -> bool:
        """Whether a process holds the lock."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    # --- what is in it ------------------------------------------------------------------------------------------

    @property
    def joined(self) -> bool:
        return self.membership_json.exists()

    def read_membership(self) -> Membership | None:
        return self._document(self.membership_json, Membership)

    def membership(self) -> Membership:
        """Raises :class:`NotJoined` when there is none."""
        found = self.read_membership()
        if found is None:
            what = "is not the home of a peer that joined" if self.path.is_dir() else "does not exist"
            raise NotJoined(
                f"{self.path} {what}: expected {self.membership_json.name} in it",
                hint="name a joined home with --home or PEERAGE_HOME; a new one joins with "
                '"peerage join --home DIR FILE"',
            )
        return found

    def write_membership(self, membership: Membership) -> None:
        write_whole(self.membership_json, _pretty(membership))

    def roots(self) -> tuple[SignedDocument, ...]:
        """The root records this peer trusts, version 1 first; empty before it joined."""
        return self._document(self.roots_json, tuple[SignedDocument, ...], bytes_max=ROOTS_BYTES_MAX) or ()

    def write_roots(self, roots: tuple[SignedDocument, ...]) -> None:
        write_whole(self.roots_json, msgspec.json.encode(roots))

    def read_run(self) -> RunRecord | None:
        """Where the process in this home listens; None when none runs, also after one was killed."""
        return self._run_record() if self.in_use else None

    def write_run(self, record: RunRecord) -> None:
        write_whole(self.run_json, _pretty(record))

    def remove_run(self) -> None:
        """Tidy up after a clean stop."""
        for path in (self.run_json, self.socket):
            with suppress(FileNotFoundError):
                path.unlink()

    def token(self) -> str:
        """The token of this peer's application port; made at the first call."""
        try:
            kept = self.token_file.read_text("ascii").strip()
        except FileNotFoundError:
            kept = ""
        except (OSError, UnicodeDecodeError) as error:
            raise BadHome(f"cannot read {self.token_file}: {error}") from error
        if kept:
            return kept
        made = secrets.token_urlsafe(32)
        write_whole(self.token_file, made.encode("ascii") + b"\n")
        return made

    def text(self, path: Path) -> str:
        """A text file of this home, as a certificate. Raises :class:`BadHome` when it cannot be read."""
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise BadHome(f"cannot read {path}: {reason}") from error

    def _run_record(self) -> RunRecord | None:
        try:
            return self._document(self.run_json, RunRecord)
        except BadHome:
            return None

    def _document(self, path: Path, kind: type[_T], *, bytes_max: int = DOCUMENT_BYTES_MAX) -> _T | None:
        try:
            with path.open("rb") as file:
                raw = file.read(bytes_max + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BadHome(f"cannot read {path}: {error.strerror}") from error
        if len(raw) > bytes_max:
            raise BadHome(f"{path} is larger than {bytes_max} bytes")
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadHome(f"{path} is damaged: {error}", hint="restore it, or join again in a new home") from error


_KEYS: Final = frozenset({"identity.key", "publisher.key", "ca.key", "director.key", "root.key"}) | {
    "publisher.next.key",
    "director.next.key",
}
_DOCUMENTS: Final = frozenset(
    {"identity.crt", "ca.crt", "membership.json", "roots.json", "peerage.toml", "mode.json"}
) | {"repositories.json"}
_STORES: Final = frozenset(
    {"state.db", "releases", "models", "pipelines", "inferences", "run.json", "token", "peer.sock", "lock"}
)
_KNOWN: Final = _KEYS | _DOCUMENTS | _STORES


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of who names none: ``PEERAGE_HOME``, else ``~/.peerage``."""
    return Path(environment.get(HOME_VARIABLE) or DEFAULT_HOME)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file in place, whole or not at all, durable on return. Raises :class:`HomeUnwritable`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise _unusable(path, error) from error


def take_place(path: Path, of: Path) -> None:
    """Rename a file to the place of another, durable on return. Raises :class:`HomeUnwritable`."""
    try:
        path.replace(of)
        sync_folder(of.parent)
    except OSError as error:
        raise _unusable(of, error) from error


def _pretty(document: Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _unusable(path: Path, error: OSError) -> BadHome | HomeUnwritable:
    """A refusal of the operating system, as ours: what a person must change, or what may pass."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return BadHome(f"cannot use {path}: {error.strerror}")
    return HomeUnwritable(f"cannot write {path}: {error.strerror}")


def _make_user_folder(path: Path) -> None:
    """The folder of this user, 0700. Raises :class:`BadHome` when somebody else made it first."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise BadHome(f"{path} is not a folder of this user alone: expected mode 700 and uid {os.geteuid()}")
