"""A text that is being typed → what stands around the cursor: tokens, open brackets, the word or string under way.

Pure, and tolerant: nothing here raises for what is not finished, and a character without a meaning is passed over.
Owns no grammar: terminals are the grammar's, and which words may follow is asked of its tables
(:func:`query.parsing.acceptable`). Only the statement of the cursor counts: what stands before its ``;`` and what
follows up to the next one. A text over ``TEXT_BYTES_LOCAL_MAX`` is not read at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from query import limits
from query.lexing import Token, begins_line, directive_text
from query.parsing import lexicon

Quote = Literal["", '"', "'"]

_OPENING: Final = {"LPAR": "(", "LSQB": "[", "LBRACE": "{"}
_CLOSING: Final = frozenset({"RPAR", "RSQB", "RBRACE"})
_CALLS: Final = frozenset({"NAME", "QUALIFIED"})
_BEFORE_INDEX: Final = frozenset({"NAME", "QUALIFIED", "FIELD", "VARIABLE", "RPAR", "RSQB", "RBRACE"})
_WORDS: Final = frozenset({"NAME", "FIELD", "QUALIFIED", "VARIABLE", "NUMBER"})
_WORD: Final = re.compile(r"[A-Za-z0-9_]*")
_PART: Final = re.compile(r"[A-Za-z0-9_:]*")


@dataclass(slots=True)
class Bracket:
    """An open bracket. ``at``: its token's index; ``commas``: those of the commas directly inside it.

    ``function``: whose arguments a ``(`` opens. ``index``: whether a ``[`` follows a value, so that a key stands in it.
    """

    sign: str
    at: int
    function: str | None = None
    index: bool = False
    commas: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What stands around ``offset`` in ``text``.

    ``tokens``: those of the statement before the word under way. ``word`` begins at ``start`` and ends at the cursor:
    a name, ``:name``, ``space:na``, or, where ``quote`` is set, what the open string holds so far. ``end`` lies past
    the rest of that word or string, where it goes on behind the cursor. ``after``: the statement's further tokens.
    ``directive``: the line comment up to the cursor, where a directive may stand; ``silent``: in any other comment.
    """

    text: str
    offset: int
    tokens: tuple[Token, ...] = ()
    brackets: tuple[Bracket, ...] = ()
    start: int = 0
    end: int = 0
    quote: Quote = ""
    directive: str | None = None
    silent: bool = False
    after: tuple[Token, ...] = ()

    @property
    def word(self) -> str:
        return self.text[self.start : self.offset]

    @property
    def last(self) -> str:
        """The terminal of the last token before the word; empty at a statement's beginning."""
        return self.tokens[-1].type if self.tokens else ""

    @property
    def inner(self) -> Bracket | None:
        return self.brackets[-1] if self.brackets else None


class _Scan:
    """One pass up to the cursor; see :func:`read_unfinished`."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.brackets: list[Bracket] = []

    def take(self, kind: str, value: str, start: int, end: int) -> int:
        """Take up one token; where the next begins."""
        if kind == "VARIABLE" and self._separates():
            kind, value, end = "COLON", ":", start + 1
        elif kind == "SEMICOLON":
            self.tokens, self.brackets = [], []
            return end
        elif kind in _OPENING:
            self._open(_OPENING[kind])
        elif kind in _CLOSING:
            if self.brackets:
                self.brackets.pop()
        elif kind == "COMMA" and self.brackets:
            self.brackets[-1].commas.append(len(self.tokens))
        self.tokens.append(Token(kind, value, start, end))
        return end

    def _open(self, sign: str) -> None:
        before = self.tokens[-1] if self.tokens else None
        called = before.value if sign == "(" and before is not None and before.type in _CALLS else None
        index = sign == "[" and before is not None and before.type in _BEFORE_INDEX
        self.brackets.append(Bracket(sign, len(self.tokens), called, index))

    def _separates(self) -> bool:
        inside = self.brackets and self.brackets[-1].sign == "{"
        return bool(inside and self.tokens and self.tokens[-1].type in ("STRING", "RAW_STRING"))


def read_unfinished(text: str, offset: int) -> Unfinished:
    """What stands around ``offset`` (characters from 0); see :class:`Unfinished`."""
    offset = max(0, min(offset, len(text)))
    if len(text) > limits.TEXT_BYTES_LOCAL_MAX:
        return Unfinished(text, offset, start=offset, end=offset, silent=True)
    scan = _Scan()
    words = lexicon()
    match = words.pattern.match
    position = 0
    while position < offset:
        found = match(text, position, offset)
        if found is None:
            position += len(text[position:offset]) - len(text[position:offset].lstrip())
            if position >= offset:
                break
            if text[position] in "\"'":
                return _in_string(text, offset, scan, position)
            if text.startswith("/*", position):
                return _silent(text, offset, scan)
            position += 1
            continue
        kind = found.lastgroup or ""
        start, end = found.span(kind)
        if kind in ("LINE_COMMENT", "DASH_COMMENT"):
            if end == offset:
                return _in_comment(text, offset, scan, start)
        elif kind == "NAME":
            end = scan.take(words.keywords.get(found[kind].casefold(), kind), found[kind], start, end)
        elif kind != "BLOCK_COMMENT":
            end = scan.take(kind, found[kind], start, end)
        position = end
    return _at_word(text, offset, scan)


def _silent(text: str, offset: int, scan: _Scan) -> Unfinished:
    return Unfinished(text, offset, tuple(scan.tokens), tuple(scan.brackets), offset, offset, silent=True)


def _in_comment(text: str, offset: int, scan: _Scan, start: int) -> Unfinished:
    if scan.tokens or not begins_line(text, start) or not text.startswith("//", start):
        return _silent(text, offset, scan)
    line = text.find("\n", offset)
    end = len(text) if line < 0 else line
    return Unfinished(text, offset, start=offset, end=end, directive=text[start:offset])


def _in_string(text: str, offset: int, scan: _Scan, start: int) -> Unfinished:
    sign: Quote = '"' if text[start] == '"' else "'"
    line = text.find("\n", offset)
    rest = text[offset : len(text) if line < 0 else line]
    closing = rest.find(sign)
    # A string that is not closed on its line has only begun: what follows is not its own.
    end = offset + closing if closing >= 0 and _plain(rest[:closing]) else offset
    after = _following(text, end + 1) if end > offset or rest.startswith(sign) else ()
    return Unfinished(text, offset, tuple(scan.tokens), tuple(scan.brackets), start + 1, end, sign, after=after)


def _plain(text: str) -> bool:
    return not any(sign in text for sign in "()[]{},;=\"'")


def _at_word(text: str, offset: int, scan: _Scan) -> Unfinished:
    tokens = scan.tokens
    start = offset
    if tokens and tokens[-1].end == offset:
        last = tokens[-1]
        if last.type in _WORDS or last.value[:1].isalpha():
            start = last.start
            tokens.pop()
        elif last.type == "COLON" and not (scan.brackets and scan.brackets[-1].sign == "{"):
            start = last.start
            tokens.pop()
            if tokens and tokens[-1].end == start and tokens[-1].type == "NAME":  # a namespace and its colon
                start = tokens.pop().start
    pattern = _PART if ":" not in text[start:offset] else _WORD
    following = pattern.match(text, offset)
    end = following.end() if following is not None else offset
    return Unfinished(text, offset, tuple(tokens), tuple(scan.brackets), start, end, after=_following(text, end))


def _following(text: str, position: int) -> tuple[Token, ...]:
    """The statement's tokens from ``position`` on, as far as they can be read."""
    scan = _Scan()
    words = lexicon()
    while (found := words.pattern.match(text, position)) is not None:
        kind = found.lastgroup or ""
        start, position = found.span(kind)
        if kind == "SEMICOLON":
            break
        if kind == "NAME":
            kind = words.keywords.get(found[kind].casefold(), kind)
        if not kind.endswith("_COMMENT"):
            scan.take(kind, text[start:position], start, position)
    return tuple(scan.tokens)


@dataclass(frozen=True, slots=True)
class Directing:
    """A directive under way. ``name`` is None while its name is typed; ``value`` is what stands behind its colon."""

    name: str | None
    value: str
    start: int  # of the name or value that is typed, in the text


def directive_under_way(moment: Unfinished) -> Directing | None:
    """What of a directive stands before the cursor, or None in a comment that cannot be one."""
    if moment.directive is None:
        return None
    return _directing(moment.directive, moment.offset - len(moment.directive))


def _directing(comment: str, start: int) -> Directing | None:
    named = directive_text(comment)
    if named is not None:
        name, value, at = named
        return Directing(name, value, start + at)
    typed = re.fullmatch(r"//[ \t]*([A-Za-z]*)", comment)
    return None if typed is None else Directing(None, typed[1], start + typed.start(1))
