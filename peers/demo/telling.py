"""How the demo is told: each step with the PQL that did it, what it showed, and the checks that held or did not.

For people as it happens; with ``--json`` one object a step, and one at the end:

    {"step": 3, "title": "…", "statements": [{"pql": "…", "peer": "…", "shown": ["…"]}], "commands": ["peerage …"],
     "facts": {…}, "checks": [{"check": "…", "held": true, "found": "…"}], "seconds": 1.2}
    {"steps": 11, "checks": 40, "held": 40, "seconds": 31.0}
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

from query.errors import Problem

if TYPE_CHECKING:
    from peers.demo.stage import Stage

SHOWN_LENGTH_MAX: Final = 150


class Statement(msgspec.Struct, frozen=True):
    """A statement as it was sent, the peer that it was sent to by default, and what came back, as text."""

    pql: str
    peer: str
    shown: tuple[str, ...]


class Check(msgspec.Struct, frozen=True):
    check: str
    held: bool
    found: str


class StepTold(msgspec.Struct):
    """One step of the story, as it is told."""

    step: int
    title: str
    statements: list[Statement] = []
    commands: list[str] = []
    facts: dict[str, Any] = {}
    checks: list[Check] = []
    seconds: float = 0.0


class Telling:
    """See the module."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._began = time.monotonic()
        self._steps: list[StepTold] = []
        self._ended_early = False

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        told = StepTold(len(self._steps) + 1, title)
        self._steps.append(told)
        self._say(f"\n{told.step:2}  {title}")
        began = time.monotonic()
        try:
            yield
        finally:
            told.seconds = round(time.monotonic() - began, 2)
            self._json(told)

    def command(self, words: Sequence[str]) -> None:
        line = " ".join(("peerage", *words))
        self._now.commands.append(line)
        self._say(textwrap.indent(f"$ {line}", "      "))

    def statement(self, pql: str, *, peer: str, shown: Sequence[str]) -> None:
        self._now.statements.append(Statement(pql, peer, tuple(shown)))
        self._say(textwrap.indent(pql, "      "))
        for line in shown:
            self._say(f"        {line if len(line) <= SHOWN_LENGTH_MAX else line[:SHOWN_LENGTH_MAX] + ' …'}")

    def fact(self, name: str, value: Any) -> None:
        self._now.facts[name] = value

    def check(self, what: str, *, held: bool, found: str) -> None:
        self._now.checks.append(Check(what, held, found))
        self._say(f"    {'ok ' if held else 'NOT'} {what}" + ("" if held else f", found {found}"))

    def failed(self, problem: Problem, last_words: Mapping[str, str]) -> None:
        """The story cannot go on."""
        self._ended_early = True
        self._json({"error": problem.record()})
        self._say(f"\nerror({problem.code}): {problem.message}")
        if problem.hint:
            self._say(f"  hint: {problem.hint}")
        for name, words in last_words.items():
            self._say(f"\nthe end of the log of {name}:\n{textwrap.indent(words, '  ')}")

    def interrupted(self) -> None:
        self._say("\ninterrupted; everything was stopped")

    def finish(self) -> bool:
        """Sum up; whether the story was told to its end and every check held."""
        checks = [check for step in self._steps for check in step.checks]
        held = sum(check.held for check in checks)
        seconds = round(time.monotonic() - self._began, 1)
        self._json({"steps": len(self._steps), "checks": len(checks), "held": held, "seconds": seconds})
        self._say(f"\n{len(self._steps)} steps, {held} of {len(checks)} checks held, {seconds} s")
        return held == len(checks) and not self._ended_early

    def kept(self, stage: Stage) -> None:
        """How to talk to the federation that is left running."""
        pids = " ".join(str(record["pid"]) for record in stage.records.values())
        self._json({"kept": str(stage.folder), "records": stage.records})
        self._say(f"\nthe federation stays in {stage.folder}; talk to it:")
        self._say(f"  peerage query --home {stage.home('nameserver-admin')} 'edge:list()'")
        self._say(f"  peerage query --home {stage.home('line-1')} 'models:loaded()'")
        self._say(f"stop it with: kill {pids}")
        self._say(f"then remove it: rm -r {stage.folder}")

    @property
    def _now(self) -> StepTold:
        return self._steps[-1]

    def _say(self, text: str) -> None:
        if not self._as_json:
            self._stream.write(text + "\n")
            self._stream.flush()

    def _json(self, value: Any) -> None:
        if self._as_json:
            self._stream.write(msgspec.json.encode(value).decode("utf-8") + "\n")
            self._stream.flush()
