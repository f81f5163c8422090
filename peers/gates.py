"""Who may ask the application face for what: one gate for each way in.

    the Unix socket     whoever can open it (0600): everything
    loopback            this device, seen by ``Host`` and ``Origin``; statements and changes need the token
    bound wider         the token for everything, over TLS

Owns the checks of a request's head. Rules: the token is compared in constant time and stands in no error; a web page
cannot reach loopback through a browser, as its ``Host`` or ``Origin`` names another place.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from peers.answers import Unauthorized, shortened
from query.errors import Forbidden

LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
HOSTS_KEPT: Final = 64  # values of the Host header whose meaning is remembered


class Gate(Protocol):
    def check(self, request: web.BaseRequest) -> None:
        """Raises :class:`~query.errors.Forbidden` when nothing may be asked this way."""
        ...

    def check_change(self, request: web.BaseRequest) -> None:
        """Raises :class:`~query.errors.Forbidden`, after :meth:`check`, for statements and what changes the peer."""
        ...


class SocketGate:
    """The socket's permissions are the proof."""

    def check(self, request: web.BaseRequest) -> None:
        """Everybody who is here may ask."""

    def check_change(self, request: web.BaseRequest) -> None:
        """And change."""


class LoopbackGate:
    """``token`` is what statements and changes must show."""

    def __init__(self, token: str) -> None:
        self._token = token

    def check(self, request: web.BaseRequest) -> None:
        check_local(request)

    def check_change(self, request: web.BaseRequest) -> None:
        if not shows_token(request, self._token):
            raise Forbidden(
                "statements and changes on this port need the token of this peer",
                hint='send "Authorization: Bearer …" with the content of the file "token" in the peer\'s home',
            )


class WideGate:
    """``token`` is what every request must show."""

    def __init__(self, token: str) -> None:
        self._token = token

    def check(self, request: web.BaseRequest) -> None:
        if not shows_token(request, self._token):
            raise Unauthorized(
                "every request to this port needs the token of this peer",
                hint='send "Authorization: Bearer …" with the content of the file "token" in the peer\'s home',
            )

    def check_change(self, request: web.BaseRequest) -> None:
        """The token was shown."""


def check_local(request: web.BaseRequest) -> None:
    """Raises :class:`Forbidden` unless ``Host`` and ``Origin`` name this device."""
    host = request.headers.get(hdrs.HOST, "")
    if not _is_local(host):
        raise Forbidden(f'the Host header names "{shortened(_hostname(f"//{host}"))}", expected this device')
    if hdrs.ORIGIN in request.headers:
        for origin in request.headers.getall(hdrs.ORIGIN):
            if _hostname(origin) not in LOCAL_HOSTS:
                raise Forbidden(f'the Origin header names "{shortened(origin)}", expected this device')


def shows_token(request: web.BaseRequest, token: str) -> bool:
    scheme, _, shown = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(errors="replace"), token.encode())


@lru_cache(HOSTS_KEPT)
def _is_local(host: str) -> bool:
    return _hostname(f"//{host}") in LOCAL_HOSTS


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that do not close
        return ""
