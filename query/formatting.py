"""Syntax tree → text in one style; the text parses back to the same tree."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final, assert_never

from query.syntax import (
    AsOf,
    Between,
    Binary,
    Body,
    Call,
    Case,
    Cast,
    CreateFunction,
    DeleteFunction,
    Evaluate,
    Explain,
    Expression,
    Field,
    From,
    Index,
    IsNull,
    Literal,
    Name,
    RecordOf,
    Script,
    Select,
    SetVariable,
    Statement,
    Unary,
    Variable,
    VectorOf,
)
from query.text_form import to_text

_TIGHTNESS: Final = {
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and",), 2),
    "not": 3,
    **dict.fromkeys(("=", "!=", "<", "<=", ">", ">=", "in", "like"), 4),
    **dict.fromkeys(("+", "-", "||"), 5),
    **dict.fromkeys(("*", "/", "%"), 6),
    "^": 8,
}
_INFINITE: Final = {math.inf: "1e999", -math.inf: "-1e999"}  # a literal; Infinity alone is read as a name
_LOOSEST, _COMPARISON, _SUM, _UNARY, _POSTFIX = 0, 4, 5, 7, 9


def format_script(script: Script) -> str:
    """All statements, each with its directives and a ``;``."""
    return "\n".join(format_statement(statement) + ";" for statement in script)


def format_statement(statement: Statement) -> str:
    """A statement with its directives, one a line above it, without a ``;``."""
    directives = statement.directives
    lines = [
        f"//{name}: {value}"
        for name, value in (("peer", directives.peer), ("plot", directives.plot))
        if value is not None
    ]
    for name, seconds in (("timeout", directives.timeout_s), ("wait", directives.wait_s)):
        if seconds is not None:
            lines.append(f"//{name}: {seconds:.12f}".rstrip("0").rstrip(".") + "s")
    if directives.budget is not None:
        lines.append(f"//budget: {directives.budget}")
    return "\n".join([*lines, format_body(statement.body)])


def format_body(body: Body) -> str:
    match body:
        case Evaluate(value):
            return _bare(value)
        case SetVariable(name, value):
            return f"set :{name} = {_expression(value)}"
        case CreateFunction(name, parameters, result, value, replace, documentation):
            inner = ", ".join(f"{parameter.type} {parameter.name}" for parameter in parameters)
            note = f" /* {documentation} */" if documentation else ""
            verb = "create or replace function" if replace else "create function"
            return f"{verb} {name}({inner}) -> {result}{note} as {_bare(value)}"
        case DeleteFunction(name):
            return f"delete function {name}"
        case Explain(inner_body):
            return f"explain {format_body(inner_body)}"
        case _:
            assert_never(body)


def format_expression(value: Expression) -> str:
    """An expression alone, and what names its column where nothing else does: the same however it was written."""
    return _bare(value)


def _bare(value: Expression) -> str:
    return _select(value) if isinstance(value, Select) else _expression(value)


def _select(node: Select) -> str:
    head = "select distinct" if node.distinct else "select"
    if node.into:
        head += f" {node.into} of"
    items = ", ".join(
        _expression(item.value) if item.name is None else f"{_expression(item.value)} as {item.name}"
        for item in node.items
    )
    parts = [head, items]
    if node.sources:
        parts.append("from " + ", ".join(map(_from, node.sources)))
    if node.where is not None:
        parts.append(f"where {_expression(node.where)}")
    if node.group:
        parts.append("group by " + ", ".join(map(_expression, node.group)))
    if node.having is not None:
        parts.append(f"having {_expression(node.having)}")
    if node.order:
        orders = (_expression(order.value) + (" desc" if order.descending else "") for order in node.order)
        parts.append("order by " + ", ".join(orders))
    if node.limit is not None:
        parts.append(f"limit {_expression(node.limit)}")
    return " ".join(parts)


def _from(source: From) -> str:
    text = source.name if source.type is None else f"{source.type} {source.name}"
    return text if source.source is None else f"{text} in {_expression(source.source)}"


def _expression(node: Expression, tightness: int = _LOOSEST) -> str:
    """The text of an expression that has to bind at least as tightly as ``tightness``."""
    own, text = _written(node)
    return f"({text})" if own < tightness else text


def _written(node: Expression) -> tuple[int, str]:
    match node:
        case Literal(value):
            infinite = _INFINITE.get(value) if type(value) is float else None
            text = infinite or to_text(value)
            return (_UNARY if text.startswith("-") else _POSTFIX), text
        case Name(name):
            return _POSTFIX, name
        case Variable(name):
            return _POSTFIX, f":{name}"
        case VectorOf(items):
            return _POSTFIX, f"[{', '.join(map(_expression, items))}]"
        case RecordOf(keys, items):
            pairs = (f"{to_text(key)}: {_expression(item)}" for key, item in zip(keys, items, strict=True))
            return _POSTFIX, f"{{{', '.join(pairs)}}}"
        case Call(name, arguments):
            only = len(arguments) == 1
            inner = ", ".join(_select(a) if isinstance(a, Select) and only else _expression(a) for a in arguments)
            return _POSTFIX, f"{name}({inner})"
        case Unary("not", operand):
            return 3, f"not {_expression(operand, 3)}"
        case Unary(operator, operand):
            text = _expression(operand, _UNARY)
            # A sign before a number would be read as part of the number, two signs as a comment.
            folds = isinstance(operand, Literal) or text.startswith(("-", "+"))
            return _UNARY, f"{operator}({text})" if folds else f"{operator}{text}"
        case Binary(operator, left, right):
            return _binary(operator, left, right)
        case Between(value, low, high):
            return (
                _COMPARISON,
                f"{_expression(value, _SUM)} between {_expression(low, _SUM)} and {_expression(high, _SUM)}",
            )
        case IsNull(value):
            return _COMPARISON, f"{_expression(value, _SUM)} is null"
        case Index(value, key):
            return _POSTFIX, f"{_expression(value, _POSTFIX)}[{_expression(key)}]"
        case Field(value, name):
            return _POSTFIX, f"{_expression(value, _POSTFIX)}.{name}"
        case Case(branches, otherwise):
            whens = " ".join(f"when {_expression(when)} then {_expression(then)}" for when, then in branches)
            tail = "" if otherwise is None else f" else {_expression(otherwise)}"
            return _POSTFIX, f"case {whens}{tail} end"
        case Cast(value, kind):
            return _POSTFIX, f"cast({_expression(value)} as {kind})"
        case AsOf(call, time):
            plain = isinstance(time, Name | Variable) or (
                isinstance(time, Literal) and isinstance(time.value, datetime)
            )
            when = _expression(time) if plain else f"({_expression(time)})"
            return _POSTFIX, f"{_expression(call)} as of {when}"
        case Select():
            return _POSTFIX, f"({_select(node)})"
        case _:
            assert_never(node)


def _binary(operator: str, left: Expression, right: Expression) -> tuple[int, str]:
    own = _TIGHTNESS[operator]
    if operator == "^":
        return own, f"{_expression(left, _POSTFIX)} ^ {_expression(right, _UNARY)}"
    if own == _COMPARISON:
        return own, f"{_expression(left, _SUM)} {operator} {_expression(right, _SUM)}"
    return own, f"{_expression(left, own)} {operator} {_expression(right, own + 1)}"
