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
from typing import Final

from engine.servables import IndexEntry, Servable
from query.errors import Problem

FAILURES_KEPT_MAX: Final = 256


class Index:
    """Used from one event loop. ``failures``: loads that failed, since the peer began."""

    def __init__(self) -> None:
        self.failures = 0
        self._loading: dict[tuple[str, str], int] = {}
        self._failed: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._leaving: list[tuple[str, str, weakref.ref[Servable]]] = []

    @contextmanager
    def loading(self, name: str, version: str) -> Iterator[None]:
        """While a release is loaded. A problem is remembered as its failure; success ends those of its name."""
        key = name, version
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
            self.forget(name)
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
        self._leaving = [entry for entry in self._leaving if entry[2]() is not None]
        self._leaving.append((servable.name, servable.version, weakref.ref(servable)))

    def entries(self, loaded: Iterable[Servable]) -> tuple[IndexEntry, ...]:
        """Every release once, by name and version."""
        found: dict[tuple[str, str], IndexEntry] = {}
        for (name, version), reason in self._failed.items():
            found[name, version] = IndexEntry(name, version, "UNAVAILABLE", reason)
        for name, version, reference in self._leaving:
            if reference() is not None:
                found[name, version] = IndexEntry(name, version, "UNLOADING", "calls that began with it go on")
        for name, version in self._loading:
            found[name, version] = IndexEntry(name, version, "LOADING", "its trial and test vectors run")
        for servable in loaded:
            found[servable.name, servable.version] = IndexEntry(servable.name, servable.version, "READY")
        return tuple(found[key] for key in sorted(found))
