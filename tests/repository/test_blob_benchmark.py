"""The benchmark of blobs runs, with real processes, and memory does not grow with a blob."""

from __future__ import annotations

import shutil

from benchmarks import blobs


def test_large_blobs_go_through_bounded_memory() -> None:
    found = {measurement.case: measurement for measurement in blobs.run(size_bytes=64_000_000, rounds=1, unsynced=True)}
    bare = {f"{way} vs aiohttp{how}" for way in blobs.WAYS for how in ("", ", unsynced")}
    assert {case for case in found if "aiohttp" in case} == bare
    assert all(found[case].ratio for case in bare)
    for way in blobs.WAYS:
        beside = found[f"{way} vs docker-registry"]
        assert beside.ratio if shutil.which("docker-registry") else "not measured" in beside.conditions
        for who in ("nameserver", "client"):
            assert found[f"{way}, memory of the {who}"].ours < blobs.GROWTH_MIB_MAX
    assert found["answers beside a push, 99 of 100"].unit == "ms"
