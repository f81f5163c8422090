"""What the file type model reads of a file: its first and last bytes, as 2048 numbers.

The first 4096 bytes without leading white space give 1024 numbers, padded behind; the last 4096 without trailing white
space give 1024 more, padded in front. A number is a byte, or 256 for padding. Nothing in between is read.
"""

from pathlib import Path

import numpy as np

BLOCK_BYTES = 4096
PART = 1024
PADDING = 256
BYTES_MIN = 8  # below, there is nothing to see for the model


def features(content: bytes) -> np.ndarray:
    """``content`` as int32 [2048]."""
    first = content[:BLOCK_BYTES].lstrip()[:PART]
    last = content[-BLOCK_BYTES:].rstrip()[-PART:]
    row = np.full(2 * PART, PADDING, dtype=np.int32)
    row[: len(first)] = np.frombuffer(first, dtype=np.uint8)
    row[2 * PART - len(last) :] = np.frombuffer(last, dtype=np.uint8)
    return row


def features_of_file(path: Path) -> np.ndarray | None:
    """The features of a file, reading its two ends only; None when it is too small to tell."""
    with path.open("rb") as file:
        content = file.read(BLOCK_BYTES)
        size = file.seek(0, 2)
        if size > BLOCK_BYTES:
            file.seek(max(BLOCK_BYTES, size - BLOCK_BYTES))
            content += file.read()
    return features(content) if len(content.strip()) >= BYTES_MIN else None
