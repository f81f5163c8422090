"""How a registry asks who calls: its challenge, the address that gives tokens, the token. Pure.

Basic: the credentials go with the request. Bearer (as docker does it): a token for the asked scope is fetched from the
``realm`` with the credentials, if any, and goes with the request. Refused: a realm on plain http, but for the
registry's own host or between loopback addresses; a token that is too long or holds what a header cannot carry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec

from peers.oci_errors import RegistryRefused
from peers.remote_settings import is_loopback

TOKEN_LENGTH_MAX: Final = 16 * 1024
CHALLENGE_LENGTH_MAX: Final = 4 * 1024
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token is wanted from ``realm``."""

    realm: str
    service: str = ""
    scope: str = ""

    @property
    def url(self) -> str:
        asked = [(key, value) for key, value in (("service", self.service), ("scope", self.scope)) if value]
        return f"{self.realm}{'&' if '?' in self.realm else '?'}{urlencode(asked)}" if asked else self.realm


@dataclass(frozen=True, slots=True)
class Basic:
    """A user's name and password are wanted."""


def read_challenge(header: str, *, origin: str) -> Bearer | Basic | None:
    """What ``WWW-Authenticate`` of the registry at ``origin`` wants; None for anything else.

    Raises :class:`RegistryRefused` for a realm that must not be told anything.
    """
    header = header[:CHALLENGE_LENGTH_MAX]
    at = re.search(r"\bBearer\s", header, re.IGNORECASE)
    if at is not None:
        told = {key.casefold(): quoted or bare for key, quoted, bare in _PARAMETER.findall(header[at.end() :])}
        bearer = Bearer(told.get("realm", ""), told.get("service", ""), told.get("scope", ""))
        _check_realm(bearer.realm, origin)
        return bearer
    return Basic() if re.search(r"\bBasic\b", header, re.IGNORECASE) else None


def _check_realm(realm: str, origin: str) -> None:
    registry = urlsplit(origin)
    try:
        found = urlsplit(realm)
        same = (found.scheme, found.netloc) == (registry.scheme, registry.netloc)
    except ValueError:
        found, same = urlsplit(""), False
    near = is_loopback(found.hostname or "") and is_loopback(registry.hostname or "")
    allowed = found.scheme == "https" or (found.scheme == "http" and registry.scheme == "http" and (same or near))
    if not allowed or not found.hostname or "@" in found.netloc or not realm.isprintable():
        raise RegistryRefused(
            f"{registry.netloc} sends for a token to {realm[:100]!r}: expected https, or its own host"
        )


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


def read_token(raw: bytes, realm: str) -> str:
    """The token in a realm's answer."""
    host = urlsplit(realm).netloc
    try:
        told = msgspec.json.decode(raw, type=_Token)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RegistryRefused(f"{host} gives no token: expected JSON with one") from None
    token = told.token or told.access_token
    if len(token) > TOKEN_LENGTH_MAX or not _TOKEN.fullmatch(token):
        raise RegistryRefused(f"{host} gives no token that can be used")
    return token
