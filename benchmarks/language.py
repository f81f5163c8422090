"""Parsing and resolving statements, against Lark alone on the same grammar and statements.

Ours is everything from a text to a plan: limits, tokens, directives, tree, names, overloads, types. Bare Lark is its
LALR parser with the contextual lexer, building its own trees. Goal: at most 1.6 times as long
over all statements together.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Final

from lark import Lark

from benchmarks.measurement import Measurement, interleaved
from query.build_tables import grammar_text
from query.catalogue import Catalogue
from query.declarations import Call, Effect, Home, Role, function
from query.declarations import declarations as declared_by
from query.functions import generic_declarations
from query.parsing import parse
from query.resolution import resolve

GOAL: Final = 1.6
PAIRS: Final = 61
ROUNDS: Final = 20

STATEMENTS: Final = {
    "call": '//peer: nameserver\nedge:add_group("MY-EDGE-1", "staging-area-edges")',
    "records": (
        'edge:set_group_models("staging-area-edges",\n[{"repo": "default",\n"name": "my-sa-model",\n"version": "5.3"}])'
    ),
    "no arguments": "// the models here\nmodels:installed()",
    "expression": "1 + 2 * sqrt(3.5) ^ 2 - [1, 2, 3][2] / 7",
    "select": (
        "select x, count(y) as n, avg(x * y) from x in range(1, 10), Integer y "
        "where y in range(1, x) and y % 2 = 0 and not x between 3 and 5 group by x order by n desc limit 3"
    ),
    "function": (
        "create or replace function area(Real radius, Integer n) -> Real /* of a circle */ "
        "as case when n <= 0 then 0.0 else pi() * radius ^ 2 end"
    ),
    "vector": "[" + ", ".join(f"{number}.5" for number in range(64)) + "]",
}


class _Declared:
    """The functions that the statements call, as a peer declares them."""

    @function(
        "edge:add_group(String edge, String group) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example='edge:add_group("E1", "g")',
    )
    def add_group(self, call: Call, edge: str, group: str) -> bool:
        """Put an edge into a group."""
        return True

    @function(
        "edge:set_group_models(String group, Vector of Record models) -> Vector of Record",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example='edge:set_group_models("g", [])',
    )
    def set_group_models(self, call: Call, group: str, models: list[object]) -> list[object]:
        """Assign models to a group."""
        return []

    @function("models:installed() -> Vector of String", example="models:installed()")
    def installed(self, call: Call) -> list[str]:
        """The releases of this peer."""
        return []


def run() -> Iterator[Measurement]:
    catalogue = Catalogue((*generic_declarations(), *declared_by(_Declared)))
    bare = Lark(grammar_text(), parser="lalr", lexer="contextual", maybe_placeholders=False)

    def ours(texts: tuple[str, ...]) -> None:
        for _ in range(ROUNDS):
            for text in texts:
                for statement in parse(text):
                    resolve(statement, catalogue, {})

    def theirs(texts: tuple[str, ...]) -> None:
        for _ in range(ROUNDS):
            for text in texts:
                bare.parse(text)

    conditions = f"Python {platform.python_version()}, medians of {PAIRS} pairs, goal at most {GOAL}x"
    cases = {"all statements": tuple(STATEMENTS.values()), **{name: (text,) for name, text in STATEMENTS.items()}}
    for name, texts in cases.items():
        ours(texts)
        theirs(texts)
        mine, limit, ratio = interleaved(lambda t=texts: ours(t), lambda t=texts: theirs(t), pairs=PAIRS)  # type: ignore[misc]
        number = ROUNDS * len(texts)
        yield Measurement(
            "language",
            f"{name} vs bare Lark",
            round(mine / number * 1e6, 2),
            round(limit / number * 1e6, 2),
            round(ratio, 3),
            "µs a statement",
            conditions,
        )
