"""A disk that forgets what was not synced when its machine crashes."""

from __future__ import annotations

from typing import Any


class Disk:
    """Named values. A read sees what was written; a crash goes back to what was synced. ``version`` grows with every
    change.
    """

    def __init__(self) -> None:
        self._synced: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self.version = 0

    def write(self, **values: Any) -> None:
        """Values are never changed in place by anyone."""
        self._written |= values
        self.version += 1

    def sync(self) -> None:
        self._synced |= self._written
        self._written = {}
        self.version += 1

    def crash(self) -> None:
        self._written = {}
        self.version += 1

    def read(self, name: str) -> Any:
        return self._written.get(name, self._synced.get(name))

    def durable(self, name: str) -> Any:
        """What a crash now would leave."""
        return self._synced.get(name)

    def copy(self) -> dict[str, Any]:
        """A backup of what is durable."""
        return dict(self._synced)

    def restore(self, backup: dict[str, Any]) -> None:
        self._synced, self._written = dict(backup), {}
        self.version += 1
