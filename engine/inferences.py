"""One request through a pipeline, as it is answered and as it is recorded.

Owns the value :class:`Inference` and its two readings: rows of plain values in the schema of the pipeline server's
contract (``time in out anomaly metadata``), and columns for who writes Arrow or a log. Pure.

    time                         int, ms since the epoch on this device's clock, equal for all rows of a request
    in                           record of the inputs
    out, out_<challenger>        records of the outputs
    anomaly                      count, and a boolean for each validation
    metadata.last_model          a JSON text with model_name and model_sha, of the model that gave ``out``
    metadata.pipeline_version    the pipeline version's UUID
    metadata.elapsed             ns: parsing, then each step; equal for all rows of a request
    metadata.dropped             names of columns that were left out
    metadata.partition           the peer's name
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.decimals import plain
from engine.signature import Array

TEXTS_KEPT: Final = 1024  # of models that answered


@dataclass(frozen=True, slots=True)
class AnsweringModel:
    """The model that gave a row's ``out``; ``sha`` is the hex digest of its ONNX file."""

    name: str
    version: str
    sha: str

    def as_text(self) -> str:
        return _model_text(self.name, self.sha)


@functools.lru_cache(TEXTS_KEPT)
def _model_text(name: str, sha: str) -> str:
    return json.dumps({"model_name": name, "model_sha": sha}, separators=(",", ":"))


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """``count`` rows. Every array has ``count`` as its first dimension; ``inputs`` are as they were sent.

    ``challengers``: outputs by model name. ``anomalies``: a boolean array for each validation. ``models`` and
    ``answered``: the models that gave ``out``, and for each row which of them (None: the first, for all).
    """

    pipeline: str
    version: str
    partition: str
    time_ms: int
    count: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    challengers: Mapping[str, Mapping[str, Array]]
    anomalies: Mapping[str, Array]
    models: tuple[AnsweringModel, ...]
    answered: Array | None
    elapsed_ns: tuple[int, ...]
    dropped: tuple[str, ...] = ()

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record a row, of plain values: numbers, texts, booleans, lists of these, records.

        A number of 32 bits is the shortest decimal that stands for it. Not-a-number and infinities are as they are.
        """
        inputs = _listed(self.inputs)
        groups = {"out": _listed(self.outputs)}
        groups |= {f"out_{name}": _listed(outputs) for name, outputs in self.challengers.items()}
        flags = _listed(self.anomalies)
        texts = [model.as_text() for model in self.models]
        elapsed, dropped = list(self.elapsed_ns), list(self.dropped)
        for at in range(self.count):
            found = {name: values[at] for name, values in flags.items()}
            answered = 0 if self.answered is None else int(self.answered[at])
            yield {
                "time": self.time_ms,
                "in": {name: values[at] for name, values in inputs.items()},
                **{group: {name: values[at] for name, values in columns.items()} for group, columns in groups.items()},
                "anomaly": {"count": sum(found.values()), **found},
                "metadata": {
                    "last_model": texts[answered] if texts else "",
                    "pipeline_version": self.version,
                    "elapsed": elapsed,
                    "dropped": dropped,
                    "partition": self.partition,
                },
            }


def _listed(columns: Mapping[str, Array]) -> dict[str, list[Any]]:
    return {name: plain(column) for name, column in columns.items()}
