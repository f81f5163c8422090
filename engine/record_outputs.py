"""Outputs that the runtime gives as sequences, read as records: what scikit-learn's converters write for a classifier.

Owns the table of the runtime's sequence types that are served, and the reading of such an output as one record a row
(datatype ``RECORD``, shape ``[-1]``: an object array of dictionaries):

    seq(map(int64,tensor(float)))     {"0": 0.98, "1": 0.02}: a number for each class; keys are written as texts
    seq(map(string,tensor(float)))    {"setosa": 0.98, …}
    seq(tensor(float)), seq(tensor(double)), seq(tensor(int64)), seq(tensor(string))
                                      several targets, each a tensor with one entry a row: {"0": […], "1": […]}

Refuses a sequence whose tensors do not have one entry each for every row (:class:`ModelFailed`): there is no row to
give them to. Pure, and imports no runtime.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from engine.errors import ModelFailed
from engine.signature import Array

RECORD: Final = "RECORD"
RECORD_TYPES: Final = (
    "seq(map(int64,tensor(float)))",
    "seq(map(string,tensor(float)))",
    "seq(tensor(float))",
    "seq(tensor(double))",
    "seq(tensor(int64))",
    "seq(tensor(string))",
)


def records_of(name: str, found: Sequence[Any]) -> Array:
    """The rows of output ``name`` as an object array of dictionaries with texts as keys. Raises ``ModelFailed``."""
    if found and isinstance(found[0], Mapping):
        rows = [{str(key): value for key, value in row.items()} for row in found]
    else:
        rows = _across(name, [np.asarray(part) for part in found])
    return record_array(rows)


def record_array(rows: Sequence[Mapping[str, Any]]) -> Array:
    """Dictionaries as the one-dimensional object array that stands for them."""
    records = np.empty(len(rows), dtype=np.object_)
    records[:] = rows
    return records


def _across(name: str, parts: Sequence[Array]) -> list[dict[str, Any]]:
    """Row by row what each of several tensors says of it."""
    if not parts:
        return []
    if any(part.ndim == 0 or len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(list(part.shape)) for part in parts[:8])
        raise ModelFailed(f'output "{name}": expected tensors with one entry a row each, found shapes {shapes}')
    listed = [part.tolist() for part in parts]
    return [{str(at): column[row] for at, column in enumerate(listed)} for row in range(len(parts[0]))]


def record_text(record: Mapping[str, Any]) -> str:
    """A record as JSON text, for faces that carry texts; numbers that are none as ``NaN``, ``Infinity``,
    ``-Infinity``.
    """
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))
