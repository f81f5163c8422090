"""Functions of a whole bag. Null elements are left out, as in SQL; of no elements most aggregates are null.

Each has a :class:`~query.partials.Kind` under its name, by which it is computed over several peers.
"""

from __future__ import annotations

import math
from typing import Any

from query import partials, rankings, sketches, sums
from query.declarations import Call, Example, function


class AggregateFunctions:
    """Of a bag, or of the elements of one vector; inside a select, of the rows of a group."""

    @function("count(Bag of Object values) -> Integer", example=Example("count([1,null,3])", shows="2"))
    def count(self, call: Call, values: list[Any]) -> int:
        """How many values there are that are not null."""
        return len(partials.present(values))

    @function("sum(Bag of Object values) -> Object", example=Example("sum([1,2,3])", shows="6"))
    def sum(self, call: Call, values: list[Any]) -> Any:
        """The sum of numbers, or of vectors element by element; exact for integers, 0 for nothing."""
        return sums.total(sums.read_total(sums.sum_state(values)))

    @function("avg(Bag of Object values) -> Real", example=Example("avg([1,2,4])", shows="2.3333333333333335"))
    @function("mean(Bag of Object values) -> Real", example=Example("mean([1,2])", shows="1.5"))
    def avg(self, call: Call, values: list[Any]) -> float | None:
        """The arithmetic mean."""
        return sums.average(sums.sum_of(partials.numbers("avg", values)))

    @function("min(Bag of Object values) -> Object", example=Example("min([3,1,2])", shows="1"))
    def min(self, call: Call, values: list[Any]) -> Any:
        """The least of numbers, strings or time stamps."""
        return partials.extreme("min", values, "<")

    @function("max(Bag of Object values) -> Object", example=Example("max([3,1,2])", shows="3"))
    def max(self, call: Call, values: list[Any]) -> Any:
        """The greatest of numbers, strings or time stamps."""
        return partials.extreme("max", values, ">")

    @function("median(Bag of Object values) -> Number", example=Example("median([1,5,2])", shows="2"))
    def median(self, call: Call, values: list[Any]) -> int | float | None:
        """The middle number; the mean of the two middle ones when their number is even."""
        return partials.middle(partials.numbers("median", values))

    @function("var(Bag of Object values) -> Real", example=Example("var([1,2,3])", shows="1.0"))
    def var(self, call: Call, values: list[Any]) -> float | None:
        """The sample variance (divided by n - 1); null for fewer than two numbers."""
        return sums.sample_variance(partials.numbers("var", values))

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
        return partials.some(values)

    @function("notany(Bag of Object values) -> Boolean", example=Example("notany([])", shows="true"))
    def notany(self, call: Call, values: list[Any]) -> bool:
        """Whether there is no value that is neither null nor false."""
        return not partials.some(values)

    @function(
        "count_distinct(Bag of Object values) -> Integer", example=Example("count_distinct([1,2,2,null])", shows="2")
    )
    def count_distinct(self, call: Call, values: list[Any]) -> int:
        """How many values differ, null left out. Over several peers the values travel, up to a bound."""
        return len(partials.distinct(values))

    @function(
        "approx_count_distinct(Bag of Object values) -> Integer",
        example=Example("approx_count_distinct([1,2,2,null])", shows="2"),
    )
    def approx_count_distinct(self, call: Call, values: list[Any]) -> int:
        """About how many values differ, null left out: to within 1.6 % (standard error), in a few kilobytes."""
        return sketches.distinct_count(sketches.distinct_sketch(values))

    @function(
        "approx_quantile(Bag of Object values, Number q) -> Real",
        example=Example("approx_quantile([1,2,3,4],0.5)", shows="2.0"),
    )
    def approx_quantile(self, call: Call, values: list[Any], q: float) -> float | None:
        """The number below or at which about the share ``q`` of the numbers lies; its rank is within 1.3 %."""
        return sketches.quantile(sketches.quantile_sketch(values), q)

    @function("top_k(Bag of Object values, Integer k) -> Vector", example=Example("top_k([3,1,2],2)", shows="[3,2]"))
    def top_k(self, call: Call, values: list[Any], k: int) -> list[Any]:
        """The ``k`` greatest numbers, strings or time stamps, the greatest first."""
        return rankings.greatest(values, rankings.checked_k("top_k", k))

    @function(
        "approx_top_k(Bag of Object values, Integer k) -> Vector of Record",
        example=Example("approx_top_k(['a','b','a'],1)", shows='[{"value":\'a\',"count":2,"error":0}]'),
    )
    def approx_top_k(self, call: Call, values: list[Any], k: int) -> list[dict[str, Any]]:
        """The ``k`` most frequent values, each with its count, and by how much at most a count may be too low."""
        return rankings.most_frequent(rankings.frequencies(values), k)
