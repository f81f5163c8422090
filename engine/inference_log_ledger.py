"""What an inference log does not have any more: the ledger in its folder.

Owns ``ledger.json`` and its form. Rules: a gap is in the ledger, durably, before what it names is unlinked; the ledger
is old or new after any crash; it keeps the newest ``GAPS_MAX`` gaps and sums up those before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from federation.blobs import sync_folder

GAPS_MAX: Final = 1_000
LEDGER: Final = "ledger.json"
LEDGER_BYTES_MAX: Final = 4 << 20

log = logging.getLogger("peerage.inferences")


class Gap(Struct, frozen=True, kw_only=True):
    """Rows that were recorded, or offered for it, and are not to be had: ``first`` to ``last`` of an epoch.

    ``reason``: ``quota`` (dropped to make room), ``cut_off`` (by a kill while they were written), ``lost`` (somebody
    took the file), ``damaged``; or why they were refused (:mod:`engine.inference_log`). ``rows``: how many of these
    numbers were rows that are gone with this, and not before; 0 where nobody knows. Times are of the rows, ``at_ms`` of
    the loss; ``size`` is in bytes.
    """

    reason: str
    edge: str
    epoch: int
    first: int
    last: int
    rows: int
    from_ms: int
    to_ms: int
    size: int = 0
    at_ms: int = 0


class Ledger(Struct, frozen=True, kw_only=True):
    """``gaps``: the newest, the oldest of them first. ``older_gaps`` and ``older_rows``: of those before."""

    form: int = 1
    gaps: tuple[Gap, ...] = ()
    older_gaps: int = 0
    older_rows: int = 0

    def with_gaps(self, gaps: Iterable[Gap]) -> Ledger:
        found = (*self.gaps, *gaps)
        forgotten = found[: max(len(found) - GAPS_MAX, 0)]
        return Ledger(
            gaps=found[len(forgotten) :],
            older_gaps=self.older_gaps + len(forgotten),
            older_rows=self.older_rows + sum(gap.rows for gap in forgotten),
        )


def read_ledger(folder: Path) -> Ledger:
    """Empty where there is none; a damaged one is put aside. Raises ``OSError``."""
    path = folder / LEDGER
    try:
        with path.open("rb") as file:
            raw = file.read(LEDGER_BYTES_MAX + 1)
        return msgspec.json.decode(raw, type=Ledger)
    except FileNotFoundError:
        return Ledger()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("inference_ledger_damaged", extra={"file": str(path), "reason": str(error)})
        with suppress(OSError):
            path.replace(path.with_name(f"{LEDGER}.damaged"))
        return Ledger()


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Durable on return. Raises ``OSError``."""
    path = folder / LEDGER
    temporary = folder / f".{LEDGER}.new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(ledger))
        file.flush()
        os.fsync(handle)
    temporary.replace(path)
    sync_folder(folder)
