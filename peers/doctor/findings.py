"""What the doctor says: a finding has a code, what is wrong, and what to do about it.

wrong      something does not work, or will not at the next start
doubtful   it works, and something should be seen to
note       worth knowing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["wrong", "doubtful", "note"]
LEVELS: tuple[Level, ...] = ("wrong", "doubtful", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """``advice`` is the next step."""

    level: Level
    code: str
    message: str
    advice: str = ""

    def record(self) -> dict[str, Any]:
        return {"level": self.level, "code": self.code, "message": self.message, "advice": self.advice}


@dataclass(frozen=True, slots=True)
class Checked:
    """One check, done. ``seen`` says what was found in order, or why it was not looked at."""

    check: str
    findings: tuple[Finding, ...] = ()
    seen: str = ""
    skipped: bool = False

    @property
    def level(self) -> str:
        """The worst of it; ``ok`` or ``skipped`` where there is nothing to say."""
        worst = next((level for level in LEVELS if any(f.level == level for f in self.findings)), None)
        return worst or ("skipped" if self.skipped else "ok")

    def records(self) -> list[dict[str, Any]]:
        """For ``--json``: a record for each finding, or one that says that there is none."""
        told: list[dict[str, Any]] = [{"check": self.check, **finding.record()} for finding in self.findings]
        return told or [{"check": self.check, "level": self.level, "seen": self.seen}]


def sums(done: Iterable[Checked]) -> dict[str, int]:
    """How many findings of each level, and how many checks had none."""
    checked = list(done)
    found = [finding.level for one in checked for finding in one.findings]
    counts: dict[str, int] = {level: found.count(level) for level in LEVELS}
    counts["ok"] = sum(one.level == "ok" for one in checked)
    counts["skipped"] = sum(one.level == "skipped" for one in checked)
    return counts
