"""Remote repositories of one peer: what may be set about one, and the home's file that keeps them.

Owns ``repositories.json`` of a home (0600, replaced whole): name → settings. A setting names files, never what is in
them; so nothing secret is kept, shown or sent. ``default`` is the federation's repository and not in the file.

    url           http(s)://host[:port][/prefix]; plain http to loopback, or with "insecure": true
    credentials   file with the user's name and password; see :mod:`peers.remote_credentials`
    ca            PEM file with the authorities to trust, instead of the system's
    certs         folder as ``peerage certs`` writes it: ca.crt client.cert client.key
    insecure      allow plain http to other hosts

Rules: names compare case-folded; unknown settings are errors; paths are absolute, since a peer is started anywhere.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Struct

from federation.names import DEFAULT_REPOSITORY, checked_name, fold, model_repository
from peers.homes import HomeUnwritable, write_whole
from query.errors import LimitExceeded, UserProblem, suggestion, unknown

REPOSITORIES_MAX: Final = 64
FILE_BYTES_MAX: Final = 1024 * 1024
TEXT_LENGTH_MAX: Final = 1024
CERT_FILES: Final = ("ca.crt", "client.cert", "client.key")
_PREFIX = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


class BadRepository(UserProblem):
    """Settings that are none of a repository, or a name that cannot be given to one."""

    code = "bad_repository"


class RemoteSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One remote repository, as it was set."""

    url: str
    credentials: str = ""
    ca: str = ""
    certs: str = ""
    insecure: bool = False

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def address(self) -> str:
        """``host`` or ``host:port``."""
        return urlsplit(self.url).netloc

    def repository(self, model: str) -> str:
        """The OCI repository of a model's releases there."""
        return f"{self.prefix}{model_repository(model)}"

    @property
    def prefix(self) -> str:
        """What stands before ``models/``: empty, or ending with ``/``."""
        path = urlsplit(self.url).path.strip("/")
        return f"{path}/" if path else ""


KEYS: Final = tuple(RemoteSettings.__struct_fields__)


class RemoteBook:
    """The remote repositories of a home, read anew at each question: several processes may use one home."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, RemoteSettings]:
        try:
            raw = self._path.read_bytes()[: FILE_BYTES_MAX + 1]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise BadRepository(f"cannot read {self._path}: {error.strerror}") from error
        try:
            return msgspec.json.decode(raw, type=dict[str, RemoteSettings])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRepository(f"{self._path} is not a list of repositories: {error}") from error

    def find(self, name: str) -> tuple[str, RemoteSettings]:
        """The name as it was spelled, and its settings. Raises :class:`~query.errors.UnknownName`."""
        known = self.all()
        for spelled, settings in known.items():
            if fold(spelled) == fold(name):
                return spelled, settings
        problem = unknown("repository", name[:80], [DEFAULT_REPOSITORY, *known])
        problem.hint = 'models:set_repository("name", {"url": "https://…"}) names one on this peer'
        raise problem

    def set(self, name: str, settings: RemoteSettings | None) -> None:
        """Keep settings under a name, or with None forget them; durable on return."""
        checked_repository(name)
        with self._writer():
            known = self.all()
            if settings is None:
                known.pop(self.find(name)[0])
            else:
                for spelled in [one for one in known if fold(one) == fold(name)]:
                    del known[spelled]
                known[name] = settings
            if len(known) > REPOSITORIES_MAX:
                raise LimitExceeded(f"this peer has {REPOSITORIES_MAX} repositories already, the most it can have")
            write_whole(self._path, msgspec.json.format(msgspec.json.encode(known), indent=2) + b"\n")

    @contextmanager
    def _writer(self) -> Iterator[None]:
        lock = self._path.with_name(f".{self._path.name}.lock")
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnwritable(f"cannot write {lock}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def checked_repository(name: str) -> str:
    """``name`` itself when a remote repository may have it."""
    if fold(name) == DEFAULT_REPOSITORY:
        raise BadRepository(f'"{DEFAULT_REPOSITORY}" is the nameserver and stays it: expected another name')
    return checked_name("repository", name)


def read_settings(name: str, record: Mapping[str, Any]) -> RemoteSettings:
    """Settings from a record of a call. Raises :class:`BadRepository`, which shows no value but names and paths."""
    for key, value in record.items():
        if key not in KEYS:
            tail = suggestion(str(key), KEYS, otherwise=f": expected one of {', '.join(KEYS)}")
            raise BadRepository(f'repository "{name}": no setting "{str(key)[:40]}"{tail}')
        if key == "insecure":
            if not isinstance(value, bool):
                raise BadRepository(f'repository "{name}": expected "insecure" as true or false')
        elif not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
            raise BadRepository(f'repository "{name}": expected "{key}" as a text of at most {TEXT_LENGTH_MAX} signs')
    if not record.get("url"):
        raise BadRepository(f'repository "{name}": expected a "url" like "https://registry.example:5000/prefix"')
    settings = RemoteSettings(**record)
    _check_url(name, settings)
    for key in ("credentials", "ca", "certs"):
        path = getattr(settings, key)
        if path and not Path(path).is_absolute():
            raise BadRepository(f'repository "{name}": expected "{key}" as an absolute path, found "{path}"')
    _check_files(name, settings)
    return settings


def _check_url(name: str, settings: RemoteSettings) -> None:
    told = f'repository "{name}": '
    try:
        url = urlsplit(settings.url)
        port = url.port
    except ValueError as error:
        raise BadRepository(f'{told}the "url" is none: {error}') from error
    if url.username is not None or "@" in url.netloc:
        raise BadRepository(
            f'{told}a "url" carries no user and no password', hint='put them into a file, and name it as "credentials"'
        )
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or not _HOST.fullmatch(_host(url)):
        raise BadRepository(f'{told}expected a "url" like "https://host:port/prefix", found "{settings.url[:100]}"')
    if url.query or url.fragment:
        raise BadRepository(f'{told}a "url" has no "?" and no "#"')
    prefix = url.path.strip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise BadRepository(f'{told}"{prefix[:100]}" in the "url" is no prefix of an OCI name: expected lower case')
    if url.scheme == "http" and not settings.insecure and not is_loopback(url.hostname):
        raise BadRepository(
            f"{told}plain http to {url.hostname} would show everything to everybody on the way",
            hint='use https, or allow it with "insecure": true',
        )


def _check_files(name: str, settings: RemoteSettings) -> None:
    from peers.remote_credentials import read_credentials, secret_file

    if settings.credentials:
        read_credentials(Path(settings.credentials), settings.address)
    wanted = [Path(settings.ca)] if settings.ca else []
    if settings.certs:
        wanted += [Path(settings.certs) / file for file in CERT_FILES]
        secret_file(wanted[-1])
    for path in wanted:
        if not path.is_file():
            raise BadRepository(f'repository "{name}": no file {path}')
    for path in wanted[:1] if settings.ca else []:
        _check_authorities(name, path)


def _check_authorities(name: str, path: Path) -> None:
    """A file without a certificate would look like a registry that somebody else answers for."""
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise BadRepository(
            f'repository "{name}": expected "ca" as a PEM file with certificates, found {path}: {error.strerror}'
        ) from error


def is_loopback(host: str) -> bool:
    """Whether a host is this device by its own name; nothing is looked up."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(url: SplitResult) -> str:
    """The host as it is spelled, with the brackets of an IPv6 address."""
    return url.netloc[: -len(f":{url.port}")] if url.port is not None else url.netloc.rstrip(":")
