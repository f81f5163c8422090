"""What the owner of a device sets of runs and memory is what its engine keeps to."""

from __future__ import annotations

from peers.local_parts import opened_engine
from peers.settings import EdgeSettings


def test_settings_reach_the_engine() -> None:
    engine = opened_engine(
        EdgeSettings(
            memory_bytes_max=123_456_789,
            load_timeout_s=3.5,
            run_timeout_s=2.5,
            run_threads=3,
            run_queue_max=7,
            execution_providers=("cuda", "cpu"),
        )
    )
    kept = engine.settings
    assert (kept.memory_budget_bytes, kept.trial_wall_s, kept.run_s) == (123_456_789, 3.5, 2.5)
    assert (kept.threads, kept.queue_max, kept.providers) == (3, 7, ("cuda", "cpu"))
    engine.close()
