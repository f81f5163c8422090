"""Names of peers, groups, models and versions, and the digests that identify content.

Rules: a peer's or group's name keeps the spelling it was given and compares case-folded. A model's name and version
are an OCI repository component and tag, so that every registry can carry them.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NewType

from query.errors import UserProblem

PeerId = NewType("PeerId", str)  # a UUID: the identity that a name points to
Digest = NewType("Digest", str)  # "sha256:" and 64 hex digits

RESERVED_MODELS: Final = frozenset({"stats"})  # /v2/models/stats tells of all of them
RESERVED: Final = frozenset({"all", "group", "where", "nameserver"})
DEFAULT_REPOSITORY: Final = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MODEL = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MODEL_NAME_LENGTH_MAX: Final = 128


class BadName(UserProblem):
    code = "bad_name"


def fold(name: str) -> str:
    """The form in which peer and group names are compared."""
    return name.casefold()


def shown(name: str) -> str:
    """The form in which object-stream functions and the REPL show a peer's name."""
    return name.upper()


def checked_name(kind: str, name: str) -> str:
    """``name`` itself when it may name a peer or group. Raises :class:`BadName`."""
    if fold(name) in RESERVED:
        raise BadName(f'"{name}" is reserved and cannot name {_article(kind)} {kind}')
    if not _NAME.fullmatch(name):
        raise BadName(
            f'"{name}" cannot name {_article(kind)} {kind}: '
            'expected up to 63 letters, digits, ".", "_" or "-", the first no sign'
        )
    return name


def _article(noun: str) -> str:
    return "an" if noun[:1] in "aeiou" else "a"


def names_model(name: str) -> bool:
    """Whether ``name`` may name a model."""
    return len(name) <= MODEL_NAME_LENGTH_MAX and _MODEL.fullmatch(name) is not None


def checked_model(name: str) -> str:
    """``name`` itself when it may name a model. Raises :class:`BadName`."""
    if name in RESERVED_MODELS:
        raise BadName(f'"{name}" is reserved and cannot name a model or pipeline')
    if not names_model(name):
        raise BadName(
            f'"{name}" cannot name a model or pipeline: expected lower-case letters and digits, '
            'joined by single ".", "_" or by "-"'
        )
    return name


def checked_version(version: str) -> str:
    """``version`` itself when it may be a released version. Raises :class:`BadName`."""
    if not _VERSION.fullmatch(version):
        raise BadName(f'"{version}" cannot be a version: expected up to 128 letters, digits, ".", "_" or "-"')
    return version


def is_version(text: str) -> bool:
    """Whether a released version may have this name."""
    return _VERSION.fullmatch(text) is not None


def checked_digest(text: str) -> Digest:
    """``text`` as a digest. Raises :class:`BadName`."""
    if not _DIGEST.fullmatch(text):
        raise BadName(f'"{text[:80]}" is not a digest: expected "sha256:" and 64 hex digits')
    return Digest(text)


def digest_of(content: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def model_repository(name: str) -> str:
    """The OCI repository that holds a model's releases."""
    return f"models/{name}"
