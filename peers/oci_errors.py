"""What a registry that is not ours does wrong, by class; what it sends wrongly is told by :mod:`peers.fetching`.

    RegistryUnreachable (WorldProblem)   no connection
    RegistryStalled     (WorldProblem)   silence, or too little, in the time allowed
    RegistryFailed      (WorldProblem)   status 500 and above
    RegistryBusy        (WorldProblem)   status 429, or 503 with Retry-After
    RegistryRefused     (PeerProblem)    any other refusal, a redirect that is not followed, rules that it breaks
    ├── RegistryUnauthorized             401, 403: credentials are missing, wrong, or allow too little
    ├── RegistryUntrusted                TLS: another one than was meant
    ├── NoSuchContent                    404
    ├── NotSupportedThere                400, 405, 406, 501: it does not know what was asked
    └── NoCatalogue                      it does not list its repositories

Rules: an address is shown without what follows its ``?``; what a registry says is shown short and printable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from query.errors import ErrorRecord, PeerProblem, Problem, WorldProblem

SAID_LENGTH_MAX: Final = 300


class RegistryUnreachable(WorldProblem):
    """The registry could not be reached."""

    code = "registry_unreachable"


class RegistryStalled(WorldProblem):
    """The registry fell silent, or was too slow."""

    code = "registry_stalled"


class RegistryFailed(WorldProblem):
    """The registry failed by its own account."""

    code = "registry_failed"


class RegistryBusy(WorldProblem):
    """The registry asks to come again later."""

    code = "registry_busy"


class RegistryRefused(PeerProblem):
    """The registry refused, or answered against the rules of its protocol."""

    code = "registry_refused"


class RegistryUnauthorized(RegistryRefused):
    """The registry wants credentials, others, or more rights."""

    code = "registry_unauthorized"


class RegistryUntrusted(RegistryRefused):
    """Who answers is not the registry that was meant."""

    code = "registry_untrusted"


class NoSuchContent(RegistryRefused):
    """The registry has no such repository, manifest or blob."""

    code = "registry_not_found"


class NotSupportedThere(RegistryRefused):
    """The registry does not know what was asked of it."""

    code = "registry_not_supported"


class NoCatalogue(RegistryRefused):
    """The registry does not list its repositories."""

    code = "registry_no_catalogue"


class _Answer(msgspec.Struct):
    """A registry's error: OCI's, and ours beside it when it is a nameserver."""

    errors: list[dict[str, Any]] = []
    error: ErrorRecord | None = None


def refusal_of(asked: str, status: int, headers: Mapping[str, str], body: bytes, *, ours: bool) -> Problem:
    """The status of an answer to ``asked`` in the class of who must act. ``ours``: believe errors in our own form."""
    try:
        told = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        told = _Answer()
    if told.error is not None and ours:
        return Problem.from_record(told.error)
    said = printable("; ".join(f"{entry.get('code')}: {entry.get('message')}" for entry in told.errors[:3]))
    message = f"{asked}: status {status} {said}".rstrip()
    after = printable(headers.get("Retry-After", ""))[:40]
    if status == 429 or (status == 503 and after):
        return RegistryBusy(message, hint=f"try again after {after} s" if after.isdigit() else "try again later")
    if status in (400, 405, 406, 501):
        return NotSupportedThere(message)
    if status >= 500:
        return RegistryFailed(message)
    if status in (401, 403):
        return RegistryUnauthorized(message, hint="name a file with credentials that allow it: models:set_repository")
    return NoSuchContent(message) if status == 404 else RegistryRefused(message)


def printable(said: str) -> str:
    """What a stranger said, as far as a message shows it."""
    return "".join(sign for sign in said if sign.isprintable())[:SAID_LENGTH_MAX]


def shown(url: str) -> str:
    """An address as messages show it: what follows ``?`` may be a secret of the registry."""
    try:
        parts = urlsplit(url[:2000])
    except ValueError:
        return "an address that is none"
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200])
