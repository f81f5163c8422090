"""Functions of strings."""

from __future__ import annotations

import re
from typing import Any, Final

from query import limits
from query.declarations import Call, Example, function
from query.errors import WrongArguments
from query.limits import over
from query.operators import as_string

_NUMBERS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", re.ASCII)


class StringFunctions:
    """Positions count characters from 1."""

    @function("length(String text) -> Integer", example=Example('length("peer")', shows="4"))
    def length(self, call: Call, text: str) -> int:
        """The number of characters."""
        return len(text)

    @function("upper(String text) -> String", example=Example('upper("edge1")', shows='"EDGE1"'))
    def upper(self, call: Call, text: str) -> str:
        """All letters in upper case."""
        return text.upper()

    @function("lower(String text) -> String", example=Example('lower("EDGE1")', shows='"edge1"'))
    def lower(self, call: Call, text: str) -> str:
        """All letters in lower case."""
        return text.lower()

    @function("trim(String text) -> String", example=Example('trim("  a ")', shows='"a"'))
    def trim(self, call: Call, text: str) -> str:
        """The text without blanks at its start and end."""
        return text.strip()

    @function(
        "substring(String text, Integer first, Integer last?) -> String",
        example=Example('substring("peerage", 1, 4)', shows='"peer"'),
    )
    def substring(self, call: Call, text: str, first: int, last: int | None = None) -> str:
        """The characters from ``first`` to ``last``, both included, or to the end."""
        if first < 1:
            raise WrongArguments(f"substring: first: expected an Integer from 1, found {first}")
        return text[first - 1 : len(text) if last is None else max(0, last)]

    @function(
        "version_parts(String version) -> Vector of Integer",
        example=Example('version_parts("3.11.4") >= [3, 9]', shows="true"),
    )
    def version_parts(self, call: Call, version: str) -> list[int]:
        """The numbers that a version begins with, to be compared: as texts, "3.9" comes after "3.11"."""
        found = _NUMBERS.match(version.removeprefix("v"))
        return [int(part) for part in found[0].split(".")] if found else []

    @function(
        "substitute(String text, String old, String new) -> String",
        example=Example('substitute("a-b", "-", "+")', shows='"a+b"'),
    )
    def substitute(self, call: Call, text: str, old: str, new: str) -> str:
        """The text with every ``old`` replaced by ``new``."""
        if not old:
            raise WrongArguments("substitute: old: expected a text that is not empty")
        size = len(text) + text.count(old) * (len(new) - len(old))
        if size > limits.STRING_LENGTH_MAX:
            raise over("a string", limits.STRING_LENGTH_MAX, size, "characters")
        return text.replace(old, new)

    @function(
        "split(String text, String separator) -> Vector of String",
        example=Example("split('a,b', ',')", shows="['a','b']"),
    )
    def split(self, call: Call, text: str, separator: str) -> list[str]:
        """The parts of a text between separators."""
        if not separator:
            raise WrongArguments("split: separator: expected a text that is not empty")
        return text.split(separator)

    @function("join(Vector parts, String separator) -> String", example=Example("join(['a','b'], '+')", shows='"a+b"'))
    def join(self, call: Call, parts: list[Any], separator: str) -> str:
        """The parts' texts with separators between them."""
        texts = [as_string(part) for part in parts]
        size = sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1)
        if size > limits.STRING_LENGTH_MAX:
            raise over("a string", limits.STRING_LENGTH_MAX, size, "characters")
        return separator.join(texts)

    @function(
        "contains(String text, String part) -> Boolean", example=Example('contains("peerage", "age")', shows="true")
    )
    def contains(self, call: Call, text: str, part: str) -> bool:
        """Whether ``part`` occurs in a text."""
        return part in text

    @function(
        "starts_with(String text, String start) -> Boolean", example=Example('starts_with("peer", "pe")', shows="true")
    )
    def starts_with(self, call: Call, text: str, start: str) -> bool:
        """Whether a text begins with ``start``."""
        return text.startswith(start)

    @function("ends_with(String text, String end) -> Boolean", example=Example('ends_with("peer", "er")', shows="true"))
    def ends_with(self, call: Call, text: str, end: str) -> bool:
        """Whether a text ends with ``end``."""
        return text.endswith(end)

    @function("position(String text, String part) -> Integer", example=Example('position("peer", "e")', shows="2"))
    def position(self, call: Call, text: str, part: str) -> int:
        """Where ``part`` first begins in a text, from 1; 0 when it does not occur."""
        return text.find(part) + 1

    @function("stringify(Object value) -> String", example=Example("stringify([1,'a'])", shows="\"[1,'a']\""))
    def stringify(self, call: Call, value: Any) -> str:
        """A value's text form; a string itself."""
        return as_string(value)
