"""The last answer, as far as a session keeps it: for exports, the toolbar, and what completion learns from it.

Pure. Bounded in rows and in the elements of their values; an answer that passes a bound keeps what came first, and says
that it is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from peers.rendering import decoded
from query.frames import EndFrame, Frame, RowFrame, SchemaFrame
from query.ledger import Ledger
from query.values import measured

ROWS_KEPT_MAX: Final = 100_000
ELEMENTS_KEPT_MAX: Final = 2_000_000


@dataclass(slots=True)
class KeptAnswer:
    """The answer to the last statement of a text that gave rows, or to its last one."""

    text: str = ""
    columns: tuple[str, ...] = ()
    rows: list[tuple[str | None, tuple[Any, ...]]] = field(default_factory=list)
    ledger: Ledger | None = None
    elapsed_ms: float = 0.0
    cut: bool = False
    _elements: int = 0
    _next: tuple[str, ...] | None = None

    def add(self, frame: Frame) -> None:
        match frame:
            case SchemaFrame(columns=columns):
                self._next = tuple(column.name for column in columns)
            case RowFrame(peer=peer):
                if self._next is not None:  # the first row of another statement
                    self.columns, self._next = self._next, None
                    self.rows, self._elements, self.cut = [], 0, False
                self._keep(peer, decoded(frame))
            case EndFrame(ledger=ledger, elapsed_ms=elapsed_ms):
                self.ledger = ledger
                self.elapsed_ms = elapsed_ms
                if not self.rows and self._next is not None:
                    self.columns = self._next

    def _keep(self, peer: str | None, values: tuple[Any, ...]) -> None:
        if self.cut:
            return
        self._elements += sum(map(measured, values))
        if len(self.rows) >= ROWS_KEPT_MAX or self._elements > ELEMENTS_KEPT_MAX:
            self.cut = True
        else:
            self.rows.append((peer, values))
