"""``python -m tests.fuzz [TARGET…]``: many inputs, shared out among processes; a failing one names the line that
replays it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.fuzz.sharing import begin, run
from tests.fuzz.targets import TARGETS

SHARE = 5_000  # inputs that a process takes at once
TOLD_EVERY = 100_000  # inputs, where nobody watches


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the language and its frames.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, shared among the targets (1000000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    targets = options.targets or list(TARGETS)
    tasks = list(_tasks(targets, options))
    began = time.monotonic()
    done = grown = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(options.workers, len(tasks)), context, begin) as pool:
        shares = [pool.submit(run, task) for task in tasks]
        for found in as_completed(shares):
            inputs, problem, more = found.result()
            if problem:
                print(problem, file=sys.stderr)
                for share in shares:
                    share.cancel()
                return 1
            done += inputs
            grown = max(grown, more)
            told = f"{done} of {options.inputs} inputs, {time.monotonic() - began:.0f} s"
            if sys.stdout.isatty():
                print(f"\r{told}", end="", flush=True)
            elif done // TOLD_EVERY > (done - inputs) // TOLD_EVERY:
                print(told, flush=True)
    print(
        f"\r{done} inputs of {', '.join(targets)}: no crash, no hang, "
        f"at most {grown / 2**20:.0f} MiB more in a process, {time.monotonic() - began:.0f} s"
    )
    return 0


def _tasks(targets: Sequence[str], options: argparse.Namespace) -> list[tuple[str, int, int, int]]:
    """Target, seed, first input and how many, all targets side by side."""
    left = {target: options.inputs // len(targets) for target in targets}
    left[targets[0]] += options.inputs - sum(left.values())
    at = dict.fromkeys(targets, options.first)
    tasks = []
    while any(left.values()):
        for target in targets:
            inputs = min(SHARE, left[target])
            if inputs:
                tasks.append((target, options.seed, at[target], inputs))
                at[target] += inputs
                left[target] -= inputs
    return tasks


if __name__ == "__main__":
    sys.exit(main())
