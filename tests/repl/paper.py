"""A terminal that is paper: what a view writes, on a screen as a person would see it."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyte

from peers.cli.console import Console
from peers.palettes import DARK, Palette
from peers.screens import Screen
from peers.terminal_view import TerminalView
from query.errors import ErrorRecord
from query.frames import Column, EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State
from query.values import encode_value


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Paper:
    width: int = 60
    height: int = 20
    palette: Palette = DARK
    pager: Sequence[str] = ()
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.written = io.StringIO()
        self.other = io.StringIO()
        self.screen = Screen(
            self.written, palette=self.palette, pager=self.pager, size=(self.width, self.height), clock=self.clock
        )

    def view(self, text: str = "", *, footer: bool = False, whole: bool = True, tables: bool = False) -> TerminalView:
        console = Console(self.written, self.other, {})
        return TerminalView(console, self.screen, text, footer=footer, whole=whole, tables=tables, clock=self.clock)

    def show(self, frames: Iterable[Frame], text: str = "", *, footer: bool = False) -> list[str]:
        """The lines that are on the screen after the frames."""
        view = self.view(text, footer=footer)
        for frame in frames:
            view.show(frame)
        view.close()
        return self.lines()

    def terminal(self) -> Any:
        terminal = pyte.HistoryScreen(self.width, self.height, history=1000)
        pyte.Stream(terminal).feed(self.written.getvalue().replace("\n", "\r\n"))
        return terminal

    def lines(self) -> list[str]:
        found = [line.rstrip() for line in self.terminal().display]
        while found and not found[-1]:
            found.pop()
        return found

    def colour(self, line: int, column: int) -> str:
        return str(self.terminal().buffer[line][column].fg)


def schema(*columns: str, plot: str | None = None) -> SchemaFrame:
    return SchemaFrame(0, tuple(Column(name, "Object") for name in columns), plot)


def row(*values: Any, peer: str | None = None) -> RowFrame:
    return RowFrame(0, tuple(map(encode_value, values)), peer)


def end(rows: int = 0, *outcomes: Outcome, unmatched: int = 0) -> EndFrame:
    return EndFrame(0, Ledger(outcomes or (Outcome("E1", State.ROWS, rows=rows),), unmatched), rows, 1.0)


def wrong(code: str, message: str, **more: Any) -> ErrorFrame:
    return ErrorFrame(0, ErrorRecord(code, message, **more))


def progress(done: int, total: int | None, *, label: str = "fetch", unit: str = "", peer: str | None = None) -> Frame:
    return ProgressFrame(0, label, done, total, unit, peer)
