"""What was typed before, one file a federation, readable by this user alone.

    # 2026-01-31T12:00:00Z            when; what was typed follows, each line behind a +
    +select a
    +from Integer a where a in iota(1, 3)

Owns the file's place (``$XDG_STATE_HOME/peerage/history/``), form and bounds. Rules: the same federation has the same
file in every home; the file has mode 0600 in a folder of 0700 and is never followed through a link; what holds
something that looks like a bundle, a token or a key is not written; a file over :data:`FILE_BYTES_MAX` loses its older
half. A history that cannot be read or written costs nothing but itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from peers.logs import SECRET_FIELDS, without_secrets

FILE_BYTES_MAX: Final = 2 * 1024 * 1024
ENTRY_LENGTH_MAX: Final = 64 * 1024
ENTRIES_MAX: Final = 5_000
NAME_LENGTH_MAX: Final = 63

_LONG_WORD: Final = re.compile(r"[A-Za-z0-9+/_=-]{40,}")
_SECRET_KEY: Final = re.compile(rf"""["'](?:{"|".join(sorted(SECRET_FIELDS))})["']\s*:""", re.IGNORECASE)
_GIVEN: Final = re.compile(
    r"""(?:token|bundle|secret|password|passphrase|authorization|private_?key)["']?\s*[=:]\s*\S""", re.IGNORECASE
)
_WEB_TOKEN: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")


def history_file(environment: Mapping[str, str], *, federation: str, authority: bytes) -> Path:
    """Where the history of a federation lies. ``authority``: its CA certificate, which tells equal names apart."""
    base = environment.get("XDG_STATE_HOME") or "~/.local/state"
    digest = hashlib.sha256(authority).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", federation)[:NAME_LENGTH_MAX].lstrip(".") or "federation"
    return Path(base).expanduser() / "peerage" / "history" / f"{name}-{digest}"


def is_secret(text: str) -> bool:
    """Whether something in a text looks like a bundle, a token or a key."""
    if without_secrets(text) != text or any(found.search(text) for found in (_SECRET_KEY, _GIVEN, _WEB_TOKEN)):
        return True
    return any(_looks_random(word[0]) for word in _LONG_WORD.finditer(text))


def _looks_random(word: str) -> bool:
    """A long word with small and capital letters and digits in it; a digest in hexadecimals or a name has not all."""
    return all(any(test(letter) for letter in word) for test in (str.islower, str.isupper, str.isdigit))


class HistoryFile:
    """The entries of one file. ``failed`` says why nothing is kept, once that was so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed: str | None = None

    def entries(self) -> list[str]:
        """The newest last."""
        try:
            self._prepare()
            with os.fdopen(self._opened(os.O_RDONLY), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - FILE_BYTES_MAX))
                raw = file.read(FILE_BYTES_MAX)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.failed = f"{self.path}: {error.strerror or error}"
            return []
        if size > FILE_BYTES_MAX:
            self._shorten(raw)
        return _entries(raw.decode("utf-8", errors="replace"))

    def add(self, text: str, *, now: datetime | None = None) -> bool:
        """Keep what was typed, unless it is secret. Whether it was kept."""
        if not text.strip() or len(text) > ENTRY_LENGTH_MAX or is_secret(text):
            return False
        moment = (now or datetime.now(UTC)).isoformat(timespec="seconds").replace("+00:00", "Z")
        lines = "".join(f"+{line}\n" for line in text.rstrip().split("\n"))
        try:
            self._prepare()
            with os.fdopen(self._opened(os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb", buffering=0) as file:
                file.write(f"# {moment}\n{lines}".encode("utf-8", errors="replace"))
        except OSError as error:
            self.failed = f"{self.path}: {error.strerror or error}"
            return False
        return True

    def _prepare(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(self.path.parent.stat().st_mode) & 0o077:
            self.path.parent.chmod(0o700)

    def _opened(self, flags: int) -> int:
        descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor

    def _shorten(self, raw: bytes) -> None:
        """Leave the newer half."""
        start = raw.find(b"\n# ", len(raw) // 2)
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(raw[start + 1 :])
            made.rename(self.path)
        except OSError:
            made.unlink(missing_ok=True)


def _entries(text: str) -> list[str]:
    found: list[str] = []
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("+"):
            lines.append(line[1:])
        elif lines:
            found.append("\n".join(lines))
            lines = []
    if lines:
        found.append("\n".join(lines))
    return found[-ENTRIES_MAX:]
