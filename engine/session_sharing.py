"""One session for equal graphs: releases and steps of pipelines with the same file share what it takes in memory.

Owns the table of live sessions by the digest of their graph and their settings. It keeps none alive: a session goes
with the last model that holds it. Runs of a session share nothing, so neither do the models.
"""

from __future__ import annotations

import threading
import weakref

from engine.providers import SessionSettings
from engine.sessions import DEFAULT_SETTINGS, Session
from federation.names import Digest


class Sessions:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: weakref.WeakValueDictionary[tuple[Digest, SessionSettings], Session] = weakref.WeakValueDictionary()

    def session(self, graph: Digest, content: bytes, settings: SessionSettings = DEFAULT_SETTINGS) -> Session:
        """The session of this graph, built when nobody has it. Raises what building raises."""
        with self._lock:
            found = self._live.get((graph, settings))
            if found is None:
                found = self._live[graph, settings] = Session(content, settings)
            return found

    def __len__(self) -> int:
        return len(self._live)
