"""Calls while they run: the overload that the arguments choose, permission, null, implementations and user functions.

A function's role and implementation are checked before each call. What it returns is checked to be a value.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from query.catalogue import UserFunction
from query.declarations import Declaration, Effect
from query.errors import Forbidden, InternalProblem, WrongArguments
from query.limits import over
from query.placement import away_from_home
from query.resolution import resolve_body
from query.values import NotAValue, described, is_tensor, matches, normal

if TYPE_CHECKING:
    from query.evaluation import Evaluation


async def called(
    evaluation: Evaluation, overloads: tuple[Declaration, ...], arguments: list[Any], *, as_of: datetime | None = None
) -> Any:
    """The one value of a call, as it would have been at a moment in the past."""
    declared, passed = chosen(evaluation, overloads, arguments)
    if passed is None:
        return None
    if isinstance(declared, UserFunction):
        return await _user_value(evaluation, declared, passed)
    call = evaluation.call if as_of is None else replace(evaluation.call, as_of=as_of)
    result = _implementation(declared)(call, *passed)
    if inspect.isawaitable(result):
        result = await result
    return returned(declared, result)


def as_moment(value: Any) -> datetime | None:
    """What stands behind ``as of``; null makes the call's answer null."""
    if value is not None and not isinstance(value, datetime):
        raise WrongArguments(f"as of: expected Timestamp, found {described(value)}")
    return value


def returned(declared: Declaration, result: Any) -> Any:
    """What an implementation gave, as a value."""
    try:
        return normal(result)
    except NotAValue as problem:
        problem.message = f"{declared.name} returned no value: {problem.message}"
        raise


async def _user_value(evaluation: Evaluation, declared: UserFunction, arguments: list[Any]) -> Any:
    body = resolve_body(declared, evaluation.catalogue)
    slots = arguments + [None] * (body.slots - len(arguments))
    with _Inside(evaluation, declared):
        if not body.value.many:
            found = await evaluation.value(body.value, slots)
        else:
            values = await evaluation.gathered(body.value, slots)
            if len(values) > 1:
                raise WrongArguments(
                    f"{declared.name}: expected one {declared.result}, found {len(values)} values",
                    hint=f"declare the function -> Bag of {declared.result}",
                )
            found = values[0] if values else None
        _check_result(declared, found)
    return found


def _check_result(declared: UserFunction, found: Any) -> None:
    wanted = declared.result
    if wanted.name in ("Bag", "Stream"):
        if wanted.element is None:
            return
        wanted = wanted.element
    if not matches(found, wanted):
        raise WrongArguments(f"{declared.name}: expected a result of {wanted}, found {described(found)}")


def chosen(
    evaluation: Evaluation, overloads: tuple[Declaration, ...], arguments: list[Any]
) -> tuple[Declaration, list[Any] | None]:
    """The overload for these arguments, and what it is passed; None: an argument is null, and so is the result."""
    declared = overloads[0]
    if len(overloads) > 1:
        for candidate in overloads:
            pairs = zip(candidate.parameters, arguments, strict=False)
            if all(p.type.name in ("Bag", "Stream") or matches(value, p.type) for p, value in pairs):
                declared = candidate
                break
    passed = list(arguments)
    null = False
    for position, (parameter, value) in enumerate(zip(declared.parameters, arguments, strict=False)):
        wanted = parameter.type
        if wanted.name in ("Bag", "Stream"):
            passed[position] = as_bag(value)
        elif value is None:
            null = null or wanted.name != "Object"
            if null and declared.effect is Effect.CHANGES:
                raise WrongArguments(f"{declared.name}: {parameter.name}: expected {wanted}, found null")
        elif not matches(value, wanted):
            raise WrongArguments(
                f"{declared.name}: {parameter.name}: expected {wanted}, found {described(value)}",
                hint=declared.signature,
            )
    _permit(evaluation, declared)
    return declared, (None if null and not isinstance(declared, UserFunction) else passed)


def _permit(evaluation: Evaluation, declared: Declaration) -> None:
    if declared.role > evaluation.call.caller.role:
        raise Forbidden(
            f"{declared.name} needs the role {declared.role.name.lower()}, "
            f'and "{evaluation.call.caller.name}" is {evaluation.call.caller.role.name.lower()} here'
        )


def _implementation(declared: Declaration) -> Callable[..., Any]:
    if declared.implementation is None:
        raise away_from_home(declared)
    return declared.implementation


async def _user_elements(evaluation: Evaluation, declared: UserFunction, arguments: list[Any]) -> list[Any]:
    """All elements at once: the caller's place in recursion is left before the next one is asked for."""
    body = resolve_body(declared, evaluation.catalogue)
    slots = arguments + [None] * (body.slots - len(arguments))
    with _Inside(evaluation, declared):
        found = await evaluation.collected(evaluation.iterated(body.value, slots))
        for element in found:
            _check_result(declared, element)
    return found


async def called_elements(
    evaluation: Evaluation, overloads: tuple[Declaration, ...], arguments: list[Any]
) -> AsyncGenerator[Any, None]:
    """The elements of a call of a function that gives a bag, as they come."""
    declared, passed = chosen(evaluation, overloads, arguments)
    if passed is None:
        return
    if isinstance(declared, UserFunction):
        for element in await _user_elements(evaluation, declared, passed):
            yield element
        return
    result = _implementation(declared)(evaluation.call, *passed)
    if inspect.isawaitable(result):
        result = await result
    if isinstance(result, AsyncIterable):
        async with aclosing(_closing(result)) as elements:
            async for element in elements:
                yield returned(declared, element)
    elif result is not None:
        for element in _as_rows(declared, result):
            yield returned(declared, element)


class _Inside:
    """While a user function runs: its depth is counted, and errors have no place in the statement's text."""

    __slots__ = ("declared", "evaluation", "source")

    def __init__(self, evaluation: Evaluation, declared: UserFunction) -> None:
        self.evaluation = evaluation
        self.declared = declared
        self.source = evaluation.source

    def __enter__(self) -> None:
        evaluation = self.evaluation
        if evaluation.calls >= evaluation.bounds.recursion:
            raise over(f"{self.declared.name}: recursion", evaluation.bounds.recursion, "more", "calls inside calls")
        evaluation.calls += 1
        evaluation.source = None

    def __exit__(self, *_: object) -> None:
        self.evaluation.calls -= 1
        self.evaluation.source = self.source


def as_bag(value: Any, *, null_is_empty: bool = False) -> list[Any]:
    """A single value where a bag is taken: a vector's or tensor's elements, or a bag of one."""
    if type(value) is list:
        return value
    if is_tensor(value) and value.ndim:
        found: list[Any] = value.tolist() if value.ndim == 1 else list(value)
        return found
    return [] if value is None and null_is_empty else [value]


def _as_rows(declared: Declaration, result: Any) -> Iterable[Any]:
    if isinstance(result, str | dict) or not isinstance(result, Iterable):
        raise InternalProblem(f"{declared.name} returned {type(result).__name__}, expected an iterable of rows")
    return result


async def _closing(result: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """An implementation's async iterable, closed when the evaluation ends early."""
    if isinstance(result, AsyncGenerator):
        async with aclosing(result):
            async for element in result:
                yield element
    else:
        async for element in result:
            yield element
