"""Expression → step: names, operators and the mapping of bags, for one statement or function body.

Pure. A problem is raised as :class:`Misplaced`, with the node where it arose; who knows the text makes a span of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from query.catalogue import Catalogue
from query.constants import NAMED
from query.declarations import Declaration
from query.errors import BadStatement, Problem, WrongArguments, unknown
from query.plan import (
    Choose,
    Constant,
    Convert,
    Each,
    Local,
    Logic,
    MakeRecord,
    MakeVector,
    Member,
    Operate,
    Parameter,
    Query,
    Step,
)
from query.slips import NAMES, QUOTES
from query.syntax import (
    AsOf,
    Between,
    Binary,
    Call,
    Case,
    Cast,
    Field,
    Index,
    IsNull,
    Literal,
    Name,
    Node,
    Place,
    RecordOf,
    Select,
    Unary,
    Variable,
    VectorOf,
)
from query.types import BOOLEAN, INTEGER, NUMBER, OBJECT, REAL, RECORD, STRING, VECTOR, Type
from query.values import type_of

WHOLE: Final = ("Bag", "Stream")
"""Types that stand for a collection taken whole, not for a value."""


class Misplaced(Exception):
    """A problem and where it arose."""

    def __init__(self, problem: Problem, place: Place) -> None:
        self.problem = problem
        self.place = place


def wrong(problem: Problem, node: Node) -> Misplaced:
    return Misplaced(problem, node.place)


@dataclass(slots=True)
class Scope:
    """The variables that a text may name at a place: folded name → step. ``grouped``: the slots of the select's rows
    while its items are resolved, where a bag function of them means the group."""

    names: dict[str, Step] = field(default_factory=dict)
    grouped: frozenset[int] = frozenset()
    group_slot: int | None = None
    aggregates: list[Node] = field(default_factory=list)


class Resolver:
    """One statement's or body's resolution. ``variables`` None: a body, which sees its parameters only."""

    def __init__(self, catalogue: Catalogue, variables: Mapping[str, Any] | None) -> None:
        self.catalogue = catalogue
        self.variables = variables
        self.functions: dict[int, Declaration] = {}
        self.slots = 0

    # statements and bodies

    def new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    # expressions

    def step(self, node: Node, scope: Scope) -> Step:
        """One value or many, as the expression is."""
        found: Step = _RESOLVE[type(node)](self, node, scope)
        return found

    def single(self, node: Node, scope: Scope, lifted: list[Each]) -> Step:
        """One value: a bag becomes a variable that goes through it, noted in ``lifted``."""
        step = self.step(node, scope)
        return self.lift(step, lifted) if step.many else step

    def lift(self, step: Step, lifted: list[Each]) -> Step:
        slot = self.new_slot()
        variable = Local(slot, type=step.type, place=step.place)
        lifted.append(Each(slot, step, variable, type=step.type, many=True, place=step.place))
        return variable

    def _literal(self, node: Literal, scope: Scope) -> Step:
        return Constant(node.value, type=type_of(node.value), place=node.place)

    def _name(self, node: Name, scope: Scope) -> Step:
        found = scope.names.get(node.name.casefold())
        if found is not None:
            return found
        constant = NAMED.get(node.name.casefold())
        if constant is not None:
            return Constant(constant, type=REAL, place=node.place)
        hint = None
        if self.variables is not None and node.name.casefold() in self.variables:
            hint = f"a session variable is written :{node.name}"
        elif node.name in self.catalogue:
            hint = f"a call needs parentheses: {node.name}()"
        elif node.name.casefold() in NAMES:
            hint = NAMES[node.name.casefold()]
        elif scope.names == {}:
            hint = f'{QUOTES} "{node.name}"'
        problem = unknown("variable", node.name, scope.names)
        problem.hint = hint
        raise wrong(problem, node)

    def _variable(self, node: Variable, scope: Scope) -> Step:
        if self.variables is None:
            problem: Problem = BadStatement(
                f"a function's body cannot read the session variable :{node.name}", hint="make it a parameter"
            )
            raise wrong(problem, node)
        folded = node.name.casefold()
        if folded not in self.variables:
            known = [f":{name}" for name in self.variables]
            problem = unknown("session variable", f":{node.name}", known)
            problem.hint = f"set :{node.name} = … or send it as a parameter"
            raise wrong(problem, node)
        value = self.variables[folded]
        kind = type_of(value) if type(value) not in (list, tuple) else VECTOR
        return Parameter(folded, type=kind, place=node.place)

    def _vector(self, node: VectorOf, scope: Scope) -> Step:
        lifted: list[Each] = []
        items = tuple(self.single(item, scope, lifted) for item in node.items)
        if items and not lifted and all(type(item) is Constant for item in items):
            values = [item.value for item in items]  # type: ignore[union-attr]
            return Constant(values, type=type_of(values), place=node.place)
        return mapped(MakeVector(items, type=VECTOR, place=node.place), lifted)

    def _record(self, node: RecordOf, scope: Scope) -> Step:
        lifted: list[Each] = []
        items = tuple(self.single(item, scope, lifted) for item in node.items)
        if not lifted and all(type(item) is Constant for item in items):
            values = {key: item.value for key, item in zip(node.keys, items, strict=True)}  # type: ignore[union-attr]
            return Constant(values, type=RECORD, place=node.place)
        return mapped(MakeRecord(node.keys, items, type=RECORD, place=node.place), lifted)

    def _unary(self, node: Unary, scope: Scope) -> Step:
        lifted: list[Each] = []
        operand = self.single(node.operand, scope, lifted)
        kind = BOOLEAN if node.operator == "not" else operand.type
        sign = node.operator if node.operator == "not" else f"unary {node.operator}"
        return mapped(Operate(sign, (operand,), type=kind, place=node.place), lifted)

    def _binary(self, node: Binary, scope: Scope) -> Step:
        lifted: list[Each] = []
        left = self.single(node.left, scope, lifted)
        operator = node.operator
        if operator == "in":
            member = Member(left, self.step(node.right, scope), type=BOOLEAN, place=node.place)
            return mapped(member, lifted)
        right = self.single(node.right, scope, lifted)
        if operator in ("and", "or"):
            return mapped(Logic(operator, left, right, type=BOOLEAN, place=node.place), lifted)
        kind = _operator_type(operator, left.type, right.type)
        return mapped(Operate(operator, (left, right), type=kind, place=node.place), lifted)

    def _between(self, node: Between, scope: Scope) -> Step:
        lifted: list[Each] = []
        value, low, high = (self.single(part, scope, lifted) for part in (node.value, node.low, node.high))
        return mapped(Operate("between", (value, low, high), type=BOOLEAN, place=node.place), lifted)

    def _is_null(self, node: IsNull, scope: Scope) -> Step:
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        return mapped(Operate("is null", (value,), type=BOOLEAN, place=node.place), lifted)

    def _index(self, node: Index, scope: Scope) -> Step:
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        key = self.single(node.key, scope, lifted)
        kind = value.type.element or OBJECT
        return mapped(Operate("[]", (value, key), type=kind, place=node.place), lifted)

    def _field(self, node: Field, scope: Scope) -> Step:
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        if value.type.name not in ("Object", "Record"):
            raise wrong(WrongArguments(f".{node.name}: expected a Record, found {value.type}"), node)
        key = Constant(node.name, type=STRING, place=node.place)
        return mapped(Operate(".", (value, key), place=node.place), lifted)

    def _case(self, node: Case, scope: Scope) -> Step:
        lifted: list[Each] = []
        branches = []
        for condition, value in node.branches:
            branches.append((self.single(condition, scope, lifted), self.step(value, scope)))
        otherwise = None if node.otherwise is None else self.step(node.otherwise, scope)
        results = [value for _, value in branches] + ([otherwise] if otherwise is not None else [])
        kinds = {result.type for result in results}
        kind = kinds.pop() if len(kinds) == 1 else OBJECT
        many = any(result.many for result in results)
        return mapped(Choose(tuple(branches), otherwise, type=kind, many=many, place=node.place), lifted)

    def _cast(self, node: Cast, scope: Scope) -> Step:
        if node.type.name in WHOLE:
            raise wrong(WrongArguments(f"cast: {node.type} is no type of a value"), node)
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        return mapped(Convert(value, node.type, type=node.type, place=node.place), lifted)

    def _call(self, node: Call, scope: Scope) -> Step:
        from query.overloads import resolve_call

        return resolve_call(self, node, scope)

    def _as_of(self, node: AsOf, scope: Scope) -> Step:
        from query.overloads import resolve_call

        return resolve_call(self, node.call, scope, moment=node.time)

    def _select(self, node: Select, scope: Scope) -> Query:
        from query.selecting import resolve_select

        return resolve_select(self, node, scope)


_RESOLVE: Final[dict[type, Any]] = {
    Literal: Resolver._literal,
    Name: Resolver._name,
    Variable: Resolver._variable,
    VectorOf: Resolver._vector,
    RecordOf: Resolver._record,
    Unary: Resolver._unary,
    Binary: Resolver._binary,
    Between: Resolver._between,
    IsNull: Resolver._is_null,
    Index: Resolver._index,
    Field: Resolver._field,
    Case: Resolver._case,
    Cast: Resolver._cast,
    Call: Resolver._call,
    AsOf: Resolver._as_of,
    Select: Resolver._select,
}


def local(slot: int, declared: Type, place: Place) -> Local:
    if declared.name in WHOLE:
        return Local(slot, type=declared.element or OBJECT, many=True, place=place)
    return Local(slot, type=declared, place=place)


def mapped(body: Step, lifted: list[Each]) -> Step:
    """``body`` for all combinations of the bags that were lifted out of it, the first going slowest."""
    for each in reversed(lifted):
        body = Each(each.slot, each.source, body, type=body.type, many=True, place=body.place)
    return body


_NUMBERS: Final = ("Integer", "Real", "Number")


def _operator_type(operator: str, left: Type, right: Type) -> Type:
    """The type of an operator's result as far as the operands' types tell it."""
    if operator in ("=", "!=", "<", "<=", ">", ">=", "like"):
        return BOOLEAN
    if operator == "||" or (operator == "+" and "String" in (left.name, right.name)):
        return STRING
    if left.name in _NUMBERS and right.name in _NUMBERS:
        if operator == "/":
            return REAL
        if left == right == INTEGER and operator != "^":
            return INTEGER
        return REAL if REAL in (left, right) else NUMBER
    return OBJECT
