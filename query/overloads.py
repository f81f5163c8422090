"""Calls: which overload a call means, what is mapped over a bag, and what is taken over a group's rows."""

from __future__ import annotations

from typing import Any

import msgspec

from query.declarations import Declaration
from query.errors import BadStatement, Problem, UnknownName, WrongArguments
from query.expressions import WHOLE, Misplaced, Resolver, Scope, mapped, wrong
from query.plan import (
    Aggregate,
    Constant,
    Each,
    Invoke,
    Local,
    Step,
)
from query.syntax import Call, Expression, Name, Place
from query.types import OBJECT, TIMESTAMP, Type
from query.values import described


def resolve_call(resolver: Resolver, node: Call, scope: Scope, *, moment: Expression | None = None) -> Step:
    """The step of a call, ``as of`` a moment. Raises for an unknown function, a wrong number and wrong types of
    arguments, and a function without a past.
    """
    overloads = resolver.catalogue.lookup(node.name)
    if not overloads:
        try:
            resolver.catalogue.require(node.name)
        except Problem as problem:
            name = Place((node.place[0], node.place[0] + len(node.name)))
            raise Misplaced(problem, name) from None
    count = len(node.arguments)
    fitting = tuple(declared for declared in overloads if count in declared.arity)
    if not fitting:
        raise wrong(_wrong_count(overloads, count), node)
    if moment is not None:
        fitting = _with_past(resolver, node, fitting)
    steps = [resolver.step(argument, scope) for argument in node.arguments]
    fitting, whole = _fitting(node, fitting, steps)
    for declared in fitting:
        resolver.functions[id(declared)] = declared
    result = fitting[0].result if len({declared.result for declared in fitting}) == 1 else OBJECT
    many = result.name in WHOLE
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
        step if takes or not step.many else resolver.lift(step, lifted)
        for takes, step in zip(whole, steps, strict=True)
    )
    when = None if moment is None else _moment(resolver, moment, scope, lifted)
    return mapped(Invoke(fitting, arguments, when, type=kind, many=many, place=node.place), lifted)


def _with_past(resolver: Resolver, node: Call, overloads: tuple[Declaration, ...]) -> tuple[Declaration, ...]:
    found = tuple(declared for declared in overloads if declared.past)
    if not found:
        known = [declared.signature.partition(" ->")[0] for declared in resolver.catalogue if declared.past]
        hint = f"as of goes with {', '.join(known)}" if known else None
        asked = overloads[0].signature.partition(" ->")[0]
        raise wrong(BadStatement(f"{asked} cannot be asked about the past", hint=hint), node)
    return found


def _moment(resolver: Resolver, node: Expression, scope: Scope, lifted: list[Each]) -> Step:
    try:
        step = resolver.single(node, scope, lifted)
    except Misplaced as misplaced:
        if isinstance(node, Name) and isinstance(misplaced.problem, UnknownName):
            misplaced.problem.hint = "a time stamp stands between bars: |2026-01-31T12:00:00Z|"
        raise
    if not _accepts(TIMESTAMP, step):
        found = described(step.value) if type(step) is Constant else str(step.type)
        raise wrong(WrongArguments(f"as of: expected Timestamp, found {found}"), node)
    return step


def _fitting(
    node: Call, overloads: tuple[Declaration, ...], steps: list[Step]
) -> tuple[tuple[Declaration, ...], tuple[bool, ...]]:
    """The overloads that the arguments' types allow, all taking the same arguments whole."""
    found = []
    for declared in overloads:
        if all(_accepts(parameter.type, step) for parameter, step in zip(declared.parameters, steps, strict=False)):
            found.append(declared)
    if not found:
        raise _wrong_type(node, overloads[0], steps)
    if len(found) > 1:
        exact = [
            declared
            for declared in found
            if all(p.type == step.type for p, step in zip(declared.parameters, steps, strict=False))
        ]
        found = exact[:1] or found
    whole = _takes_whole(found[0], len(steps))
    return tuple(declared for declared in found if _takes_whole(declared, len(steps)) == whole), whole


def _wrong_type(node: Call, declared: Declaration, steps: list[Step]) -> Misplaced:
    for parameter, step, argument in zip(declared.parameters, steps, node.arguments, strict=False):
        if not _accepts(parameter.type, step):
            found = described(step.value) if type(step) is Constant else str(step.type)
            message = f"{declared.name}: {parameter.name}: expected {parameter.type}, found {found}"
            hint = declared.signature
            if str(parameter.type).startswith("Vector") and not str(step.type).startswith("Vector"):
                hint += "; a vector of one stands in brackets: […]"
            return wrong(WrongArguments(message, hint=hint), argument)
    return wrong(WrongArguments(f"{declared.name}: wrong arguments", hint=declared.signature), node)


def _accepts(wanted: Type, step: Step) -> bool:
    if wanted.name in WHOLE:
        return True
    if type(step) is Constant and step.value is None:
        return True
    return wanted.accepts(step.type)


def _takes_whole(declared: Declaration, count: int) -> tuple[bool, ...]:
    return tuple(parameter.type.name in WHOLE for parameter in declared.parameters[:count])


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
