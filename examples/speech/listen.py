"""Stream a sound to an edge that has the model speech, and print where somebody speaks.

    python examples/speech/listen.py --home HOME --peer EDGE FILE.wav

HOME is any home that has joined. The file is sent in pieces of a quarter of a second on one stream, as a microphone
would be: the edge keeps between two pieces what the model has to remember.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from voice import RATE, WINDOW, read_wav

import peers

QUESTION = "speech(:windows, :stream)"
WINDOWS_PER_CALL = 8
THRESHOLD = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description="print where somebody speaks in a sound")
    parser.add_argument("--home", help="home of a peer or client that has joined")
    parser.add_argument("--peer", required=True, help="the edge that has the model")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    for start_s, end_s in spoken(list(probabilities(read_wav(given.file), home=given.home, peer=given.peer))):
        print(f"{start_s:6.2f} s to {end_s:6.2f} s")


def probabilities(sound: np.ndarray, *, home: str | None, peer: str) -> Iterator[float]:
    """How likely each window is speech."""
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)
    stream = f"listen-{uuid.uuid4().hex[:8]}"
    with peers.connect(home) as federation:
        for first in range(0, len(windows), WINDOWS_PER_CALL):
            params = {"windows": windows[first : first + WINDOWS_PER_CALL], "stream": stream}
            yield from np.ravel(federation.value(QUESTION, params=params, peer=peer))
        federation.value('models:end_stream("speech", :stream)', params={"stream": stream}, peer=peer)


def spoken(found: list[float]) -> Iterator[tuple[float, float]]:
    """Start and end in seconds of each run of windows over the threshold."""
    start = None
    for at, probability in enumerate([*found, 0.0]):
        if probability >= THRESHOLD and start is None:
            start = at
        elif probability < THRESHOLD and start is not None:
            yield start * WINDOW / RATE, at * WINDOW / RATE
            start = None


if __name__ == "__main__":
    main()
