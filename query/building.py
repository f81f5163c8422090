"""Builds the syntax tree while the grammar is matched: one method a rule, named as in ``grammar.lark``.

Every method takes the values of its rule's parts, tokens included, and returns a node, a tuple of nodes or None.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from query import limits
from query.errors import Problem, Span, SyntaxProblem, UserProblem
from query.lexing import Token
from query.limits import over
from query.syntax import (
    AsOf,
    Between,
    Binary,
    Call,
    Case,
    Cast,
    CreateFunction,
    DeleteFunction,
    Evaluate,
    Explain,
    Expression,
    Field,
    FormalParameter,
    From,
    Index,
    IsNull,
    Item,
    Literal,
    Name,
    Node,
    Order,
    Place,
    RecordOf,
    Select,
    SetVariable,
    Source,
    Unary,
    Variable,
    VectorOf,
)
from query.types import Type, parse_type

_ESCAPE = re.compile(r"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES: Final = {
    '"': '"', "'": "'", "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "0": "\0",
}  # fmt: skip

_AS_OF: Final = "for example edge:list() as of |2026-01-31T12:00:00Z|"


class NotSupported(UserProblem):
    """The language has it, this version does not."""

    code = "not_supported"


def _from_to(first: Node | Token, last: Node | Token) -> Place:
    start = first.start if type(first) is Token else first.place[0]  # type: ignore[union-attr]
    end = last.end if type(last) is Token else last.place[1]  # type: ignore[union-attr]
    return Place((start, end))


class _Typed:
    """A type and where it stands."""

    __slots__ = ("place", "type")

    def __init__(self, type: Type, place: Place) -> None:  # noqa: A002
        self.type = type
        self.place = place


class Building:
    """The transformer of the grammar. ``source`` is the text under way, for the places of errors."""

    source: Source = Source("")

    def _span(self, token: Token) -> Span:
        return self.source.span(Place((token.start, token.end)))

    # statements

    def start(self, parts: list[Any]) -> Any:
        return parts[0]

    def evaluate(self, parts: list[Any]) -> Evaluate:
        return Evaluate(parts[0], place=parts[0].place)

    def set_variable(self, parts: list[Any]) -> SetVariable:
        return SetVariable(parts[1].value[1:], parts[3], place=_from_to(parts[0], parts[3]))

    def create_function(self, parts: list[Any]) -> CreateFunction:
        _, _, name, _, parameters, _, _, result, _, body = parts
        place = _from_to(parts[0], body)
        return CreateFunction(name.value, parameters, result.type, body, place=place)

    def create_or_replace_function(self, parts: list[Any]) -> CreateFunction:
        _, _, _, _, name, _, parameters, _, _, result, _, body = parts
        place = _from_to(parts[0], body)
        return CreateFunction(name.value, parameters, result.type, body, replace=True, place=place)

    def parameter(self, parts: list[Any]) -> FormalParameter:
        return FormalParameter(parts[1].value, parts[0].type, place=_from_to(parts[1], parts[1]))

    def delete_function(self, parts: list[Any]) -> DeleteFunction:
        return DeleteFunction(parts[2].value, place=_from_to(parts[2], parts[2]))

    def explain(self, parts: list[Any]) -> Explain:
        return Explain(parts[1], place=_from_to(parts[0], parts[1]))

    def validate(self, parts: list[Any]) -> Any:
        raise NotSupported("validate is not supported by this version", span=self._span(parts[0]))

    def text(self, parts: list[Any]) -> Token:
        token: Token = parts[0]
        return token

    # types

    def type(self, parts: list[Any]) -> _Typed:
        return self._type(parts[0].value, parts[0], parts[0])

    def type_of_elements(self, parts: list[Any]) -> _Typed:
        element: _Typed = parts[2]
        return self._type(f"{parts[0].value} of {element.type}", parts[0], element)

    def _type(self, text: str, first: Token, last: Any) -> _Typed:
        place = _from_to(first, last)
        try:
            return _Typed(parse_type(text), place)
        except Problem as problem:
            raise problem.at(self.source.span(place)) from None

    # lists

    def empty(self, parts: list[Any]) -> tuple[()]:
        return ()

    def nothing(self, parts: list[Any]) -> None:
        return None

    def first(self, parts: list[Any]) -> list[Any]:
        return [parts[0]]

    def further(self, parts: list[Any]) -> list[Any]:
        parts[0].append(parts[2])
        found: list[Any] = parts[0]
        return found

    def another(self, parts: list[Any]) -> list[Any]:
        parts[0].append(parts[1])
        found: list[Any] = parts[0]
        return found

    def second(self, parts: list[Any]) -> Any:
        return parts[1]

    def third(self, parts: list[Any]) -> Any:
        return parts[2]

    def parameters(self, parts: list[Any]) -> tuple[Any, ...]:
        return tuple(parts[0])

    # select

    def select(self, parts: list[Any], *, distinct: bool = False, into: str | None = None) -> Select:
        head = parts[0]
        items, sources, where, group, having, order, limit = parts[-7:]
        end = items[-1].place[1]
        for part in (sources, group, order):
            if part:
                end = max(end, part[-1].place[1])
        for part in (where, having, limit):
            if part is not None:
                end = max(end, part.place[1])
        return Select(
            tuple(items),
            tuple(sources),
            where,
            tuple(group),
            having,
            tuple(order),
            limit,
            distinct,
            into,
            place=Place((head.start, end)),
        )

    def select_distinct(self, parts: list[Any]) -> Select:
        return self.select(parts, distinct=True)

    def select_into(self, parts: list[Any]) -> Select:
        return self.select(parts, into=self._into(parts[1]))

    def select_distinct_into(self, parts: list[Any]) -> Select:
        return self.select(parts, distinct=True, into=self._into(parts[2]))

    def _into(self, token: Token) -> str:
        kind = token.value.casefold()
        if kind == "stream":
            raise NotSupported("select stream of is not supported by this version", span=self._span(token))
        if kind != "vector":
            raise SyntaxProblem(f'expected "select vector of", found "select {token.value} of"', span=self._span(token))
        return kind

    def item(self, parts: list[Any]) -> Item:
        value = parts[0]
        return Item(value, None, place=value.place)

    def named_item(self, parts: list[Any]) -> Item:
        return Item(parts[0], parts[2].value, place=_from_to(parts[0], parts[2]))

    def source_item(self, parts: list[Any]) -> From:
        return From(parts[0].value, None, parts[2], place=_from_to(parts[0], parts[2]))

    def typed_source(self, parts: list[Any]) -> From:
        return From(parts[1].value, parts[0].type, parts[3], place=_from_to(parts[1], parts[3]))

    def declared(self, parts: list[Any]) -> From:
        return From(parts[1].value, parts[0].type, None, place=_from_to(parts[1], parts[1]))

    def ordering(self, parts: list[Any]) -> Order:
        return Order(parts[0], False, place=parts[0].place)

    def ordering_down(self, parts: list[Any]) -> Order:
        return Order(parts[0], True, place=parts[0].place)

    # expressions

    def binary(self, parts: list[Any]) -> Binary:
        left, operator, right = parts
        sign = operator.value
        return Binary("!=" if sign == "<>" else sign, left, right, place=Place((left.place[0], right.place[1])))

    def logical(self, parts: list[Any]) -> Binary:
        left, operator, right = parts
        return Binary(operator.value.lower(), left, right, place=Place((left.place[0], right.place[1])))

    def not_logical(self, parts: list[Any]) -> Unary:
        left, _, operator, right = parts
        place = Place((left.place[0], right.place[1]))
        return Unary("not", Binary(operator.value.lower(), left, right, place=place), place=place)

    def between(self, parts: list[Any]) -> Between:
        return Between(parts[0], parts[2], parts[4], place=_from_to(parts[0], parts[4]))

    def not_between(self, parts: list[Any]) -> Unary:
        place = _from_to(parts[0], parts[5])
        return Unary("not", Between(parts[0], parts[3], parts[5], place=place), place=place)

    def is_null(self, parts: list[Any]) -> IsNull:
        return IsNull(parts[0], place=_from_to(parts[0], parts[-1]))

    def is_not_null(self, parts: list[Any]) -> Unary:
        place = _from_to(parts[0], parts[-1])
        return Unary("not", IsNull(parts[0], place=place), place=place)

    def unary(self, parts: list[Any]) -> Expression:
        operator, operand = parts
        sign = operator.value.lower()
        place = _from_to(operator, operand)
        if type(operand) is Literal and sign in "+-" and type(operand.value) in (int, float):
            return Literal(-operand.value if sign == "-" else operand.value, place=place)  # type: ignore[operator]
        return Unary(sign, operand, place=place)

    def index(self, parts: list[Any]) -> Index:
        return Index(parts[0], parts[2], place=_from_to(parts[0], parts[3]))

    def field(self, parts: list[Any]) -> Field:
        return Field(parts[0], parts[2].value, place=_from_to(parts[0], parts[2]))

    def name(self, parts: list[Any]) -> Name:
        token = parts[0]
        return Name(token.value, place=Place((token.start, token.end)))

    def variable(self, parts: list[Any]) -> Variable:
        token = parts[0]
        return Variable(token.value[1:], place=Place((token.start, token.end)))

    def call_bare(self, parts: list[Any]) -> Call:
        return Call(parts[0].value, (), place=_from_to(parts[0], parts[2]))

    def call(self, parts: list[Any]) -> Call:
        return Call(parts[0].value, tuple(parts[2]), place=Place((parts[0].start, parts[3].end)))

    def vector_bare(self, parts: list[Any]) -> VectorOf:
        return VectorOf((), place=_from_to(parts[0], parts[1]))

    def vector(self, parts: list[Any]) -> VectorOf:
        return VectorOf(tuple(parts[1]), place=_from_to(parts[0], parts[2]))

    def record_bare(self, parts: list[Any]) -> RecordOf:
        return RecordOf((), (), place=_from_to(parts[0], parts[1]))

    def record(self, parts: list[Any]) -> RecordOf:
        keys: dict[str, Any] = {}
        for token, key, value in parts[1]:
            if key in keys:
                raise SyntaxProblem(f'key "{key}" stands twice in one record', span=self._span(token))
            keys[key] = value
        return RecordOf(tuple(keys), tuple(keys.values()), place=_from_to(parts[0], parts[2]))

    def pair(self, parts: list[Any]) -> tuple[Token, str, Any]:
        return parts[0], self._text(parts[0]), parts[2]

    def raw_pair(self, parts: list[Any]) -> tuple[Token, str, Any]:
        return parts[0], _raw(parts[0].value), parts[2]

    def branch(self, parts: list[Any]) -> tuple[Any, Any]:
        return parts[1], parts[3]

    def case(self, parts: list[Any]) -> Case:
        return Case(tuple(parts[1]), None, place=_from_to(parts[0], parts[2]))

    def case_else(self, parts: list[Any]) -> Case:
        return Case(tuple(parts[1]), parts[3], place=_from_to(parts[0], parts[4]))

    def cast(self, parts: list[Any]) -> Cast:
        return Cast(parts[2], parts[4].type, place=_from_to(parts[0], parts[5]))

    def as_of(self, parts: list[Any]) -> AsOf:
        call, _, time = parts
        if type(call) is not Call:
            message = "as of stands directly behind the call of a function"
            raise SyntaxProblem(message, span=self.source.span(call.place), hint=_AS_OF)
        return AsOf(call, time, place=_from_to(call, time))

    # literals

    def number(self, parts: list[Any]) -> Literal:
        token = parts[0]
        text = token.value
        if len(text) > limits.NUMBER_DIGITS_MAX:
            raise over("a number", limits.NUMBER_DIGITS_MAX, len(text), "digits").at(self._span(token))
        return Literal(int(text) if text.isdigit() else float(text), place=Place((token.start, token.end)))

    def string(self, parts: list[Any]) -> Literal:
        token = parts[0]
        return Literal(self._text(token), place=Place((token.start, token.end)))

    def raw_string(self, parts: list[Any]) -> Literal:
        token = parts[0]
        return Literal(_raw(token.value), place=Place((token.start, token.end)))

    def timestamp(self, parts: list[Any]) -> Literal:
        token = parts[0]
        try:
            found = datetime.fromisoformat(token.value[1:-1].strip())
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, OverflowError):
            message = f"{token.value[:60]} is not a time stamp: expected |2026-01-31T12:00:00Z|"
            raise SyntaxProblem(message, span=self._span(token)) from None
        return Literal(found, place=Place((token.start, token.end)))

    def true(self, parts: list[Any]) -> Literal:
        return Literal(True, place=_from_to(parts[0], parts[0]))

    def false(self, parts: list[Any]) -> Literal:
        return Literal(False, place=_from_to(parts[0], parts[0]))

    def null(self, parts: list[Any]) -> Literal:
        return Literal(None, place=_from_to(parts[0], parts[0]))

    def _text(self, token: Token) -> str:
        inner = token.value[1:-1]
        if "\\" not in inner:
            return inner

        def replaced(match: re.Match[str]) -> str:
            escape = match[1]
            if len(escape) == 11:
                high, low = int(escape[1:5], 16), int(escape[7:], 16)
                return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
            if len(escape) == 5 and not 0xD800 <= int(escape[1:], 16) < 0xE000:
                return chr(int(escape[1:], 16))
            if escape in _ESCAPES:
                return _ESCAPES[escape]
            start = token.start + 1 + match.start()
            span = self.source.span(Place((start, start + len(match[0]))))
            hint = r"a backslash itself is \\, or write the string in '…'"
            raise SyntaxProblem(f'"{match[0]}" is no escape in a string', span=span, hint=hint)

        return _ESCAPE.sub(replaced, inner)


def _raw(text: str) -> str:
    return text[1:-1].replace("''", "'")
