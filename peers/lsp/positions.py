"""An editor's positions (line, and units of the encoding that was agreed on) and offsets in a text, both ways.

Lines end with ``\\n``, ``\\r\\n`` or ``\\r`` and nothing else, as the protocol says; Python's own idea of lines knows
more ends. A position beyond its line means the line's end, one beyond the text the text's end.
"""

from __future__ import annotations

import bisect
import re
from typing import Final

from lsprotocol.types import Position, Range

_ENDS: Final = re.compile(r"\r\n|\n|\r")
_BYTES: Final = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_CODECS: Final = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


class Lines:
    """A text's lines; ``encoding`` is ``utf-8``, ``utf-16`` or ``utf-32``."""

    def __init__(self, text: str, encoding: str = "utf-16") -> None:
        self.text = text
        self._codec = _CODECS[encoding]
        self._unit = _BYTES[encoding]
        self._plain = text.isascii()
        self._starts = [0]
        self._ends = []
        for found in _ENDS.finditer(text):
            self._ends.append(found.start())
            self._starts.append(found.end())
        self._ends.append(len(text))

    def offset(self, position: Position) -> int:
        if position.line >= len(self._starts):
            return len(self.text)
        start, end = self._starts[position.line], self._ends[position.line]
        if self._plain:
            return min(start + position.character, end)
        encoded = self.text[start:end].encode(self._codec, "surrogatepass")[: position.character * self._unit]
        return start + len(encoded.decode(self._codec, "ignore"))

    def position(self, offset: int) -> Position:
        line = bisect.bisect_right(self._starts, offset) - 1
        start = self._starts[line]
        if self._plain:
            return Position(line, offset - start)
        before = self.text[start:offset].encode(self._codec, "surrogatepass")
        return Position(line, len(before) // self._unit)

    def range(self, start: int, end: int) -> Range:
        return Range(self.position(start), self.position(max(start, end)))

    @property
    def whole(self) -> Range:
        return self.range(0, len(self.text))
