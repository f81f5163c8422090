"""The user's name and password for a remote registry, from a file that nobody else may read.

Two forms: docker's and skopeo's ``{"auths": {"host:port": {"auth": "<base64 of user:password>"}}}``, and one line
``user:password``. Rules: read when it is used and forgotten after; refused when group or others may read it; what it
holds is in no message, not even of an error about it, and :class:`Credentials` shows nothing of itself.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from query.errors import UserProblem

CREDENTIALS_BYTES_MAX: Final = 64 * 1024


class BadCredentials(UserProblem):
    """A file of credentials that cannot be used."""

    code = "bad_credentials"


class Credentials:
    """A user's name and password; neither is shown."""

    __slots__ = ("_password", "_user")

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode("ascii")


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""


class _DockerFile(msgspec.Struct):
    auths: dict[str, _Entry]


def read_credentials(path: Path, address: str) -> Credentials:
    """What ``path`` says for the registry at ``address``. Raises :class:`BadCredentials`."""
    raw = secret_file(path)
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadCredentials(f"{path} is not text: {_EXPECTED}") from None
    if text.startswith("{"):
        return _of_docker(path, raw, address)
    return _of_line(path, text)


def secret_file(path: Path) -> bytes:
    """A small file that this user alone may read. Raises :class:`BadCredentials`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise BadCredentials(f"cannot read {path}: {reason}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BadCredentials(f"{path} is not a file: {_EXPECTED}")
        if status.st_mode & 0o077:
            raise BadCredentials(f"others may read {path}", hint=f"chmod 600 {path}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            raw = file.read(CREDENTIALS_BYTES_MAX + 1)
    finally:
        os.close(handle)
    if len(raw) > CREDENTIALS_BYTES_MAX:
        raise BadCredentials(f"{path} has more than {CREDENTIALS_BYTES_MAX} bytes: {_EXPECTED}")
    return raw


def _of_docker(path: Path, raw: bytes, address: str) -> Credentials:
    try:
        auths = msgspec.json.decode(raw, type=_DockerFile).auths
    except (msgspec.MsgspecError, RecursionError):
        raise BadCredentials(f'{path} is not what docker and skopeo write: expected {{"auths": …}}') from None
    host = address.casefold()
    for known, entry in auths.items():
        if known.casefold().removeprefix("https://").removeprefix("http://").partition("/")[0] == host:
            if entry.username and entry.password:
                return Credentials(entry.username, entry.password)
            try:
                return _of_line(path, base64.b64decode(entry.auth, validate=True).decode("utf-8"))
            except (binascii.Error, UnicodeDecodeError):
                raise BadCredentials(f'{path}: the "auth" of {address} is not base64 of user:password') from None
    raise BadCredentials(
        f"{path} has no credentials for {address}: it knows {', '.join(sorted(auths)[:8]) or 'no registry'}",
        hint=f"skopeo login --authfile {path} {address}",
    )


def _of_line(path: Path, text: str) -> Credentials:
    user, colon, password = text.partition(":")
    if not (user and colon and password) or not text.isprintable():
        raise BadCredentials(f"{path} holds no credentials: {_EXPECTED}")
    return Credentials(user, password)


_EXPECTED: Final = 'expected one line "user:password", or the file of docker login or skopeo login'
