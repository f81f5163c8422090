"""Functions of a whole bag. Null elements are left out, as in SQL; of no elements most aggregates are null."""

from __future__ import annotations

import math
import statistics
from datetime import datetime
from typing import Any

from query import operators
from query.declarations import Call, Example, function
from query.errors import WrongArguments
from query.values import described


def _present(bag: list[Any]) -> list[Any]:
    return [element for element in bag if element is not None]


def _numbers(name: str, bag: list[Any]) -> list[int | float]:
    found = _present(bag)
    for element in found:
        if type(element) not in (int, float):
            raise WrongArguments(f"{name}: expected numbers, found {described(element)}")
    return found


def _extreme(name: str, bag: list[Any], sign: str) -> Any:
    best = None
    for element in _present(bag):
        if type(element) not in (int, float, str, datetime):
            raise WrongArguments(f"{name}: expected numbers, strings or time stamps, found {described(element)}")
        if best is None or operators.compared(sign, element, best):
            best = element
    return best


class AggregateFunctions:
    """Of a bag, or of the elements of one vector; inside a select, of the rows of a group."""

    @function("count(Bag of Object values) -> Integer", example=Example("count([1,null,3])", shows="2"))
    def count(self, call: Call, values: list[Any]) -> int:
        """How many values there are that are not null."""
        return len(_present(values))

    @function("sum(Bag of Object values) -> Object", example=Example("sum([1,2,3])", shows="6"))
    def sum(self, call: Call, values: list[Any]) -> Any:
        """The sum of numbers, or of vectors element by element; exact for integers, 0 for nothing."""
        present = _present(values)
        if all(type(element) is float for element in present):
            return math.fsum(present) if all(map(math.isfinite, present)) and present else sum(present)
        total: Any = 0
        for element in present:
            total = operators.arithmetic("+", total, element)
        return total

    @function("avg(Bag of Object values) -> Real", example=Example("avg([1,2,4])", shows="2.3333333333333335"))
    @function("mean(Bag of Object values) -> Real", example=Example("mean([1,2])", shows="1.5"))
    def avg(self, call: Call, values: list[Any]) -> float | None:
        """The arithmetic mean."""
        numbers = _numbers("avg", values)
        return float(operators.arithmetic("/", sum(numbers), len(numbers))) if numbers else None

    @function("min(Bag of Object values) -> Object", example=Example("min([3,1,2])", shows="1"))
    def min(self, call: Call, values: list[Any]) -> Any:
        """The least of numbers, strings or time stamps."""
        return _extreme("min", values, "<")

    @function("max(Bag of Object values) -> Object", example=Example("max([3,1,2])", shows="3"))
    def max(self, call: Call, values: list[Any]) -> Any:
        """The greatest of numbers, strings or time stamps."""
        return _extreme("max", values, ">")

    @function("median(Bag of Object values) -> Number", example=Example("median([1,5,2])", shows="2"))
    def median(self, call: Call, values: list[Any]) -> int | float | None:
        """The middle number; the mean of the two middle ones when their number is even."""
        numbers = _numbers("median", values)
        return statistics.median(numbers) if numbers else None

    @function("var(Bag of Object values) -> Real", example=Example("var([1,2,3])", shows="1.0"))
    def var(self, call: Call, values: list[Any]) -> float | None:
        """The sample variance (divided by n - 1); null for fewer than two numbers."""
        numbers = _numbers("var", values)
        return float(statistics.variance(map(float, numbers))) if len(numbers) > 1 else None

    @function("stdev(Bag of Object values) -> Real", example=Example("stdev([1,2,3])", shows="1.0"))
    def stdev(self, call: Call, values: list[Any]) -> float | None:
        """The sample standard deviation; null for fewer than two numbers."""
        variance = self.var(call, values)
        return None if variance is None else math.sqrt(variance)

    @function("vectorof(Bag of Object values) -> Vector", example=Example("vectorof(range(1,3))", shows="[1,2,3]"))
    def vectorof(self, call: Call, values: list[Any]) -> list[Any]:
        """All values in one vector, in their order, null included."""
        return list(values)

    @function("some(Bag of Object values) -> Boolean", example=Example("some([false,true])", shows="true"))
    def some(self, call: Call, values: list[Any]) -> bool:
        """Whether there is any value that is neither null nor false."""
        return any(element is not None and element is not False for element in values)

    @function("notany(Bag of Object values) -> Boolean", example=Example("notany([])", shows="true"))
    def notany(self, call: Call, values: list[Any]) -> bool:
        """Whether there is no value that is neither null nor false."""
        return not self.some(call, values)
