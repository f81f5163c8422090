"""What the prompt knows of the federation: fetched beside what runs, at the start, after changes, and now and then.

Rules: nothing here holds up the prompt or fails because of a peer; what was known before counts until the new is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

from peers.client import AsyncConnection, Connection
from peers.knowledge import fetch, means_one, offline
from query.errors import Problem
from query.frames import RowFrame
from query.knowledge import Knowledge
from query.values import decode_value

STALE_S: Final = 60.0
MODE_S_MAX: Final = 5.0
STOP_S_MAX: Final = 2.0


@dataclass(frozen=True, slots=True)
class Whom:
    """Whom a session asks: the peer of its home, and the federation."""

    federation: str
    name: str
    kind: str
    role: str = ""


class Learning:
    """``changed`` is called from another thread when something new is known."""

    def __init__(self, connection: Connection, whom: Whom, *, changed: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._whom = whom
        self._fetching: Future[None] | None = None
        self._fetched_at: float | None = None
        self._about: str | None = None
        self.changed = changed
        self.knowledge: Knowledge = offline()
        self.mode: str | None = None
        self.learned = False

    def begin(self, peer: str | None, *, anew: bool = False) -> None:
        """Fetch what is known at ``peer``, unless that is fresh."""
        stale = self._fetched_at is None or time.monotonic() - self._fetched_at > STALE_S
        if not (anew or stale or peer != self._about):
            return
        if self._fetching is not None and not self._fetching.done():
            if peer == self._about and not anew:
                return
            self._fetching.cancel()
        if peer != self._about:
            self.mode = None
        self._about = peer
        self._fetched_at = time.monotonic()
        self._fetching = self._connection.begin(lambda connection: self._fetch(connection, peer))

    def wait(self, timeout_s: float) -> bool:
        """Whether what is being fetched has come by then."""
        if self._fetching is not None:
            with suppress(TimeoutError):
                self._fetching.result(timeout_s)
        return self.learned

    def disturbed(self) -> None:
        """What was being fetched may have been cancelled with a statement: the next prompt fetches anew."""
        self._fetched_at = None

    def stop(self) -> None:
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()

    async def _fetch(self, connection: AsyncConnection, peer: str | None) -> None:
        self.mode = await _mode(connection, self._whom, peer)
        self.changed()
        self.knowledge = await fetch(connection, peer=peer)
        self.learned = True
        self.changed()


async def _mode(connection: AsyncConnection, whom: Whom, peer: str | None) -> str | None:
    """The mode of an edge, or what kind of peer is asked, as far as one peer is."""
    if peer is None:
        if whom.kind != "edge":
            return whom.kind
        return await _value(connection, "edge:mode()", key="mode")
    if peer.casefold() == "nameserver":
        return "nameserver"
    if not means_one(peer):
        return None
    return await _value(connection, "edge:status(:edge)", key="edge_mode", params={"edge": peer})


async def _value(
    connection: AsyncConnection, text: str, *, key: str, params: dict[str, Any] | None = None
) -> str | None:
    found: str | None = None
    with suppress(Problem, OSError):
        frames = connection.frames(text, params=params, timeout_s=MODE_S_MAX)
        async with aclosing(frames) as opened:  # type: ignore[type-var]
            async for frame in opened:
                if isinstance(frame, RowFrame):
                    value = decode_value(frame.values[0])
                    found = str(value.get(key) or "") or None if isinstance(value, dict) else str(value)
    return found
