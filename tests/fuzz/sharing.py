"""One process's share of the inputs, bounded in memory; a hang in what the watch cannot stop ends the process."""

from __future__ import annotations

import faulthandler
import os
import resource

import psutil

from tests.fuzz.watching import Failed, fuzz

MEMORY_MORE_BYTES_MAX = 1024**3  # of address space, above what a process has when it begins
GROWTH_BYTES_MAX = 64 * 1024**2  # of a process after its first share
SHARE_S_MAX = 1800.0

_first_bytes: dict[int, int] = {}


def begin() -> None:
    faulthandler.enable()
    has = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY_MORE_BYTES_MAX, resource.RLIM_INFINITY))


def run(task: tuple[str, int, int, int]) -> tuple[int, str, int]:
    target, seed, first, inputs = task
    faulthandler.dump_traceback_later(SHARE_S_MAX, exit=True)
    try:
        fuzz(target, seed=seed, first=first, inputs=inputs)
    except Failed as failed:
        return 0, str(failed), 0
    finally:
        faulthandler.cancel_dump_traceback_later()
    now = psutil.Process().memory_info().rss
    more = now - _first_bytes.setdefault(os.getpid(), now)
    if more > GROWTH_BYTES_MAX:
        return 0, f"a process grew by {more / 2**20:.0f} MiB after its first share of inputs", more
    return inputs, "", more
