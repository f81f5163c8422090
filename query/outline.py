"""A script's statements, the functions it makes and where it calls them, from tokens alone: for editors.

Pure and tolerant: a text with mistakes has an outline too. A statement here is what stands between two ``;``, its
directives included; a character without a meaning is passed over, and a string that is not closed ends with its line.
Names compare without case. Refuses nothing but a new name that cannot be one (:func:`checked_new_name`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from query import limits
from query.catalogue import BUILT_IN, Catalogue, NameTaken
from query.declarations import NAME
from query.errors import BadStatement
from query.lexing import Token
from query.parsing import lexicon
from query.syntax import Place

_CALLED: Final = frozenset({"NAME", "QUALIFIED"})
_NAME: Final = re.compile(NAME)


@dataclass(slots=True)
class Piece:
    """One statement: ``start`` is where its first directive or word stands, ``end`` lies past its last word."""

    start: int
    tokens: list[Token] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.tokens[-1].end if self.tokens else self.start


@dataclass(frozen=True, slots=True)
class Made:
    """A function that a script makes. ``place`` is its name's, ``head`` what stands before its body."""

    name: str
    place: Place
    head: str
    whole: Place


def pieces(text: str) -> list[Piece]:
    """The statements of a text. None of one that is longer than a local text may be."""
    if len(text) > limits.TEXT_BYTES_LOCAL_MAX:
        return []
    return list(_pieces(text))


def _pieces(text: str) -> Iterator[Piece]:
    words = lexicon()
    position = 0
    piece: Piece | None = None
    separated = -1  # the line of the last ";"
    while position < len(text):
        found = words.pattern.match(text, position)
        if found is None:
            position = _beyond(text, position)
            continue
        kind = found.lastgroup or ""
        start, position = found.span(kind)
        if kind == "SEMICOLON":
            if piece is not None and piece.tokens:
                yield piece
            piece, separated = None, start
            continue
        if kind.endswith("_COMMENT"):
            about_before = separated >= 0 and "\n" not in text[separated:start]
            if piece is None and kind == "LINE_COMMENT" and not about_before:
                piece = Piece(start)
            continue
        if piece is None:
            piece = Piece(start)
        if kind == "NAME":
            kind = words.keywords.get(found[kind].casefold(), kind)
        piece.tokens.append(Token(kind, text[start:position], start, position))
    if piece is not None and piece.tokens:
        yield piece


def _beyond(text: str, position: int) -> int:
    """Where to go on behind something that is no token."""
    while position < len(text) and text[position].isspace():
        position += 1
    if position < len(text) and text[position] in "\"'":
        line = text.find("\n", position)
        return len(text) if line < 0 else line
    return position + 1


def made_in(text: str, found: Iterable[Piece]) -> list[Made]:
    """The functions that a script makes, in its order."""
    made = []
    for piece in found:
        tokens = piece.tokens
        at = next((number for number, token in enumerate(tokens[:4]) if token.type == "FUNCTION"), None)
        if at is None or tokens[0].type != "CREATE" or at + 1 >= len(tokens) or tokens[at + 1].type not in _CALLED:
            continue
        name = tokens[at + 1]
        until = next((token.start for token in tokens[at + 2 :] if token.type == "AS"), piece.end)
        head = " ".join(text[name.start : until].split())
        made.append(Made(name.value, Place((name.start, name.end)), head, Place((piece.start, piece.end))))
    return made


def places_of(found: Iterable[Piece], name: str) -> list[Place]:
    """Where a function is made, deleted or called."""
    folded = name.casefold()
    places = []
    for piece in found:
        for at, token in enumerate(piece.tokens):
            if token.type in _CALLED and token.value.casefold() == folded and _is_function(piece.tokens, at):
                places.append(Place((token.start, token.end)))
    return places


def function_at(found: Iterable[Piece], offset: int) -> tuple[str, Place] | None:
    """The function whose name stands at ``offset``, or directly before it."""
    for piece in found:
        if piece.start <= offset <= piece.end:
            for at, token in enumerate(piece.tokens):
                if token.start <= offset <= token.end and token.type in _CALLED and _is_function(piece.tokens, at):
                    return token.value, Place((token.start, token.end))
    return None


def _is_function(tokens: list[Token], at: int) -> bool:
    if at and tokens[at - 1].type == "FUNCTION":
        return True
    return at + 1 < len(tokens) and tokens[at + 1].type == "LPAR"


def checked_new_name(name: str, *, was: str, catalogue: Catalogue, taken: Iterable[str]) -> str:
    """The name that a function is to have. Raises when it cannot be one, or another function has it."""
    name = name.strip()
    if not _NAME.fullmatch(name) or name.casefold() in lexicon().keywords:
        raise BadStatement(
            f'"{name[:80]}" is no name of a function: expected letters, digits and "_", perhaps after "namespace:"'
        )
    if name.casefold() != was.casefold():
        if catalogue.owner(name) == BUILT_IN:
            raise NameTaken(f'"{name}" is a built-in function')
        if name.casefold() in (other.casefold() for other in taken):
            raise NameTaken(f'"{name}" is a function of this script already')
    return name
