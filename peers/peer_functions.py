"""Functions of the language about peers, and about asking other peers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from federation.names import fold, shown
from peers.running import RunningQueries, same
from query.declarations import Call, Caller, Effect, Example, Home, Role, function
from query.errors import UnknownName

QUERY_ID: Final = re.compile(r"q-[0-9a-f]{12}(\.[0-9]{1,4})?")


class Asking(Protocol):
    """Runs a statement elsewhere as this home's identity; one value, or the rows of each peer."""

    async def value(self, peer: str, text: str, *, call: Call) -> Any: ...

    async def values(self, peer: str, text: str, *, call: Call) -> Sequence[Any]: ...


class Waits(Protocol):
    """The nameserver's statements that wait, as their callers may see them."""

    def listed(self, *, caller: Caller, now: float) -> list[dict[str, Any]]: ...

    def cancel(self, query: str, *, caller: Caller) -> bool:
        """False when none of that id waits."""
        ...


class Roster(Protocol):
    """The nameserver's list of peers."""

    def names(self) -> Sequence[str]: ...


class PeerFunctions:
    """About this peer and the others; at home everywhere."""

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        nameserver: Callable[[], str],
        asking: Asking,
        running: RunningQueries,
        version: str,
        waiting: Waits | None = None,
    ) -> None:
        self._waiting = waiting
        self._name = name
        self._kind = kind
        self._nameserver = nameserver
        self._asking = asking
        self._running = running
        self._version = version

    @function("this_peer() -> String", example="this_peer()", aliases=("this_peerid",))
    def this_peer(self, call: Call) -> str:
        """The name of the peer that runs the statement, in upper case."""
        return shown(self._name)

    @function("other_peers() -> Bag of String", example="other_peers()")
    async def other_peers(self, call: Call) -> list[str]:
        """The names of all other peers of the federation, in upper case, one a row."""
        everybody = await self._asking.values("nameserver", "peers()", call=call)
        return [name for name in everybody if fold(name) != fold(self._name)]

    @function("nameserver() -> String", example="nameserver()")
    def nameserver(self, call: Call) -> str:
        """Where this peer reaches its nameserver: ``host:port``; on the nameserver, where it listens."""
        return self._nameserver()

    @function("version() -> Record", example="version()")
    def version(self, call: Call) -> dict[str, Any]:
        """The version of the program on this peer, and what kind of peer it is."""
        return {"peerage": self._version, "peer": shown(self._name), "kind": self._kind}

    @function(
        "edge_query(String edge, String statement) -> Object",
        example=Example('edge_query("nameserver", "1 + 1")', shows="2"),
    )
    async def edge_query(self, call: Call, edge: str, statement: str) -> Any:
        """The one value that a statement gives on another peer. The statement runs there under this home's role."""
        return await self._asking.value(edge, statement, call=call)

    @function("query:list() -> Bag of Record", example="query:list()")
    async def query_list(self, call: Call) -> list[dict[str, Any]]:
        """The queries that run on this peer now: id, caller, text, seconds since the start, rows so far. On the
        nameserver also those with //wait:, while they wait and for a day after: how they stand, and how many of their
        targets have a state. A client's home, where nothing stays, shows those of the nameserver. One's own, or all
        with the role operator.
        """
        if self._kind == "client":
            return list(await self._asking.values("nameserver", "query:list()", call=call))
        now = call.now.timestamp()
        waiting = self._waiting.listed(caller=call.caller, now=now) if self._waiting is not None else []
        told = {record["id"] for record in waiting}
        return waiting + [
            {
                "id": entry.id,
                "caller": entry.caller.name,
                "text": entry.text,
                "state": "running",
                "running_s": round(max(0.0, now - entry.started), 3),
                "rows": entry.rows,
            }
            for entry in self._running.all()
            if entry.id not in told and (call.caller.role >= Role.OPERATOR or same(call.caller, entry.caller))
        ]

    @function(
        "query:cancel(String id) -> Boolean",
        effect=Effect.CHANGES,
        example=Example('query:cancel("q-000000000000")'),
    )
    async def query_cancel(self, call: Call, id: str) -> bool:  # noqa: A002 — the parameter's name in the language
        """Stop a query by its id, on every peer it runs on, and for those that it waits for: one that runs here, or one
        that waits at the nameserver. One's own, or any with the role operator.
        """
        if self._waiting is not None and self._waiting.cancel(id, caller=call.caller):
            return True
        try:
            return self._running.cancel(id, caller=call.caller)
        except UnknownName:
            if self._waiting is not None or self._kind == "nameserver" or not QUERY_ID.fullmatch(id):
                raise
        return bool(await self._asking.value("nameserver", f"query:cancel({json.dumps(id)})", call=call))


class RosterFunctions:
    """About the federation's peers; at home on the nameserver."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    @function("peers() -> Bag of String", home=Home.NAMESERVER, example="peers()")
    def peers(self, call: Call) -> list[str]:
        """The names of all peers that were registered and not removed, in upper case, one a row."""
        return [shown(name) for name in self._roster.names()]
