"""Statement → plan: every name is looked up, every call's overload chosen, every bag mapped over.

Pure. Raises for what a text alone shows to be wrong: unknown functions and variables, numbers and types of arguments, a
select's variable without a source; spans count in the statement's text. What only values show is left to evaluation.

A function's body is resolved against the catalogue that calls it, once for each catalogue (``Catalogue.derived``), so a
body always means the functions of now, and recursion needs no special case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from query import limits
from query.catalogue import Catalogue, UserFunction, user_function
from query.declarations import Declaration, Effect, Role
from query.errors import BadStatement, NotDeletable, unknown
from query.expressions import Misplaced, Resolver, Scope, local, wrong
from query.limits import over
from query.plan import (
    Assign,
    BodyPlan,
    Define,
    Forget,
    Plan,
    Query,
    Show,
    Step,
    Yield,
)
from query.slips import QUOTES, whole_word
from query.syntax import (
    Body,
    Call,
    CreateFunction,
    DeleteFunction,
    Evaluate,
    Explain,
    Field,
    Name,
    Node,
    SetVariable,
    Statement,
    Variable,
)
from query.types import STRING, Type

COLUMN_NAME_LENGTH_MAX: Final = 60


def resolve(statement: Statement, catalogue: Catalogue, variables: Mapping[str, Any]) -> Plan:
    """The plan of a statement. ``variables``: the session's, by folded name; only whether they exist matters."""
    try:
        return _plan(statement, catalogue, variables)
    except Misplaced as misplaced:
        problem, place = misplaced.problem, misplaced.place
        if problem.hint is not None and problem.hint.startswith(QUOTES):
            whole = whole_word(statement.source.text, place[0])  # line-1, of which line is the name
            problem.hint = f'{QUOTES} "{whole}"' if whole else problem.hint
        raise problem.at(statement.source.span(place)) from problem.__cause__


def resolve_body(function: UserFunction, catalogue: Catalogue) -> BodyPlan:
    """The plan of a user function's body, remembered in the catalogue. Errors have no span: the text is elsewhere."""
    key = ("body", id(function))  # overloads have one name
    _, found = catalogue.derived.get(key, (function, None))
    if found is None:
        try:
            found = _body(function.statement, catalogue)
        except Misplaced as misplaced:
            problem = misplaced.problem
            problem.message = f"in {function.name}: {problem.message}"
            raise problem from None
        catalogue.derived[key] = (function, found)
    body: BodyPlan = found
    return body


def check_functions(functions: Sequence[CreateFunction], catalogue: Catalogue) -> None:
    """Resolve the bodies of functions that come together and may call each other, for their errors alone.

    Raises :class:`~query.catalogue.NameTaken`, or what is wrong with the first that cannot be, without a span.
    """
    made = catalogue.with_functions("checked", map(user_function, functions))
    for statement in functions:
        try:
            _check_body(statement, made)
        except Misplaced as misplaced:
            problem = misplaced.problem
            problem.message = f"in {statement.name}: {problem.message}"
            raise problem from None


def _plan(statement: Statement, catalogue: Catalogue, variables: Mapping[str, Any]) -> Plan:
    resolver = Resolver(catalogue, variables)
    body = statement.body
    columns: tuple[tuple[str, Type], ...] = ()
    role, effect = Role.VIEWER, Effect.READS
    action: Yield | Assign | Define | Forget | Show
    if type(body) is Evaluate:
        step = resolver.step(body.value, Scope())
        columns = _columns(body.value, step)
        action = Yield(step)
    elif type(body) is SetVariable:
        action = Assign(body.name.casefold(), resolver.step(body.value, Scope()))
    elif type(body) is CreateFunction:
        _check_definition(body, catalogue)
        action, role, effect = Define(body), Role.OPERATOR, Effect.CHANGES
    elif type(body) is DeleteFunction:
        _check_deletion(body, catalogue)
        action, role, effect = Forget(body.name, body.place), Role.OPERATOR, Effect.CHANGES
    else:
        assert type(body) is Explain
        inner: Body = body.body
        action, columns = Show(inner), (("stage", STRING), ("shows", STRING))
    used = _all_functions(resolver)
    return Plan(
        statement,
        action,
        columns,
        used,
        max([role, *(declared.role for declared in used)]) if used else role,
        Effect.CHANGES if any(declared.effect is Effect.CHANGES for declared in used) else effect,
        resolver.slots,
    )


def _body(statement: CreateFunction, catalogue: Catalogue) -> BodyPlan:
    resolver = Resolver(catalogue, None)
    scope = Scope()
    for parameter in statement.parameters:
        folded = parameter.name.casefold()
        if folded in scope.names:
            raise wrong(BadStatement(f'parameter "{parameter.name}" stands twice'), parameter)
        scope.names[folded] = local(resolver.new_slot(), parameter.type, parameter.place)
    value = resolver.step(statement.body, scope)
    return BodyPlan(value, resolver.slots, tuple(resolver.functions.values()))


def _check_definition(statement: CreateFunction, catalogue: Catalogue) -> None:
    """Resolve a new function's body as if it were there already, for its errors alone."""
    made = catalogue.with_functions(
        "user", [*_others(catalogue.owned("user"), statement.name), user_function(statement)]
    )
    _check_body(statement, made)


def _check_body(statement: CreateFunction, catalogue: Catalogue) -> None:
    if len(statement.parameters) > limits.PARAMETERS_MAX:
        problem = over("a function", limits.PARAMETERS_MAX, len(statement.parameters), "parameters")
        raise wrong(problem, statement)
    _body(statement, catalogue)


def _check_deletion(body: DeleteFunction, catalogue: Catalogue) -> None:
    owner = catalogue.owner(body.name)
    if owner is None:
        names = [declared.name for declared in catalogue.owned("user")]
        raise wrong(unknown("function", body.name, names), body)
    if owner != "user":
        what = "a built-in function" if owner == "built-in" else f"a function of {owner}"
        raise wrong(NotDeletable(f'"{body.name}" is {what} and cannot be deleted'), body)


def _all_functions(resolver: Resolver) -> tuple[Declaration, ...]:
    """The declarations in use, those of user functions' bodies included."""
    waiting = list(resolver.functions.values())
    if not any(type(declared) is UserFunction for declared in waiting):
        return tuple(waiting)
    found = dict(resolver.functions)
    while waiting:
        declared = waiting.pop()
        if isinstance(declared, UserFunction):
            for inner in resolve_body(declared, resolver.catalogue).functions:
                if id(inner) not in found:
                    found[id(inner)] = inner
                    waiting.append(inner)
    return tuple(found.values())


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
