"""What comes one by one, given on in bunches: everything that comes in one turn of the event loop goes together.

Nothing waits for more: a bunch leaves at the end of the turn in which it began, sooner when it is full or its maker
says that it is the last. Bunches leave one after the other. Rules: what is added waits while a full bunch cannot leave,
so a slow reader slows its writer; a bunch that could not be given raises at the next addition, or at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

_T = TypeVar("_T")


class Bunches(Generic[_T]):
    """Use as an async context manager; leaving it by an exception drops what has not left."""

    def __init__(self, give: Callable[[list[_T]], Awaitable[None]], *, items_max: int) -> None:
        self._give = give
        self._items_max = items_max
        self._items: list[_T] = []
        self._end_of_turn: asyncio.Handle | None = None
        self._giving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            self._forget_turn()
            if self._giving is not None:
                self._giving.cancel()
                await asyncio.wait([self._giving])
                if not self._giving.cancelled():
                    self._giving.exception()  # seen: it was raised, or something else was

    async def add(self, item: _T, *, last: bool = False) -> None:
        """``last``: nothing more comes that could go with it."""
        self._items.append(item)
        if last or len(self._items) >= self._items_max:
            await self.flush()
        elif self._giving is not None and self._giving.done():
            await self._given()
            self._begin_turn()
        elif self._end_of_turn is None and self._giving is None:
            self._begin_turn()

    def add_nowait(self, item: _T) -> None:
        """As :meth:`add`. Raises :class:`asyncio.QueueFull` where it would have to wait."""
        if len(self._items) + 1 >= self._items_max:
            raise asyncio.QueueFull
        self._items.append(item)
        if self._giving is None:
            self._begin_turn()

    async def flush(self) -> None:
        """Give what there is, and return when it was given."""
        self._forget_turn()
        await self._given()
        if self._items:
            items, self._items = self._items, []
            await self._give(items)

    def _begin_turn(self) -> None:
        if self._end_of_turn is None:
            self._end_of_turn = asyncio.get_running_loop().call_soon(self._turn_ended)

    def _forget_turn(self) -> None:
        if self._end_of_turn is not None:
            self._end_of_turn.cancel()
            self._end_of_turn = None

    def _turn_ended(self) -> None:
        self._end_of_turn = None
        if self._giving is None and self._items:
            self._giving = asyncio.get_running_loop().create_task(self._give_all())

    async def _give_all(self) -> None:
        """What there is, and what comes while it is given."""
        while self._items:
            items, self._items = self._items, []
            await self._give(items)

    async def _given(self) -> None:
        """Wait for what is being given. Raises what giving it raised."""
        giving, self._giving = self._giving, None
        if giving is not None:
            await giving
