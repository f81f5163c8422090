"""Ask a federation for the types of files; an edge with the model file-types answers.

    python examples/file-types/ask.py --home HOME --peer EDGE FILE ...

HOME is any home that has joined. What travels is 2048 numbers a file, never the file.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from features import features_of_file

import peers

QUESTION = "file_types(:features)"


def main() -> None:
    parser = argparse.ArgumentParser(description="ask a federation for the types of files")
    parser.add_argument("--home", help="home of a peer or client that has joined")
    parser.add_argument("--peer", required=True, help="the edge that has the model")
    parser.add_argument("--json", action="store_true", help="print one object: file -> type")
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    types = file_types(given.files, home=given.home, peer=given.peer)
    if given.json:
        print(json.dumps(types))
    else:
        for name, kind in types.items():
            print(f"{kind:12} {name}")


def file_types(files: list[Path], *, home: str | None, peer: str) -> dict[str, str]:
    """Names of files with their types; ``too small`` for those that the model cannot judge."""
    rows = {str(path): features_of_file(path) for path in files}
    told = {name: row for name, row in rows.items() if row is not None}
    with peers.connect(home) as federation:
        kinds = (
            federation.values(QUESTION, params={"features": np.stack(list(told.values()))}, peer=peer) if told else []
        )
    return {name: "too small" for name in rows if name not in told} | dict(zip(told, kinds, strict=True))


if __name__ == "__main__":
    main()
