"""What a function says of itself, laid out for a screen: its overloads, documentation and examples.

Pure: declarations → lines of fragments ``(part, text)``, whose parts are those of :mod:`peers.palettes`. Paragraphs are
filled to the width; what is indented in a documentation stands as it is.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from peers.highlighting import pieces
from query.declarations import Declaration

Fragment = tuple[str, str]
INDENT: Final = "  "
WIDTH_MIN: Final = 30
_CODE: Final = re.compile(r"``([^`]+)``|`([^`]+)`")


def described(declared: Sequence[Declaration], *, width: int) -> list[list[Fragment]]:
    """The lines about the overloads of one function."""
    lines: list[list[Fragment]] = []
    documented: list[str] = []
    for one in declared:
        home = "at the nameserver" if one.home.value == "nameserver" else "everywhere"
        also = f"; also called {', '.join(one.aliases)}" if one.aliases else ""
        lines.append(list(pieces(one.signature)))
        lines.append([("dim", f"{INDENT}at home {home}; role {one.role.name.lower()}; {one.effect.value}{also}")])
        if one.documentation and one.documentation not in documented:
            documented.append(one.documentation)
            lines.append([])
            for line in filled(one.documentation, max(WIDTH_MIN, width - len(INDENT))):
                lines.append(list(_with_code(INDENT + line)) if line else [])
            lines.append([])
    for text in dict.fromkeys(example.text for one in declared for example in one.examples):
        first, *rest = text.split("\n")
        lines.append([("dim", f"{INDENT}example: "), *pieces(first)])
        lines += [[("", " " * (len(INDENT) + 9)), *pieces(line)] for line in rest]
    return lines


def filled(documentation: str, width: int) -> Iterator[str]:
    """The lines of a documentation; blank ones between its paragraphs."""
    for number, paragraph in enumerate(documentation.split("\n\n")):
        if number:
            yield ""
        lines = paragraph.split("\n")
        if any(line.startswith((" ", "\t", "|", "- ")) for line in lines):
            yield from lines
        else:
            yield from textwrap.wrap(" ".join(lines), width, break_long_words=False, break_on_hyphens=False)


def _with_code(line: str) -> Iterator[Fragment]:
    """A line whose words in backticks are code."""
    at = 0
    for found in _CODE.finditer(line):
        yield "", line[at : found.start()]
        yield "function", found[1] or found[2]
        at = found.end()
    yield "", line[at:]
