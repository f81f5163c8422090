"""The running peer: roles, transports, discovery, agent loop, front ends, and the public client.

``peers.connect`` and ``peers.connect_async`` are the program's public face; see :mod:`peers.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peers.client import Answer, AsyncConnection, Connection, PartialAnswer, Row, connect, connect_async

__all__ = ["Answer", "AsyncConnection", "Connection", "PartialAnswer", "Row", "connect", "connect_async"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from peers import client

        return getattr(client, name)
    raise AttributeError(f"module 'peers' has no attribute {name!r}")
