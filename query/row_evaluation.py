"""Expressions over records, evaluated: row by row, which says what they mean, or all rows at once.

Owns the compilation of a planned expression into plain functions of a row, the reading of columns into
values. Loads numpy; imported when the first expression is evaluated.

Rules: an operator does what :mod:`query.operators` does; whatever has no function of its own here (selects, calls) is
run by :mod:`query.evaluation` itself, step by step on the spot, as nothing pure waits. Work for one row is bounded by
``ROW_STEPS_MAX``. Up to ``FEW_ROWS`` rows are quicker one by one than with numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np

from query.calling import called
from query.conversion import converted
from query.errors import InternalProblem, Problem, WrongArguments
from query.evaluation import Evaluation
from query.expressions import WHOLE
from query.operators import OPERATIONS, same, truth
from query.plan import Choose, Constant, Convert, Invoke, Local, Logic, MakeVector, Member, Operate, Step
from query.row_columns import column_function
from query.row_expressions import (
    ASKED,
    ROW_LIMITS,
    Reading,
    RowExpression,
    RowFailures,
    known_cells,
    plan_of,
    pure_catalogue,
)
from query.row_numbers import Array, ByRow
from query.row_packing import ColumnRoom, in_row, packed
from query.row_types import Cells
from query.session import Session
from query.values import matches, normal

FEW_ROWS: Final = 6
ROWS_BETWEEN_CHECKS: Final = 4

Columns = Mapping[str, Mapping[str, Array]]
OfRow = Callable[[Sequence[Any]], Any]
Check = Callable[[], None]


def evaluated(expression: RowExpression, columns: Columns, count: int, *, check: Check | None = None) -> Array:
    """See :meth:`query.row_expressions.RowExpression.column`."""
    if expression.bare is not None and expression.bare.field is not None:
        return columns[expression.bare.group][expression.bare.field]
    room = ColumnRoom(expression.cells, count)
    at_once = _at_once(expression, columns, count)
    if at_once is not None:
        return at_once
    of_row = row_function(expression)
    found = []
    for at, row in enumerate(_rows(expression, columns, count)):
        if check is not None and at % ROWS_BETWEEN_CHECKS == 0:
            check()
        try:
            found.append(room.taken(of_row(row)))
        except Problem as problem:
            raise in_row(problem, at) from None
    return packed(found, expression.cells)


def decided(
    expression: RowExpression, columns: Columns, count: int, *, check: Check | None = None
) -> tuple[Array, RowFailures | None]:
    """See :meth:`query.row_expressions.RowExpression.flags`."""
    at_once = _at_once(expression, columns, count)
    if at_once is not None:
        return at_once, None
    of_row = row_function(expression)
    flags = np.zeros(count, np.bool_)
    failures: RowFailures | None = None
    for at, row in enumerate(_rows(expression, columns, count)):
        if check is not None and at % ROWS_BETWEEN_CHECKS == 0:
            check()
        try:
            found = truth(of_row(row), "a condition")
            if found is None:
                raise WrongArguments("the condition is null: a value in it is missing")
            flags[at] = found
        except Problem as problem:
            failures = failures or RowFailures(row=at, problem=in_row(problem, at))
            failures.count += 1
    return flags, failures


def _at_once(expression: RowExpression, columns: Columns, count: int) -> Array | None:
    """All rows by numpy, or None where they have to be taken one by one."""
    if count <= FEW_ROWS:
        return None
    derived = expression.derived
    if "columns" not in derived:
        derived["columns"] = column_function(expression)
    function = derived["columns"]
    if function is None:
        return None
    try:
        found: Array = function(columns, count)
    except ByRow:
        return None
    return found


# --- rows -----------------------------------------------------------------------------------------------------------


def _rows(expression: RowExpression, columns: Columns, count: int) -> Any:
    """For each row the values of all slots."""
    slots: list[Any] = [None] * expression.slots
    used = [(slot, _values(reading, expression, slot, columns)) for slot, reading in expression.readings.items()]
    if count == 1:
        for slot, values in used:
            slots[slot] = values[0]
        yield slots
        return
    for at in range(count):
        for slot, values in used:
            slots[slot] = values[at]
        yield slots


def _values(reading: Reading, expression: RowExpression, slot: int, columns: Columns) -> list[Any]:
    group = columns[reading.group]
    if reading.field is not None:
        return values_of(group[reading.field], known_cells(expression, slot))
    listed = {name: values_of(column, None) for name, column in group.items()}
    names = list(listed)
    return [dict(zip(names, row, strict=True)) for row in zip(*listed.values(), strict=True)]


def values_of(column: Array, cells: Cells | None) -> list[Any]:
    """A column's values for expressions: of one element that element, of more a tensor, or of texts a vector."""
    single = column.ndim == 1 or column.size == len(column)
    if cells is not None and cells.shape:
        single = False
    if single:
        return column.reshape(len(column)).tolist()
    return column.tolist() if column.dtype.kind == "O" else list(column)


# --- compilation ----------------------------------------------------------------------------------------------------


def row_function(expression: RowExpression) -> OfRow:
    """An expression as a plain function of a row: of the values of its slots."""
    derived = expression.derived
    if "row" not in derived:
        derived["row"] = _compiled(expression, expression.step)
    found: OfRow = derived["row"]
    return found


def _compiled(expression: RowExpression, step: Step) -> OfRow:
    compiler = _COMPILERS.get(type(step), _by_the_language)
    return compiler(expression, step)


def _constant(expression: RowExpression, step: Constant) -> OfRow:
    value = step.value
    return lambda row: value


def _local(expression: RowExpression, step: Local) -> OfRow:
    slot = step.slot
    return lambda row: row[slot]


def _operate(expression: RowExpression, step: Operate) -> OfRow:
    operation = OPERATIONS[step.operator]
    operands = [_compiled(expression, operand) for operand in step.operands]
    if len(operands) == 2:
        left, right = operands
        return lambda row: operation(left(row), right(row))
    if len(operands) == 1:
        (only,) = operands
        return lambda row: operation(only(row))
    return lambda row: operation(*[operand(row) for operand in operands])


def _logic(expression: RowExpression, step: Logic) -> OfRow:
    left, right = _compiled(expression, step.left), _compiled(expression, step.right)
    operator, decides = step.operator, step.operator == "or"

    def of_row(row: Sequence[Any]) -> bool | None:
        one = truth(left(row), operator)
        if one is decides:
            return decides
        other = truth(right(row), operator)
        if other is decides:
            return decides
        return None if one is None or other is None else not decides

    return of_row


def _member(expression: RowExpression, step: Member) -> OfRow:
    if step.source.many:
        return _by_the_language(expression, step)
    from query.calling import as_bag

    value, source = _compiled(expression, step.value), _compiled(expression, step.source)

    def of_row(row: Sequence[Any]) -> bool | None:
        wanted = value(row)
        unknown = False
        for element in as_bag(source(row), null_is_empty=True):
            if element is None or wanted is None:
                unknown = True
            elif same(wanted, element):
                return True
        return None if unknown else False

    return of_row


def _choose(expression: RowExpression, step: Choose) -> OfRow:
    branches = [(_compiled(expression, condition), _compiled(expression, value)) for condition, value in step.branches]
    otherwise = None if step.otherwise is None else _compiled(expression, step.otherwise)

    def of_row(row: Sequence[Any]) -> Any:
        for condition, value in branches:
            if truth(condition(row), "when") is True:
                return value(row)
        return None if otherwise is None else otherwise(row)

    return of_row


def _convert(expression: RowExpression, step: Convert) -> OfRow:
    value, wanted = _compiled(expression, step.value), step.wanted
    return lambda row: converted(value(row), wanted)


def _vector(expression: RowExpression, step: MakeVector) -> OfRow:
    items = [_compiled(expression, item) for item in step.items]
    return lambda row: [item(row) for item in items]


def _invoke(expression: RowExpression, step: Invoke) -> OfRow:
    if any(argument.many for argument in step.arguments):
        return _by_the_language(expression, step)
    arguments = [_compiled(expression, argument) for argument in step.arguments]
    overloads = step.overloads
    evaluation = _evaluation(expression)
    declared = overloads[0]
    kinds = [parameter.type for parameter in declared.parameters[: len(arguments)]]
    implementation = declared.implementation
    if len(overloads) == 1 and implementation is not None and all(kind.name not in WHOLE for kind in kinds):

        def quickly(row: Sequence[Any]) -> Any:
            """What ``called`` comes to when no argument is null or of another type."""
            values = [argument(row) for argument in arguments]
            for value, kind in zip(values, kinds, strict=True):
                if value is None or not matches(value, kind):
                    return on_the_spot(called(evaluation, overloads, values))
            return normal(implementation(ASKED, *values))

        return quickly

    def of_row(row: Sequence[Any]) -> Any:
        return on_the_spot(called(evaluation, overloads, [argument(row) for argument in arguments]))

    return of_row


def _by_the_language(expression: RowExpression, step: Step) -> OfRow:
    def of_row(row: Sequence[Any]) -> Any:
        return on_the_spot(_evaluation(expression).value(step, list(row)))

    return of_row


_COMPILERS: Final[dict[type, Callable[..., OfRow]]] = {
    Constant: _constant,
    Local: _local,
    Operate: _operate,
    Logic: _logic,
    Member: _member,
    Choose: _choose,
    Convert: _convert,
    MakeVector: _vector,
    Invoke: _invoke,
}


class _Pure:
    """The pure functions, which nobody changes."""

    def __init__(self) -> None:
        self.current = pure_catalogue()

    def set_user_functions(self, functions: Any) -> None:
        raise InternalProblem("an expression over a record cannot define functions")


def _evaluation(expression: RowExpression) -> Evaluation:
    return Evaluation(plan_of(expression), ASKED, session=Session(), catalogue=_Pure(), bounds=ROW_LIMITS)


def on_the_spot(running: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing but its turn."""
    try:
        while True:
            if running.send(None) is not None:
                raise InternalProblem("an expression over a record waited for something")
    except StopIteration as done:
        return done.value
    finally:
        running.close()
