"""``GET /metrics``: what the peer's parts have counted, for Prometheus.

Owns the moment at which everything is read, on the event loop, and which of the two text formats is answered, by
``Accept``; the text is made in a thread, of one scrape at a time (:mod:`peers.metrics`). The few counts that no other
part keeps are here: releases that came into memory and left it, and answers that were errors.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.engine import Engine
from peers.metrics import OPENMETRICS_TYPE, PLAIN_TYPE, Extra, LoadedFacts, Snapshot, exposition

if TYPE_CHECKING:
    from engine.servables import Servable

CODES_MAX: Final = 256  # codes of errors that are counted apart; there are fewer classes of errors

Extras = Callable[[], Iterable[Extra]]


class Metrics:
    """What is told. ``under_way``: inferences that have begun and not ended, by protocol; ``extras``: the counts of
    other parts. Both are asked at each scrape.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        version: str,
        under_way: Mapping[str, Callable[[], int]] = MappingProxyType({}),
        extras: Iterable[Extras] = (),
    ) -> None:
        self._under_way = dict(under_way)
        self._engine = engine
        self._version = version
        self._extras = tuple(extras)
        self._loads: Counter[str] = Counter(loaded=0, swapped=0)
        self._unloads = 0
        self._known = {servable.name for servable in engine.loaded()}
        self._refused: Counter[str] = Counter()
        engine.subscribe(self._changed)

    def refused(self, code: str) -> None:
        """An answer was an error of this code."""
        if code in self._refused or len(self._refused) < CODES_MAX:
            self._refused[code] += 1

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        engine = self._engine
        return Snapshot(
            version=self._version,
            runs=engine.all_statistics(),
            loaded=tuple(
                LoadedFacts(one.name, one.version, one.record.kind, one.origin, one.memory_bytes)
                for one in engine.loaded()
            ),
            index=engine.index(),
            loads={**self._loads, "failed": engine.failed_loads},
            unloads=self._unloads,
            memory_budget_bytes=engine.settings.memory_budget_bytes,
            queue=engine.waiting(),
            queue_max=engine.settings.queue_max,
            under_way={protocol: count() for protocol, count in self._under_way.items()},
            refused=dict(self._refused),
            extras=(self._dropped(), *self._streams(), *(extra for extras in self._extras for extra in extras())),
        )

    def _dropped(self) -> Extra:
        """What pipelines left out of their answers."""
        found: dict[tuple[str, ...], float] = {}
        for one in self._engine.loaded():
            if one.record.kind == "pipeline":
                from engine.pipelines import LoadedPipeline

                assert isinstance(one, LoadedPipeline)
                for name, failure in one.failures.read().items():
                    found[one.name, one.version, name] = failure.rows
        return Extra(
            "peerage_dropped_rows_total",
            "rows of a pipeline's answers in which something was left out",
            found,
            labels=("name", "version", "dropped"),
        )

    def _streams(self) -> Iterable[Extra]:
        """Of stateful models."""
        count, state_bytes = self._engine.open_streams()
        yield Extra("peerage_streams_open", "streams of stateful models", {(): count}, counts=False)
        yield Extra("peerage_stream_state_bytes", "what they carry from call to call", {(): state_bytes}, counts=False)

    def _changed(self, name: str, servable: Servable | None) -> None:
        if servable is None:
            self._unloads += 1
            self._known.discard(name)
        else:
            self._loads["swapped" if name in self._known else "loaded"] += 1
            self._known.add(name)


def metrics_routes(metrics: Metrics) -> tuple[web.RouteDef, ...]:
    """The route, for the application face; it needs no token on loopback."""
    turn = asyncio.Lock()

    async def scrape(request: web.Request) -> web.StreamResponse:
        """What this peer has counted, as Prometheus reads it."""
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        async with turn:
            body = await asyncio.to_thread(exposition, metrics.snapshot(), openmetrics=openmetrics)
        headers = {"Content-Type": OPENMETRICS_TYPE if openmetrics else PLAIN_TYPE}
        answer = web.Response(body=body, headers=headers)
        answer.enable_compression()
        return answer

    return (web.get("/metrics", scrape),)
