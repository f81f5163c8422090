"""The syntax tree: what a text says, before any name is looked up.

Nodes are immutable and compare by meaning: a :class:`Place` equals every other, so where a node stands plays no part.
A tree is at most ``EXPRESSION_DEPTH_MAX`` levels deep; the parser sees to it, so recursion over a tree is safe.

    Statement ── body: Evaluate(Expression) | Evaluate(Select) | SetVariable | CreateFunction | DeleteFunction | Explain
              ── directives: peer, plot, timeout_s, wait_s, budget
              ── text: its own source with the directives above it, parsed alone gives the same statement
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TypeAlias

import msgspec

from query.budgets import Budget
from query.errors import Span
from query.types import Type


class Place(tuple[int, int]):
    """The offsets of a node's first character and of the one past its last, in the text that was parsed."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, Place)

    def __hash__(self) -> int:
        return 0


NOWHERE = Place((0, 0))


class Source(msgspec.Struct, frozen=True):
    """A text that was parsed; turns places into lines and columns, which nobody needs before there is an error."""

    text: str

    def span(self, place: Place) -> Span:
        start, end = place
        line, column = self._position(start)
        end_line, end_column = self._position(max(start, end))
        return Span(line, column, end_line, end_column)

    def _position(self, offset: int) -> tuple[int, int]:
        before = self.text.rfind("\n", 0, offset)
        return self.text.count("\n", 0, offset) + 1, offset - before


def shifted(span: Span, origin: Span) -> Span:
    """A span counted in a statement's own text, counted in the text in which that statement begins at ``origin``."""

    def moved(line: int, column: int) -> tuple[int, int]:
        return line + origin.line - 1, column + (origin.column - 1 if line == 1 else 0)

    return Span(*moved(span.line, span.column), *moved(span.end_line, span.end_column))


class Node(msgspec.Struct, frozen=True, kw_only=True):
    place: Place = NOWHERE


# Expressions


class Literal(Node, frozen=True, eq=False):
    """1, 1.0 and true are three literals, though Python takes them for equal."""

    value: bool | int | float | str | datetime | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and type(other.value) is type(self.value) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


class Name(Node, frozen=True):
    name: str


class Variable(Node, frozen=True):
    """``:name``, a session variable or a parameter of the request."""

    name: str


class VectorOf(Node, frozen=True):
    items: tuple[Expression, ...]


class RecordOf(Node, frozen=True):
    keys: tuple[str, ...]
    items: tuple[Expression, ...]


class Call(Node, frozen=True):
    name: str
    arguments: tuple[Expression | Select, ...]


class Unary(Node, frozen=True):
    """``operator`` is ``-``, ``+`` or ``not``."""

    operator: str
    operand: Expression


class Binary(Node, frozen=True):
    """``operator`` is one of ``+ - * / % ^ || = != < <= > >= and or in like``."""

    operator: str
    left: Expression
    right: Expression


class Between(Node, frozen=True):
    value: Expression
    low: Expression
    high: Expression


class IsNull(Node, frozen=True):
    value: Expression


class Index(Node, frozen=True):
    """``value[key]``: an element from 1, or a record's field."""

    value: Expression
    key: Expression


class Field(Node, frozen=True):
    value: Expression
    name: str


class Case(Node, frozen=True):
    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression | None


class Cast(Node, frozen=True):
    value: Expression
    type: Type


class AsOf(Node, frozen=True):
    """A call's answer as it would have been at an earlier time."""

    call: Call
    time: Expression


class Item(Node, frozen=True):
    """What a select gives. Where nothing names it, its column is named as the expression is formatted."""

    value: Expression
    name: str | None


class From(Node, frozen=True):
    """``[Type] name in source``; without a source the ``where`` conjuncts bind the name."""

    name: str
    type: Type | None
    source: Expression | None


class Order(Node, frozen=True):
    value: Expression
    descending: bool


class Select(Node, frozen=True):
    """``into`` is ``vector`` for ``select vector of``, else None."""

    items: tuple[Item, ...]
    sources: tuple[From, ...] = ()
    where: Expression | None = None
    group: tuple[Expression, ...] = ()
    having: Expression | None = None
    order: tuple[Order, ...] = ()
    limit: Expression | None = None
    distinct: bool = False
    into: str | None = None


Expression: TypeAlias = (
    Literal
    | Name
    | Variable
    | VectorOf
    | RecordOf
    | Call
    | Unary
    | Binary
    | Between
    | IsNull
    | Index
    | Field
    | Case
    | Cast
    | AsOf
    | Select
)


# Statements


class Evaluate(Node, frozen=True):
    value: Expression


class SetVariable(Node, frozen=True):
    name: str
    value: Expression


class FormalParameter(Node, frozen=True):
    name: str
    type: Type


class CreateFunction(Node, frozen=True):
    name: str
    parameters: tuple[FormalParameter, ...]
    result: Type
    body: Expression
    replace: bool = False
    documentation: str = ""


class DeleteFunction(Node, frozen=True):
    name: str


class Explain(Node, frozen=True):
    body: Body


Body: TypeAlias = Evaluate | SetVariable | CreateFunction | DeleteFunction | Explain


class Directives(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands above a statement. ``peer`` is as written; ``places`` say where a value stands."""

    peer: str | None = None
    plot: str | None = None
    timeout_s: float | None = None
    wait_s: float | None = None
    budget: Budget | None = None
    peer_place: Place = NOWHERE
    wait_place: Place = NOWHERE


class Statement(Node, frozen=True):
    """``source`` is the whole text that was parsed: places in this statement count in it."""

    body: Body
    directives: Directives
    source: Source

    @property
    def text(self) -> str:
        """This statement alone, with the directives above it and without its ``;``."""
        start, end = self.place
        return self.source.text[start:end]

    @property
    def span(self) -> Span:
        """Where :attr:`text` stands in the text that was parsed."""
        return self.source.span(self.place)


class Script(msgspec.Struct, frozen=True):
    source: Source
    statements: tuple[Statement, ...]

    def __iter__(self) -> Iterator[Statement]:
        return iter(self.statements)

    def __len__(self) -> int:
        return len(self.statements)


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below a node, in the order of the text."""
    for name in node.__struct_fields__:
        value = getattr(node, name)
        if isinstance(value, Node):
            yield value
        elif type(value) is tuple:
            yield from _inside(value)


def _inside(values: tuple[object, ...]) -> Iterator[Node]:
    for value in values:
        if isinstance(value, Node):
            yield value
        elif type(value) is tuple:
            yield from _inside(value)


def walk(node: Node) -> Iterator[Node]:
    """A node and everything below it, without recursion."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(reversed(tuple(children(found))))


def calls(node: Node) -> Iterator[Call]:
    """Every call in a tree."""
    return (found for found in walk(node) if isinstance(found, Call))
