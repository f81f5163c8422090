"""The most memory that a peer's own process may take: its models' budget, and room for everything else.

Owns the limit that the system keeps. A trial shows what a model needs on its test vectors; a graph whose tensors grow
with the values of its input can still ask for any number of gigabytes at the first request that says so. Under the
limit that run fails (:class:`~engine.errors.OverMemory`) and the process goes on; without it the system would end the
process, or another one.

What counts is memory that the process may write (``RLIMIT_DATA``): what is only reserved, or mapped from files, does
not. A limit that is lower already stays. Children inherit it; they limit themselves further.
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from typing import Final

ROOM_BYTES: Final = 1024**3  # besides the models: the runtime, statements, tables, what threads allocate


def hold_process(models_bytes: int, *, room_bytes: int = ROOM_BYTES) -> int | None:
    """Limits this process to what it has by now, the models' budget and ``room_bytes``; the limit, or None where the
    system keeps none.
    """
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = _data_bytes() + models_bytes + room_bytes
        if any(bound != resource.RLIM_INFINITY and bound <= limit for bound in (soft, hard)):
            return soft
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        return limit
    return None


def _data_bytes() -> int:
    """Private memory that this process may write."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
