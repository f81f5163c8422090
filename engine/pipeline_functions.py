"""The function of the language that runs a pipeline in this peer's memory.

Making, versions and deployment are declared where peers meet (peers/pipeline_functions).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic_ns
from typing import Any

from engine.engine import Engine
from engine.errors import InputProblem, ModelNotLoaded
from query.declarations import Call, Example, function
from query.errors import LimitExceeded
from query.values import type_of


class PipelineInference:
    """``pipeline:infer``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @function(
        "pipeline:infer(String name, Object rows, String stream?) -> Bag of Record",
        example=Example('pipeline:infer("my-pipeline", [{"celsius": 36.6}, {"celsius": 40}])'),
    )
    async def infer(self, call: Call, name: str, rows: Any, stream: str | None = None) -> Iterable[dict[str, Any]]:
        """Runs a loaded pipeline on a record, or on each of a vector of records, and gives a record for each.

        Its fields are `time` in milliseconds, `in`, `out`, `out_<challenger>` for each challenger of a shadow,
        `anomaly` with the `count` of validations that are true and each of them by name, and `metadata`: `last_model`,
        `pipeline_version`, `elapsed` in nanoseconds for reading and for each step, `dropped` with what was left out
        because it failed, and `partition`, the peer.

        With a stateful model in it, a pipeline goes on where the last call on the same `stream` ended; rows are moments
        of the stream, in their order. Then `metadata` has `stream` too: its `key`, its `position` in rows, and
        `restarted`, which says why when it was open before and had to begin anew.
        """
        from engine.loaded import is_small
        from engine.pipelines import LoadedPipeline  # no sooner: it brings numpy
        from engine.records import ROWS_MAX
        from engine.streams import StreamCall

        pipeline = await self._engine.wanted(name)
        if not isinstance(pipeline, LoadedPipeline):
            raise ModelNotLoaded(
                f"{pipeline.label} is a model, expected a pipeline", hint=f'models:infer("{pipeline.name}", …)'
            )
        listed = [rows] if isinstance(rows, Mapping) else rows
        if not isinstance(listed, list):
            raise InputProblem(f"expected a record or a vector of records, found {type_of(rows)}")
        if len(listed) > ROWS_MAX:
            raise LimitExceeded(f"expected at most {ROWS_MAX} rows, found {len(listed)}")
        started_ns = monotonic_ns()
        small = is_small(listed)
        columns = pipeline.columns_of(listed) if small else await asyncio.to_thread(pipeline.columns_of, listed)
        if stream is None:
            return (await pipeline.infer(columns, parsed_ns=monotonic_ns() - started_ns)).rows()
        going = StreamCall(key=stream)
        found = (await pipeline.infer(columns, stream=going)).rows()
        told = {"key": going.key, "position": going.position, "restarted": going.restarted}
        return [{**row, "metadata": {**row["metadata"], "stream": told}} for row in found]
