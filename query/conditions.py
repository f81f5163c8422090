"""Conditions over the properties of edges, as in ``//peer: where arch = "arm64" and "lab" in tags``.

Owns what may stand in a condition, and whom it means. Everywhere it is read, so that a wrong one is told where it was
written; only who knows the properties decides.

Rules: a condition is an expression of the language, of properties by their names, operators and the functions whose
result depends on their arguments alone; no select, call of another kind, session variable or moment. A property that
an edge does not have is null, and an edge is meant where the condition is true, not where it is null. Names compare
without case. ``properties["rack-no"]`` reaches what is no name. A name that no edge has is unknown, except for those of
:data:`ALWAYS`. The work for one edge is bounded by the text's length and what is bounded in every expression, and that
for all of them by :data:`WORK_S_MAX`: nobody else is served meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from query.errors import BadStatement, Problem, Span, SyntaxProblem, WrongArguments, unknown
from query.expressions import Misplaced, Resolver, Scope
from query.limits import over
from query.parsing import parse
from query.plan import Local
from query.syntax import AsOf, Binary, Evaluate, Name, Node, Select, Statement, Variable, shifted, walk
from query.types import BOOLEAN, OBJECT, RECORD

ALWAYS: Final = ("name", "groups", "tags", "mode", "site", "arch", "os", "python", "cores", "memory", "version")
"""Names that a condition may use whether or not any edge has such a property."""

WORK_S_MAX: Final = 1.0  # of this thread, for all edges; 10 000 take some hundredths with an ordinary condition

PROPERTIES: Final = "properties"
"""The name of the record of all of an edge's properties."""

_EXPECTED: Final = 'expected a condition such as arch = "arm64" and "lab" in tags'

Properties = Mapping[str, Any]
"""One edge's: its properties by name, as written."""


def read_condition(text: str, *, origin: Span | None = None) -> Statement:
    """A condition's syntax. Raises a :class:`Problem` with a place counted from ``origin``, where the text begins."""
    try:
        return _read(text)
    except Problem as problem:
        raise moved(problem, origin) from None


def moved(problem: Problem, origin: Span | None) -> Problem:
    """A problem whose place counts in a condition, with the place in the text that the condition stands in."""
    problem.span = shifted(problem.span, origin) if problem.span is not None and origin is not None else None
    return problem


def _read(text: str) -> Statement:
    script = parse(text)
    if not script.statements:
        raise SyntaxProblem(f"where: {_EXPECTED}, found nothing")
    if len(script.statements) > 1:
        raise SyntaxProblem(f"where: {_EXPECTED}, found several statements", span=script.statements[1].span)
    statement = script.statements[0]
    body = statement.body
    if not isinstance(body, Evaluate):
        raise SyntaxProblem(f"where: {_EXPECTED}, found a statement", span=statement.span)
    for node in walk(body):
        what = _FORBIDDEN.get(type(node))
        if what is not None:
            raise BadStatement(
                f"where: {_EXPECTED}, found {what}", span=statement.source.span(node.place), hint=_HINTS.get(type(node))
            )
    return statement


_FORBIDDEN: Final[Mapping[type[Node], str]] = {
    Select: "a select",
    Variable: "a session variable",
    AsOf: "a moment in the past",
}
_HINTS: Final[Mapping[type[Node], str]] = {Variable: "write the value itself"}


def meeting(
    text: str,
    edges: Sequence[tuple[str, Properties]],
    *,
    origin: Span | None = None,
    work_s_max: float = WORK_S_MAX,
) -> tuple[tuple[str, ...], int]:
    """The names of the edges that a condition means, in their order, and how many it does not mean.

    Raises a :class:`Problem` for what may not stand in it, a property that nobody has, an edge for which the
    condition has no meaning, and a condition that takes too long.
    """
    try:
        statement = read_condition(text)
        decide = _Decision(statement, edges)
        until = time.thread_time() + work_s_max
        names = []
        for name, properties in edges:
            if decide(name, properties):
                names.append(name)
            if time.thread_time() > until:
                problem = over(
                    "a condition over all edges", work_s_max, "more", "s of work", hint="write a simpler one"
                )
                raise problem.at(statement.span)
    except Problem as problem:
        raise moved(problem, origin) from None
    return tuple(names), len(edges) - len(names)


class _Decision:
    """A condition, ready to be put to one edge after the other. Equal properties are decided once."""

    def __init__(self, statement: Statement, edges: Sequence[tuple[str, Properties]]) -> None:
        from query.row_expressions import pure_catalogue

        self._span = statement.span
        resolver = Resolver(pure_catalogue(), None)
        scope = Scope()
        self._read: list[tuple[int, str, tuple[str, ...]]] = []
        self._spellings = spellings_of(edges)
        body = statement.body
        assert isinstance(body, Evaluate)
        self._compared_with = {id(node.right) for node in walk(body) if isinstance(node, Binary)}
        try:
            for node in walk(body):
                if isinstance(node, Name):
                    self._name(node, resolver, scope, edges)
            self._of_row = _compiled(statement, resolver, scope)
        except Misplaced as misplaced:
            raise misplaced.problem.at(statement.source.span(misplaced.place)) from None
        self._slots = resolver.slots
        self._whole = any(name == PROPERTIES for _, name, _ in self._read)
        self._known: dict[tuple[Any, ...], bool] = {}

    def _name(self, node: Name, resolver: Resolver, scope: Scope, edges: Sequence[tuple[str, Properties]]) -> None:
        from query.constants import NAMED

        folded = node.name.casefold()
        if folded in scope.names:
            return
        known = self._spellings.get(folded, ())
        if folded not in (*ALWAYS, PROPERTIES) and not any(
            properties.get(name) is not None for _, properties in edges for name in known
        ):
            if folded in NAMED:
                return
            names = {name: None for spellings in self._spellings.values() for name in spellings}
            problem = unknown("property", node.name, (*ALWAYS, *names))
            if "did you mean" not in problem.message:
                problem.hint = (
                    f'a text stands in quotes: "{node.name}"'
                    if id(node) in self._compared_with
                    else f'edge:set_property(edge, "{node.name}", value) gives an edge one'
                )
            raise Misplaced(problem, node.place)
        slot = resolver.new_slot()
        scope.names[folded] = Local(slot, type=RECORD if folded == PROPERTIES else OBJECT, place=node.place)
        self._read.append((slot, folded, tuple(dict.fromkeys((folded, *known)))))

    def _values(self, properties: Properties) -> list[Any]:
        """The values of all slots: of spellings that differ in case alone, the first that the edge has."""
        row: list[Any] = [None] * self._slots
        for slot, folded, spellings in self._read:
            if folded == PROPERTIES:
                row[slot] = dict(properties)
                continue
            for name in spellings:
                value = properties.get(name)
                if value is not None:
                    row[slot] = value
                    break
        return row

    def __call__(self, name: str, properties: Properties) -> bool:
        row = self._values(properties)
        key = None if self._whole else tuple((type(value), str(value)) for value in row)
        if key is not None and key in self._known:
            return self._known[key]
        try:
            found = self._of_row(row)
            if found is not None and type(found) is not bool:
                raise WrongArguments(f"{_EXPECTED}, found {found!r:.60}")
        except Problem as problem:
            problem.message = f"where, for {name.upper()}: {problem.message}"
            raise problem.at(self._span) from None
        if key is not None:
            self._known[key] = found is True
        return found is True


def _compiled(statement: Statement, resolver: Resolver, scope: Scope) -> Callable[[Sequence[Any]], Any]:
    from query.row_evaluation import row_function
    from query.row_expressions import RowExpression
    from query.row_types import UNKNOWN

    body = statement.body
    assert isinstance(body, Evaluate)
    step = resolver.step(body.value, scope)
    if step.many or step.type not in (BOOLEAN, OBJECT):
        found = "a bag" if step.many else str(step.type)
        raise Misplaced(WrongArguments(f"where: {_EXPECTED}, found {found}"), body.value.place)
    return row_function(RowExpression(statement, step, resolver.slots, {}, {}, UNKNOWN))


def names_in(text: str) -> tuple[str, ...]:
    """The properties that a condition names, each once."""
    names = (node.name for node in walk(read_condition(text).body) if isinstance(node, Name))
    return tuple(dict.fromkeys(names))


def spellings_of(edges: Sequence[tuple[str, Properties]]) -> dict[str, tuple[str, ...]]:
    """The names of all properties as they are spelt, by folded name. Most edges have the same."""
    seen = dict.fromkeys(tuple(properties) for _, properties in edges)
    found: dict[str, dict[str, None]] = {}
    for names in seen:
        for name in names:
            found.setdefault(name.casefold(), {})[name] = None
    return {folded: tuple(names) for folded, names in found.items()}
