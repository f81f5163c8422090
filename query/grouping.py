"""The words of a statement as nested groups, by brackets and keywords alone: what can be broken into lines, and where.

    Sequence    words and groups side by side: an expression, with its operators
    Group       from an opening bracket or ``case`` to its end, with elements between
    Query       a select: its clauses, each with a head (``group by``) and elements between commas

Groups name words by their number. Rules: the words are those of a statement that was parsed, so brackets and keywords
come in pairs and nesting is bounded; no word is outside its statement's groups.
"""

from __future__ import annotations

from collections.abc import Sequence as Words
from dataclasses import dataclass
from typing import Final, TypeAlias

from query.lexing import ENDS_VALUE
from query.words import Word

OPENING: Final = frozenset({"LPAR", "LSQB", "LBRACE"})
CLOSING: Final = frozenset({"RPAR", "RSQB", "RBRACE"})
SIGNS: Final = frozenset({"PLUS", "MINUS"})
_CLAUSES: Final = frozenset({"FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT"})
_LISTS: Final = frozenset({"SELECT", "FROM", "GROUP", "ORDER"})  # clauses whose elements stand between commas
_BRANCHES: Final = frozenset({"WHEN", "ELSE"})
_ENDS: Final = CLOSING | _CLAUSES | _BRANCHES | {"COMMA", "END"}
_NEGATED: Final = frozenset({"IN", "LIKE", "BETWEEN"})
_TIGHTNESS: Final = {
    "THEN": 0,
    "OR": 1,
    "AND": 2,
    **dict.fromkeys(("EQUAL", "UNEQUAL", "LESS", "LESSEQUAL", "MORE", "MOREEQUAL", "IN", "LIKE", "BETWEEN", "IS"), 4),
    **dict.fromkeys(("PLUS", "MINUS", "CONCAT"), 5),
    **dict.fromkeys(("STAR", "SLASH", "PERCENT"), 6),
}
CHAINS_MAX: Final = 2  # operators up to ``and`` are always chains of lines, never kept before a bracket


@dataclass(frozen=True, slots=True)
class Group:
    """``opening`` and ``closing`` are the words around the elements; behind each element but the last stands a comma,
    except between the branches of a ``case``.
    """

    opening: int
    elements: tuple[Element, ...]
    closing: int
    is_case: bool = False


Part: TypeAlias = "int | Group"


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Part, ...]

    @property
    def first(self) -> int:
        part = self.parts[0]
        return part if isinstance(part, int) else part.opening

    @property
    def last(self) -> int:
        part = self.parts[-1]
        return part if isinstance(part, int) else part.closing


@dataclass(frozen=True, slots=True)
class Clause:
    """``head`` is the number of the last word of its head."""

    first: int
    head: int
    elements: tuple[Sequence, ...]

    @property
    def last(self) -> int:
        return self.elements[-1].last


@dataclass(frozen=True, slots=True)
class Query:
    clauses: tuple[Clause, ...]

    @property
    def first(self) -> int:
        return self.clauses[0].first

    @property
    def last(self) -> int:
        return self.clauses[-1].last


Element: TypeAlias = Sequence | Query


@dataclass(frozen=True, slots=True)
class Parts:
    """A statement: ``head`` is what stands before its body, as ``set :v =`` and ``create … as``, if anything does."""

    head: Sequence | None
    body: Element | None


def grouped(words: Words[Word]) -> Parts:
    """The groups of a statement's words."""
    return _Grouping(words).statement()


def is_sign(words: Words[Word], number: int) -> bool:
    """Whether a ``-`` or ``+`` is the sign of what follows, not an operator between two values."""
    return words[number].type in SIGNS and (number == 0 or words[number - 1].type not in ENDS_VALUE)


def loosest(words: Words[Word], sequence: Sequence) -> tuple[list[int], int]:
    """Which parts of a sequence are its loosest operators, and how tightly they bind."""
    found: list[int] = []
    tightness = 9
    betweens = 0
    for at, part in enumerate(sequence.parts):
        if at == 0 or not isinstance(part, int):
            continue
        own = _tightness(words, part)
        if words[part].type == "BETWEEN":
            betweens += 1
        elif words[part].type == "AND" and betweens:
            betweens -= 1  # the one of "between low and high"
            continue
        if own is None or own > tightness:
            continue
        if own < tightness:
            found, tightness = [], own
        found.append(at)
    return found, tightness


def _tightness(words: Words[Word], number: int) -> int | None:
    kind = words[number].type
    if kind == "NOT":  # "a not in b" breaks before its first word
        negates = number + 1 < len(words) and words[number + 1].type in _NEGATED
        return _TIGHTNESS["IN"] if negates and words[number - 1].type in ENDS_VALUE else None
    if kind in SIGNS and is_sign(words, number):
        return None
    if kind in _NEGATED and words[number - 1].type == "NOT":
        return None
    return _TIGHTNESS.get(kind)


class _Grouping:
    def __init__(self, words: Words[Word]) -> None:
        self._words = words
        self._at = 0

    @property
    def _kind(self) -> str:
        return self._words[self._at].type if self._at < len(self._words) else ""

    def _taken(self) -> int:
        self._at += 1
        return self._at - 1

    def statement(self) -> Parts:
        parts: list[Part] = []
        while self._kind == "EXPLAIN":
            parts.append(self._taken())
        if self._kind == "SET":
            parts += [self._taken(), self._taken(), self._taken()]
        elif self._kind == "CREATE":
            while self._kind not in ("AS", ""):
                parts.append(self._part())
            parts.append(self._taken())
        head = Sequence(tuple(parts)) if parts else None
        return Parts(head, self._element())

    def _element(self) -> Element:
        return self._query() if self._kind == "SELECT" else self._sequence()

    def _query(self) -> Query:
        clauses = [self._clause()]
        while self._kind in _CLAUSES:
            clauses.append(self._clause())
        return Query(tuple(clauses))

    def _clause(self) -> Clause:
        kind, first = self._kind, self._taken()
        if kind == "SELECT":
            if self._kind == "DISTINCT":
                self._taken()
            if self._kind == "NAME" and self._at + 1 < len(self._words) and self._words[self._at + 1].type == "OF":
                self._at += 2
        elif kind in ("GROUP", "ORDER"):
            self._taken()
        head = self._at - 1
        elements = [self._sequence()]
        while self._kind == "COMMA" and kind in _LISTS:
            self._taken()
            elements.append(self._sequence())
        return Clause(first, head, tuple(elements))

    def _sequence(self) -> Sequence:
        parts = [self._part()]
        while self._kind not in _ENDS and self._kind:
            parts.append(self._part())
        return Sequence(tuple(parts))

    def _part(self) -> Part:
        if self._kind in OPENING:
            return self._brackets()
        return self._case() if self._kind == "CASE" else self._taken()

    def _brackets(self) -> Group:
        opening = self._taken()
        elements = []
        while self._kind not in CLOSING:
            elements.append(self._element())
            if self._kind == "COMMA":
                self._taken()
        return Group(opening, tuple(elements), self._taken())

    def _case(self) -> Group:
        opening = self._taken()
        branches = []
        while self._kind in _BRANCHES:
            parts: list[Part] = [self._taken()]
            while self._kind not in _BRANCHES and self._kind != "END":
                parts.append(self._part())
            branches.append(Sequence(tuple(parts)))
        return Group(opening, tuple(branches), self._taken(), is_case=True)
