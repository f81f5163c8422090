"""Text → :class:`query.syntax.Script`: the grammar's tables, and the tree that they build.

The tables are loaded at the first query. Tokens come from :mod:`query.lexing`, which has already checked length,
nesting and numbers of things; the grammar engine's stack is a list and the tree is built bottom-up: no text
makes it recurse.
What is built is checked for depth once, without recursion, so that everything after may recurse.
"""

from __future__ import annotations

import functools
import io
import pickle
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from importlib.resources import files
from typing import Any, Final

from query import limits
from query.budgets import BadBudget, parse_budget
from query.building import Building
from query.durations import BadDuration, parse_duration
from query.errors import EndsTooEarly, SyntaxProblem
from query.lexing import Directive, Lexed, Lexicon, Token, check_length, lex
from query.limits import over
from query.slips import quoted, slip_at
from query.syntax import (
    Body,
    CreateFunction,
    Directives,
    Node,
    Place,
    Script,
    Source,
    Statement,
    children,
)

TABLES: Final = "grammar.tables"
KEPT_TEXTS_MAX: Final = 64
KEPT_LENGTH_MAX: Final = 2_000  # characters


class _Grammar:
    """The loaded tables: a regular expression for tokens and a parser of one statement."""

    def __init__(self) -> None:
        from lark import Lark

        data = files("query").joinpath(TABLES).read_bytes()
        loaded = pickle.loads(data)  # noqa: S301 — our own file, part of the package
        tables = io.BytesIO(pickle.dumps({"data": loaded["data"], "memo": loaded["memo"]}))
        self.building = Building()
        self.turn = threading.Lock()  # one text at a time: the building knows whose turn it is
        self.lark = Lark.__new__(Lark)._load(tables, transformer=self.building)
        self.lexicon = Lexicon.of(self.lark.terminals)
        self.names = {
            terminal.name: f'"{terminal.pattern.value}"'
            for terminal in self.lark.terminals
            if terminal.pattern.type == "str"
        }

    def parse(self, source: Source, lexed: Lexed) -> Body:
        with self.turn:
            return self._parse(source, lexed)

    def _parse(self, source: Source, lexed: Lexed) -> Body:
        from lark.exceptions import UnexpectedToken

        self.building.source = source
        state = self.lark.parse_interactive().parser_state
        feed: Callable[..., Any] = state.feed_token
        end = Token("$END", "", lexed.end, lexed.end)
        token = end
        try:
            for token in lexed.tokens:
                feed(token)
            token = end
            body: Body = feed(end, True)
        except UnexpectedToken as error:
            raise self._unexpected(source, lexed, token, error.expected or ()) from None
        if len(lexed.tokens) > limits.EXPRESSION_DEPTH_MAX:
            _check_depth(body, source)
        return body

    def acceptable(self, found: Sequence[Token]) -> frozenset[str] | None:
        from lark.exceptions import UnexpectedToken

        state = self.lark.parse_interactive().parser_state
        state.parse_conf = copy(state.parse_conf)
        state.parse_conf.callbacks = {}  # nothing is built
        feed: Callable[..., Any] = state.feed_token
        following = set()
        try:
            for token in found:
                feed(token)
        except UnexpectedToken:
            return None
        for name in state.parse_conf.parse_table.states[state.position]:
            if name.isupper() and name != "$END":
                try:
                    feed_copy: Callable[..., Any] = state.copy(deepcopy_values=False).feed_token
                    feed_copy(Token(name, "", 0, 0))
                except UnexpectedToken:
                    continue
                following.add(name)
        return frozenset(following)

    def _unexpected(self, source: Source, lexed: Lexed, token: Token, expected: Iterable[str]) -> SyntaxProblem:
        at = len(lexed.tokens) if token.type == "$END" else lexed.tokens.index(token)
        slip = slip_at(source, lexed.tokens, at, frozenset(expected))
        if slip is not None:
            kind = EndsTooEarly if token.type == "$END" else SyntaxProblem
            return kind(slip.message, span=source.span(slip.place), hint=slip.hint)
        wanted = set(expected)
        options = []
        if wanted >= {"NUMBER", "NAME"}:
            options.append("an expression")
            wanted -= _STARTS_EXPRESSION
        elif wanted >= {"TIMESTAMP", "VARIABLE"}:
            options.append(f"a time such as {_TIME}, a variable or a time in parentheses")
            wanted -= {"TIMESTAMP", "VARIABLE", "NAME", "LPAR"}
        elif "NAME" in wanted:
            options.append("a name")
        elif "VARIABLE" in wanted:
            options.append('a session variable such as ":v"')
        if wanted >= {"PLUS", "STAR"}:
            wanted -= _CONTINUES_EXPRESSION
            options.append("an operator")
        options += sorted(self.names[name] for name in wanted if name in self.names)
        if "$END" in wanted:
            options.append("the end of the statement")
        message = "the statement ends too early" if token.type == "$END" else f"unexpected {quoted(token.value)}"
        if 0 < len(options) <= _OPTIONS_SHOWN:
            message += f": expected {_either(options)}"
        hint = _about_as_of(lexed, token)
        if hint is None and "NAME" in set(expected) - {token.type} and token.type == token.value.upper():
            hint = f'"{token.value}" is a keyword and cannot be a name'
        place = Place((token.start, token.end))
        if token.type == "$END":
            place = Place((lexed.tokens[-1].start, lexed.end))
        return (EndsTooEarly if token.type == "$END" else SyntaxProblem)(message, span=source.span(place), hint=hint)


def _about_as_of(lexed: Lexed, token: Token) -> str | None:
    """The hint where somebody may have meant ``as of``, or meant something else by it."""
    at = lexed.tokens.index(token) if token in lexed.tokens else len(lexed.tokens)
    before = [known.type for known in lexed.tokens[max(0, at - 2) : at]]
    match [*before, token.type]:
        case [*_, "RPAR", "AS"] if lexed.tokens[0].type == "CREATE" and not any(
            known.type == "ARROW" for known in lexed.tokens[:at]
        ):
            return "a function says what it gives: create function f(Number x) -> Number as …"
        case [*_, "RPAR", "AS"]:
            return f"as names an item of a select; about the past, a call is followed by as of {_TIME}"
        case ["AS_OF", "NAME", "LPAR"]:
            return "behind as of an expression stands in parentheses: as of (now() - 3600)"
        case [known, "AS_OF", _] if known != "RPAR":
            return '"of" is a keyword and cannot be a name'
        case _:
            return None


_TIME: Final = "|2026-01-31T12:00:00Z|"
_OPTIONS_SHOWN: Final = 8
_STARTS_EXPRESSION: Final = frozenset(
    {"NUMBER", "NAME", "STRING", "RAW_STRING", "TIMESTAMP", "VARIABLE", "QUALIFIED", "TRUE", "FALSE", "NULL", "LPAR"}
    | {"LSQB", "LBRACE", "CASE", "CAST", "NOT", "MINUS", "PLUS", "SELECT"}
)
_CONTINUES_EXPRESSION: Final = frozenset(
    {"PLUS", "MINUS", "STAR", "SLASH", "PERCENT", "CARET", "CONCAT", "EQUAL", "UNEQUAL", "LESS", "LESSEQUAL", "MORE"}
    | {"MOREEQUAL", "AND", "OR", "IN", "NOT", "LIKE", "BETWEEN", "IS", "LSQB", "DOT", "AS_OF"}
)


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else ", ".join(options[:-1]) + f" or {options[-1]}"


def _check_depth(body: Node, source: Source) -> None:
    level: list[Node] = [body]
    for _ in range(limits.EXPRESSION_DEPTH_MAX):
        level = [child for node in level for child in children(node)]
        if not level:
            return
    problem = over(
        "the expression",
        limits.EXPRESSION_DEPTH_MAX,
        "more",
        "levels",
        hint="use in […] or a set of smaller statements",
    )
    raise problem.at(source.span(level[0].place))


@functools.cache
def _grammar() -> _Grammar:
    return _Grammar()


def parse(text: str, *, limit: int = limits.TEXT_BYTES_WIRE_MAX) -> Script:
    """The statements of a text, each with its directives. ``limit`` is the greatest length in bytes.

    Raises :class:`SyntaxProblem` and :class:`LimitExceeded`; spans count in ``text``.
    """
    check_length(text, limit)
    grammar = _grammar()
    source = Source(text)
    tokens_max = limits.TOKENS_WIRE_MAX if limit <= limits.TEXT_BYTES_WIRE_MAX else limits.TOKENS_LOCAL_MAX
    found = lex(text, grammar.lexicon, tokens_max=tokens_max)
    return Script(source, tuple(_statement(grammar, source, lexed) for lexed in found))


def parse_again(text: str) -> Script:
    """As :func:`parse`. The trees of short texts that were read lately are kept, for what is asked time and again."""
    return _kept(text) if len(text) <= KEPT_LENGTH_MAX else parse(text)


@functools.lru_cache(maxsize=KEPT_TEXTS_MAX)
def _kept(text: str) -> Script:
    return parse(text)


def _statement(grammar: _Grammar, source: Source, lexed: Lexed) -> Statement:
    body = grammar.parse(source, lexed)
    if lexed.documentation and type(body) is CreateFunction:
        body = CreateFunction(
            body.name,
            body.parameters,
            body.result,
            body.body,
            body.replace,
            lexed.documentation,
            place=body.place,
        )
    directives = _directives(source, lexed.directives) if lexed.directives else _NO_DIRECTIVES
    return Statement(body, directives, source, place=Place((lexed.start, lexed.end)))


_NO_DIRECTIVES: Final = Directives()


def _directives(source: Source, found: list[Directive]) -> Directives:
    values: dict[str, Any] = {}
    for directive in found:
        if directive.name in ("timeout", "wait"):
            try:
                values[f"{directive.name}_s"] = parse_duration(directive.value, longest_s=limits.DURATION_S_MAX)
            except BadDuration as problem:
                raise problem.at(source.span(directive.place)) from None
            if directive.name == "wait":
                values["wait_place"] = directive.place
            continue
        if directive.name == "budget":
            try:
                values["budget"] = parse_budget(directive.value)
            except BadBudget as problem:
                raise problem.at(source.span(directive.place)) from None
            continue
        values[directive.name] = directive.value
        if directive.name == "peer":
            values["peer_place"] = directive.place
    return Directives(**values)


def parse_statement(text: str, *, limit: int = limits.TEXT_BYTES_WIRE_MAX) -> Statement:
    """The one statement of a text. Raises :class:`SyntaxProblem` when there are none or several."""
    script = parse(text, limit=limit)
    if len(script) != 1:
        raise SyntaxProblem(f"expected one statement, found {len(script)}")
    return script.statements[0]


def tokens(text: str, *, limit: int = limits.TEXT_BYTES_LOCAL_MAX) -> list[Lexed]:
    """The statements of a text as tokens only, for who needs no grammar."""
    check_length(text, limit)
    return lex(text, _grammar().lexicon)


def lexicon() -> Lexicon:
    """The grammar's terminals, for who reads a text that is not finished."""
    return _grammar().lexicon


def acceptable(found: Sequence[Token]) -> frozenset[str] | None:
    """The terminals that may follow a statement's first tokens, or None where these begin no statement."""
    return _grammar().acceptable(found)
