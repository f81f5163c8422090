"""TLS contexts of the federation face: how two peers prove their keys to each other.

Pure construction. Rules: TLS 1.3 alone. The server asks for a client certificate and does not require one, and leaves
its times unchecked, so that absence and expiry can be refused with a reason (:mod:`federation.admission`); the chain
is always verified. The client checks chain, times and the name ``nameserver.peerage.internal``, whatever address it
dials; of another peer, whose certificate has no name, it looks at the key. No session tickets: each connection proves
its key anew.

asyncio swallows a handshake that fails. ``on_refused`` is told the reason of each by an :class:`ssl.SSLObject` of our
own. Such an object knows no address, and sees nothing of a client that leaves without an alert, as asyncio's do;
:mod:`peers.tls_site` has both.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

NAMESERVER_HOSTNAME: Final = "nameserver.peerage.internal"
NO_CHECK_TIME: Final = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for
BROKEN_OFF: Final = (
    "CONNECTION_LOST: the peer broke off during the handshake;"
    " it may belong to another federation, or not trust this one"
)

Pem = str | Path
"""A PEM text, or the path of a file that holds one."""


def server_context(cert: Pem, key: Pem, ca: Pem, *, on_refused: Callable[[str], None] | None = None) -> ssl.SSLContext:
    """The nameserver's side. ``cert`` may be followed by its chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _only_tls_1_3(context)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.load_verify_locations(cadata=_text(ca))
    _load_chain(context, cert, key)
    if on_refused is not None:
        context.sslobject_class = _telling(on_refused)
    return context


def client_context(ca: Pem, cert: Pem | None = None, key: Pem | None = None) -> ssl.SSLContext:
    """A peer's side; without ``cert`` and ``key`` for joining."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _only_tls_1_3(context)
    context.load_verify_locations(cadata=_text(ca))
    if cert is not None and key is not None:
        _load_chain(context, cert, key)
    return context


def neighbour_context(ca: Pem, cert: Pem, key: Pem, *, check: Callable[[bytes], None]) -> ssl.SSLContext:
    """A peer's side towards another that is no nameserver, and so has no name in its certificate.

    ``check`` is given the certificate (DER) that the other has proven, before anything is sent, and raises
    ``ssl.SSLError`` when it is not of who was meant.
    """
    context = client_context(ca, cert, key)
    context.check_hostname = False
    context.sslobject_class = _checking(check)
    return context


def reason_of(error: Exception) -> str:
    """Why a handshake ended, for a log: OpenSSL's word for it, or what became of the connection."""
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return BROKEN_OFF
    return "TIMED_OUT" if isinstance(error, TimeoutError | ConnectionAbortedError) else str(error)


def _only_tls_1_3(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3


def _telling(on_refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    class TellingObject(ssl.SSLObject):
        """Tells of a handshake that failed; the one that only waits for bytes did not."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                on_refused(reason_of(error))
                raise

    return TellingObject


def _checking(check: Callable[[bytes], None]) -> type[ssl.SSLObject]:
    class CheckingObject(ssl.SSLObject):
        """Shows the other's certificate as soon as it is proven."""

        def do_handshake(self) -> None:
            super().do_handshake()
            check(self.getpeercert(binary_form=True) or b"")

    return CheckingObject


def _text(pem: Pem) -> str:
    return pem.read_text(encoding="ascii") if isinstance(pem, Path) else pem


def _load_chain(context: ssl.SSLContext, cert: Pem, key: Pem) -> None:
    """OpenSSL reads certificates and keys from files alone, so a text stands in one, 0600 in a 0700 folder, while it
    does.
    """
    with _file(cert) as cert_file, _file(key) as key_file:
        context.load_cert_chain(cert_file, key_file)


@contextlib.contextmanager
def _file(pem: Pem) -> Iterator[Path]:
    if isinstance(pem, Path):
        yield pem
        return
    with tempfile.TemporaryDirectory(prefix="peerage-") as folder:
        path = Path(folder) / secrets.token_hex(8)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(pem)
        yield path
