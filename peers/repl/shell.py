"""One session: what is typed runs, its answer is shown and kept, and Ctrl-C ends what runs, not the session.

Owns the session's state: default peer, what a person wants, the last answer. Knows no prompt: what is typed comes as
text, from a terminal or from a file. Rules: a problem ends what was typed, never the session; where a statement gave
edges something to do, the session shows how far they are before the next prompt, unless told not to.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peers.rendering import DONE, TextView, View, counted, duration, visible
from peers.repl.kept import KeptAnswer
from peers.repl.learning import Learning, Whom
from peers.repl.lines import (
    Command,
    Include,
    Nothing,
    Statements,
    came_to_its_end,
    changes_functions,
    convergence_of,
    parsed,
    read_line,
)
from peers.repl.preferences import Preferences
from query import limits
from query.declarations import Effect
from query.errors import LimitExceeded, Problem, UserProblem
from query.frames import ProgressFrame, RowFrame
from query.syntax import Call, Evaluate, Script

if TYPE_CHECKING:
    from peers.cli.console import Console
    from peers.client import Connection
    from peers.screens import Screen

INCLUDES_DEEP_MAX: Final = 8
WHY_SHOWN_MAX: Final = 3


@dataclass(slots=True)
class Shell:
    """``screen`` is None where standard output is no terminal; ``interactive`` where there is no prompt.

    ``draft`` is what the next prompt begins with, ``statement`` the last text that was asked, ``typed`` all that was.
    ``background`` is the terminal's colour, where it told.
    """

    console: Console
    connection: Connection
    whom: Whom
    learning: Learning
    preferences: Preferences = field(default_factory=Preferences)
    screen: Screen | None = None
    interactive: bool = False
    folder: Path = field(default_factory=Path.cwd)
    default: str | None = None
    answer: KeptAnswer = field(default_factory=KeptAnswer)
    statement: str = ""
    draft: str = ""
    background: tuple[int, int, int] | None = None
    leaving: bool = False
    status: int = DONE
    typed: list[str] = field(default_factory=list)
    _depth: int = 0

    # --- what is typed ------------------------------------------------------------------------------------------

    def run(self, text: str) -> None:
        """Run what was typed. Raises nothing that a person could do something about."""
        from peers.repl.commands import run_command

        try:
            match read_line(text):
                case Nothing():
                    return
                case Command(name, rest):
                    run_command(self, name, rest)
                case Include(path):
                    self.run_file(Path(path))
                case Statements(statements):
                    self.ask(statements)
        except Problem as problem:
            self.status = 1
            self.problem(problem)
        except KeyboardInterrupt:
            self.status = 1
            self.note("interrupted")

    def run_file(self, path: Path) -> None:
        """Run a script: statements, and files that it names itself."""
        if self._depth >= INCLUDES_DEEP_MAX:
            raise LimitExceeded(f"files that run files, {INCLUDES_DEEP_MAX} deep: {path} would be one more")
        path = path if path.is_absolute() else self.folder / path
        try:
            with path.expanduser().open("rb") as file:
                raw = file.read(limits.TEXT_BYTES_LOCAL_MAX + 1)
        except OSError as error:
            raise UserProblem(f"cannot read {path}: {error.strerror}") from error
        if len(raw) > limits.TEXT_BYTES_LOCAL_MAX:
            raise LimitExceeded(f"{path} is longer than {limits.TEXT_BYTES_LOCAL_MAX} bytes")
        self._depth += 1
        try:
            for part in scripted(raw.decode("utf-8", errors="replace")):
                self.run(part)
        finally:
            self._depth -= 1

    # --- statements ---------------------------------------------------------------------------------------------

    def view(self, text: str, *, footer: bool | None = None) -> View:
        """Who shows an answer."""
        if self.screen is None:
            return TextView(self.console, text)
        from peers.terminal_view import TerminalView

        shown = self.preferences.time if footer is None else footer
        return TerminalView(
            self.console, self.screen, text, footer=shown and self.interactive, tables=self.preferences.table
        )

    def ask(self, text: str, *, params: dict[str, Any] | None = None) -> KeptAnswer:
        """Run statements, show and keep their answer."""
        self.statement = text
        self.console.tell_doubts(text)
        view = self.view(text)
        self.answer = KeptAnswer(text)
        if self.screen is not None:
            self.screen.begin(paged=self.interactive)
        try:
            stopped = self.frames(text, view, kept=self.answer, params=params)
        finally:
            if self.screen is not None:
                self.screen.end()
        self.status = view.status
        script = parsed(text)
        if script is not None and not stopped:
            self._learn(script)
            if view.status == DONE and self.interactive and self.preferences.converge > 0:
                self._converge(script)
        return self.answer

    def frames(
        self, text: str, view: View, *, kept: KeptAnswer | None = None, params: dict[str, Any] | None = None
    ) -> bool:
        """Show an answer as it comes; whether it was stopped. A second Ctrl-C raises KeyboardInterrupt."""
        from peers.cli.asking import stopped_by_signals

        left = False
        with closing(view), stopped_by_signals(self.connection) as stopped:
            for frame in self.connection.frames(text, params=params, peer=self.default):
                view.show(frame)
                if kept is not None:
                    kept.add(frame)
                if getattr(view, "left", False) and not left:
                    left = True
                    self.connection.cancel()
        if stopped() or left:
            self.learning.disturbed()
        self.leaving = self.leaving or signal.SIGTERM in stopped()
        return bool(stopped()) or left

    # --- what follows a statement -------------------------------------------------------------------------------

    def _learn(self, script: Script) -> None:
        """Take up what an answer tells for completion, and fetch anew after a change."""
        learning = self.learning
        if any("set" in statement.text[:200].casefold() for statement in script):
            learning.knowledge = learning.knowledge.with_variables(self.connection.variables)
        if not self.interactive:
            return
        last = script.statements[-1].body if script.statements else None
        called = last.value if isinstance(last, Evaluate) else None
        if isinstance(called, Call) and self.answer.rows and len(self.answer.rows[0][1]) == 1:
            learning.knowledge = learning.knowledge.with_result(called.name, self.answer.rows[0][1][0])
        catalogue = learning.knowledge.catalogue
        words = {word.casefold() for word in re.findall(r"[\w:]+(?=\s*\()", script.source.text)}
        changing = any(one.effect is Effect.CHANGES for word in words for one in catalogue.lookup(word))
        if changing or changes_functions(script):
            learning.begin(self.default, anew=True)

    def _converge(self, script: Script) -> None:
        """Show how far the edges are with what a statement gave them to do, until they are or the time is over."""
        text = convergence_of(script)
        if text is None:
            return
        view = self.view(text, footer=False)
        found: dict[str, Any] = {}
        of = ""
        params = {"seconds": self.preferences.converge}
        from peers.cli.asking import stopped_by_signals
        from query.values import decode_value

        with closing(view), stopped_by_signals(self.connection) as stopped:
            for frame in self.connection.frames(text, params=params):
                if isinstance(frame, ProgressFrame):
                    of = frame.label.rpartition(": ")[2]
                    view.show(frame)
                elif isinstance(frame, RowFrame):
                    found = decode_value(frame.values[0])
        if stopped():
            view.note("not waited for any longer; the edges go on")
        elif found:
            self._tell_convergence(view, found, of=of)

    def _tell_convergence(self, view: View, found: dict[str, Any], *, of: str) -> None:
        edges, converged = found.get("edges", 0), found.get("converged", 0)
        if not edges:
            return
        runs = f"{converged} of {counted(edges, 'edge')} {'runs' if converged == 1 else 'run'} what it should"
        if edges != 1:
            runs = f"{converged} of {edges} edges run what they should"
        view.note(f"{of}: {runs}" if of else runs, style="dim" if converged == edges else "partial")
        why = found.get("why") or []
        for one in why[:WHY_SHOWN_MAX]:
            view.note(f"  {one.get('edge')}: {one.get('message')}")
        if len(why) > WHY_SHOWN_MAX:
            view.note(f"  and {len(why) - WHY_SHOWN_MAX} more: edge:converged(…) tells all")

    # --- words --------------------------------------------------------------------------------------------------

    def problem(self, problem: Problem, *, text: str = "") -> None:
        with closing(self.view(text)) as view:
            view.problem(problem.record())

    def note(self, text: str, *, style: str = "dim") -> None:
        """Tell something to people: on standard error."""
        with closing(self.view("")) as view:
            view.note(text, style=style)

    def out(self, text: str) -> None:
        """Give lines that were asked for: on standard output."""
        self.out_lines([[("", line)] for line in text.split("\n")])

    def out_lines(self, lines: Sequence[Sequence[tuple[str, str]]]) -> None:
        """The same in colours: a line is fragments of a part of the palette and a text."""
        if self.screen is None:
            for line in lines:
                self.console.data("".join(text for _, text in line))
            return
        from rich.text import Text

        self.screen.begin(paged=self.interactive)
        for line in lines:
            self.screen.line(Text.assemble(*((visible(text), self.screen.palette.style(part)) for part, text in line)))
        self.screen.end()

    def took(self) -> str:
        """The last ledger in few words, for the toolbar."""
        ledger = self.answer.ledger
        if ledger is None:
            return ""
        took = duration(self.answer.elapsed_ms / 1000)
        if len(ledger.outcomes) == 1:
            outcome = ledger.outcomes[0]
            told = counted(len(self.answer.rows), "row") if ledger.complete else f"{outcome.peer}: {outcome}"
            return f"{told} · {took}"
        counts = ", ".join(f"{count} {state}" for state, count in ledger.counts.items())
        return f"{counted(len(ledger.outcomes), 'peer')}: {counts or 'nobody asked'} · {took}"


def scripted(text: str) -> list[str]:
    """A script's parts in order: its commands and files to run, a line each, and the statements between them.

    A command ends the statement before it, as Enter does at the prompt.
    """
    parts: list[str] = []
    lines: list[str] = []
    for line in text.split("\n"):
        read, before = read_line(line), "\n".join(lines)
        if (isinstance(read, Command | Include) and not before.strip()) or (
            isinstance(read, Command) and came_to_its_end(before)
        ):
            parts += [before, line] if before.strip() else [line]
            lines = []
            continue
        lines.append(line)
        if line.rstrip().endswith(";") and (script := parsed("\n".join(lines))) is not None and script.statements:
            parts.append("\n".join(lines))
            lines = []
    return [*parts, *(["\n".join(lines)] if "".join(lines).strip() else [])]
