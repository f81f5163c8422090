"""What the owner of a device may set of its engine."""

from __future__ import annotations

from dataclasses import dataclass

from engine.providers import CPU, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Each is a trade-off of the device's owner.

    ``memory_budget_bytes``: for all models together, by what their trials measured; a trial gets the whole of it.
    ``trial_cpu_s``, ``trial_wall_s``: a slow device needs more; an endless model costs them at every try.
    ``run_s``: the longest answer; an overdue run is ended between two operators.
    ``inline_us``: calls expected to be faster run on the event loop, where they hold up everything else as long;
    slower ones pay about 100 µs for the way through the pool.
    ``queue_max``: calls waiting for the pool; more are refused at once.
    ``providers``: what runs the operators, the first preferred; what is absent is left out (:mod:`engine.providers`).
    """

    memory_budget_bytes: int = 2 * 1024**3
    trial_cpu_s: int = 60
    trial_wall_s: float = 120.0
    run_s: float = 10.0
    inline_us: float = 150.0
    threads: int = 0  # 0: one per core
    queue_max: int = 64
    providers: tuple[Provider, ...] = CPU
    elements_max: int = 16 * 1024 * 1024
