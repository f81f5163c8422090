"""The doctor in this process and loop, and what it says, without what differs from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peers.doctor.findings import Checked
from peers.doctor.looking import CHECK_S_MAX, look
from peers.doctor.surroundings import Surroundings
from peers.homes import Home

QUIET = {"PEERAGE_ZEROCONF": "false"}  # multicast has tests of its own


async def looked(
    home: Home | Path, *, nameserver: str | None = None, check_s: float = CHECK_S_MAX, **environment: str
) -> dict[str, Checked]:
    """Every check of a home, by its name; ``environment`` beside that multicast is left alone."""
    at = home if isinstance(home, Home) else Home(home)
    around = Surroundings(at, {**QUIET, **environment}, nameserver)
    return {checked.check: checked async for checked in look(around, check_s=check_s)}


def codes(done: Mapping[str, Checked]) -> dict[str, list[str]]:
    """What each check found, of those that found something."""
    return {name: [f"{f.level} {f.code}" for f in one.findings] for name, one in done.items() if one.findings}


def message(done: Mapping[str, Checked], check: str) -> str:
    """Of the only finding of a check."""
    (finding,) = done[check].findings
    return finding.message
