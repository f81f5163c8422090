"""Functions of numbers. Given a vector or tensor, those of one number work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from query import limits, operators
from query.declarations import Call, Example, function
from query.errors import WrongArguments
from query.limits import over
from query.operators import BadArithmetic
from query.values import described, is_tensor


def _elementwise(name: str, operation: Callable[[Any], Any], value: Any, array_operation: str | None = None) -> Any:
    kind = type(value)
    if kind is int or kind is float:
        try:
            return operation(value)
        except ValueError:
            raise BadArithmetic(f"{name}: no result for {described(value)}") from None
        except OverflowError:
            raise BadArithmetic(f"{name}: the result is too large") from None
    if value is None:
        return None
    if kind is list:
        return [_elementwise(name, operation, part, array_operation) for part in value]
    if is_tensor(value):
        import numpy as np

        with np.errstate(all="ignore"):
            return getattr(np, array_operation or name)(value)
    raise WrongArguments(f"{name}: expected a number, found {described(value)}")


class MathematicsFunctions:
    """The usual mathematics."""

    @function("abs(Object x) -> Object", example=Example("abs(-3)", shows="3"))
    def abs(self, call: Call, x: Any) -> Any:
        """The absolute value of a number, or of each element."""
        return _elementwise("abs", abs, x)

    @function("sqrt(Number x) -> Real", example=Example("sqrt(9)", shows="3.0"))
    @function("sqrt(Vector x) -> Vector", example=Example("sqrt([4,9])", shows="[2.0,3.0]"))
    @function("sqrt(Tensor x) -> Tensor", example="sqrt(tensor('float32', [4,9]))")
    def sqrt(self, call: Call, x: Any) -> Any:
        """The square root of a number, or of each element."""
        return _elementwise("sqrt", math.sqrt, x)

    @function("exp(Object x) -> Object", example=Example("exp(0)", shows="1.0"))
    def exp(self, call: Call, x: Any) -> Any:
        """e to the power of a number, or of each element."""
        return _elementwise("exp", math.exp, x)

    @function("ln(Object x) -> Object", example=Example("ln(1)", shows="0.0"))
    def ln(self, call: Call, x: Any) -> Any:
        """The natural logarithm of a number, or of each element."""
        return _elementwise("ln", math.log, x, "log")

    @function("log10(Object x) -> Object", example=Example("log10(1000)", shows="3.0"))
    def log10(self, call: Call, x: Any) -> Any:
        """The decimal logarithm of a number, or of each element."""
        return _elementwise("log10", math.log10, x)

    @function("sin(Object x) -> Object", example=Example("sin(0)", shows="0.0"))
    def sin(self, call: Call, x: Any) -> Any:
        """The sine of an angle in radians, or of each element."""
        return _elementwise("sin", math.sin, x)

    @function("cos(Object x) -> Object", example=Example("cos(0)", shows="1.0"))
    def cos(self, call: Call, x: Any) -> Any:
        """The cosine of an angle in radians, or of each element."""
        return _elementwise("cos", math.cos, x)

    @function("tan(Object x) -> Object", example=Example("tan(0)", shows="0.0"))
    def tan(self, call: Call, x: Any) -> Any:
        """The tangent of an angle in radians, or of each element."""
        return _elementwise("tan", math.tan, x)

    @function("atan2(Number y, Number x) -> Real", example=Example("atan2(0, 1)", shows="0.0"))
    def atan2(self, call: Call, y: float, x: float) -> float:
        """The angle of the point (x, y) in radians."""
        return math.atan2(y, x)

    @function("pi() -> Real", example=Example("pi()", shows="3.141592653589793"))
    def pi(self, call: Call) -> float:
        """The ratio of a circle's circumference to its diameter."""
        return math.pi

    @function("floor(Object x) -> Object", example=Example("floor(2.7)", shows="2"))
    def floor(self, call: Call, x: Any) -> Any:
        """The greatest integer not above a number, or each element's."""
        return _elementwise("floor", math.floor, x)

    @function("ceil(Object x) -> Object", example=Example("ceil(2.1)", shows="3"))
    def ceil(self, call: Call, x: Any) -> Any:
        """The least integer not below a number, or each element's."""
        return _elementwise("ceil", math.ceil, x)

    @function("round(Number x, Integer digits?) -> Number", example=Example("round(2.345, 1)", shows="2.3"))
    def round(self, call: Call, x: float, digits: int = 0) -> int | float:
        """A number rounded to some digits after the point, halves to even; an integer when ``digits`` is left out."""
        if abs(digits) > 300:
            raise WrongArguments(f"round: digits: expected -300 to 300, found {digits}")
        if not math.isfinite(x):
            return x
        return round(x, digits) if digits else round(x)

    @function("mod(Number a, Number b) -> Number", example=Example("mod(7, 3)", shows="1"))
    def mod(self, call: Call, a: float, b: float) -> Any:
        """What is left of ``a`` after division by ``b``, with the sign of ``b``."""
        return operators.arithmetic("%", a, b)

    @function("div(Integer a, Integer b) -> Integer", example=Example("div(7, 2)", shows="3"))
    def div(self, call: Call, a: int, b: int) -> int:
        """The exact quotient of two integers, rounded down."""
        if b == 0:
            raise BadArithmetic(f"division by zero: div({a}, 0)")
        return a // b

    @function("sign(Number x) -> Integer", example=Example("sign(-2.5)", shows="-1"))
    def sign(self, call: Call, x: float) -> int:
        """-1, 0 or 1, as a number is negative, zero or positive."""
        return (x > 0) - (x < 0)

    @function("is_nan(Number x) -> Boolean", example=Example("is_nan(NaN)", shows="true"))
    def is_nan(self, call: Call, x: float) -> bool:
        """Whether a number is NaN, which equals nothing."""
        return x != x  # noqa: PLR0124 — only NaN differs from itself

    @function(
        "range(Integer first, Integer last, Integer step?) -> Bag of Integer",
        example=Example("sum(range(1, 4))", shows="10"),
    )
    @function("iota(Integer first, Integer last) -> Bag of Integer", example=Example("count(iota(1, 4))", shows="4"))
    def integers(self, call: Call, first: int, last: int, step: int = 1) -> Sequence[int]:
        """The integers from ``first`` to ``last``, both included, one a row."""
        if step == 0:
            raise WrongArguments("range: step: expected an Integer other than 0, found 0")
        found = range(first, last + (1 if step > 0 else -1), step)
        if max(first.bit_length(), last.bit_length()) > 62 or len(found) > limits.VALUE_ELEMENTS_MAX:
            raise over("range", limits.VALUE_ELEMENTS_MAX, "more", "integers")
        return found
