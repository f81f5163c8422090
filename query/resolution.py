"""Statement → plan: every name is looked up, every call's overload chosen, every bag mapped over.

Pure. Raises for what a text alone shows to be wrong: unknown functions and variables, numbers and types of arguments, a
select's variable without a source; spans count in the statement's text. What only values show is left to evaluation.

A function's body is resolved against the catalogue that calls it, once for each catalogue (``Catalogue.derived``), so a
body always means the functions of now, and recursion needs no special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from query import limits
from query.catalogue import Catalogue, UserFunction, user_function
from query.constants import NAMED
from query.declarations import Declaration, Effect, Role
from query.errors import Problem, UserProblem, WrongArguments, unknown
from query.limits import over
from query.plan import (
    Aggregate,
    Assign,
    BodyPlan,
    Choose,
    Constant,
    Convert,
    Define,
    Each,
    Forget,
    Invoke,
    Local,
    Logic,
    MakeRecord,
    MakeVector,
    Member,
    Operate,
    Parameter,
    Plan,
    Query,
    Show,
    Step,
    Yield,
)
from query.syntax import (
    Between,
    Binary,
    Body,
    Call,
    Case,
    Cast,
    CreateFunction,
    DeleteFunction,
    Evaluate,
    Explain,
    Field,
    Index,
    IsNull,
    Literal,
    Name,
    Node,
    Place,
    RecordOf,
    Select,
    SetVariable,
    Statement,
    Unary,
    Variable,
    VectorOf,
)
from query.types import BOOLEAN, INTEGER, NUMBER, OBJECT, REAL, RECORD, STRING, VECTOR, Type
from query.values import described, type_of

_WHOLE: Final = ("Bag", "Stream")
COLUMN_NAME_LENGTH_MAX: Final = 60


def resolve(statement: Statement, catalogue: Catalogue, variables: Mapping[str, Any]) -> Plan:
    """The plan of a statement. ``variables``: the session's, by folded name; only whether they exist matters."""
    resolver = Resolver(catalogue, variables)
    try:
        return resolver.plan(statement)
    except _Misplaced as misplaced:
        raise misplaced.problem.at(statement.source.span(misplaced.place)) from misplaced.problem.__cause__


def resolve_body(function: UserFunction, catalogue: Catalogue) -> BodyPlan:
    """The plan of a user function's body, remembered in the catalogue. Errors have no span: the text is elsewhere."""
    key = ("body", function.name.casefold())
    found = catalogue.derived.get(key)
    if found is None:
        resolver = Resolver(catalogue, None)
        try:
            found = resolver.body(function.statement)
        except _Misplaced as misplaced:
            problem = misplaced.problem
            problem.message = f"in {function.name}: {problem.message}"
            raise problem from None
        catalogue.derived[key] = found
    body: BodyPlan = found
    return body


class _Misplaced(Exception):  # noqa: N818 — carries a problem to where its span is known
    """A problem and where it arose."""

    def __init__(self, problem: Problem, place: Place) -> None:
        self.problem = problem
        self.place = place


def _wrong(problem: Problem, node: Node) -> _Misplaced:
    return _Misplaced(problem, node.place)


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

    def plan(self, statement: Statement) -> Plan:
        body = statement.body
        columns: tuple[tuple[str, Type], ...] = ()
        role, effect = Role.VIEWER, Effect.READS
        action: Yield | Assign | Define | Forget | Show
        if type(body) is Evaluate:
            step = self.step(body.value, Scope())
            columns = _columns(body.value, step)
            action = Yield(step)
        elif type(body) is SetVariable:
            action = Assign(body.name.casefold(), self.step(body.value, Scope()))
        elif type(body) is CreateFunction:
            self.check_definition(body)
            action, role, effect = Define(body), Role.OPERATOR, Effect.CHANGES
        elif type(body) is DeleteFunction:
            self._check_deletion(body)
            action, role, effect = Forget(body.name, body.place), Role.OPERATOR, Effect.CHANGES
        else:
            assert type(body) is Explain
            inner: Body = body.body
            action, columns = Show(inner), (("stage", STRING), ("shows", STRING))
        used = self._all_functions()
        return Plan(
            statement,
            action,
            columns,
            used,
            max([role, *(declared.role for declared in used)]) if used else role,
            Effect.CHANGES if any(declared.effect is Effect.CHANGES for declared in used) else effect,
            self.slots,
        )

    def body(self, statement: CreateFunction) -> BodyPlan:
        scope = Scope()
        for parameter in statement.parameters:
            folded = parameter.name.casefold()
            if folded in scope.names:
                raise _wrong(UserProblem(f'parameter "{parameter.name}" stands twice'), parameter)
            scope.names[folded] = _local(self.new_slot(), parameter.type, parameter.place)
        value = self.step(statement.body, scope)
        return BodyPlan(value, self.slots, tuple(self.functions.values()))

    def check_definition(self, statement: CreateFunction) -> None:
        """Resolve a new function's body as if it were there already, for its errors alone."""
        if len(statement.parameters) > limits.PARAMETERS_MAX:
            problem = over("a function", limits.PARAMETERS_MAX, len(statement.parameters), "parameters")
            raise _wrong(problem, statement)
        made = self.catalogue.with_functions(
            "user", [*_others(self.catalogue.owned("user"), statement.name), user_function(statement)]
        )
        Resolver(made, None).body(statement)

    def _check_deletion(self, body: DeleteFunction) -> None:
        owner = self.catalogue.owner(body.name)
        if owner is None:
            names = [declared.name for declared in self.catalogue.owned("user")]
            raise _wrong(unknown("function", body.name, names), body)
        if owner != "user":
            what = "a built-in function" if owner == "built-in" else f"a function of the model {owner}"
            raise _wrong(UserProblem(f'"{body.name}" is {what} and cannot be deleted'), body)

    def _all_functions(self) -> tuple[Declaration, ...]:
        """The declarations in use, those of user functions' bodies included."""
        waiting = list(self.functions.values())
        if not any(type(declared) is UserFunction for declared in waiting):
            return tuple(waiting)
        found = dict(self.functions)
        while waiting:
            declared = waiting.pop()
            if isinstance(declared, UserFunction):
                for inner in resolve_body(declared, self.catalogue).functions:
                    if id(inner) not in found:
                        found[id(inner)] = inner
                        waiting.append(inner)
        return tuple(found.values())

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
        elif scope.names == {}:
            hint = f'a string stands in quotes: "{node.name}"'
        problem = unknown("variable", node.name, scope.names)
        problem.hint = hint
        raise _wrong(problem, node)

    def _variable(self, node: Variable, scope: Scope) -> Step:
        if self.variables is None:
            problem: Problem = UserProblem(
                f"a function's body cannot read the session variable :{node.name}", hint="make it a parameter"
            )
            raise _wrong(problem, node)
        folded = node.name.casefold()
        if folded not in self.variables:
            known = [f":{name}" for name in self.variables]
            problem = unknown("session variable", f":{node.name}", known)
            problem.hint = f"set :{node.name} = … or send it as a parameter"
            raise _wrong(problem, node)
        value = self.variables[folded]
        kind = type_of(value) if type(value) not in (list, tuple) else VECTOR
        return Parameter(folded, type=kind, place=node.place)

    def _vector(self, node: VectorOf, scope: Scope) -> Step:
        lifted: list[Each] = []
        items = tuple(self.single(item, scope, lifted) for item in node.items)
        if items and not lifted and all(type(item) is Constant for item in items):
            values = [item.value for item in items]  # type: ignore[union-attr]
            return Constant(values, type=type_of(values), place=node.place)
        return _each(MakeVector(items, type=VECTOR, place=node.place), lifted)

    def _record(self, node: RecordOf, scope: Scope) -> Step:
        lifted: list[Each] = []
        items = tuple(self.single(item, scope, lifted) for item in node.items)
        if not lifted and all(type(item) is Constant for item in items):
            values = {key: item.value for key, item in zip(node.keys, items, strict=True)}  # type: ignore[union-attr]
            return Constant(values, type=RECORD, place=node.place)
        return _each(MakeRecord(node.keys, items, type=RECORD, place=node.place), lifted)

    def _unary(self, node: Unary, scope: Scope) -> Step:
        lifted: list[Each] = []
        operand = self.single(node.operand, scope, lifted)
        kind = BOOLEAN if node.operator == "not" else operand.type
        sign = node.operator if node.operator == "not" else f"unary {node.operator}"
        return _each(Operate(sign, (operand,), type=kind, place=node.place), lifted)

    def _binary(self, node: Binary, scope: Scope) -> Step:
        lifted: list[Each] = []
        left = self.single(node.left, scope, lifted)
        operator = node.operator
        if operator == "in":
            member = Member(left, self.step(node.right, scope), type=BOOLEAN, place=node.place)
            return _each(member, lifted)
        right = self.single(node.right, scope, lifted)
        if operator in ("and", "or"):
            return _each(Logic(operator, left, right, type=BOOLEAN, place=node.place), lifted)
        kind = _operator_type(operator, left.type, right.type)
        return _each(Operate(operator, (left, right), type=kind, place=node.place), lifted)

    def _between(self, node: Between, scope: Scope) -> Step:
        lifted: list[Each] = []
        value, low, high = (self.single(part, scope, lifted) for part in (node.value, node.low, node.high))
        return _each(Operate("between", (value, low, high), type=BOOLEAN, place=node.place), lifted)

    def _is_null(self, node: IsNull, scope: Scope) -> Step:
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        return _each(Operate("is null", (value,), type=BOOLEAN, place=node.place), lifted)

    def _index(self, node: Index, scope: Scope) -> Step:
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        key = self.single(node.key, scope, lifted)
        kind = value.type.element or OBJECT
        return _each(Operate("[]", (value, key), type=kind, place=node.place), lifted)

    def _field(self, node: Field, scope: Scope) -> Step:
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        if value.type.name not in ("Object", "Record"):
            raise _wrong(WrongArguments(f".{node.name}: expected a Record, found {value.type}"), node)
        key = Constant(node.name, type=STRING, place=node.place)
        return _each(Operate(".", (value, key), place=node.place), lifted)

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
        return _each(Choose(tuple(branches), otherwise, type=kind, many=many, place=node.place), lifted)

    def _cast(self, node: Cast, scope: Scope) -> Step:
        if node.type.name in _WHOLE:
            raise _wrong(WrongArguments(f"cast: {node.type} is no type of a value"), node)
        lifted: list[Each] = []
        value = self.single(node.value, scope, lifted)
        return _each(Convert(value, node.type, type=node.type, place=node.place), lifted)

    def _call(self, node: Call, scope: Scope) -> Step:
        overloads = self.catalogue.lookup(node.name)
        if not overloads:
            try:
                self.catalogue.require(node.name)
            except Problem as problem:
                raise _wrong(problem, node) from None
        count = len(node.arguments)
        fitting = tuple(declared for declared in overloads if count in declared.arity)
        if not fitting:
            raise _wrong(_wrong_count(overloads, count), node)
        steps = [self.step(argument, scope) for argument in node.arguments]
        fitting, whole = self._fitting(node, fitting, steps)
        for declared in fitting:
            self.functions[id(declared)] = declared
        result = fitting[0].result if len({declared.result for declared in fitting}) == 1 else OBJECT
        many = result.name in _WHOLE
        kind = (result.element or OBJECT) if many else result
        if scope.group_slot is not None and any(
            takes and not step.many and step.type.name not in ("Vector", "Tensor") and _uses(step, scope.grouped)
            for takes, step in zip(whole, steps, strict=True)
        ):
            scope.aggregates.append(node)
            slot = scope.group_slot
            return Aggregate(fitting, tuple(steps), slot, type=kind, many=many, place=node.place)
        lifted: list[Each] = []
        arguments = tuple(
            step if takes or not step.many else self.lift(step, lifted)
            for takes, step in zip(whole, steps, strict=True)
        )
        return _each(Invoke(fitting, arguments, type=kind, many=many, place=node.place), lifted)

    def _fitting(
        self, node: Call, overloads: tuple[Declaration, ...], steps: list[Step]
    ) -> tuple[tuple[Declaration, ...], tuple[bool, ...]]:
        """The overloads that the arguments' types allow, all taking the same arguments whole."""
        found = []
        for declared in overloads:
            if all(_accepts(parameter.type, step) for parameter, step in zip(declared.parameters, steps, strict=False)):
                found.append(declared)
        if not found:
            raise self._wrong_type(node, overloads[0], steps)
        if len(found) > 1:
            exact = [
                declared
                for declared in found
                if all(p.type == step.type for p, step in zip(declared.parameters, steps, strict=False))
            ]
            found = exact[:1] or found
        whole = _takes_whole(found[0], len(steps))
        return tuple(declared for declared in found if _takes_whole(declared, len(steps)) == whole), whole

    def _wrong_type(self, node: Call, declared: Declaration, steps: list[Step]) -> _Misplaced:
        for parameter, step, argument in zip(declared.parameters, steps, node.arguments, strict=False):
            if not _accepts(parameter.type, step):
                found = described(step.value) if type(step) is Constant else str(step.type)
                message = f"{declared.name}: {parameter.name}: expected {parameter.type}, found {found}"
                return _wrong(WrongArguments(message, hint=declared.signature), argument)
        return _wrong(WrongArguments(f"{declared.name}: wrong arguments", hint=declared.signature), node)

    def _select(self, node: Select, scope: Scope) -> Query:
        from query.selecting import resolve_select

        return resolve_select(self, node, scope)


def wrong(problem: Problem, node: Node) -> Exception:
    """What resolution raises for a problem at a node."""
    return _wrong(problem, node)


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
    Select: Resolver._select,
}


def _local(slot: int, declared: Type, place: Place) -> Local:
    if declared.name in _WHOLE:
        return Local(slot, type=declared.element or OBJECT, many=True, place=place)
    return Local(slot, type=declared, place=place)


def _each(body: Step, lifted: list[Each]) -> Step:
    """``body`` for all combinations of the bags that were lifted out of it, the first going slowest."""
    for each in reversed(lifted):
        body = Each(each.slot, each.source, body, type=body.type, many=True, place=body.place)
    return body


def _accepts(wanted: Type, step: Step) -> bool:
    if wanted.name in _WHOLE:
        return True
    if type(step) is Constant and step.value is None:
        return True
    return wanted.accepts(step.type)


def _takes_whole(declared: Declaration, count: int) -> tuple[bool, ...]:
    return tuple(parameter.type.name in _WHOLE for parameter in declared.parameters[:count])


def _uses(step: Any, slots: frozenset[int]) -> bool:
    """Whether a step reads one of the slots outside of an aggregate."""
    if type(step) is Local:
        return step.slot in slots
    if type(step) is Aggregate or not isinstance(step, msgspec.Struct):
        return isinstance(step, tuple) and any(_uses(part, slots) for part in step)
    return any(_uses(getattr(step, name), slots) for name in step.__struct_fields__)


def _wrong_count(overloads: tuple[Declaration, ...], count: int) -> WrongArguments:
    numbers = sorted({number for declared in overloads for number in declared.arity})
    if numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
        wanted = f"{numbers[0]} to {numbers[-1]}"
    else:
        wanted = " or ".join(map(str, numbers))
    noun = "argument" if numbers == [1] else "arguments"
    signatures = "; ".join(declared.signature for declared in overloads)
    return WrongArguments(f"{overloads[0].name}: expected {wanted} {noun}, found {count}", hint=signatures)


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


def _columns(node: Node, step: Step) -> tuple[tuple[str, Type], ...]:
    if type(step) is Query and not step.into:
        return tuple((name, item.type) for name, item in zip(step.names, step.items, strict=True))
    return ((_column_name(node), step.type),)


def _column_name(node: Node) -> str:
    match node:
        case Call(name):
            return name
        case Name(name) | Field(_, name):
            return name
        case Variable(name):
            return f":{name}"
        case _:
            return "value"


def _others(declared: tuple[Declaration, ...], name: str) -> list[Declaration]:
    return [known for known in declared if known.name.casefold() != name.casefold()]
