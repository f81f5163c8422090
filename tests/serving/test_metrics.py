"""What Prometheus is told: every metric, both text formats, read back by the parsers that Prometheus's people ship."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from engine.servables import IndexEntry
from engine.statistics import Counters, Key
from peers.metrics import Extra, LoadedFacts, Snapshot, exposition

ROOT = Path(__file__).parents[2]
ODD = 'a "quoted" \\ name\nof two lines'
PLACE = {"name": "price", "version": "1.0", "pipeline": "", "step": ""}


def counted(name: str = "price", *, version: str = "1.0", step: str = "") -> Counters:
    """5 requests in 4 runs: three of one row within 10 µs to 25 µs, two answered together by one run of 8 rows."""
    counters = Counters(Key(name, version, step))
    for _ in range(3):
        counters.ran(1, 0, 20_000)
    counters.ran(8, 0, 1_000_000)
    counters.batched(2, 1_000_000)
    counters.waited(2_000_000)
    counters.failed(5_000)
    counters.refuse()
    counters.exceed("memory", "too much")
    counters.exceed("memory", "too much")
    return counters


def snapshot(**changed: Any) -> Snapshot:
    about: dict[str, Any] = {
        "version": "0.1.0",
        "runs": tuple(
            counters.read()
            for counters in (
                counted(),
                counted("house", version="v", step="step 1 (price@1.0)"),
                counted(step="house@v"),
            )
        ),
        "loaded": (LoadedFacts("price", "1.0", "onnx", "group", 1000),),
        "index": (IndexEntry("price", "1.0", "READY"), IndexEntry(ODD, "2.0", "UNAVAILABLE", "over_memory: …")),
        "loads": {"loaded": 2, "swapped": 1, "failed": 3},
        "unloads": 1,
        "memory_budget_bytes": 1 << 30,
        "queue": 2,
        "queue_max": 64,
        "refused": {"bad_input": 4, "limit": 1},
        "extras": (
            Extra("peerage_log_rows_dropped_total", "rows of the log that made room", {(): 7.0}),
            Extra("peerage_things_of_others_total", "by limit", {("price", "memory"): 1.0}, labels=("name", "limit")),
        ),
    }
    return Snapshot(**{**about, **changed})


def samples(openmetrics: bool, **changed: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = exposition(snapshot(**changed), openmetrics=openmetrics).decode()
    families = (openmetrics_families if openmetrics else plain_families)(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def at(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


@pytest.mark.parametrize("openmetrics", [False, True])
def test_runs_are_histograms_by_name_version_pipeline_and_step(openmetrics: bool) -> None:
    told = samples(openmetrics)
    duration = "peerage_inference_duration_seconds"
    assert told[f"{duration}_count", at(**PLACE)] == 5
    assert told[f"{duration}_sum", at(**PLACE)] == pytest.approx(3 * 20e-6 + 2 * 1e-3)
    assert told[f"{duration}_bucket", at(**PLACE, le="1e-05")] == 0
    assert told[f"{duration}_bucket", at(**PLACE, le="2.5e-05")] == 3
    assert told[f"{duration}_bucket", at(**PLACE, le="0.001")] == 5
    assert told[f"{duration}_bucket", at(**PLACE, le="+Inf")] == 5
    assert told["peerage_batch_rows_bucket", at(**PLACE, le="1.0")] == 3
    assert told["peerage_batch_rows_bucket", at(**PLACE, le="8.0")] == 4
    assert told["peerage_batch_rows_sum", at(**PLACE)] == 11
    assert told["peerage_queue_wait_seconds_sum", at(**PLACE)] == pytest.approx(2e-3)
    assert told["peerage_inference_rows_total", at(**PLACE)] == 11
    assert told["peerage_inference_failures_total", at(**PLACE)] == 1
    assert told["peerage_inference_refusals_total", at(**PLACE)] == 1
    assert told["peerage_limits_exceeded_total", at(**PLACE, resource="memory")] == 2
    assert told["peerage_limits_exceeded_total", at(**PLACE, resource="cpus")] == 1
    assert told[f"{duration}_count", at(name="house", version="v", pipeline="", step="step 1 (price@1.0)")] == 5
    assert told[f"{duration}_count", at(name="price", version="1.0", pipeline="house@v", step="")] == 5


@pytest.mark.parametrize("openmetrics", [False, True])
def test_memory_queue_errors_and_other_parts(openmetrics: bool) -> None:
    told = samples(openmetrics)
    assert told["peerage_loads_total", at(result="swapped")] == 1
    assert told["peerage_loads_total", at(result="failed")] == 3
    assert told["peerage_unloads_total", ()] == 1
    assert told["peerage_loaded_info", at(name="price", version="1.0", kind="onnx", origin="group")] == 1
    assert told["peerage_loaded_memory_bytes", at(name="price", version="1.0")] == 1000
    assert told["peerage_state", at(name=ODD, version="2.0", state="UNAVAILABLE")] == 1, "escaped as it must be"
    assert told["peerage_memory_budget_bytes", ()] == 1 << 30
    assert (told["peerage_queue_requests", ()], told["peerage_queue_requests_max", ()]) == (2, 64)
    assert told["peerage_requests_refused_total", at(code="bad_input")] == 4
    assert told["peerage_log_rows_dropped_total", ()] == 7
    assert told["peerage_things_of_others_total", at(name="price", limit="memory")] == 1
    assert told["peerage_build_info", at(version="0.1.0")] == 1
    assert told["process_resident_memory_bytes", ()] > 1e6


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_peer_without_models_tells_of_itself(openmetrics: bool) -> None:
    told = samples(openmetrics, runs=(), loaded=(), index=(), loads={}, refused={}, extras=())
    assert told["peerage_queue_requests", ()] == 2


def test_what_was_never_asked_is_counted_and_has_no_histogram() -> None:
    told = samples(False, runs=(Counters(Key("price", "1.0")).read(),))
    assert told["peerage_inference_rows_total", at(**PLACE)] == 0
    assert not [name for name, _ in told if name.endswith("_bucket")]


@pytest.mark.skipif(
    shutil.which("promtool") is None and not os.environ.get("CI"), reason="promtool is not here (Debian: prometheus)"
)
def test_promtool_finds_nothing_wrong() -> None:
    text = exposition(snapshot(), openmetrics=False)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_library_comes_with_the_first_scrape() -> None:
    program = "import peers.metrics, peers.metrics_routes, sys; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
