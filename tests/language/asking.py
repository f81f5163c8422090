"""A peer of one: the generic functions and some of its own, asked in texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from query.catalogue import USER, Catalogue
from query.declarations import Call, Caller, Declaration, Effect, Home, Role, bind, declarations, function
from query.evaluation import evaluate
from query.functions import generic_declarations
from query.limits import EvaluationLimits
from query.parsing import parse
from query.resolution import resolve
from query.session import Session
from query.text_form import to_text

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Samples:
    """Functions of every kind that an implementation may be."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.closed = asyncio.Event()

    @function("sample:later(Integer n) -> Integer", example="sample:later(1)")
    async def later(self, call: Call, n: int) -> int:
        """One more, awaited."""
        return n + 1

    @function("sample:pairs() -> Bag of Record", example="sample:pairs()")
    def pairs(self, call: Call) -> Iterable[dict[str, Any]]:
        """Two records."""
        yield {"k": "a", "v": 1}
        yield {"k": "b", "v": 2}

    @function("sample:endless() -> Bag of Integer", example="select x from x in sample:endless() limit 1")
    async def endless(self, call: Call) -> AsyncIterator[int]:
        """All integers from 0."""
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            self.closed.set()

    @function(
        "sample:write(String text) -> Boolean", role=Role.ADMIN, effect=Effect.CHANGES, example='sample:write("a")'
    )
    def write(self, call: Call, text: str) -> bool:
        """Note a text."""
        self.written.append(text)
        return True

    @function("sample:broken() -> Object", example="sample:broken()")
    def broken(self, call: Call) -> Any:
        """What is no value."""
        return {1, 2}

    @function("sample:kind(Integer x) -> String", example="sample:kind(1)")
    def kind_of_integer(self, call: Call, x: int) -> str:
        """Which overload was chosen."""
        return "integer"

    @function("sample:kind(String x) -> String", example="sample:kind('a')")
    def kind_of_string(self, call: Call, x: str) -> str:
        """Which overload was chosen."""
        return "string"

    @function("sample:optional(Integer a, Integer b?) -> Vector", example="sample:optional(1)")
    def optional(self, call: Call, a: int, b: int = 7) -> list[int]:
        """Both arguments."""
        return [a, b]

    @function("sample:as_of(String x?) -> Vector", example="sample:as_of()", past=True)
    def as_of(self, call: Call, x: str = "") -> list[Any]:
        """What it was asked, and about which moment."""
        return [x, call.as_of]

    @function("sample:tuple() -> Vector", example="sample:tuple()")
    def tuple(self, call: Call) -> tuple[Any, ...]:
        """A tuple."""
        return (1, ("a", None))


class Elsewhere:
    """Declared here, at home on the nameserver."""

    @function("far:groups(String edge) -> Vector of String", home=Home.NAMESERVER, example='far:groups("E1")')
    def groups(self, call: Call, edge: str) -> list[str]:
        """The groups of an edge."""
        return [edge]

    @function("far:state() -> Record", example="far:state()")
    @function("far:state(String edge) -> Record", home=Home.NAMESERVER, example='far:state("E1")')
    def state(self, call: Call, edge: str = "") -> dict[str, Any]:
        """An edge's state; without an argument, this peer's own."""
        return {}


class Peer:
    """Holds the catalogue, as a peer does, and one session."""

    def __init__(self, *, role: Role = Role.ADMIN, bounds: EvaluationLimits | None = None) -> None:
        self.samples = Samples()
        self.current = Catalogue((*generic_declarations(), *declarations(Elsewhere), *bind(self.samples)))
        self.session = Session()
        self.call = Call(Caller("ada", role), NOW, "here")
        self.bounds = bounds or EvaluationLimits()

    def set_user_functions(self, functions: Iterable[Declaration]) -> None:
        self.current = self.current.with_functions(USER, functions)

    async def rows(self, text: str, **variables: Any) -> list[tuple[Any, ...]]:
        """The rows of all statements of a text."""
        self.session.variables.update(variables)
        found = []
        for statement in parse(text):
            plan = resolve(statement, self.current, self.session.variables)
            answer = evaluate(plan, self.call, session=self.session, catalogue=self, bounds=self.bounds)
            async with aclosing(answer):
                async for row in answer:
                    assert len(row) == len(plan.columns)
                    found.append(row)
        return found

    async def values(self, text: str, **variables: Any) -> list[Any]:
        """The values of all rows, which have one column."""
        return [value for (value,) in await self.rows(text, **variables)]

    async def value(self, text: str, **variables: Any) -> Any:
        """The one value of a text."""
        (value,) = await self.values(text, **variables)
        return value

    async def texts(self, text: str, **variables: Any) -> Sequence[str]:
        """All rows in their text form, columns apart by a blank."""
        return [" ".join(map(to_text, row)) for row in await self.rows(text, **variables)]
