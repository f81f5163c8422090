"""How requests go to a registry, below its protocol: sessions, their connections and times, bodies read from disk.

Owns what ``requests`` must not do: retry, follow redirects or look ahead at them, believe the environment's proxies,
wait without an end. Importing this is as expensive as :mod:`peers.oci_registry`.
"""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter

from peers.oci_transfers import Connections, Transfer, TransferLimits

PIECE_BYTES: Final = 256 * 1024


class Adapter(HTTPAdapter):
    """Expects the site's name whatever is dialled, gives every request its times, and tells of its connections."""

    def __init__(self, hostname: str | None, limits: TransferLimits, connections: Connections) -> None:
        self._hostname = hostname
        self._limits = limits
        self._connections = connections
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        if self._hostname is not None:
            options |= {"assert_hostname": self._hostname, "server_hostname": self._hostname}
        options["blocksize"] = PIECE_BYTES  # of a body as it is read and encrypted; 16 KiB unless told
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._connections)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = (self._limits.connect_s, self._limits.read_s)
        options["proxies"] = {}
        return super().send(request, **options)


class Session(requests.Session):
    """Leaves redirects to us: requests would look ahead, and read a body without a bound for it."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def _pools(connections: Connections) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    class Plain(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            connections.add(made)
            return made

    class Secure(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            connections.add(made)
            return made

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class Body(io.RawIOBase):
    """A blob as a request's body, in pieces that are counted as they leave."""

    def __init__(self, path: Path, size: int, transfer: Transfer) -> None:
        self._file = path.open("rb")
        self._size = size
        self._transfer = transfer
        self._counted = 0

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(PIECE_BYTES if size < 0 else min(size, PIECE_BYTES))
        new = max(0, self._file.tell() - self._counted)
        self._counted += new
        self._transfer.moved(new)
        return piece

    def tell(self) -> int:
        return self._file.tell()

    def rewind(self) -> None:
        self._file.seek(0)

    def close(self) -> None:
        self._file.close()
        super().close()


def reason_of(error: BaseException) -> str:
    """What the system or the TLS library said, below the wrappers that HTTP libraries put around it."""
    cause: BaseException | None = error
    innermost, said = error, ""
    while cause is not None:
        innermost = cause
        if isinstance(cause, OSError):
            said = getattr(cause, "verify_message", None) or cause.strerror or said
        cause = cause.__cause__ or cause.__context__
    return said or str(innermost)
