"""A text as words with the comments around them, and as what stands between its statements: all that a formatter keeps.

Comments come in rows, a row being what stands on one line. Inside a statement a row belongs to a word:

    rows     lines of comments above the word
    inline   block comments before the word, on its line
    after    comments behind the word, at the end of its line

Rules: every comment belongs to one word or stands between two statements. A comment that begins its line between two
statements may be a directive; no other one may, so it never begins a line there when it is written again. Blanks at the
end of a line comment and the way lines end are all of a comment that may change.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from query import limits
from query.lexing import Lexed, directive_text
from query.parsing import tokens

_BLANKS: Final = " \t\r"
_WINDOWS: Final = "\r\n"
_GAP = re.compile(r"(?P<comment>//[^\n]*|--[^\n]*|/\*.*?\*/)|(?P<newline>\n)|(?P<stop>;)", re.DOTALL)


@dataclass(slots=True)
class Word:
    """A token as it was written, and its comments."""

    type: str
    text: str
    rows: list[str] = field(default_factory=list)
    inline: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """A row of comments between statements. ``begins``: nothing stands before it on its line, so that it may be a
    directive; ``apart``: a blank line stands above it.
    """

    text: str
    begins: bool
    apart: bool


@dataclass(slots=True)
class Written:
    """A statement. ``apart``: a blank line stands above its first word. ``below``: rows between its last word and its
    ``;`` that would become directives behind it, or find no place on its line.
    """

    words: list[Word]
    apart: bool
    below: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stop:
    """A ``;`` without a statement, which keeps what looks like a directive from being one of the next statement."""


Piece: TypeAlias = Remark | Written | Stop


@dataclass(slots=True)
class _Row:
    """Comments on one line; ``newlines``: how many line ends stand above them and below what was before."""

    newlines: int
    comments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.comments)


def read_words(text: str, *, limit: int = limits.TEXT_BYTES_LOCAL_MAX) -> Iterator[Piece]:
    """A text's statements and what stands between them. Raises as :func:`query.parsing.tokens` does."""
    position = 0
    before: Written | None = None
    for lexed in tokens(text, limit=limit):
        segments = _segments(text, position, lexed.tokens[0].start)
        last = segments[-1][-1]
        yield from _between(segments, before)
        before = Written(_words(text, lexed), last.newlines > 1 and not last.comments)
        position = lexed.tokens[-1].end
        # What stands below its last word is known with the next gap; it is given then, before all that follows.
    yield from _between(_segments(text, position, len(text)), before)


def _segments(text: str, start: int, end: int) -> list[list[_Row]]:
    """The rows between two words, cut at each ``;``. The first row of a segment stands on the line of what was before,
    its last one on the line of what comes.
    """
    segments = [[_Row(0)]]
    while (found := _GAP.search(text, start, end)) is not None:
        start = found.end()
        rows = segments[-1]
        if found["stop"]:
            segments.append([_Row(0)])
        elif found["newline"]:
            if rows[-1].comments or len(rows) == 1:
                rows.append(_Row(1))
            else:
                rows[-1].newlines += 1
        else:
            rows[-1].comments.append(as_kept(found["comment"]))
    return segments


def as_kept(comment: str) -> str:
    """A comment as it is written again. The name of a directive is told in one way."""
    if comment.startswith("/*"):
        return comment.replace(_WINDOWS, "\n")
    return comment.rstrip(_BLANKS)


def _words(text: str, lexed: Lexed) -> list[Word]:
    words: list[Word] = []
    position = 0
    for token in lexed.tokens:
        word = Word(token.type, token.value)
        if words and token.start > position:
            first, *others = _segments(text, position, token.start)[0]
            if others:
                words[-1].after = first.text
                word.rows = [row.text for row in others[:-1]]
                word.inline = others[-1].text
            else:
                word.inline = first.text
            if "\n" in word.inline:
                word.rows.append(word.inline)  # a block of several lines has them for itself
                word.inline = ""
        words.append(word)
        position = token.end
    for one, comma in itertools.pairwise(words):
        if comma.type == "COMMA" and one.after and not (comma.rows or comma.inline or comma.after):
            comma.after, one.after = one.after, ""  # "x // about x" above ", y": the comma comes first
    return words


def _between(segments: list[list[_Row]], statement: Written | None) -> Iterator[Piece]:
    """What stands between two statements, the first of them included."""
    if statement is not None:
        tail = segments[0]
        crowded = any(row.comments for row in tail) and _is_followed(segments[1:])
        if crowded or _has_directive(tail[1:]):
            statement.words[-1].after = tail[0].text
            statement.below = [row.text for row in tail[1:] if row.comments]
            tail = []
        yield statement
    else:
        tail = segments[0]
    yield from _remarks(tail, begins=statement is None)
    waiting = statement is None and _has_directive(tail)
    alone = statement is None and not tail[-1].comments
    for number, rows in enumerate(segments[1:], 1):
        begins = False
        if number > 1 or statement is None:  # the ";" before these rows ends no statement
            if waiting or (rows[0].comments and directive_text(rows[0].text)):
                yield Stop()
            else:
                begins = alone
        yield from _remarks(rows, begins=begins)
        waiting = _has_directive(rows)
        alone = (len(rows) > 1 or begins) and not rows[-1].comments


def _is_followed(segments: list[list[_Row]]) -> bool:
    """Whether a comment stands on the line of the ``;`` before these rows, also behind one more ``;``, unless that is a
    :class:`Stop`, which begins a line.
    """
    for number, rows in enumerate(segments):
        if rows[0].comments:
            return number == 0 or directive_text(rows[0].text) is None
        if len(rows) > 1:
            return False
    return False


def _remarks(rows: Iterable[_Row], *, begins: bool) -> Iterator[Remark]:
    for number, row in enumerate(rows):
        if row.comments:
            yield Remark(row.text, begins or number > 0, row.newlines > 1)


def _has_directive(rows: list[_Row]) -> bool:
    return any(row.comments and directive_text(row.text) for row in rows)
