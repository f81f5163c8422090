"""Expressions that are values already: what the text form of a value consists of."""

from __future__ import annotations

import math
from typing import Any, Final

from query.errors import SyntaxProblem
from query.syntax import Call, Literal, Name, Node, RecordOf, Source, Unary, VectorOf

NAMED: Final = {"nan": math.nan, "infinity": math.inf}


def constant(node: Node, source: Source) -> Any:
    """The value of a constant expression. Raises :class:`SyntaxProblem` for an expression that has to be evaluated."""
    match node:
        case Literal(value):
            return value
        case VectorOf(items):
            return [constant(item, source) for item in items]
        case RecordOf(keys, items):
            return {key: constant(item, source) for key, item in zip(keys, items, strict=True)}
        case Name(name) if name.casefold() in NAMED:
            return NAMED[name.casefold()]
        case Unary("-", Name(name)) if name.casefold() in NAMED:
            return -NAMED[name.casefold()]
        case Call(name, (dtype, data)) if name.casefold() == "tensor":
            from query.tensors import tensor

            return tensor(constant(dtype, source), constant(data, source))
        case Call(name, (data, shape)) if name.casefold() == "reshape":
            from query.tensors import reshape

            return reshape(constant(data, source), constant(shape, source))
        case _:
            raise SyntaxProblem("expected a value, found an expression", span=source.span(node.place))
