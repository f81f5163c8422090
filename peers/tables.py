"""The columns of an answer in a terminal: what stands in them, and how wide they are.

Pure. Rules: the first rows are measured together, and what comes later keeps to their columns; a cell that is wider
than its column is written whole; a table that does not fit beside its last column is tall: a line for each column of a
row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from peers.rendering import visible

LAST_COLUMN_MIN: Final = 30  # characters of the last column that have to fit; what is longer goes on below
GAP: Final = "  "


class Table:
    """Add the first rows with :meth:`add`, then :meth:`measure` them, then write what is in ``held``."""

    def __init__(self) -> None:
        self.held: list[list[str]] = []
        self.heading: list[str] = []
        self.widths: list[int] = []
        self.tagged = False
        self.tall = False
        self.rows = 0
        self._right: list[bool] = []

    @property
    def open(self) -> bool:
        """Whether it was measured."""
        return bool(self.widths)

    def add(self, peer: str | None, texts: Sequence[str]) -> None:
        cells = [visible(text) for text in texts]
        self.tagged = self.tagged or peer is not None
        self.held.append([peer or "", *cells] if self.tagged else cells)

    def measure(self, columns: Sequence[str], *, room: int) -> None:
        from rich.cells import cell_len, set_cell_size

        count = max(len(row) for row in self.held)
        self.heading = (["peer", *columns] if self.tagged else list(columns))[:count]
        self.heading += [""] * (count - len(self.heading))
        places = [[row[place] for row in self.held if place < len(row)] for place in range(count)]
        self.widths = [max(map(cell_len, [name, *cells])) for name, cells in zip(self.heading, places, strict=True)]
        self._right = [all(_is_number(cell) for cell in cells) for cells in places]
        needed = sum(self.widths[:-1]) + len(GAP) * (count - 1) + min(self.widths[-1], LAST_COLUMN_MIN)
        self.tall = needed > room
        if not self.tall:  # the heading's line does not wrap
            self.widths[-1] = max(1, min(self.widths[-1], room - sum(self.widths[:-1]) - len(GAP) * (count - 1)))
            if cell_len(self.heading[-1]) > self.widths[-1]:
                self.heading[-1] = set_cell_size(self.heading[-1], self.widths[-1] - 1) + "…"

    def padded(self, cells: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        """Each cell with the blanks before and behind it."""
        from rich.cells import cell_len

        for number, cell in enumerate(cells):
            known = number < len(self.widths)
            blanks = " " * max(0, self.widths[number] - cell_len(cell)) if known else ""
            gap = GAP if number else ""
            if known and self._right[number]:
                yield gap + blanks, cell, ""
            else:
                yield gap, cell, blanks if number < len(cells) - 1 else ""


def _is_number(cell: str) -> bool:
    return cell == "null" or cell.lstrip("-")[:1].isdigit()
