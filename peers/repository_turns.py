"""One after the other in a repository: whoever lists or deletes a release waits for who does so now.

Between the moment a release is decided on in the log and the moment its repository lists or drops it, nobody else may
decide on that repository, or the two would part. Not for reading, and not for blobs, which have rules of their own.
So what was begun in a turn ends in it (:func:`~peers.endings.to_the_end`), whoever has left meanwhile.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class RepositoryTurns:
    """Locks by repository, for as long as somebody wants them."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, repository: str) -> asyncio.Lock:
        return self._turns.setdefault(repository, asyncio.Lock())
