"""Which rows and columns of a request are recorded, where its pipeline's settings ask for less than everything.

Owns the choice of rows: of all rows, in the order in which they come, number n is taken where the fraction of n times
the golden ratio is below the wanted share. So it is settled by the number alone, and after any number of rows what was
taken is off from the share by a few rows, whatever rhythm the requests have. Owns the choice of columns: groups, or
``group.column``; ``time``, ``metadata`` and ``anomaly.count`` are always recorded, and what is left out is named in
``dropped``. Loads numpy with the first choice.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from engine.inferences import Inference
    from engine.signature import Array
    from federation.pipelines import LogSettings

_GOLDEN: Final = 0x9E3779B97F4A7C15  # its fraction, of 2**64
_MASK: Final = (1 << 64) - 1


class Sampling:
    """Thread-safe. ``start``: the number of the first row; ``left_out``: how many rows were not taken."""

    def __init__(self, start: int) -> None:
        self._lock = threading.Lock()
        self._next = start
        self.left_out = 0

    def chosen(self, inference: Inference, settings: LogSettings) -> Inference | None:
        """What of a request is recorded; None: nothing."""
        if settings.sample < 1.0:
            sampled = self._sampled(inference, settings.sample)
            if sampled is None:
                return None
            inference = sampled
        return with_columns(inference, settings.columns) if settings.columns else inference

    def _sampled(self, inference: Inference, share: float) -> Inference | None:
        count, bound = inference.count, int(share * 2.0**64)
        with self._lock:
            number = self._next
            self._next += count
            if count == 1:
                taken = (number * _GOLDEN) & _MASK < bound
                self.left_out += not taken
                return inference if taken else None
        import numpy as np

        with np.errstate(over="ignore"):
            drawn = np.arange(number, number + count, dtype=np.uint64) * np.uint64(_GOLDEN)
        at = np.flatnonzero(drawn < np.uint64(min(bound, _MASK)))
        with self._lock:
            self.left_out += count - len(at)
        if len(at) == count:
            return inference
        from engine.inference_log_columns import only_rows

        return only_rows(inference, at) if len(at) else None


def with_columns(inference: Inference, names: tuple[str, ...]) -> Inference:
    """A request with what is wanted of it, and in ``dropped`` what is not."""
    import numpy as np

    from engine.records import Selection

    selection = Selection(frozenset(names))
    left: list[str] = []

    def chosen(group: str, columns: Mapping[str, Array]) -> dict[str, Array]:
        left.extend(f"{group}.{name}" for name in columns if not selection.gives(group, name))
        return {name: column for name, column in columns.items() if selection.gives(group, name)}

    inputs, outputs = chosen("in", inference.inputs), chosen("out", inference.outputs)
    challengers = {name: chosen(f"out_{name}", columns) for name, columns in inference.challengers.items()}
    anomalies = chosen("anomaly", inference.anomalies)
    if len(anomalies) != len(inference.anomalies):
        flags = np.stack(list(inference.anomalies.values()))
        count: Array = np.add.reduce(flags, axis=0, dtype=np.uint32)
        anomalies = {"count": count, **anomalies}
    return replace(
        inference,
        inputs=inputs,
        outputs=outputs,
        challengers=challengers,
        anomalies=anomalies,
        dropped=(*inference.dropped, *left),
    )
