"""``python -m tests.world --seed N``: one run of the world, told event by event."""

from __future__ import annotations

import argparse
import time

from tests.world.world import Violated, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the run to make (default 0)")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on; more than one is not told")
    options = parser.parse_args()
    failed = 0
    for seed in range(options.seed, options.seed + options.seeds):
        begun = time.perf_counter()
        world = World(seed, trace=print if options.seeds == 1 else None)
        try:
            world.run()
        except Violated as violation:
            failed += 1
            print(f"seed {seed}: {violation}")
        else:
            print(f"seed {seed}: held over {world.steps} events in {time.perf_counter() - begun:.2f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
