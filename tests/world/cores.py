"""The production functions that the world drives, so that a test can plant a bug in one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from federation.carrying_functions import CarryingFunctions
from federation.documents import DesiredState, Mode, SignedDocument
from federation.outcomes import finished
from federation.reconciliation import answered, decide, restored
from federation.restoration import begin_again
from federation.revocation import judged
from federation.verification import Cursor, check_content, cursor_of, verify, verify_desired, verify_record
from peers.importing import check
from tests.world.disk import Disk


def commit(disk: Disk, crash_point: Callable[[str], None], **values: Any) -> None:
    """One transaction: all of it durable, or after a crash nothing."""
    disk.write(**values)
    crash_point("written, not synced")
    disk.sync()


def overtaken(desired: tuple[SignedDocument, DesiredState], cursor: Cursor) -> bool:
    """Whether a poll and a file crossed, and this is the older of the two."""
    return cursor_of(*desired)[:3] < cursor[:3]


def silent(mode: Mode) -> bool:
    """Whether an edge in this mode calls nobody."""
    return mode == "AUTONOMOUS"


def bytes_max(signed: int, told: int) -> int:
    """How many bytes of a blob are taken: what was signed, whatever a registry tells."""
    return signed


@dataclass(frozen=True, slots=True)
class Cores:
    answered: Callable[..., Any] = answered
    begin_again: Callable[..., Any] = begin_again
    bytes_max: Callable[[int, int], int] = bytes_max
    check_carried: Callable[..., Any] = check
    check_content: Callable[..., None] = check_content
    commit: Callable[..., None] = commit
    decide: Callable[..., Any] = decide
    finished: Callable[..., Any] = finished
    judged: Callable[..., Any] = judged
    overtaken: Callable[..., bool] = overtaken
    restored: Callable[..., Any] = restored
    silent: Callable[[Mode], bool] = silent
    take_report: Callable[..., Any] = CarryingFunctions.take_report
    verify: Callable[..., Any] = verify
    verify_desired: Callable[..., Any] = verify_desired
    verify_record: Callable[..., Any] = verify_record


PRODUCTION = Cores()
