"""Work that ends, whoever has left meanwhile.

Cancelling a task does not stop the thread that it waits for: what the thread opens then belongs to nobody, and what it
uses may be closed under it. So whoever shares a file, a lock or a decision with such work waits for its end first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def ended(*under_way: asyncio.Future[Any]) -> None:
    """Until the work of threads has ended, whoever is cancelled meanwhile; its failure no longer matters."""
    cancelled: asyncio.CancelledError | None = None
    while not all(future.done() for future in under_way):
        try:
            await asyncio.wait(under_way)
        except asyncio.CancelledError as error:
            cancelled = error
    for future in under_way:
        future.exception()
    if cancelled is not None:
        raise cancelled


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do all of it, also when the caller is cancelled, who hears of that afterwards."""
    task = asyncio.get_running_loop().create_task(work)
    await ended(task)
    return task.result()
