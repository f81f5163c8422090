"""``python -m benchmarks NAME… [--json]``: runs benchmarks and prints their figures as they come.

``blobs`` takes ``--size MB`` and ``--rounds``, for a quick look; what they are stands with the figures.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

NAMES: Final = (
    "language",
    "poll",
    "inference",
    "pipelines",
    "recording",
    "footprint",
    "blobs",
    "serving",
    "pushdown",
    "fanout",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Peerage beside what bounds it.")
    parser.add_argument("names", nargs="+", metavar="NAME", choices=NAMES, help=f"one or more of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--size", type=float, metavar="MB", help="of what blobs moves (500)")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="how often blobs moves it each way (7); pairs of serving (9), of fanout (25)",
    )
    parser.add_argument("--unsynced", action="store_true", help="blobs also beside a bare transfer that syncs nothing")
    parser.add_argument("--report", action="store_true", help="write what serving finds into the documentation")
    parser.add_argument("--salt", metavar="DIR", help="fanout also beside the Salt of this environment")
    options = parser.parse_args(arguments)
    of_blobs: dict[str, int | bool] = {"unsynced": options.unsynced}
    if options.size is not None:
        of_blobs["size_bytes"] = int(options.size * 1e6)
    if options.rounds is not None:
        of_blobs["rounds"] = options.rounds
    of_rounds = {} if options.rounds is None else {"rounds": options.rounds}
    for name in options.names:
        of_fanout = of_rounds if options.salt is None else {**of_rounds, "salt": options.salt}
        given = {"blobs": of_blobs, "serving": of_rounds, "fanout": of_fanout}.get(name, {})
        found = []
        for measurement in importlib.import_module(f"benchmarks.{name}").run(**given):
            found.append(measurement)
            print(measurement.as_json() if options.json else str(measurement), flush=True)
        if name == "serving" and options.report:
            importlib.import_module("benchmarks.serving_report").write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
