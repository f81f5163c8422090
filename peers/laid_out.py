"""A value's text form over several lines, where one line is too short for it. It parses back to the same value.

Pure. Records have a line for each pair, vectors as many elements in a line as there is room for; a part that fits into
its line stays in it. Refuses to shorten anything.
"""

from __future__ import annotations

from typing import Any, Final

from query.text_form import raw_quoted, to_text

INDENT: Final = 2
WIDTH_MIN: Final = 20


def laid_out(value: Any, width: int) -> list[str]:
    """The lines of a value's text form; one where it has at most ``width`` characters, or cannot be cut."""
    whole = to_text(value)
    if len(whole) <= width or not isinstance(value, dict | list) or not value:
        return whole.split("\n")
    return _cut(value, max(width, WIDTH_MIN))


def _cut(value: dict[str, Any] | list[Any], width: int) -> list[str]:
    lines = []
    if isinstance(value, dict):
        for number, (key, part) in enumerate(value.items(), start=1):
            name = to_text(key) + ":"
            first, *rest = _part(part, width - INDENT - 1, taken=len(name))
            lines += [name + first, *rest]
            if number < len(value):
                lines[-1] += ","
        return ["{", *_indented(lines), "}"]
    line = ""
    for number, part in enumerate(value, start=1):
        first, *rest = _part(part, width - INDENT - 1)
        comma = "," if number < len(value) else ""
        if rest:
            lines += [line] * bool(line) + [first, *rest[:-1], rest[-1] + comma]
            line = ""
        elif line and len(line) + len(first) + len(comma) > width - INDENT:
            lines.append(line)
            line = first + comma
        else:
            line += first + comma
    return ["[", *_indented(lines + [line] * bool(line)), "]"]


def _part(value: Any, width: int, *, taken: int = 0) -> list[str]:
    """The lines of a part; ``taken`` characters of its first line are not free."""
    whole = raw_quoted(value) if isinstance(value, str) else to_text(value)
    if len(whole) + taken <= width or not isinstance(value, dict | list) or not value:
        return [whole]
    return _cut(value, width)


def _indented(lines: list[str]) -> list[str]:
    return [" " * INDENT + line for line in lines]
