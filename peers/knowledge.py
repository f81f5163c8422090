"""What a living peer knows, for completion: fetched over a connection into a :class:`query.knowledge.Knowledge`.

    knowledge = await fetch(connection, peer="E1")    # the catalogue of E1, names of the federation
    knowledge = offline()                             # the program's own catalogue, without names

Rules: nothing here raises because of a peer; what cannot be had is left out, and without a catalogue the program's own
counts (``knowledge.peer`` is None then). Each question is small, reads only, and is bounded in time, rows and number.
The catalogue is that of one peer: where ``peer`` means several, of the peer that the connection reaches.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, Protocol

from peers.client import Answer
from peers.record_keys import KEYS
from query.conditions import ALWAYS as PROPERTIES
from query.errors import Problem
from query.frames import Frame
from query.knowledge import NAMES_MAX, Kind, Knowledge, built_in, catalogue_of
from query.placement import Peers, parse_target

FETCH_S_MAX: Final = 5.0  # for one question
ASKED_AT_ONCE_MAX: Final = 4
DESCRIBED_MODELS_MAX: Final = 16  # whose inputs are asked for

CATALOGUE: Final = "functions()"
QUESTIONS: Final[Mapping[str, str]] = {
    "peers": "peers()",
    "edges": "edge:list()",
    "groups": "edge:all_groups()",
    "published": "//peer: nameserver\nmodels:installed()",
    "installed": "models:installed()",
    "folders": "models:list()",
    "loaded": "models:loaded()",
    "repositories": "models:repositories()",
    "pipelines": "pipeline:list()",
    "queries": "query:list()",
}


class Asked(Protocol):
    """What is asked: :class:`peers.client.AsyncConnection` is one."""

    def frames(
        self,
        text: str,
        *,
        params: Mapping[str, Any] | None = None,
        peer: str | None = None,
        timeout_s: float | None = None,
    ) -> Any: ...


@functools.cache
def offline() -> Knowledge:
    """What is known without a peer: the program's own functions, and the records they take and give."""
    from peers.catalogues import every_declaration

    return replace(built_in(every_declaration(), KEYS), names={Kind.PROPERTY: PROPERTIES})


async def fetch(connection: Asked, *, peer: str | None = None) -> Knowledge:
    """What is known at ``peer``, in the words of ``//peer:``, else at the peer that the connection reaches."""
    at = peer if peer is not None and means_one(peer) else None
    turn = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def ask(text: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        async with turn:
            return await _rows(connection, text, peer=at, params=params)

    records, *answers = await asyncio.gather(ask(CATALOGUE), *map(ask, QUESTIONS.values()))
    found = dict(zip(QUESTIONS, answers, strict=True))
    described: list[list[Any]] = await asyncio.gather(
        *(
            ask("models:info(:name)", {"name": str(label).partition("@")[0]})
            for label in _flat(found["loaded"])[:DESCRIBED_MODELS_MAX]
        )
    )
    told = [record for record in records if isinstance(record, dict)]
    return replace(
        offline(),
        catalogue=catalogue_of(told) if told else offline().catalogue,
        names=_names(found),
        versions=_versions(found),
        keys={**KEYS, **_inputs(row for rows in described for row in rows)},
        peer=(at or "") if told else None,
    )


def means_one(peer: str) -> bool:
    """Whether a target, in the words of ``//peer:``, is one peer by its name."""
    try:
        target = parse_target(peer)
    except Problem:
        return False
    return isinstance(target, Peers) and len(target.names) == 1


async def _rows(
    connection: Asked, text: str, *, peer: str | None, params: Mapping[str, Any] | None = None
) -> list[Any]:
    """The values of the rows, or nothing when they cannot be had in time."""
    answer = Answer()
    try:
        async with asyncio.timeout(FETCH_S_MAX):
            frames = connection.frames(text, params=params, peer=peer, timeout_s=FETCH_S_MAX)
            async with aclosing(frames):
                async for frame in frames:
                    _add(answer, frame)
    except (Problem, OSError, TimeoutError):
        return []
    return [row.value for row in answer.rows]


def _add(answer: Answer, frame: Frame) -> None:
    if len(answer.rows) < NAMES_MAX:
        answer.add(frame)


def _flat(rows: Sequence[Any]) -> list[Any]:
    """The elements of rows that are vectors, and the other rows."""
    return [one for row in rows for one in (row if isinstance(row, list | tuple) else [row])]


def _strings(rows: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(one) for one in _flat(rows) if isinstance(one, str)))[:NAMES_MAX]


def _field(rows: Sequence[Any], key: str) -> tuple[str, ...]:
    return tuple(str(one[key]) for one in _flat(rows) if isinstance(one, dict) and isinstance(one.get(key), str))


def _names(found: Mapping[str, list[Any]]) -> dict[Kind, tuple[str, ...]]:
    releases = _strings([*found["published"], *found["installed"]])
    models = [label.partition("@")[0] for label in (*releases, *_strings(found["loaded"]))]
    return {
        Kind.PEER: _strings(found["peers"]),
        Kind.EDGE: _strings(found["edges"]),
        Kind.GROUP: tuple(dict.fromkeys((*_strings(found["groups"]), "all"))),
        Kind.MODEL: tuple(dict.fromkeys((*_strings(found["folders"]), *models))),
        Kind.RELEASE: releases,
        Kind.REPOSITORY: _field(found["repositories"], "name"),
        Kind.PIPELINE: _strings(found["pipelines"]),
        Kind.QUERY: _field(found["queries"], "id"),
        Kind.PROPERTY: PROPERTIES,
    }


def _versions(found: Mapping[str, list[Any]]) -> dict[str, tuple[str, ...]]:
    """By a model's folded name, the greatest first."""
    versions: dict[str, set[str]] = {}
    for label in _strings([*found["installed"], *found["published"], *found["loaded"]]):
        name, _, version = label.partition("@")
        if version:
            versions.setdefault(name.casefold(), set()).add(version)
    return {name: tuple(sorted(listed, key=_natural, reverse=True)) for name, listed in versions.items()}


def _natural(version: str) -> list[tuple[int, int, str]]:
    """An order in which 1.10 comes after 1.9."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", version)
    return [(1, int(part), "") if part[0] in "0123456789" else (0, 0, part) for part in parts]


def _inputs(described: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """The inputs of each model that was described: the keys of the record that ``models:infer`` takes."""
    found = {}
    for one in described:
        if isinstance(one, dict) and isinstance(one.get("model"), str) and isinstance(one.get("inputs"), list):
            found[f"inputs {one['model'].partition('@')[0].casefold()}"] = _field(one["inputs"], "name")
    return found
