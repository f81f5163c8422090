"""The operators on values: exact integers, SQL's null, elementwise vectors and tensors.

Rules: an operand that is null makes the result null, except for ``is null``; vectors combine element by element and
are broadcast as numpy does it (a shorter rank is repeated, a length of 1 is stretched); as soon as a tensor takes
part, numpy does the work and its types rule. ``/`` always gives a Real. ``%`` has the sign of the divisor. Values of
different types are unequal, and an error to order. Every result is bounded.
"""

from __future__ import annotations

import math
import operator as python
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from query import limits
from query.errors import UserProblem, WrongArguments
from query.limits import over
from query.values import described, is_tensor

_NUMBERS: Final = (int, float)


class BadArithmetic(UserProblem):
    """An operation that has no result: a division by zero, an overflow."""

    code = "bad_arithmetic"


def bounded(value: int) -> int:
    """An integer within its bound of bits. Raises LimitExceeded."""
    if value.bit_length() > limits.INTEGER_BITS_MAX:
        raise over("an integer", limits.INTEGER_BITS_MAX, value.bit_length(), "bits")
    return value


def _mistyped(sign: str, left: Any, right: Any, *, hint: str | None = None) -> WrongArguments:
    return WrongArguments(f'"{sign}": no meaning for {described(left)} and {described(right)}', hint=hint)


def arithmetic(sign: str, left: Any, right: Any) -> Any:
    """``+ - * / % ^``."""
    kinds = type(left), type(right)
    if kinds[0] in _NUMBERS and kinds[1] in _NUMBERS:
        return _numbers(sign, left, right)
    if left is None or right is None:
        return None
    if is_tensor(left) or is_tensor(right):
        return _tensors(sign, left, right)
    if list in kinds:
        return broadcast(lambda one, other: arithmetic(sign, one, other), left, right, sign)
    if sign == "+" and str in kinds:
        if kinds[0] in (str, *_NUMBERS) and kinds[1] in (str, *_NUMBERS):
            return concatenated(left, right)
    elif datetime in kinds:
        return _times(sign, left, right)
    raise _mistyped(sign, left, right, hint='"||" joins values as text' if str in kinds else None)


def _numbers(sign: str, left: int | float, right: int | float) -> int | float:
    try:
        match sign:
            case "+":
                found = left + right
            case "-":
                found = left - right
            case "*":
                found = left * right
            case "/":
                return left / right
            case "%":
                found = left % right
            case _:
                found = _power(left, right)
    except ZeroDivisionError:
        raise BadArithmetic(f"division by zero: {left} {sign} {right}") from None
    except OverflowError:
        raise BadArithmetic(f'"{sign}": the result is too large for a Real') from None
    return bounded(found) if type(found) is int else found


def _power(base: int | float, exponent: int | float) -> int | float:
    if type(base) is int and type(exponent) is int and exponent >= 0:
        if base.bit_length() * exponent > limits.INTEGER_BITS_MAX * 2 and abs(base) > 1:
            raise over("an integer", limits.INTEGER_BITS_MAX, "more", "bits", hint="a Real base gives a Real: 2.0 ^ n")
        return int(base**exponent)
    if base == 0 and exponent < 0:
        raise ZeroDivisionError
    found = float(base) ** exponent
    if isinstance(found, complex):
        raise BadArithmetic(f"({base}) ^ {exponent} is no real number")
    return float(found)


def _times(sign: str, left: Any, right: Any) -> Any:
    try:
        if type(left) is datetime and type(right) is datetime and sign == "-":
            return (left - right).total_seconds()
        if type(left) is datetime and type(right) in _NUMBERS and sign in "+-":
            step = timedelta(seconds=right)
            return (left.astimezone(UTC) + step) if sign == "+" else (left.astimezone(UTC) - step)
        if type(right) is datetime and type(left) in _NUMBERS and sign == "+":
            return right.astimezone(UTC) + timedelta(seconds=left)
    except (OverflowError, ValueError):
        raise BadArithmetic("the result is no time stamp between the years 1 and 9999") from None
    raise _mistyped(sign, left, right)


_UFUNCS: Final = {"+": "add", "-": "subtract", "*": "multiply", "/": "true_divide", "%": "remainder", "^": "power"}


def _tensors(sign: str, left: Any, right: Any) -> Any:
    import numpy as np

    from query.tensors import as_array

    one = left if type(left) in _NUMBERS else as_array(left)
    other = right if type(right) in _NUMBERS else as_array(right)
    shapes = list(np.shape(one)), list(np.shape(other))
    try:
        shape = np.broadcast_shapes(*shapes)
        if math.prod(shape) * 8 > limits.TENSOR_BYTES_MAX:
            raise over("a tensor", limits.TENSOR_BYTES_MAX, math.prod(shape) * 8, "bytes")
        with np.errstate(all="ignore"):
            return np.asarray(getattr(np, _UFUNCS[sign])(one, other))
    except ValueError:
        raise WrongArguments(f'"{sign}": the shapes {shapes[0]} and {shapes[1]} do not fit together') from None
    except (OverflowError, TypeError) as error:
        raise WrongArguments(f'"{sign}": {error}') from None


def rank(value: Any) -> int:
    """How many vectors deep a value is, looking at first elements."""
    depth = 0
    while type(value) is list:
        depth += 1
        value = value[0] if value else None
    return depth


_QUICK: Final = {"+": python.add, "-": python.sub, "*": python.mul}
_INT64: Final = 2**63


def _quick(sign: str, left: list[Any], right: list[Any]) -> list[Any] | None:
    """The same for plain numbers far from any bound, many times faster."""
    operation = _QUICK.get(sign)
    if operation is None or not left or not {*map(type, left), *map(type, right)} <= {int, float}:
        return None
    found = list(map(operation, left, right))
    low, high = min(found), max(found)
    return found if low > -_INT64 and high < _INT64 else None


def broadcast(operation: Callable[[Any, Any], Any], left: Any, right: Any, sign: str) -> Any:
    """An operation element by element over vectors, as numpy would align them."""
    ranks = rank(left), rank(right)
    if ranks[0] == 1 and ranks[1] == 0:
        right, ranks = [right] * len(left), (1, 1)
    elif ranks[1] == 1 and ranks[0] == 0:
        left, ranks = [left] * len(right), (1, 1)
    if ranks[0] > ranks[1]:
        return [broadcast(operation, part, right, sign) for part in left]
    if ranks[1] > ranks[0]:
        return [broadcast(operation, left, part, sign) for part in right]
    if ranks[0] == 0 or type(left) is not list or type(right) is not list:
        return operation(left, right)
    if len(left) != len(right):
        if len(left) == 1:
            left = left * len(right)
        elif len(right) == 1:
            right = right * len(left)
        else:
            raise WrongArguments(f'"{sign}": vectors of {len(left)} and {len(right)} elements do not fit together')
    if ranks[0] == 1:
        quick = _quick(sign, left, right)
        return quick or [operation(one, other) for one, other in zip(left, right, strict=True)]
    return [broadcast(operation, one, other, sign) for one, other in zip(left, right, strict=True)]


def concatenated(left: Any, right: Any) -> str | None:
    """``||``: the text of two values, one after the other."""
    if left is None or right is None:
        return None
    made = as_string(left) + as_string(right)
    if len(made) > limits.STRING_LENGTH_MAX:
        raise over("a string", limits.STRING_LENGTH_MAX, len(made), "characters")
    return made


def as_string(value: Any) -> str:
    """A string itself, anything else in its text form."""
    if type(value) is str:
        return value
    from query.text_form import to_text

    return to_text(value)


def negative(value: Any) -> Any:
    kind = type(value)
    if kind in _NUMBERS or is_tensor(value):
        if is_tensor(value) and value.dtype.kind == "b":
            raise WrongArguments('"-": no meaning for a Tensor of bool')
        return -value
    if value is None:
        return None
    if kind is list:
        return [negative(part) for part in value]
    raise WrongArguments(f'"-": expected a number, found {described(value)}')


def positive(value: Any) -> Any:
    if value is None or type(value) in (*_NUMBERS, list) or is_tensor(value):
        return value
    raise WrongArguments(f'"+": expected a number, found {described(value)}')


def inverted(value: Any) -> bool | None:
    found = truth(value, "not")
    return None if found is None else not found


def truth(value: Any, what: str) -> bool | None:
    """A condition's value. Raises for anything but true, false and null."""
    if value is None or type(value) is bool:
        return value
    raise WrongArguments(f"{what}: expected a Boolean, found {described(value)}")


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal; inside vectors and records null equals null. 1 equals 1.0, but never true."""
    one, other = type(left), type(right)
    if one is bool or other is bool:
        return one is other and left == right
    if one is list or other is list:
        return one is other and len(left) == len(right) and all(map(same, left, right))
    if one is dict or other is dict:
        return one is other and left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if is_tensor(left) or is_tensor(right):
        import numpy as np

        return is_tensor(left) and is_tensor(right) and bool(np.array_equal(left, right))
    return bool(left == right)


_ORDER: Final = {"<": python.lt, "<=": python.le, ">": python.gt, ">=": python.ge}


def compared(sign: str, left: Any, right: Any) -> bool | None:
    """``= != < <= > >=``; null when an operand is null."""
    if left is None or right is None:
        return None
    if sign == "=":
        return same(left, right)
    if sign == "!=":
        return not same(left, right)
    one, other = type(left), type(right)
    if (one in _NUMBERS and other in _NUMBERS) or (one is other and one in (str, datetime)):
        return bool(_ORDER[sign](left, right))
    if one is other is list:
        for first, second in zip(left, right, strict=False):
            if not same(first, second):
                return compared(sign, first, second)
        return bool(_ORDER[sign](len(left), len(right)))
    raise _mistyped(sign, left, right)


def between(value: Any, low: Any, high: Any) -> bool | None:
    above, below = compared(">=", value, low), compared("<=", value, high)
    if above is False or below is False:
        return False
    return None if above is None or below is None else True


def like(text: Any, pattern: Any) -> bool | None:
    """SQL's ``like``: ``%`` any characters, ``_`` one. Takes time linear in the text for each part of the pattern."""
    if text is None or pattern is None:
        return None
    if type(text) is not str or type(pattern) is not str:
        raise _mistyped("like", text, pattern)
    if len(pattern) > limits.PATTERN_LENGTH_MAX:
        raise over("a pattern", limits.PATTERN_LENGTH_MAX, len(pattern), "characters")
    first, *rest = (re.compile(re.escape(part).replace("_", "."), re.DOTALL) for part in pattern.split("%"))
    if not rest:
        return first.fullmatch(text) is not None
    found = first.match(text)
    if found is None:
        return False
    position = found.end()
    for part in rest[:-1]:
        found = part.search(text, position)
        if found is None:
            return False
        position = found.end()
    length = len(pattern.rpartition("%")[2])
    return len(text) - length >= position and rest[-1].fullmatch(text, len(text) - length) is not None


def element(value: Any, key: Any) -> Any:
    """``value[key]``: an element from 1 of a vector, tensor or string, or a record's field, null when it has none."""
    if value is None or key is None:
        return None
    kind = type(value)
    if kind is dict:
        if type(key) is not str:
            raise WrongArguments(f"a record's key: expected a String, found {described(key)}")
        return value.get(key)
    if kind is not list and not is_tensor(value):
        raise WrongArguments(f"[ ]: expected a Vector, Tensor or Record, found {described(value)}")
    if type(key) is not int:
        raise WrongArguments(f"an index: expected an Integer, found {described(key)}")
    if kind is not list and value.ndim == 0:
        raise WrongArguments("[ ]: a tensor without dimensions has no elements")
    if not 1 <= key <= len(value):
        raise outside(key, len(value))
    found = value[key - 1]
    return found if kind is list or is_tensor(found) else found.item()


def record_field(value: Any, name: str) -> Any:
    """``value.name``: null when the record has no such field."""
    if value is None:
        return None
    if type(value) is not dict:
        raise WrongArguments(f".{name}: expected a Record, found {described(value)}")
    if name in value:
        return value[name]
    folded = name.casefold()
    return next((found for key, found in value.items() if key.casefold() == folded), None)


def _arithmetic(sign: str) -> Callable[[Any, Any], Any]:
    return lambda left, right: arithmetic(sign, left, right)


def _compared(sign: str) -> Callable[[Any, Any], Any]:
    return lambda left, right: compared(sign, left, right)


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    **{sign: _arithmetic(sign) for sign in "+-*/%^"},
    **{sign: _compared(sign) for sign in ("=", "!=", "<", "<=", ">", ">=")},
    "||": concatenated,
    "unary -": negative,
    "unary +": positive,
    "not": inverted,
    "between": between,
    "like": like,
    "is null": lambda value: value is None,
    "[]": element,
    ".": record_field,
}


def outside(index: int, count: int) -> WrongArguments:
    """The error of an element that is not there."""
    if count == 0:
        return WrongArguments(f"index {index}: the vector is empty")
    hint = "elements are counted from 1" if index == 0 else "the last of v is v[count(v)]" if index < 0 else None
    return WrongArguments(f"index {index} is outside of 1 to {count}", hint=hint)
