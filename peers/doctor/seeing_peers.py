"""What peers say: the one that runs in the home, over its socket, and the nameserver, as this home's identity.

The nameserver is asked over a connection of the doctor's own, so that it is asked also where no peer runs; what is
asked needs the role viewer and changes nothing. Whoever calls sets the limit in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from peers.client import Answer, connect_async
from peers.doctor.facts import DesiredFacts, EdgesFacts, UplinkFacts, VersionFacts
from peers.federation_client import FederationClient
from peers.requests import StatementRequest, encode_request
from query.errors import Problem

SAMPLES_MAX: Final = 12  # of whether an uplink is open
SAMPLES_OPEN: Final = 5  # in a row, for one that stays
SAMPLE_S: Final = 0.2
EDGES_MAX: Final = 20_000
FAILURES_MAX: Final = 50

Asking = Any  # a coroutine function: text → rows


async def ask_running(socket: str, text: str) -> list[Any]:
    """The rows that the peer in the home gives. Raises its errors, or ``NotRunning``."""
    async with connect_async(socket=Path(socket)) as peer:
        return list(await peer.values(text))


async def ask_nameserver(client: FederationClient, text: str) -> list[Any]:
    """The rows that the nameserver gives. Raises its errors, or what the network did."""
    answer = Answer()
    async with client.query(encode_request(StatementRequest(text=text))) as frames:
        async for frame in frames:
            answer.add(frame)
    return [row.value for row in answer.checked().rows]


async def version_of(ask: Asking) -> str | None:
    rows = await ask("version()")
    return str(rows[0]["peerage"]) if rows else None


async def uplink_facts(ask: Asking, name: str, *, mode: str, polls: str | None) -> UplinkFacts:
    """Whether the nameserver has an uplink of a running edge, and whether it stays: looked at a few times."""
    seen: list[bool] = []
    while len(seen) < SAMPLES_MAX and not _stays(seen):
        if seen:
            await asyncio.sleep(SAMPLE_S)
        rows = await ask(f'edge:status("{name}")')
        seen.append(bool(rows and rows[0]["connected"]))
        mode = str(rows[0]["mode"]) if rows else mode
    return UplinkFacts(mode, running=True, connected=_stays(seen), polls=polls)


def _stays(seen: Sequence[bool]) -> bool:
    """Whether it was open each of the last times; it may have begun just before."""
    return len(seen) >= SAMPLES_OPEN and all(seen[-SAMPLES_OPEN:])


def running_desired(own: Mapping[str, Any], actual: Mapping[str, Any]) -> DesiredFacts:
    """Of an edge that runs, from its ``edge:contact()`` and ``edge:actual_state()``."""
    since = own.get("since")
    generation = own.get("generation")
    return DesiredFacts(
        time.time(),
        has_state=generation is not None,
        generation=generation,
        contact=own.get("state"),
        contact_since=since.timestamp() if since is not None else None,
        contact_message=own.get("message"),
        errors=failures_in(actual),
    )


def failures_in(actual: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """What a state says of loads that failed: model, code, message."""
    found = actual.get("last_load_errors", ())
    return tuple((str(one["model"]), str(one["error"]), str(one["message"])) for one in found)


async def edges_facts(ask: Asking) -> EdgesFacts:
    rows = await ask("edge:status()")
    return EdgesFacts(time.time(), tuple(rows[:EDGES_MAX]))


async def edge_versions(ask: Asking, own: str, nameserver: str | None) -> VersionFacts:
    """The versions that edges reported last."""
    text = "select [e, edge:properties(e)] from e in edge:list()"
    found: dict[str, str] = {}
    for edge, properties in (await ask(text))[:EDGES_MAX]:
        if "version" in properties:
            found[str(edge)] = str(properties["version"])
    return VersionFacts(own, nameserver, found)


async def failing_opsets(ask: Asking, statuses: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Which edges say that their runtime does not know a model's operator set."""
    names = [str(one["id"]) for one in statuses if one.get("errors")][:FAILURES_MAX]
    told = []
    for name in names:
        try:
            rows = await ask(f'edge:actual_state("{name}")')
        except Problem:
            continue  # removed meanwhile
        told += [
            f"{model} does not load on {name}: {message}"
            for model, code, message in failures_in(rows[0])
            if code == "unsupported_opset"
        ]
    return tuple(told)
