"""``peerage demo``: a federation of real processes on this device, doing its main job with real models.

Owns the story that is played (:mod:`peers.demo.story`), the processes and folders it is played with
(:mod:`peers.demo.stage`), and how it is told (:mod:`peers.demo.telling`). Everything is done as a user would: by
commands, by PQL, and by the public client. Talks over 127.0.0.1 only, on ports that the system chooses.

Rules: what is told was seen, and every claim is a check; the exit status is 0 only when every check held. All
processes are stopped and the folder is removed at the end, also after an interruption, unless ``--keep`` was given.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
PASSED: Final = 0
FAILED: Final = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Play the story; the exit status."""
    parser = argparse.ArgumentParser(prog="peerage demo", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the facts of each step as JSON, one object a line")
    parser.add_argument("--keep", action="store_true", help="leave the federation running and say how to talk to it")
    given = parser.parse_args(argv)
    return play(as_json=given.json, keep=given.keep)


def play(*, as_json: bool, keep: bool, examples: Path = EXAMPLES) -> int:
    """Play the story in a temporary folder; the exit status. Raises ``BadFolder`` where the examples are missing."""
    from federation.folders import BadFolder
    from peers.demo.stage import Stage
    from peers.demo.story import perform
    from peers.demo.telling import Telling
    from query.errors import Problem

    if not (examples / "digits").is_dir():
        raise BadFolder(
            f"no examples in {examples}: expected the folder of a clone of the repository",
            hint="run the demo from a clone: make demo",
        )
    telling = Telling(sys.stdout, as_json=as_json)
    interruption = _Interruption()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interruption)
    folder = Path(tempfile.mkdtemp(prefix="peerage-demo-"))
    with ExitStack() as stack:
        stage = Stage(folder, examples)
        kept = False
        stack.callback(lambda: None if kept else shutil.rmtree(folder, ignore_errors=True))
        stack.callback(lambda: None if kept else stage.stop())
        try:
            perform(stage, telling, go_on=interruption.check)
        except Problem as problem:
            telling.failed(problem, stage.last_words())
        except KeyboardInterrupt:
            telling.interrupted()
            return FAILED
        held = telling.finish()
        if keep:
            kept = True
            telling.kept(stage)
    return PASSED if held else FAILED


class _Interruption:
    """A signal that ends the story, also where the exception that it raises is lost: a finalizer drops it."""

    def __init__(self) -> None:
        self._came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        if self._came:
            raise KeyboardInterrupt
