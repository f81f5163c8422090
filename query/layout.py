"""Any text of the language in one style, with all its comments: what ``peerage fmt`` and the editor write.

    text → words with their comments → groups (brackets, case … end, clauses) → lines

Rules: the words of a statement stay as they are and in their order; only blanks, line ends, the case of keywords and
the spelling of ``<>`` change, and the ``;`` of empty statements goes. What is read from the result is therefore what
was read before, which is checked each time on words, comments and directives: a result that says anything else is
never given. Formatting a formatted text changes nothing.

Style: a statement that fits into :data:`WIDTH` columns is one line. Where it does not, a select gets a line for each
clause, a chain of operators a line for each operand, the loosest operators first, and brackets a line for each element;
single values fill lines. At most one blank line stands where some stood. A line is longer only where one word is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from query import limits
from query.errors import InternalProblem
from query.grouping import CHAINS_MAX, OPENING, Clause, Element, Group, Part, Query, Sequence, grouped, is_sign, loosest
from query.lexing import ENDS_VALUE, directive_text
from query.limits import over
from query.parsing import parse, tokens
from query.words import Piece, Remark, Stop, Word, Written, read_words

WIDTH: Final = 100
STEP: Final = 4
INDENT_MAX: Final = 40  # columns; what is nested deeper is moved no further
_FILLED_MIN: Final = 5  # single values between brackets fill lines from so many on
_CLOSE: Final = frozenset({"COMMA", "RPAR", "RSQB", "RBRACE"})
_OPEN_ENDED: Final = frozenset(
    {"NAME", "FIELD", "QUALIFIED", "VARIABLE", "NUMBER", "STRING", "RAW_STRING", "TIMESTAMP"}
)
_CALLED: Final = frozenset({"NAME", "QUALIFIED", "CAST"})


def format_text(text: str, *, limit: int = limits.TEXT_BYTES_LOCAL_MAX) -> str:
    """The text in one style; empty for one without words and comments.

    Raises what :func:`query.parsing.parse` raises for the text, with its place, and :class:`LimitExceeded` when the
    result would be longer than ``limit`` bytes.
    """
    parse(text, limit=limit)
    pieces = list(read_words(text, limit=limit))
    found = _laid_out(pieces)
    if len(found.encode()) > limit:
        raise over("the formatted text", limit, len(found.encode()), "bytes")
    if _said(read_words(found, limit=limit)) != _said(pieces) or _heard(found, limit) != _heard(text, limit):
        raise InternalProblem("the formatter would change what the text says, and leaves it as it is")
    return found


# --- what must not change -------------------------------------------------------------------------------------------


def _said(pieces: Iterable[Piece]) -> tuple[list[tuple[str, str]], list[str]]:
    """The words and the comments of a text, in their order."""
    words: list[tuple[str, str]] = []
    comments: list[str] = []
    for piece in pieces:
        match piece:
            case Remark():
                comments.append(_remark(piece))
            case Written():
                for word in piece.words:
                    words.append(("NAME" if word.type == "FIELD" else word.type, _spelled(word)))
                    comments += [*word.rows, *filter(None, (word.inline, word.after))]
                words.append(("SEMICOLON", ";"))
                comments += piece.below
    return words, " ".join(comments).split(" ")


def _heard(text: str, limit: int) -> list[tuple[list[tuple[str, str]], str]]:
    """The directives and the documentation of every statement."""
    return [
        ([(found.name, found.value) for found in lexed.directives], lexed.documentation)
        for lexed in tokens(text, limit=limit)
    ]


# --- words ----------------------------------------------------------------------------------------------------------


def _spelled(word: Word) -> str:
    if word.type == "UNEQUAL":
        return "!="
    if word.type == "AS_OF":
        return "as of"
    is_keyword = word.type not in _OPEN_ENDED and word.type == word.text.upper()
    return word.text.lower() if is_keyword else word.text


def _gap(words: list[Word], number: int) -> str:
    """What stands between a word and the one before it on the same line."""
    before, word = words[number - 1], words[number]
    if before.type in OPENING:
        return ""
    if word.inline:
        return " "
    if word.type in _CLOSE or word.type == "COLON" or "DOT" in (before.type, word.type):
        return ""
    if word.type == "LPAR":
        return "" if before.type in _CALLED else _after_sign(words, number)
    if word.type == "LSQB" and before.type in ENDS_VALUE:
        return ""
    return _after_sign(words, number)


def _after_sign(words: list[Word], number: int) -> str:
    signed = is_sign(words, number - 1) and not is_sign(words, number)
    return "" if signed else " "


def _remark(remark: Remark) -> str:
    named = directive_text(remark.text) if remark.begins else None
    return remark.text if named is None else f"//{named[0]}: {named[1]}"


# --- lines ----------------------------------------------------------------------------------------------------------


def _laid_out(pieces: Iterable[Piece]) -> str:
    lines = _Lines()
    for piece in pieces:
        match piece:
            case Remark(_, begins, apart):
                if begins:
                    lines.apart(apart)
                    lines.end(0)
                lines.comment(_remark(piece))
            case Stop():
                lines.end(0)
                lines.write(";")
            case Written(words, apart, below):
                lines.apart(apart)
                lines.end(0)
                _Layout(words, lines).statement()
                for row in below:
                    lines.end(0)
                    lines.write(row)
                if below or words[-1].after:
                    lines.end(0)
                lines.write(";")
    return lines.text()


@dataclass(slots=True)
class _Lines:
    """The lines so far and the one under way. ``column`` is where it stands, ``indent`` where it began."""

    done: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    column: int = 0
    indent: int = 0

    @property
    def fresh(self) -> bool:
        return not self.current

    def end(self, indent: int) -> None:
        """End the line under way, if anything is in it; the next begins at ``indent``."""
        if self.current:
            self.done.append("".join(self.current))
            self.current = []
        self.column = self.indent = indent

    def apart(self, blank: bool) -> None:
        """Begin anew, below a blank line when there is anything above."""
        self.end(0)
        if blank and self.done:
            self.done.append("")

    def write(self, text: str, gap: str = "") -> None:
        if self.fresh:
            self.current.append(" " * self.indent)
        elif gap:
            self.current.append(gap)
            self.column += len(gap)
        self.current.append(text)
        self.column = self.column + len(text) if "\n" not in text else len(text) - text.rfind("\n") - 1

    def comment(self, text: str) -> None:
        """A comment behind what stands on the line, or at its beginning."""
        self.write(text, " " if self.current and self.current[-1].endswith("*/") else "  ")

    def text(self) -> str:
        self.end(0)
        return "".join(line + "\n" for line in self.done)


class _Layout:
    """One statement's words into lines."""

    def __init__(self, words: list[Word], lines: _Lines) -> None:
        self._words = words
        self._lines = lines
        self._gaps = ["", *(_gap(words, number) for number in range(1, len(words)))]
        self._texts = [_with_inline(word) for word in words]
        self._starts: list[int] = []  # columns, were the statement one line
        self._ends: list[int] = []
        self._breaks: list[int] = []  # line ends before or in the words up to each, that comments and strings ask for
        self._tall: list[int] = []
        column = breaks = tall = 0
        for number, (gap, text) in enumerate(zip(self._gaps, self._texts, strict=True)):
            column += len(gap)
            self._starts.append(column)
            column += len(text)
            self._ends.append(column)
            breaks += bool(words[number].rows or (number and words[number - 1].after))
            tall += "\n" in text
            self._breaks.append(breaks)
            self._tall.append(tall)
        self._ending = False  # the line under way ends with a comment

    def statement(self) -> None:
        parts = grouped(self._words)
        if self._fits(0, len(self._words) - 1):
            self._flat(0, len(self._words) - 1, 0)
            return
        if parts.head is not None:
            for part in parts.head.parts:
                self._part(part, 0)
            if self._words[parts.head.last].type == "AS":
                self._end(STEP)
        if isinstance(parts.body, Query):
            self._query(parts.body, self._lines.indent)
        elif parts.body is not None:
            self._sequence(parts.body, STEP if self._lines.indent == 0 else self._lines.indent)

    # Whether something fits, and what is written without asking.

    def _fits(self, first: int, last: int) -> bool:
        """Whether words can stand on the line under way, with the sign that follows them."""
        if self._breaks[last] > self._breaks[first] or self._tall[last] > (self._tall[first - 1] if first else 0):
            return False
        column = self._lines.column
        if not self._ending and not self._words[first].rows and not self._lines.fresh:
            column += len(self._gaps[first])
        return column + self._ends[last] - self._starts[first] + 1 <= WIDTH

    def _flat(self, first: int, last: int, indent: int) -> None:
        for number in range(first, last + 1):
            self._word(number, indent)

    def _word(self, number: int, indent: int) -> None:
        """A word with its comments. A comment that needs a line end goes on at ``indent``."""
        word, lines = self._words[number], self._lines
        if self._ending:
            self._end(indent)
        if word.rows:
            if not lines.fresh:
                lines.end(indent)
            for row in word.rows:
                lines.write(row)
                lines.end(lines.indent)
        lines.write(self._texts[number], self._gaps[number])
        if word.after:
            lines.comment(word.after)
            self._ending = True

    def _end(self, indent: int) -> None:
        self._lines.end(indent)
        self._ending = False

    # What is broken where it does not fit.

    def _element(self, element: Element, hang: int) -> None:
        if isinstance(element, Query):
            self._query(element, hang)
        else:
            self._sequence(element, hang)

    def _query(self, query: Query, indent: int) -> None:
        if self._fits(query.first, query.last):
            self._flat(query.first, query.last, indent)
            return
        for number, clause in enumerate(query.clauses):
            if number:
                self._end(indent)
            self._clause(clause, indent)

    def _clause(self, clause: Clause, indent: int) -> None:
        inner = _deeper(indent)
        if len(clause.elements) == 1 or self._fits(clause.first, clause.last):
            self._flat(clause.first, clause.head, inner)
            for element in clause.elements:
                self._sequence(element, inner)
                self._comma(element, clause.last, inner)
            return
        self._flat(clause.first, clause.head, inner)
        for element in clause.elements:
            self._end(inner)
            self._sequence(element, _deeper(inner))
            self._comma(element, clause.last, inner)

    def _comma(self, element: Element, last: int, indent: int) -> None:
        if element.last != last:
            self._word(element.last + 1, indent)

    def _sequence(self, sequence: Sequence, hang: int) -> None:
        if self._fits(sequence.first, sequence.last):
            self._flat(sequence.first, sequence.last, hang)
            return
        operators, tightness = loosest(self._words, sequence)
        if not operators or (tightness > CHAINS_MAX and self._hugs(sequence)):
            for part in sequence.parts:
                self._part(part, hang)
            return
        starts = [0, *operators]
        for at, end in zip(starts, [*operators, len(sequence.parts)], strict=True):
            if at:
                self._end(hang)
                operator = sequence.parts[at]
                assert isinstance(operator, int)
                self._word(operator, hang)
            operand = sequence.parts[at + 1 if at else 0 : end]
            self._sequence(Sequence(operand), _deeper(hang))

    def _hugs(self, sequence: Sequence) -> bool:
        """Whether only the brackets at a sequence's end are to be broken, because what stands before them fits."""
        final = sequence.parts[-1]
        return isinstance(final, Group) and bool(final.elements) and self._fits(sequence.first, final.opening)

    def _part(self, part: Part, hang: int) -> None:
        if isinstance(part, int):
            self._word(part, hang)
        elif self._fits(part.opening, part.closing):
            self._flat(part.opening, part.closing, hang)
        else:
            self._group(part, hang)

    def _group(self, group: Group, hang: int) -> None:
        self._word(group.opening, hang)
        base = self._lines.indent
        inner = _deeper(base)
        match group.elements:
            case ():
                self._word(group.closing, base)
                return
            case (Sequence(parts=(Group(is_case=False) as only,)),):
                self._group(only, hang)  # "f([" … "])"
                self._word(group.closing, base)
                return
        if self._fills(group):
            self._filled(group, inner)
        else:
            for element in group.elements:
                self._end(inner)
                self._element(element, _deeper(inner) if group.is_case else inner)
                self._separator(group, element, inner)
        self._end(base)
        self._word(group.closing, base)

    def _fills(self, group: Group) -> bool:
        """Whether the elements are many and each is a single value, with its sign at most."""
        if group.is_case or len(group.elements) < _FILLED_MIN:
            return False
        return all(
            isinstance(element, Sequence) and len(element.parts) <= 2 and all(isinstance(p, int) for p in element.parts)
            for element in group.elements
        )

    def _filled(self, group: Group, inner: int) -> None:
        self._end(inner)
        for element in group.elements:
            if self._ending or not self._fits(element.first, element.last):
                self._end(inner)
            self._flat(element.first, element.last, inner)
            self._separator(group, element, inner)

    def _separator(self, group: Group, element: Element, indent: int) -> None:
        if not group.is_case and element.last + 1 != group.closing:
            self._word(element.last + 1, indent)


def _deeper(indent: int) -> int:
    return indent + STEP if indent + STEP <= INDENT_MAX else indent


def _with_inline(word: Word) -> str:
    text = _spelled(word)
    if not word.inline:
        return text
    return f"{word.inline}{text}" if word.type in _CLOSE else f"{word.inline} {text}"
