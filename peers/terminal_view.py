"""An answer in a terminal: values in colours, columns as a table, errors marked, bars for progress, plots.

Owns what the rows of an answer look like to people, for ``peerage query`` and ``peerage repl`` alike.

Rules: every value stands in its text form, whole; what is too long for a line is laid out over several; nothing that a
value says can move the cursor. A table's columns are as wide as its first rows need: rows that come within
:data:`TABLE_HOLD_S` of the first are measured together, later ones are written as they come. A ``//plot:`` draws the
rows instead, anew while they come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from peers.highlighting import pieces
from peers.laid_out import laid_out
from peers.plotting import NoPlot, Plotting, draw, kind_of
from peers.rendering import (
    Outside,
    View,
    amount,
    counted,
    decoded,
    duration,
    ledger_matters,
    ledger_text,
    value_texts,
    visible,
)
from peers.screens import Screen
from peers.tables import Table
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.text_form import to_text

if TYPE_CHECKING:
    from rich.text import Text

    from query.errors import ErrorRecord

TABLE_HOLD_S: Final = 0.15
TABLE_HOLD_ROWS: Final = 200
BARS_MAX: Final = 8
BAR_WIDTH: Final = 30
PLOT_HEIGHT: Final = 18
PLOT_AFTER_S: Final = 0.5  # while rows come; what is over sooner is drawn once


class TerminalView(View):
    """``footer``: end each answer with its rows and time. ``console`` takes what is for standard error, elsewhere;
    ``whole``: the screen takes that too, which is the rule where standard error is a terminal. ``moving``: draw bars
    and growing plots. ``tables``: records of one shape are a table too, a column a key.
    """

    def __init__(
        self,
        console: Outside,
        screen: Screen,
        text: str,
        *,
        footer: bool = False,
        whole: bool | None = None,
        moving: bool = True,
        tables: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._console = console
        self._screen = screen
        self._text = text
        self._footer = footer
        self._clock = clock
        self._started = clock()
        self._told_here = console.stderr.isatty() if whole is None else whole
        self._moving = moving
        self._tables = tables
        self._keys: tuple[str, ...] | None = None
        self._lock = threading.RLock()
        self._table = Table()
        self._timer: threading.Timer | None = None
        self._bars: dict[tuple[str, str], ProgressFrame] = {}
        self._plot: Plotting | None = None
        self._columns: tuple[str, ...] = ()
        self._failed = False

    @property
    def left(self) -> bool:
        """Whether nobody reads on."""
        return self._screen.left

    def show(self, frame: Frame) -> None:
        super().show(frame)
        with self._lock:
            match frame:
                case SchemaFrame():
                    self._begin(frame)
                case RowFrame():
                    self._row(frame)
                case ErrorFrame(error=error):
                    self._failed = True
                    self.problem(error)
                case ProgressFrame():
                    self._bars[(frame.peer or "", frame.label)] = frame
                    self._move(self._drawn_bars)
                case EndFrame():
                    self._end(frame)

    def problem(self, record: ErrorRecord) -> None:
        """Tell an error with its place in the text."""
        with self._lock:
            self._flush()
            self._problem(record)

    def note(self, text: str, *, style: str = "dim") -> None:
        """Tell what is no part of the answer."""
        with self._lock:
            self._flush()
            self._say([self._styled(style, visible(text))])

    def close(self) -> None:
        with self._lock:
            self._flush()
            self._screen.clear()

    # --- rows ---------------------------------------------------------------------------------------------------

    def _begin(self, frame: SchemaFrame) -> None:
        self._columns = tuple(visible(column.name) for column in frame.columns)
        self._table = Table()
        self._keys = None
        self._plot = None
        self._failed = False
        if frame.plot:
            try:
                kind = kind_of(frame.plot)
                self._plot = Plotting(kind, self._columns) if kind is not None else None
            except NoPlot as problem:
                self._problem(problem.record())

    def _row(self, frame: RowFrame) -> None:
        if self._plot is not None:
            self._plot.add(decoded(frame), peer=frame.peer)
            if self._clock() - self._started > PLOT_AFTER_S:
                self._move(self._drawn_plot)
        elif len(frame.values) > 1:
            self._hold(frame.peer, value_texts(frame))
        elif (cells := self._cells_of_record(frame)) is not None:
            self._hold(frame.peer, cells)
        else:
            self._flush()
            self._value(frame)

    def _cells_of_record(self, frame: RowFrame) -> list[str] | None:
        """A record as a row of a table, where that is wanted and it has the shape of the first one."""
        value = decoded(frame)[0] if self._tables else None
        if not isinstance(value, dict) or not value:
            return None
        if self._keys is None:
            self._keys = tuple(value)
            self._columns = tuple(map(visible, self._keys))
        return [to_text(part) for part in value.values()] if tuple(value) == self._keys else None

    def _hold(self, peer: str | None, cells: list[str]) -> None:
        """Write a row of the table, or keep it until it is known how wide the first ones are."""
        self._table.add(peer, cells)
        if self._table.open or len(self._table.held) >= TABLE_HOLD_ROWS:
            self._flush()
        elif self._timer is None:
            self._timer = threading.Timer(TABLE_HOLD_S, self._in_time)
            self._timer.daemon = True
            self._timer.start()

    def _value(self, frame: RowFrame) -> None:
        peer = f"{frame.peer}: " if frame.peer else ""
        first, *rest = laid_out(decoded(frame)[0], max(20, self._screen.width - len(peer)))
        for number, line in enumerate((first, *rest)):
            shown = self._styled("", "")
            if peer and number == 0:
                shown.append_text(self._styled("peer", peer))
            shown.append_text(self._coloured(line))
            self._screen.line(shown)

    def _in_time(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that the table holds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._table.held
        if not held:
            return
        table = self._table
        if not table.open:
            table.measure(self._columns, room=self._screen.width)
            if not table.tall:
                self._screen.line(self._cells(table.heading, style="heading"))
                self._screen.line(self._styled("dim", "  ".join("─" * width for width in table.widths)))
        for cells in held:
            if table.tall:
                self._tall(cells)
            else:
                self._screen.line(self._cells(cells))
        table.held = []

    def _cells(self, cells: Sequence[str], *, style: str = "") -> Text:
        line = self._styled("", "")
        for number, (before, cell, after) in enumerate(self._table.padded(cells)):
            named = style or ("peer" if self._table.tagged and number == 0 else "")
            line.append(before)
            line.append_text(self._styled(named, cell) if named else self._coloured(cell))
            line.append(after)
        return line

    def _tall(self, cells: Sequence[str]) -> None:
        """A row that is wider than the screen: a line for each of its columns."""
        table = self._table
        table.rows += 1
        self._screen.line(self._styled("dim", f"── {table.rows} ".ljust(min(40, self._screen.width), "─")))
        left = max(map(len, table.heading))
        for name, cell in zip(table.heading, cells, strict=False):
            line = self._styled("", "")
            line.append_text(self._styled("heading", name.ljust(left)))
            line.append("  ")
            line.append_text(self._coloured(cell))
            self._screen.line(line)

    # --- the end ------------------------------------------------------------------------------------------------

    def _end(self, frame: EndFrame) -> None:
        self._flush()
        self._bars.clear()
        self._screen.clear()
        if self._plot is not None:
            self._draw_plot()
        if ledger_matters(frame.ledger):
            style = "dim" if frame.ledger.complete else "partial"
            self._say([self._styled(style, visible(ledger_text(frame.ledger)))])
        if self._footer:
            passed = duration(self._clock() - self._started)
            did = counted(frame.rows, "row") if self._columns or frame.rows else "done"
            failed = self._failed and not frame.rows
            self._say([self._styled("dim", passed if failed else f"{did} · {passed}")])
        self._started = self._clock()

    def _problem(self, record: ErrorRecord) -> None:
        from peers.cli.console import problem_lines

        if not self._told_here:
            self._console.problem(record, text=self._text)
            return
        shown = []
        for number, line in enumerate(problem_lines(record, text=self._text, width=self._screen.width)):
            told = visible(line, lines=True)
            marks = not told.strip(" ^\t")
            style = "error" if number == 0 else "marks" if marks else "hint" if told.startswith("  hint:") else ""
            shown.append(self._styled(style, told))
        self._say(shown)

    def _say(self, lines: Sequence[Text]) -> None:
        """To standard error; where that is the same terminal, between the rows."""
        for line in lines:
            if self._told_here:
                self._screen.line(line, stays=True)
            else:
                self._console.tell(line.plain)

    # --- what moves ---------------------------------------------------------------------------------------------

    def _move(self, drawn: Callable[[], Any]) -> None:
        if self._moving:
            self._screen.move(drawn)

    def _drawn_bars(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        shown = list(self._bars.values())
        grid = Table.grid(padding=(0, 1))
        for frame in shown[-BARS_MAX:]:
            name = f"{frame.peer}: {frame.label}" if frame.peer else frame.label
            style = self._screen.palette.style("bar") or "none"
            bar = ProgressBar(
                total=frame.total, completed=frame.done, width=BAR_WIDTH, complete_style=style, finished_style=style,
                pulse=not frame.total,
            )  # fmt: skip
            grid.add_row(visible(name), bar, amount(frame.done, frame.total, visible(frame.unit)))
        if len(shown) <= BARS_MAX:
            return grid
        return Group(grid, self._styled("dim", f"and {len(shown) - BARS_MAX} more"))

    def _drawn_plot(self) -> Any:
        from rich.text import Text as RichText

        try:
            return RichText.from_ansi("\n".join(self._plot_lines()))
        except NoPlot:  # the end tells why
            return RichText("")

    def _plot_lines(self) -> list[str]:
        """Raises :class:`NoPlot`."""
        assert self._plot is not None
        chart = self._plot.chart()
        height = min(PLOT_HEIGHT, self._screen.height - 4)
        return draw(chart, width=self._screen.width - 1, height=height, colours=self._screen.palette.series)

    def _draw_plot(self) -> None:
        from rich.text import Text as RichText

        assert self._plot is not None
        if not len(self._plot):
            return
        try:
            lines = self._plot_lines()
        except NoPlot as problem:
            self._problem(problem.record())
            for text in self._plot.texts():
                self._screen.line(self._coloured(text))
            return
        for line in lines:
            self._screen.line(RichText.from_ansi(line))

    # --- styles -------------------------------------------------------------------------------------------------

    def _styled(self, part: str, text: str) -> Text:
        from rich.text import Text as RichText

        return RichText(text, style=self._screen.palette.style(part), end="")

    def _coloured(self, text: str) -> Text:
        """A value's text form, or a line of it."""
        line = self._styled("", "")
        for kind, piece in pieces(text):
            line.append(visible(piece), style=self._screen.palette.style(kind))
        return line
