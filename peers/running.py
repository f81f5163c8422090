"""The statements that run on this peer right now, so that they can be listed and cancelled by id."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from query.declarations import Caller, Role
from query.errors import Forbidden, unknown

TEXT_SHOWN = 200


@dataclass(slots=True)
class RunningQuery:
    """One request under way. ``statement`` is the index of the statement it has come to."""

    id: str
    caller: Caller
    text: str
    started: float
    task: asyncio.Task[object] | None
    statement: int = 0
    rows: int = 0
    cancelled: bool = False


class RunningQueries:
    """Owns the table; an entry lives as long as its request."""

    def __init__(self) -> None:
        self._running: dict[str, RunningQuery] = {}

    def new_id(self) -> str:
        return f"q-{secrets.token_hex(6)}"

    def begin(self, query: str, *, caller: Caller, text: str, now: float) -> RunningQuery:
        entry = RunningQuery(query, caller, text[:TEXT_SHOWN], now, None)
        self._running[query] = entry
        return entry

    def end(self, query: str) -> None:
        self._running.pop(query, None)

    def all(self) -> tuple[RunningQuery, ...]:
        return tuple(self._running.values())

    def cancel(self, query: str, *, caller: Caller) -> bool:
        """Stop a query wherever it runs. Raises when there is none, or when it is another's and the role too low."""
        entry = self._running.get(query)
        if entry is None:
            raise unknown("running query", query, self._running)
        if caller.role < Role.OPERATOR and caller.name != entry.caller.name:
            raise Forbidden(f'query "{query}" is of "{entry.caller.name}"; cancelling it needs the role operator')
        entry.cancelled = True
        if entry.task is not None:
            entry.task.cancel()
        return True
