"""What is wrong with a script, statement by statement, before anything runs: for editors.

    text → statements, each parsed for itself when the whole is not → resolved against the catalogue of where each goes,
           with the functions that the script has made so far → problems with their places

Pure. Errors are what running the text would raise, as far as the text shows it. Only a warning: a variable that the
script never sets (the session may have it), a peer or group that nobody has told of, a function that is unknown here
but may be known at a peer whose catalogue is not, and a comment that was probably meant to be a directive. At most
``DIAGNOSES_MAX`` are told, in the order of the text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from query import limits
from query.catalogue import BUILT_IN, USER, Catalogue, NameTaken, user_function
from query.declarations import Declaration
from query.errors import Problem, UnknownName, UserProblem, unknown
from query.knowledge import Kind, Knowledge
from query.outline import pieces
from query.parsing import parse
from query.placement import Group, Peers, Route, route
from query.resolution import resolve
from query.slips import doubtful_comments
from query.syntax import CreateFunction, DeleteFunction, Explain, Place, SetVariable, Statement, Variable, walk

DIAGNOSES_MAX: Final = 200


class DoubtfulComment(UserProblem):
    """A comment that was probably meant to be a directive; never raised, only told."""

    code = "doubtful_comment"


CatalogueAt = Callable[[str], Catalogue | None]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A problem in ``text[start:end]``; ``certain`` when running the text would raise it."""

    start: int
    end: int
    problem: Problem
    certain: bool = True


def diagnose(
    text: str, knowledge: Knowledge, *, default: str | None = None, at: CatalogueAt | None = None
) -> list[Diagnosis]:
    """The problems of a script. ``knowledge``: the default peer's; ``default``: that peer, in the words of ``//peer:``.
    ``at``: the catalogue of another peer by its folded name, None where it is not known.
    """
    looking = _Looking(knowledge, default, at or (lambda _: None))
    found: list[Diagnosis] = []
    for one in read_statements(text):
        if one.statement is None:
            assert one.problem is not None
            found.append(_placed(text, one.problem, one.offset, one.end))
        else:
            found += looking.at(one.statement, one.offset)
        if len(found) >= DIAGNOSES_MAX:
            break
    for doubt in doubtful_comments(text):
        found.append(_placed(text, DoubtfulComment(doubt.message, span=doubt.span), 0, len(text), certain=False))
    return sorted(found, key=lambda one: one.start)[:DIAGNOSES_MAX]


@dataclass(frozen=True, slots=True)
class Read:
    """A statement of a script, or why it cannot be read. Its places count from ``offset``; ``end`` is where it ends."""

    offset: int
    end: int
    statement: Statement | None = None
    problem: Problem | None = None


def read_statements(text: str) -> list[Read]:
    """The statements of a script, each read for itself when the script cannot be read as a whole; of one with more than
    it may have, the first.
    """
    try:
        return [Read(0, one.place[1], one) for one in parse(text, limit=limits.TEXT_BYTES_LOCAL_MAX)]
    except Problem as problem:
        whole = problem
    found: list[Read] = []
    wrong = False
    for piece in pieces(text)[: limits.STATEMENTS_MAX]:
        try:
            for one in parse(text[piece.start : piece.end], limit=limits.TEXT_BYTES_LOCAL_MAX):
                found.append(Read(piece.start, piece.start + one.place[1], one))
        except Problem as problem:
            wrong = True
            found.append(Read(piece.start, piece.end, problem=problem))
    return found if wrong else [Read(0, len(text), problem=whole), *found]


def with_script(text: str, knowledge: Knowledge) -> Knowledge:
    """What is known while a script is edited: also the functions that it makes and the variables that it sets."""
    made: dict[str, Declaration] = {}
    variables = set(knowledge.variables)
    for piece in pieces(text):
        first = piece.tokens[0].type
        if first == "CREATE":
            declared = _made_by(text[piece.start : piece.end])
            if declared is not None and knowledge.catalogue.owner(declared.name) != BUILT_IN:
                made[declared.name.casefold()] = declared
        elif first == "SET" and len(piece.tokens) > 1 and piece.tokens[1].type == "VARIABLE":
            variables.add(piece.tokens[1].value[1:].casefold())
    if not made and len(variables) == len(knowledge.variables):
        return knowledge
    others = [one for one in knowledge.catalogue.owned(USER) if one.name.casefold() not in made]
    catalogue = knowledge.catalogue.with_functions(USER, [*others, *made.values()])
    return replace(knowledge, catalogue=catalogue, variables=tuple(sorted(variables)))


@functools.lru_cache(maxsize=256)
def _made_by(text: str) -> Declaration | None:
    """The function that a statement makes, or None while it cannot be read."""
    try:
        statements = parse(text).statements
    except Problem:
        return None
    body = statements[0].body if len(statements) == 1 else None
    return user_function(body, statements[0].source) if isinstance(body, CreateFunction) else None


def _placed(text: str, problem: Problem, offset: int, end: int, *, certain: bool = True) -> Diagnosis:
    """A diagnosis with the offsets of a problem's span, which counts in the text from ``offset`` on."""
    span = problem.span
    if span is None:
        return Diagnosis(offset, end, problem, certain)
    return Diagnosis(
        _offset(text, offset, span.line, span.column),
        _offset(text, offset, span.end_line, span.end_column),
        problem,
        certain,
    )


def _offset(text: str, origin: int, line: int, column: int) -> int:
    for _ in range(line - 1):
        origin = text.find("\n", origin) + 1
    return min(origin + column - 1, len(text))


class _Looking:
    """One pass over a script: what it has made so far, and the problems of one statement after the other."""

    def __init__(self, knowledge: Knowledge, default: str | None, at: CatalogueAt) -> None:
        self._knowledge = knowledge
        self._default = default
        self._at = at
        self._variables: dict[str, Any] = dict.fromkeys(name.casefold() for name in knowledge.variables)
        self._made: dict[str, Declaration | None] = {}  # None: deleted
        self._layered: dict[int, tuple[Catalogue, Catalogue]] = {}

    def at(self, statement: Statement, offset: int) -> Iterator[Diagnosis]:
        text = statement.source.text
        going, problem = self._route(statement)
        if problem is not None:
            yield _moved(_placed(text, problem, 0, statement.place[1]), offset)
        if going is not None:
            for place, warning in self._names(statement, going):
                yield Diagnosis(place[0] + offset, place[1] + offset, warning, certain=False)
        body = statement.body
        while isinstance(body, Explain):
            body = body.body
        for node in walk(body):
            if isinstance(node, Variable) and node.name.casefold() not in self._variables:
                absent = UnknownName(f"nothing above sets :{node.name}", hint="unless the session has it")
                yield Diagnosis(node.place[0] + offset, node.place[1] + offset, absent, certain=False)
        inner = Statement(body, statement.directives, statement.source, place=statement.place)
        base, known = self._catalogue(going)
        yield from (_moved(one, offset) for one in self._resolved(inner, base, known))
        if not isinstance(statement.body, Explain):
            self._take_up(statement)

    def _route(self, statement: Statement) -> tuple[Route | None, Problem | None]:
        try:
            return route(statement, self._over(self._knowledge.catalogue), default=self._default), None
        except Problem as problem:
            return None, problem

    def _names(self, statement: Statement, going: Route) -> Iterator[tuple[Place, Problem]]:
        """Names in a directive that nobody has told of."""
        if statement.directives.peer is None:
            return
        place = statement.directives.peer_place
        kind = Kind.PEER
        names: tuple[str, ...] = ()
        match going.target:
            case Peers(names=written):
                names = tuple(name for name in written if name.casefold() != "nameserver")
            case Group(name=name):
                kind, names = Kind.GROUP, (name,)
        known = self._knowledge.of_kind(kind)
        folded = {name.casefold() for name in known}
        for name in names:
            if known and name.casefold() not in folded:
                yield place, unknown(kind.value, name, known)

    def _catalogue(self, going: Route | None) -> tuple[Catalogue, bool]:
        """The catalogue of where a statement goes, and whether it is that."""
        own = self._knowledge.catalogue
        if going is None or going.is_here or going.text == self._default:
            return own, self._knowledge.peer is not None
        if isinstance(going.target, Peers) and len(going.target.names) == 1:
            there = self._at(going.target.names[0].casefold())
            return (own, False) if there is None else (there, True)
        return own, False

    def _over(self, catalogue: Catalogue) -> Catalogue:
        """A peer's catalogue with what the script has made and deleted."""
        if not self._made:
            return catalogue
        known = self._layered.get(id(catalogue))
        if known is None:
            others = [one for one in catalogue.owned(USER) if one.name.casefold() not in self._made]
            made = [one for one in self._made.values() if one is not None]
            known = self._layered[id(catalogue)] = (catalogue, catalogue.with_functions(USER, [*others, *made]))
        return known[1]

    def _resolved(self, statement: Statement, base: Catalogue, known: bool) -> Iterator[Diagnosis]:
        text, end = statement.source.text, statement.place[1]
        body = statement.body
        variables = dict.fromkeys(
            [*self._variables, *(node.name.casefold() for node in walk(body) if isinstance(node, Variable))]
        )
        try:
            resolve(statement, self._over(base), variables)
        except Problem as problem:
            sure = known or not isinstance(problem, UnknownName)
            yield _placed(text, problem.at(statement.source.span(body.place)), 0, end, certain=sure)
        if isinstance(body, CreateFunction) and not body.replace:
            folded = body.name.casefold()
            if self._made.get(folded) is not None or (folded not in self._made and base.owner(body.name) == USER):
                taken = NameTaken(f'a function "{body.name}" exists', hint="write create or replace function")
                certain = self._made.get(folded) is not None
                yield Diagnosis(body.place[0], body.place[1], taken, certain)

    def _take_up(self, statement: Statement) -> None:
        """What a statement leaves to those below it."""
        body = statement.body
        if isinstance(body, SetVariable):
            self._variables[body.name.casefold()] = None
        elif isinstance(body, CreateFunction):
            if self._knowledge.catalogue.owner(body.name) == BUILT_IN:
                return
            self._made[body.name.casefold()] = user_function(body, statement.source)
        elif isinstance(body, DeleteFunction):
            self._made[body.name.casefold()] = None
        else:
            return
        self._layered.clear()


def _moved(one: Diagnosis, offset: int) -> Diagnosis:
    return Diagnosis(one.start + offset, one.end + offset, one.problem, one.certain)
