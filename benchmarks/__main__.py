"""``python -m benchmarks NAME… [--json]``: runs benchmarks and prints their figures as they come."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

NAMES: Final = ("language", "poll", "inference", "footprint")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Peerage beside what bounds it.")
    parser.add_argument("names", nargs="+", metavar="NAME", choices=NAMES, help=f"one or more of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    for name in options.names:
        for measurement in importlib.import_module(f"benchmarks.{name}").run():
            print(measurement.as_json() if options.json else str(measurement), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
