"""The production functions that the world drives, so that a test can plant a bug in one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from federation.outcomes import finished
from federation.reconciliation import answered, decide, restored
from federation.verification import verify, verify_desired, verify_record
from tests.world.disk import Disk


def commit(disk: Disk, crash_point: Callable[[str], None], **values: Any) -> None:
    """One transaction: all of it durable, or after a crash nothing."""
    disk.write(**values)
    crash_point("written, not synced")
    disk.sync()


@dataclass(frozen=True, slots=True)
class Cores:
    answered: Callable[..., Any] = answered
    decide: Callable[..., Any] = decide
    finished: Callable[..., Any] = finished
    restored: Callable[..., Any] = restored
    verify: Callable[..., Any] = verify
    verify_record: Callable[..., Any] = verify_record
    verify_desired: Callable[..., Any] = verify_desired
    commit: Callable[..., None] = commit


PRODUCTION = Cores()
