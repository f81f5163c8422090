"""What is removed by age, and what is not: whatever somebody counts on is as new as what was written now."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from federation.blobs import CLAIM_S, BlobStore

DAY_S = 86_400.0


def aged(blobs: BlobStore, content: bytes, *, age_s: float = DAY_S) -> tuple[str, float]:
    """A blob that was written some time ago."""
    digest = blobs.put(content)
    written = blobs.written(digest) - age_s
    os.utime(blobs.path(digest), (written, written))
    return digest, written


def test_a_blob_that_is_claimed_is_new(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest, written = aged(blobs, b"hello")
    assert blobs.claim(digest) == 5
    assert blobs.written(digest) > written + DAY_S - CLAIM_S
    assert not blobs.remove(digest, written_before=written + 1)
    assert blobs.size(digest) == 5


def test_putting_what_is_here_claims_it(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest, written = aged(blobs, b"hello")
    assert blobs.put(b"hello") == digest
    assert blobs.written(digest) > written + CLAIM_S


def test_a_young_blob_is_left_as_it_is(tmp_path: Path) -> None:
    """Its times are evidence that it is what was hashed; see the store's witnesses."""
    blobs = BlobStore(tmp_path)
    digest, written = aged(blobs, b"hello", age_s=CLAIM_S / 2)
    assert blobs.claim(digest) == 5
    assert abs(blobs.written(digest) - written) < 1e-3


def test_a_claim_of_what_is_not_here(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest, _ = aged(blobs, b"hello")
    assert blobs.remove(digest)
    assert blobs.claim(digest) is None


def test_whoever_was_told_that_a_blob_is_here_finds_it(tmp_path: Path) -> None:
    """Claims and removals of old blobs from two threads: a claim that was answered with a size holds."""
    blobs, other = BlobStore(tmp_path), BlobStore(tmp_path)
    made = [aged(blobs, str(number).encode()) for number in range(300)]
    removed: list[str] = []

    def collect() -> None:
        for digest, written in made:
            if other.remove(digest, written_before=written + 1):
                removed.append(digest)

    collecting = threading.Thread(target=collect)
    collecting.start()
    told = {digest: blobs.claim(digest) for digest, _ in reversed(made)}
    collecting.join()
    assert {digest for digest, size in told.items() if size is not None} == {
        digest for digest, _ in made if blobs.size(digest) is not None
    }
    assert set(removed) == {digest for digest, size in told.items() if size is None}
