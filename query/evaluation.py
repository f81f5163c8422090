"""Plan → rows, one at a time, on the event loop.

Owns the running of expressions and functions; :mod:`query.selection` runs selects. Reads no clock: time, caller and
peer come with the :class:`~query.declarations.Call`. Cancelling the task stops it at the next step; a long evaluation
awaits the call's ``pause`` every ``steps_between_yields`` steps.

Rules: a function's role and implementation are checked before each call, also inside functions. An argument that is
null makes a reading function's result null and is an error for one that changes something. What a function returns is
checked to be a value; what it is passed it must not change. All bounds are in :class:`~query.limits.EvaluationLimits`
and :mod:`query.limits`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, Protocol

from query import limits
from query.calling import as_bag, as_moment, called, called_elements
from query.catalogue import USER, Catalogue, NameTaken, UserFunction, user_function
from query.conversion import converted
from query.declarations import Call, Declaration
from query.errors import Problem
from query.limits import EvaluationLimits, over
from query.operators import OPERATIONS, same, truth
from query.plan import (
    Aggregate,
    Assign,
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
from query.session import Session
from query.syntax import Source
from query.values import measured

__all__ = ["CurrentCatalogue", "Evaluation", "Session", "evaluate"]

Row = tuple[Any, ...]
Slots = list[Any]


class CurrentCatalogue(Protocol):
    """The functions of this peer as they stand now, and a way to change the users' own."""

    @property
    def current(self) -> Catalogue: ...

    def set_user_functions(self, functions: Iterable[Declaration]) -> None: ...


async def evaluate(
    plan: Plan,
    call: Call,
    *,
    session: Session,
    catalogue: CurrentCatalogue,
    bounds: EvaluationLimits = EvaluationLimits(),  # noqa: B008 — frozen
) -> AsyncGenerator[Row, None]:
    """The rows of a plan, as they come. Raises a :class:`Problem` with a span in the statement's text.

    ``set`` changes the session, ``create function`` and ``delete function`` the catalogue; these have no rows.
    """
    evaluation = Evaluation(plan, call, session=session, catalogue=catalogue, bounds=bounds)
    async with aclosing(evaluation.rows()) as rows:
        async for row in rows:
            yield row


class Evaluation:
    """One run of one plan."""

    def __init__(
        self, plan: Plan, call: Call, *, session: Session, catalogue: CurrentCatalogue, bounds: EvaluationLimits
    ) -> None:
        self.plan = plan
        self.session = session
        self.holder = catalogue
        self.catalogue = catalogue.current
        self.call = replace(call, functions=self.catalogue)
        self.bounds = bounds
        self.steps = 0
        self.pause_at = bounds.steps_between_yields
        self.levels = 0
        self.calls = 0  # user functions under way
        self.source: Source | None = plan.statement.source  # None inside a function's body, whose text is elsewhere

    async def rows(self) -> AsyncGenerator[Row, None]:
        action = self.plan.action
        try:
            match action:
                case Yield(value):
                    async with aclosing(self._yielded(value)) as rows:
                        async for row in rows:
                            yield row
                case Assign(name, value):
                    self.session.set(name, await self._whole(value))
                case Define(statement):
                    self._define(user_function(statement, self.plan.statement.source), replace_it=statement.replace)
                case Forget(name):
                    folded = name.casefold()
                    self.holder.set_user_functions(
                        [known for known in self._user_functions() if known.name.casefold() != folded]
                    )
                case Show(body):
                    from query.explanation import explain

                    for stage in explain(body, self.plan.statement, self.catalogue, session=self.session):
                        yield stage
        except RecursionError:
            raise self._too_deep() from None

    async def _yielded(self, step: Step) -> AsyncGenerator[Row, None]:
        count = 0
        slots: Slots = [None] * self.plan.slots
        if type(step) is Query and not step.into:
            from query.selection import selected_rows

            found = selected_rows(self, step, slots)
        else:
            found = self._single_column(step, slots)
        try:
            async with aclosing(found) as rows:
                async for row in rows:
                    count += 1
                    if count > self.bounds.rows:
                        raise over("the answer", self.bounds.rows, "more", "rows")
                    yield row
        except Problem as problem:
            self.at(problem, step)
            raise

    async def _single_column(self, step: Step, slots: Slots) -> AsyncGenerator[Row, None]:
        if not step.many:
            yield (await self.value(step, slots),)
            return
        async with aclosing(self.elements(step, slots)) as values:
            async for value in values:
                yield (value,)

    async def _whole(self, step: Step) -> Any:
        """A step's value for a variable: a bag becomes a vector."""
        slots: Slots = [None] * self.plan.slots
        return await self.gathered(step, slots) if step.many else await self.value(step, slots)

    def _user_functions(self) -> tuple[Declaration, ...]:
        return self.holder.current.owned(USER)

    def _define(self, made: UserFunction, *, replace_it: bool) -> None:
        known = self._user_functions()
        rest = [declared for declared in known if declared.name.casefold() != made.name.casefold()]
        if len(rest) != len(known) and not replace_it:
            raise NameTaken(f'a function "{made.name}" exists', hint="write create or replace function")
        if len(rest) >= limits.USER_FUNCTIONS_MAX:
            raise over("this peer", limits.USER_FUNCTIONS_MAX, "more", "user functions", hint="delete function NAME")
        self.holder.set_user_functions([*rest, made])

    # bounds

    async def tick(self, steps: int = 1) -> None:
        """Count work; let others run now and then. Raises when there was too much."""
        self.steps += steps
        if self.steps >= self.pause_at:
            await self._pause()

    async def _pause(self) -> None:
        if self.steps > self.bounds.steps:
            raise over("the evaluation", self.bounds.steps, "more", "steps")
        self.pause_at = self.steps + self.bounds.steps_between_yields
        await self.call.pause()

    def _too_deep(self) -> Problem:
        return over("the evaluation", self.bounds.levels, "more", "levels of calls and expressions")

    def at(self, problem: Problem, step: Step) -> Problem:
        """A problem with the place of the step where it arose, when that is in the statement's own text."""
        return problem.at(self.source.span(step.place)) if self.source is not None else problem

    # one value

    async def value(self, step: Step, slots: Slots) -> Any:
        """The value of a step that is not ``many``."""
        kind = type(step)
        if kind is Constant:
            return step.value  # type: ignore[union-attr]
        if kind is Local:
            return slots[step.slot]  # type: ignore[union-attr]
        self.steps += 1
        if self.steps >= self.pause_at:
            await self._pause()
        if self.levels >= self.bounds.levels:
            raise self._too_deep()
        self.levels += 1
        try:
            return await _VALUES[kind](self, step, slots)
        except Problem as problem:
            self.at(problem, step)
            raise
        finally:
            self.levels -= 1

    async def _parameter(self, step: Parameter, slots: Slots) -> Any:
        return self.session.variables[step.name]

    async def _make_vector(self, step: MakeVector, slots: Slots) -> Any:
        made = [await self.value(item, slots) for item in step.items]
        measured(made)
        return made

    async def _make_record(self, step: MakeRecord, slots: Slots) -> Any:
        made = {key: await self.value(item, slots) for key, item in zip(step.keys, step.items, strict=True)}
        measured(made)
        return made

    async def _operate(self, step: Operate, slots: Slots) -> Any:
        operands = [await self.value(operand, slots) for operand in step.operands]
        for operand in operands:
            if type(operand) is list:
                await self.tick(measured(operand))
        found = OPERATIONS[step.operator](*operands)
        if type(found) is list and step.operator != "[]":
            measured(found)
        return found

    async def _logic(self, step: Logic, slots: Slots) -> bool | None:
        decides = step.operator == "or"
        left = truth(await self.value(step.left, slots), step.operator)
        if left is decides:
            return decides
        right = truth(await self.value(step.right, slots), step.operator)
        if right is decides:
            return decides
        return None if left is None or right is None else not decides

    async def _member(self, step: Member, slots: Slots) -> bool | None:
        value = await self.value(step.value, slots)
        unknown = False
        found = False
        async with aclosing(self.iterated(step.source, slots)) as elements:
            async for element in elements:
                if element is None or value is None:
                    unknown = True
                elif same(value, element):
                    found = True
                    break
        return True if found else None if unknown else False

    async def _choose(self, step: Choose, slots: Slots) -> Any:
        chosen = await self.branch(step, slots)
        return None if chosen is None else await self.value(chosen, slots)

    async def branch(self, step: Choose, slots: Slots) -> Step | None:
        """The step that a ``case`` decides for."""
        for condition, result in step.branches:
            if truth(await self.value(condition, slots), "when") is True:
                return result
        return step.otherwise

    async def _convert(self, step: Convert, slots: Slots) -> Any:
        return converted(await self.value(step.value, slots), step.wanted)

    async def _invoke(self, step: Invoke, slots: Slots) -> Any:
        arguments = await self._arguments(step, slots)
        if step.moment is None:
            return await called(self, step.overloads, arguments)
        when = as_moment(await self.value(step.moment, slots))
        return None if when is None else await called(self, step.overloads, arguments, as_of=when)

    async def _arguments(self, step: Invoke, slots: Slots) -> list[Any]:
        return [
            await self.gathered(argument, slots) if argument.many else await self.value(argument, slots)
            for argument in step.arguments
        ]

    async def _aggregate(self, step: Aggregate, slots: Slots) -> Any:
        from query.group_rows import of_group

        return await of_group(self, step, slots)

    async def _query(self, step: Query, slots: Slots) -> Any:
        """``select vector of``."""
        from query.selection import selected

        return await self.collected(selected(self, step, slots))

    # many values

    async def elements(self, step: Step, slots: Slots) -> AsyncGenerator[Any, None]:
        """The elements of a step that is ``many``."""
        if self.levels >= self.bounds.levels:
            raise self._too_deep()
        self.levels += 1
        try:
            async with aclosing(_ELEMENTS[type(step)](self, step, slots)) as found:
                async for element in found:
                    await self.tick()
                    yield element
        except Problem as problem:
            self.at(problem, step)
            raise
        finally:
            self.levels -= 1

    async def iterated(self, step: Step, slots: Slots) -> AsyncGenerator[Any, None]:
        """What a source gives: a bag's or vector's elements, nothing for null, a single value itself."""
        if step.many:
            async with aclosing(self.elements(step, slots)) as found:
                async for element in found:
                    yield element
            return
        for element in as_bag(await self.value(step, slots), null_is_empty=True):
            await self.tick()
            yield element

    async def gathered(self, step: Step, slots: Slots) -> list[Any]:
        """All elements of a step that is ``many``. Raises when there are too many to hold."""
        return await self.collected(self.elements(step, slots))

    async def collected(self, elements: AsyncGenerator[Any, None]) -> list[Any]:
        found: list[Any] = []
        async with aclosing(elements):
            async for element in elements:
                if len(found) >= self.bounds.bag_rows:
                    raise over("a bag that has to be held", self.bounds.bag_rows, "more", "elements")
                found.append(element)
        return found

    async def _local_elements(self, step: Local, slots: Slots) -> AsyncGenerator[Any, None]:
        for element in slots[step.slot] or ():
            yield element

    async def _each_elements(self, step: Each, slots: Slots) -> AsyncGenerator[Any, None]:
        async with aclosing(self.elements(step.source, slots)) as source:
            async for element in source:
                slots[step.slot] = element
                if not step.body.many:
                    yield await self.value(step.body, slots)
                    continue
                async with aclosing(self.elements(step.body, slots)) as inner:
                    async for found in inner:
                        yield found

    async def _choose_elements(self, step: Choose, slots: Slots) -> AsyncGenerator[Any, None]:
        chosen = await self.branch(step, slots)
        if chosen is None:
            return
        if not chosen.many:
            yield await self.value(chosen, slots)
            return
        async with aclosing(self.elements(chosen, slots)) as found:
            async for element in found:
                yield element

    async def _query_elements(self, step: Query, slots: Slots) -> AsyncGenerator[Any, None]:
        from query.selection import selected

        async with aclosing(selected(self, step, slots)) as found:
            async for element in found:
                yield element

    async def _invoke_elements(self, step: Invoke | Aggregate, slots: Slots) -> AsyncGenerator[Any, None]:
        if isinstance(step, Aggregate):
            from query.group_rows import over_group

            arguments = await over_group(self, step, slots)
        else:
            arguments = await self._arguments(step, slots)
        async with aclosing(called_elements(self, step.overloads, arguments)) as found:
            async for element in found:
                yield element


_VALUES: Final[dict[type, Callable[..., Any]]] = {
    Parameter: Evaluation._parameter,
    MakeVector: Evaluation._make_vector,
    MakeRecord: Evaluation._make_record,
    Invoke: Evaluation._invoke,
    Aggregate: Evaluation._aggregate,
    Operate: Evaluation._operate,
    Logic: Evaluation._logic,
    Member: Evaluation._member,
    Choose: Evaluation._choose,
    Convert: Evaluation._convert,
    Query: Evaluation._query,
}
_ELEMENTS: Final[dict[type, Callable[..., AsyncGenerator[Any, None]]]] = {
    Local: Evaluation._local_elements,
    Each: Evaluation._each_elements,
    Choose: Evaluation._choose_elements,
    Query: Evaluation._query_elements,
    Invoke: Evaluation._invoke_elements,
    Aggregate: Evaluation._invoke_elements,
}
