"""Where a statement runs: its route from text and declarations, and its targets from what the peer knows of others.

Rules, in this order: a ``//peer:`` directive; the nameserver when a function that the statement calls is at home there;
the session's default; the peer that was asked. A function unknown here (another peer's) has no say. ``explain`` itself
goes nowhere: who runs it decides where the statement that it explains would. The expression of a ``set`` has one peer,
since its value is one session's; a target that may mean several is refused.

A target specification: ``NAME``, ``nameserver``, a comma list of these, ``all``, ``group NAME``, ``where CONDITION``.
``all`` is every edge; a condition is put to every edge (:mod:`query.conditions`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, assert_never

from query import limits
from query.catalogue import Catalogue
from query.conditions import ALWAYS, Properties, meeting, names_in, read_condition
from query.declarations import Declaration, Home
from query.errors import Problem, Span, SyntaxProblem, WrongArguments
from query.lexing import directive_text
from query.limits import over
from query.syntax import Call, Evaluate, Explain, Place, SetVariable, Statement, calls

_EXPECTED: Final = 'expected a name, "nameserver", a comma list, "all", "group NAME" or "where CONDITION"'
_PEER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_GROUP = re.compile(r"group\s+(\S+)", re.IGNORECASE)
_WHERE = re.compile(r"where(?=[\s(]|\Z)\s*(.*)", re.IGNORECASE | re.DOTALL)


class Reason(enum.Enum):
    """Why a statement goes where it goes."""

    DIRECTIVE = "the //peer: directive says so"
    HOME = "a function of it is at home on the nameserver"
    DEFAULT = "it is the session's default peer"
    HERE = "nothing sends it elsewhere"


@dataclass(frozen=True, slots=True)
class Here:
    def __str__(self) -> str:
        return "here"


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Every edge."""

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class Group:
    name: str

    def __str__(self) -> str:
        return f"group {self.name}"


@dataclass(frozen=True, slots=True)
class Peers:
    """One peer or several by name, as written; ``nameserver`` may be among them."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.names)


@dataclass(frozen=True, slots=True)
class Where:
    """The edges that meet a condition, as written; ``origin`` is where it stands in the statement's text."""

    condition: str
    origin: Span | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"where {self.condition}"


Target: TypeAlias = Here | Everywhere | Group | Peers | Where
NAMESERVER: Final = Peers(("nameserver",))


@dataclass(frozen=True, slots=True)
class Route:
    """``function`` is the one whose home decided, when one did."""

    target: Target
    reason: Reason
    function: str | None = None

    @property
    def is_here(self) -> bool:
        return isinstance(self.target, Here)

    @property
    def text(self) -> str:
        """The target in the words of a directive; ``here`` when there is none."""
        return str(self.target)

    @staticmethod
    def here() -> Route:
        """The route of a statement that nothing sends elsewhere."""
        return Route(Here(), Reason.HERE)

    def __str__(self) -> str:
        why = f"{self.function} is at home on the nameserver" if self.function else self.reason.value
        return f"{self.target}, because {why}"


@dataclass(frozen=True, slots=True)
class Placement:
    """The names of the peers that run a statement, each once, in the spelling of the directory.

    ``unmatched``: how many a condition was put to that do not meet it.
    """

    targets: tuple[str, ...]
    route: Route
    unmatched: int = 0


class Directory(Protocol):
    """What a peer knows of the others. Names compare without case."""

    def here(self) -> str: ...

    def nameserver(self) -> str: ...

    def edges(self) -> tuple[str, ...]: ...

    def group(self, name: str) -> tuple[str, ...]:
        """The group's members. Raises UnknownName with the nearest group."""

    def properties(self) -> Sequence[tuple[str, Properties]]:
        """Every edge's name and properties, in the order of ``edges``."""

    def find(self, name: str) -> str:
        """The spelling of a peer's name. Raises UnknownName with the nearest peer."""


def parse_target(text: str, *, span: Span | None = None, origin: Span | None = None) -> Target:
    """A target specification. Raises a :class:`Problem`, at ``span`` or, in a condition, counted from ``origin``, where
    the text begins.
    """
    stripped = text.strip()
    where = _WHERE.fullmatch(stripped)
    if where:
        begins = _further(origin, text.index(stripped) + where.start(1))
        try:
            read_condition(where[1], origin=begins)
        except Problem as problem:
            raise problem.at(span) from None
        return Where(where[1], begins)
    if stripped.casefold() == "all":
        return Everywhere()
    group = _GROUP.fullmatch(stripped)
    if group:
        return Group(_checked("group", group[1], span))
    names = tuple(name.strip() for name in stripped.split(","))
    if len(names) > limits.TARGETS_MAX:
        raise over("a list of targets", limits.TARGETS_MAX, len(names), "names").at(span)
    return Peers(tuple(dict.fromkeys(_checked("peer", name, span) for name in names)))


def _further(origin: Span | None, characters: int) -> Span | None:
    """A place some characters further on its line."""
    if origin is None:
        return None
    return Span(origin.line, origin.column + characters, origin.end_line, origin.end_column)


def _checked(kind: str, name: str, span: Span | None) -> str:
    reserved = name.casefold() in ("all", "group", "where") or (kind == "group" and name.casefold() == "nameserver")
    if reserved and not (kind == "group" and name.casefold() == "all"):
        raise SyntaxProblem(
            f'"{name[:80]}" is reserved and names no {kind}: {_EXPECTED}',
            span=span,
        )
    if not _PEER.fullmatch(name):
        bare = name.strip("\"'")
        raise SyntaxProblem(
            f"a {kind} stands without quotes: //peer: {'group ' if kind == 'group' else ''}{bare}"
            if bare != name and _PEER.fullmatch(bare)
            else f'"{name[:80]}" is no name of a {kind}: {_EXPECTED}',
            span=span,
        )
    return name


def route(statement: Statement, catalogue: Catalogue, *, default: str | Sequence[str] | None = None) -> Route:
    """Where a statement goes. ``default`` is the session's default peer: a target specification or names.

    Raises for a directive that cannot be honoured, before anything runs; and :class:`WrongArguments` for a ``set``
    whose target may be several peers.
    """
    going = _route(statement, catalogue, default)
    if statement.directives.wait_s is not None:
        _check_wait(statement, catalogue, going.target)
    if type(statement.body) is SetVariable and not _is_one(going.target):
        place = statement.directives.peer_place if going.reason is Reason.DIRECTIVE else statement.body.place
        raise WrongArguments(
            f'set takes the value of one peer, and "{going.target}" may mean several',
            span=statement.source.span(place),
            hint='name one peer above it: "//peer: NAME"',
        )
    return going


def _check_wait(statement: Statement, catalogue: Catalogue, target: Target) -> None:
    """Raises for what cannot wait: a variable's value, and, beside edges, what only the nameserver can do: that may
    give a secret, which nobody is to keep.
    """
    span = statement.source.span(statement.directives.wait_place)
    if type(statement.body) is SetVariable:
        raise WrongArguments(
            "set takes a value now, and //wait: is for answers that come later",
            span=span,
            hint="leave //wait: out, or ask the expression alone",
        )
    if isinstance(target, Here) or target == NAMESERVER:
        return
    for call in calls(statement.body):
        if at_nameserver(call, catalogue):
            raise WrongArguments(
                f'{call.name} is at home on the nameserver, and "{target}" with //wait: means edges',
                span=span,
                hint='write "//peer: nameserver" above it, or nothing',
            )


def _is_one(target: Target) -> bool:
    match target:
        case Here():
            return True
        case Peers(names):
            return len(names) == 1
        case _:
            return False


def _route(statement: Statement, catalogue: Catalogue, default: str | Sequence[str] | None) -> Route:
    directives = statement.directives
    if directives.peer is not None:
        span = statement.source.span(directives.peer_place)
        origin = statement.source.span(_value_place(statement))
        return Route(parse_target(directives.peer, span=span, origin=origin), Reason.DIRECTIVE)
    match statement.body:
        case Explain():
            return Route.here()
        case Evaluate(value) | SetVariable(_, value):
            for call in calls(value):
                if at_nameserver(call, catalogue):
                    return Route(NAMESERVER, Reason.HOME, call.name)
        case _:
            pass
    if default:
        text = default if isinstance(default, str) else ",".join(default)
        return Route(parse_target(text), Reason.DEFAULT)
    return Route(Here(), Reason.HERE)


def _value_place(statement: Statement) -> Place:
    """Where the value of the ``//peer:`` directive stands."""
    start, end = statement.directives.peer_place
    found = directive_text(statement.source.text[start:end])
    return Place((start + found[2], end) if found else (start, end))


def at_nameserver(call: Call, catalogue: Catalogue) -> bool:
    """Whether the overload that a call means is at home on the nameserver, as far as its arguments' number tells."""
    overloads = catalogue.lookup(call.name)
    fitting = [declared for declared in overloads if len(call.arguments) in declared.arity]
    return any(declared.home is Home.NAMESERVER for declared in fitting or overloads)


def away_from_home(declared: Declaration, *, span: Span | None = None) -> Problem:
    """The error of a function that has no implementation where it was run."""
    from query.errors import WrongHome

    if declared.home is Home.NAMESERVER:
        return WrongHome(
            f"{declared.name} is at home on the nameserver",
            span=span,
            hint='add "//peer: nameserver" above the statement',
        )
    return WrongHome(f"{declared.name} has no implementation on this peer", span=span)


def place(route: Route, directory: Directory) -> Placement:
    """The peers that a route means. Raises UnknownName; a group or federation without edges is an error too."""
    targets: tuple[str, ...]
    unmatched = 0
    match route.target:
        case Here():
            targets = (directory.here(),)
        case Everywhere():
            targets = directory.edges()
        case Group(name):
            targets = directory.edges() if name.casefold() == "all" else directory.group(name)
        case Peers(names):
            targets = tuple(
                directory.nameserver() if name.casefold() == "nameserver" else directory.find(name) for name in names
            )
        case Where(condition, origin):
            edges = directory.properties()
            targets, unmatched = meeting(condition, edges, origin=origin)
            if not targets and edges:
                raise _nobody(route.target, edges)
        case _:
            assert_never(route.target)
    if not targets:
        what = (
            "the federation has no edges"
            if isinstance(route.target, Everywhere | Where)
            else f"{route.target} has no edges"
        )
        shown = str(route.target) if isinstance(route.target, Where) else f'"{route.target}"'
        raise WrongArguments(f"{shown} means no peer: {what}")
    return Placement(tuple(dict.fromkeys(targets)), route, unmatched)


def _nobody(where: Where, edges: Sequence[tuple[str, Properties]]) -> WrongArguments:
    """That a condition means nobody, and of which properties it could not know."""
    told = {name.casefold() for _, known in edges for name, value in known.items() if value is not None}
    missing = [name for name in names_in(where.condition) if name.casefold() in ALWAYS and name.casefold() not in told]
    hint = None
    if missing:
        hint = f'no edge has a "{missing[0]}": edge:set_property(edge, "{missing[0]}", value) gives it one'
    elif "name" in names_in(where.condition):
        hint = f'names are shown in upper case: name = "{edges[0][0].upper()}"'
    nobody = "the only edge does not meet it" if len(edges) == 1 else f"none of {len(edges)} edges meets it"
    return WrongArguments(f"{where} means no peer: {nobody}", span=where.origin, hint=hint)
