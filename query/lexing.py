"""Text → tokens, statements and directives: everything about a text that needs no grammar.

Owns the limits on length, nesting, elements and statements, which are checked here in one pass before the grammar runs.
What a token looks like is said in ``grammar.lark`` alone: the one regular expression is made from its terminals.

Rules beyond the terminals: a word that is a keyword is one, in any case, but ``in`` where a value begins is a name;
a ``:`` after a string directly inside ``{…}`` separates a pair (``{"k":v}``); ``//name: value`` on a line of its own
between two statements is a directive of the next one, whatever other comments or blank lines stand between; a block
comment between a function's parameters and its ``as`` is the function's documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from query import limits
from query.errors import EndsTooEarly, SyntaxProblem
from query.limits import over
from query.strange_signs import sign_meant
from query.syntax import Place, Source

DIRECTIVES: Final = ("peer", "plot", "timeout", "wait", "budget")
_DIRECTIVE = re.compile(r"//[ \t]*([A-Za-z]+)[ \t]*:[ \t]*(.*?)[ \t\r]*\Z")
_OPENING: Final = {"LPAR": "(", "LSQB": "[", "LBRACE": "{"}
_CLOSING: Final = {"RPAR": "(", "RSQB": "[", "RBRACE": "{"}
ENDS_VALUE: Final = frozenset(
    {"NAME", "FIELD", "NUMBER", "STRING", "RAW_STRING", "TIMESTAMP", "VARIABLE", "TRUE", "FALSE", "NULL", "END"}
    | _CLOSING.keys()
)
_PAIRED: Final = {"(": ")", "[": "]", "{": "}"}


class Token:
    """One word or sign: ``type`` is its terminal in the grammar."""

    __slots__ = ("end", "start", "type", "value")

    def __init__(self, type: str, value: str, start: int, end: int) -> None:  # noqa: A002 — the grammar engine's word
        self.type = type
        self.value = value
        self.start = start
        self.end = end

    def __repr__(self) -> str:
        return f"Token({self.type}, {self.value!r})"


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    value: str
    place: Place


@dataclass(slots=True)
class Lexed:
    """One statement's tokens. ``start`` is where its first directive or token stands, ``end`` lies past the last."""

    tokens: list[Token]
    directives: list[Directive]
    start: int
    end: int
    documentation: str = ""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The grammar's terminals as one regular expression."""

    pattern: re.Pattern[str]
    keywords: dict[str, str]

    @staticmethod
    def of(terminals: Any) -> Lexicon:
        """From Lark's terminal definitions. Keywords are the terminals whose pattern is a plain word."""
        keywords = {}
        patterns = []
        ranked = sorted(terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
        for terminal in ranked:
            if terminal.pattern.type == "str" and terminal.pattern.value.isalpha():
                keywords[terminal.pattern.value.casefold()] = terminal.name
            elif terminal.name != "BLANK":
                patterns.append(f"(?P<{terminal.name}>{terminal.pattern.to_regexp()})")
        patterns.append("(?P<SEMICOLON>;)")
        return Lexicon(re.compile(r"\s*(?:" + "|".join(patterns) + ")"), keywords)


@dataclass(slots=True)
class _Reading:
    """Where the pass stands: the statement under way and its open brackets."""

    source: Source
    tokens: list[Token] = field(default_factory=list)
    directives: list[Directive] = field(default_factory=list)
    documentation: str = ""
    open: list[list[Any]] = field(default_factory=list)  # [sign, commas seen, offset]
    done: list[Lexed] = field(default_factory=list)
    count: int = 0
    count_max: int = limits.TOKENS_LOCAL_MAX


def check_length(text: str, limit: int) -> None:
    """Raises when the text is longer than ``limit`` bytes, or cannot be sent at all."""
    size = len(text)
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            place = Place((error.start, error.start + 1))
            raise SyntaxProblem("half a character: a lone surrogate", span=Source(text).span(place)) from None
    if size > limit:
        raise over("the text", limit, size, "bytes", hint="send data as a parameter, not as text")


def lex(text: str, lexicon: Lexicon, *, tokens_max: int = limits.TOKENS_LOCAL_MAX) -> list[Lexed]:
    """The statements of a text as tokens. Raises :class:`SyntaxProblem` and :class:`LimitExceeded`, with places."""
    reading = _Reading(Source(text), count_max=tokens_max)
    match = lexicon.pattern.match
    keywords = lexicon.keywords
    tokens = reading.tokens
    position = 0
    while (found := match(text, position)) is not None:
        kind = found.lastgroup or ""
        start, position = found.span(kind)
        if kind == "NAME":
            value = found[kind]
            tokens.append(Token(keywords.get(value.casefold(), kind), value, start, position))
        elif kind in _OPENING:
            reading.open.append([_OPENING[kind], 0, start])
            if len(reading.open) > limits.NESTING_DEPTH_MAX:
                problem = over("nesting", limits.NESTING_DEPTH_MAX, "more", "open brackets")
                raise problem.at(reading.source.span(Place((start, position))))
            tokens.append(Token(kind, found[kind], start, position))
        elif kind == "COMMA":
            _comma(reading, start)
            tokens.append(Token(kind, ",", start, position))
        elif kind in _CLOSING:
            _close(reading, kind, start)
            tokens.append(Token(kind, found[kind], start, position))
        elif kind == "VARIABLE" and _separates(reading):
            position = start + 1
            tokens.append(Token("COLON", ":", start, position))
        elif kind == "IN" and _value_begins(tokens):
            tokens.append(Token("NAME", found[kind], start, position))
        elif kind == "LINE_COMMENT":
            if not tokens:
                _directive(reading, found[kind], start)
        elif kind == "BLOCK_COMMENT":
            _document(reading, found[kind])
        elif kind == "SEMICOLON":
            _end_statement(reading, start)
            tokens = reading.tokens
        elif kind != "DASH_COMMENT":
            tokens.append(Token(kind, found[kind], start, position))
    rest = text[position:].lstrip()
    if rest:
        raise _unreadable(reading.source, len(text) - len(rest))
    _end_statement(reading, len(text))
    return reading.done


def _separates(reading: _Reading) -> bool:
    tokens = reading.tokens
    return bool(reading.open and reading.open[-1][0] == "{" and tokens and tokens[-1].type in ("STRING", "RAW_STRING"))


def _value_begins(tokens: list[Token]) -> bool:
    """Whether no operator can stand here; ``not`` is part of one after a value, and after ``as`` stands a name."""
    at = len(tokens) - 1
    if at >= 0 and tokens[at].type == "NOT":
        at -= 1
    return at < 0 or (tokens[at].type not in ENDS_VALUE and tokens[at].type != "AS")


def _comma(reading: _Reading, start: int) -> None:
    if not reading.open:
        return
    innermost = reading.open[-1]
    innermost[1] += 1
    if innermost[1] >= limits.LITERAL_ELEMENTS_MAX:
        problem = over(
            "a literal", limits.LITERAL_ELEMENTS_MAX, "more", "elements", hint="send data as a parameter, not as text"
        )
        raise problem.at(reading.source.span(Place((start, start + 1))))


def _close(reading: _Reading, kind: str, start: int) -> None:
    sign = _CLOSING[kind]
    place = Place((start, start + 1))
    if not reading.open:
        raise SyntaxProblem(f'"{_PAIRED[sign]}" closes nothing', span=reading.source.span(place))
    opened, _, where = reading.open.pop()
    if opened != sign:
        line = reading.source.span(Place((where, where + 1)))
        raise SyntaxProblem(
            f'"{opened}" at line {line.line}, column {line.column} is not closed: '
            f'expected "{_PAIRED[opened]}", found "{_PAIRED[sign]}"',
            span=reading.source.span(place),
        )


def begins_line(text: str, start: int) -> bool:
    """Whether nothing but blanks stands on its line before ``start``: only there is a comment a directive."""
    return not text[text.rfind("\n", 0, start) + 1 : start].strip()


def directive_text(comment: str) -> tuple[str, str, int] | None:
    """The name and value of a directive, and where in the comment its value begins; None for any other comment."""
    match = _DIRECTIVE.match(comment)
    if match is None or match[1].casefold() not in DIRECTIVES:
        return None
    return match[1].casefold(), match[2], match.start(2)


def _directive(reading: _Reading, comment: str, start: int) -> None:
    named = directive_text(comment)
    if named is None or not begins_line(reading.source.text, start):
        return  # a remark, perhaps about the statement before it
    name, value, _ = named
    place = Place((start, start + len(comment)))
    span = reading.source.span(place)
    if any(directive.name == name for directive in reading.directives):
        raise SyntaxProblem(f"two //{name}: directives stand above one statement", span=span)
    if not value:
        raise SyntaxProblem(f"//{name}: has no value", span=span)
    if len(value) > limits.DIRECTIVE_LENGTH_MAX:
        raise over(f"//{name}:", limits.DIRECTIVE_LENGTH_MAX, len(value), "characters").at(span)
    reading.directives.append(Directive(name, value, place))


def _document(reading: _Reading, comment: str) -> None:
    tokens = reading.tokens
    if not tokens or tokens[0].type != "CREATE" or reading.documentation or reading.open:
        return
    if any(token.type == "AS" for token in tokens) or not any(token.type == "RPAR" for token in tokens):
        return
    lines = (line.strip().removeprefix("*").strip() for line in comment[2:-2].splitlines())
    reading.documentation = "\n".join(lines).strip()


def _end_statement(reading: _Reading, end: int) -> None:
    tokens = reading.tokens
    if reading.open:
        sign, _, where = reading.open[-1]
        kind = EndsTooEarly if end == len(reading.source.text) else SyntaxProblem  # no line behind a ; mends it
        raise kind(
            f'"{sign}" is not closed: expected "{_PAIRED[sign]}" before the end of the statement',
            span=reading.source.span(Place((where, where + 1))),
        )
    if tokens:
        reading.count += len(tokens)
        if reading.count > reading.count_max:
            problem = over("the text", reading.count_max, "more", "words and signs")
            raise problem.at(reading.source.span(Place((tokens[0].start, tokens[-1].end))))
        if len(reading.done) >= limits.STATEMENTS_MAX:
            problem = over("the script", limits.STATEMENTS_MAX, "more", "statements")
            raise problem.at(reading.source.span(Place((tokens[0].start, tokens[-1].end))))
        first = min([tokens[0].start, *(directive.place[0] for directive in reading.directives)])
        reading.done.append(Lexed(tokens, reading.directives, first, tokens[-1].end, reading.documentation))
    reading.tokens = []
    reading.directives = []
    reading.documentation = ""


_UNREADABLE: Final = (
    ('"', "a string is not closed: expected '\"' before the end of the text"),
    ("'", 'a string is not closed: expected "\'" before the end of the text'),
    ("|", "a time stamp is not closed, or a single | stands alone: expected |2026-01-31T12:00:00Z|"),
    ("/*", "a comment is not closed: expected */ before the end of the text"),
)


def _unreadable(source: Source, position: int) -> SyntaxProblem:
    for opening, message in _UNREADABLE:
        if source.text.startswith(opening, position):
            return EndsTooEarly(message, span=source.span(Place((position, position + len(opening)))))
    known = sign_meant(source.text, position)
    if known is not None:
        message, hint, length = known
        return SyntaxProblem(message, span=source.span(Place((position, position + length))), hint=hint)
    character = source.text[position]
    named = f'"{character}"' if character.isprintable() else f"U+{ord(character):04X}"
    return SyntaxProblem(f"{named} has no meaning here", span=source.span(Place((position, position + 1))))
