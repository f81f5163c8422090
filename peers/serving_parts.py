"""What a peer's application face is made of: inference, pipelines, metrics and statements behind one listener.

Composes; decides nothing. Both kinds of peer that stay are given the same face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from engine.engine import Engine
from federation.layout import ImageLayout
from peers.application_listener import ApplicationListener
from peers.inference_bodies import Bodies
from peers.inference_routes import REQUESTS_MAX, InferenceRoutes
from peers.log_routes import FindLog, log_routes
from peers.metrics_routes import Extras, Metrics, metrics_routes
from peers.model_repository import OwnRepository
from peers.openapi_operations import openapi_routes
from peers.pipeline_routes import PipelineFace
from peers.quick_inference import QuickInference
from peers.requests import StatementRunner
from peers.tracing import Tracing
from query.declarations import Caller


class ServingParts:
    """``unready`` says what keeps the peer from being ready, or None. :attr:`listener` is to be served.

    ``find_log`` finds the inference log, None where none is kept; ``extras``: counts of other parts, for metrics.
    ``tracing`` is None where no traces are configured; every request then goes the short way.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        layout: ImageLayout,
        statements: StatementRunner,
        caller: Caller,
        version: str,
        health: Callable[[], dict[str, Any]],
        unready: Callable[[], str | None],
        find_log: FindLog = lambda: None,
        extras: Iterable[Extras] = (),
        tracing: Tracing | None = None,
        bodies: Bodies | None = None,
        requests_max: int = REQUESTS_MAX,
    ) -> None:
        self._tracing = tracing
        self.bodies = bodies or Bodies()
        self.metrics = Metrics(
            engine,
            version=version,
            under_way={"oip": lambda: self.inference.under_way, "pipelines": lambda: pipelines.under_way},
            extras=extras,
        )
        self.inference = InferenceRoutes(
            engine,
            repository=OwnRepository(engine, layout, statements, caller),
            unready=unready,
            version=version,
            bodies=self.bodies,
            requests_max=requests_max,
            traced=tracing is not None,
        )
        pipelines = PipelineFace(
            engine, bodies=self.bodies, ready=lambda: unready() is None, traced=tracing is not None
        )
        inference = (*self.inference.routes(), *pipelines.routes())
        changing = (*self.inference.changing_routes(), *log_routes(find_log, bodies=self.bodies))
        self.listener = ApplicationListener(
            statements=statements,
            caller=caller,
            health=health,
            routes=(
                *(inference if tracing is None else tracing.routes(inference)),
                *metrics_routes(self.metrics),
                *openapi_routes(),
            ),
            changing=changing if tracing is None else tracing.routes(changing),
            quick=QuickInference(self.inference) if tracing is None else None,  # a trace begins at a route
            refused=self.metrics.refused,
        )

    async def close(self) -> None:
        self.inference.close()
        if self._tracing is not None:
            await self._tracing.close()
