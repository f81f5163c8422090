"""What is on its way into memory or out of it, and what could not get in.

Owns what the table of loaded things does not say: loads that go on, the last failure of each version, and what is no
longer found but still answers calls that began with it. At most ``FAILURES_KEPT_MAX`` failures are remembered, the
latest.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from engine.servables import IndexEntry, IndexState, Servable
from federation.documents import ReleaseRecord
from query.errors import Problem

FAILURES_KEPT_MAX: Final = 256

Key: TypeAlias = tuple[str, str, str]
"""Name, version and kind of a release."""


class Index:
    """Used from one event loop. ``failures``: loads that failed, since the peer began."""

    def __init__(self) -> None:
        self.failures = 0
        self._loading: dict[Key, int] = {}
        self._failed: OrderedDict[Key, str] = OrderedDict()
        self._leaving: list[tuple[Key, weakref.ref[Servable]]] = []

    @contextmanager
    def loading(self, record: ReleaseRecord) -> Iterator[None]:
        """While a release is loaded. A problem is remembered as its failure; success ends those of its name."""
        key = record.name, record.version, record.kind
        self._loading[key] = self._loading.get(key, 0) + 1
        try:
            yield
        except Problem as problem:
            self.failures += 1
            self._failed[key] = f"{problem.code}: {problem.message}"
            self._failed.move_to_end(key)
            while len(self._failed) > FAILURES_KEPT_MAX:
                self._failed.popitem(last=False)
            raise
        else:
            self.forget(record.name)
        finally:
            self._loading[key] -= 1
            if not self._loading[key]:
                del self._loading[key]

    def forget(self, name: str) -> None:
        """Its failures are of no interest any more."""
        for key in [key for key in self._failed if key[0] == name]:
            del self._failed[key]

    def leaving(self, servable: Servable) -> None:
        """It is not found any more; calls in flight may still hold it."""
        self._leaving = [entry for entry in self._leaving if entry[1]() is not None]
        self._leaving.append((_key(servable), weakref.ref(servable)))

    def entries(self, loaded: Iterable[Servable]) -> tuple[IndexEntry, ...]:
        """Every release once, by name and version."""
        found: dict[tuple[str, str], IndexEntry] = {}

        def put(key: Key, state: IndexState, reason: str = "") -> None:
            name, version, kind = key
            found[name, version] = IndexEntry(name, version, state, reason, kind)

        for key, reason in self._failed.items():
            put(key, "UNAVAILABLE", reason)
        for key, reference in self._leaving:
            if reference() is not None:
                put(key, "UNLOADING", "calls that began with it go on")
        for key in self._loading:
            put(key, "LOADING", "its trial and test vectors run")
        for servable in loaded:
            put(_key(servable), "READY")
        return tuple(found[key] for key in sorted(found))


def _key(servable: Servable) -> Key:
    return servable.name, servable.version, servable.record.kind
