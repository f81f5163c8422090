"""Text of the language → pieces with a class each, for colours: what is typed, and values in their text form.

Pure, and tolerant: any text is cut, also one that is half typed or no PQL at all; the pieces joined give the text.
What a word looks like is the grammar's (:func:`query.parsing.lexicon`). Refuses to know colours: see peers.palettes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

from query.lexing import DIRECTIVES
from query.parsing import lexicon

Class: TypeAlias = Literal[
    "blank", "plain", "keyword", "function", "name", "variable", "string", "key", "number", "constant", "time",
    "sign", "comment", "directive", "wrong",
]  # fmt: skip
Piece: TypeAlias = tuple[Class, str]

HIGHLIGHTED_MAX: Final = 256 * 1024  # characters; more stays plain

_CONSTANTS: Final = frozenset({"TRUE", "FALSE", "NULL"})
_NUMBERS_IN_WORDS: Final = frozenset({"nan", "infinity"})
_CLASSES: Final[dict[str, Class]] = {
    "NUMBER": "number",
    "RAW_STRING": "string",
    "TIMESTAMP": "time",
    "VARIABLE": "variable",
    "QUALIFIED": "function",
    "FIELD": "key",
    "DASH_COMMENT": "comment",
    "BLOCK_COMMENT": "comment",
}
_OPENED: Final[dict[str, Class]] = {'"': "string", "'": "string", "|": "time", "/": "comment"}
_DIRECTIVE: Final = re.compile(rf"//[ \t]*(?:{'|'.join(DIRECTIVES)})[ \t]*:", re.IGNORECASE)
_BLANKS: Final = re.compile(r"\s*")
_CALLED: Final = re.compile(r"\s*\(")
_PAIR: Final = re.compile(r"\s*:")


def pieces(text: str) -> Iterator[Piece]:
    """The text in pieces, in order, none empty."""
    if len(text) > HIGHLIGHTED_MAX:
        yield "plain", text
        return
    match = lexicon().pattern.match
    position = 0
    records = 0  # open braces: a string before a colon in one is a key
    before = ""
    while position < len(text):
        found = match(text, position)
        if found is None:
            blank = _BLANKS.match(text, position)
            start = blank.end() if blank else position
            if start > position:
                yield "blank", text[position:start]
            if start < len(text):
                # A string, time or comment that is not closed yet takes all the rest; else the sign has no meaning.
                kind = _OPENED.get(text[start], "wrong")
                position = start + 1 if kind == "wrong" else len(text)
                yield kind, text[start:position]
            else:
                position = start
            continue
        terminal = found.lastgroup or ""
        start, end = found.span(terminal)
        if start > position:
            yield "blank", text[position:start]
        if terminal == "LBRACE":
            records += 1
        elif terminal == "RBRACE":
            records -= 1
        if terminal == "VARIABLE" and records > 0 and before in ("STRING", "RAW_STRING"):
            end = start + 1  # the colon of a pair
            yield "sign", ":"
        else:
            yield _class_of(terminal, text, start, end, in_record=records > 0), text[start:end]
        before = terminal
        position = end


def _class_of(kind: str, text: str, start: int, end: int, *, in_record: bool) -> Class:
    word = text[start:end]
    if kind == "NAME":
        keyword = lexicon().keywords.get(word.casefold())
        if keyword is not None:
            return "constant" if keyword in _CONSTANTS else "keyword"
        if word.casefold() in _NUMBERS_IN_WORDS:
            return "number"
        return "function" if _CALLED.match(text, end) else "name"
    if kind == "STRING":
        return "key" if in_record and _PAIR.match(text, end) else "string"
    if kind == "LINE_COMMENT":
        return "directive" if _DIRECTIVE.match(word) else "comment"
    return _CLASSES.get(kind) or ("keyword" if word[0].isalpha() else "sign")
