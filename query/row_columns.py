"""Expressions over records, for all rows at once by numpy, wherever that comes to the same.

Owns which steps can be done for whole columns and how. Loads numpy. :func:`column_function` gives None for an
expression with a step that has no such form; a form raises :class:`ByRow` on data for which numpy would answer
otherwise than the language (a division by zero, an integer that does not fit, a logarithm of nothing), so that the
rows are taken one by one and the one at fault is named. Both ways are held to each other by a property test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from query.plan import Choose, Constant, Convert, Invoke, Local, Logic, MakeVector, Member, Operate, Step
from query.row_expressions import RowExpression
from query.row_inference import inferred
from query.row_numbers import (
    EXACT_MAX,
    FUNCTIONS,
    REDUCING,
    Array,
    ByRow,
    both,
    comparable,
    flat,
    integers,
    negative,
    real,
    widened,
    within,
)
from query.row_types import Cells, kind_of

Columns = Mapping[str, Mapping[str, Array]]
OfColumns = Callable[[Columns], Any]  # an array with a row for each record, or a constant

FACTOR_MAX: Final = 2**31
MEMBERS_MAX: Final = 64  # of a list of constants that is gone through for whole columns


class _NoForm(Exception):
    """A step that has no form for columns."""


def column_function(expression: RowExpression) -> Callable[[Columns, int], Array] | None:
    """The function of all columns at once and the number of rows, or None."""
    compiler = _Compiler(expression)
    try:
        function = compiler.compiled(expression.step)
    except _NoForm:
        return None
    dtype = np.dtype(object if expression.cells.dtype == "str" else expression.cells.dtype or "float64")

    def of_columns(columns: Columns, count: int) -> Array:
        with np.errstate(all="ignore"):
            found = function(columns)
        if not isinstance(found, np.ndarray) or found.ndim == 0:  # of constants alone
            return np.full(count, found, dtype)
        if found.dtype == dtype:
            return found
        if dtype.kind == "f" and found.dtype.kind in "iu" and within(found, EXACT_MAX):
            return found.astype(dtype)
        raise ByRow

    return of_columns


class _Compiler:
    """The forms of one expression's steps."""

    def __init__(self, expression: RowExpression) -> None:
        self.expression = expression

    def cells(self, step: Step) -> Cells:
        return inferred(step, self.expression.known)

    def compiled(self, step: Step) -> OfColumns:
        form = _FORMS.get(type(step))
        if form is None:
            raise _NoForm
        found: OfColumns = form(self, step)
        return found

    def single(self, step: Step, *kinds: str) -> OfColumns:
        """The form of a step that gives one element a row, of one of the kinds."""
        cells = self.cells(step)
        if cells.shape != () or cells.tensor or cells.dtype not in kinds:
            raise _NoForm
        return self.compiled(step)

    # forms

    def constant(self, step: Constant) -> OfColumns:
        value = step.value
        if type(value) not in (bool, int, float, str):
            raise _NoForm
        return lambda columns: value

    def local(self, step: Local) -> OfColumns:
        reading = self.expression.readings.get(step.slot)
        if reading is None or reading.field is None:
            raise _NoForm
        group, field = reading.group, reading.field
        cells = self.expression.known[step.slot]
        if cells.dtype in (None, "record"):
            raise _NoForm
        if cells.shape != () or cells.tensor:
            return lambda columns: columns[group][field]
        if cells.dtype == "int64":
            return lambda columns: integers(columns[group][field])
        if cells.dtype == "float64":
            return lambda columns: flat(columns[group][field]).astype(np.float64, copy=False)
        return lambda columns: flat(columns[group][field])

    def operate(self, step: Operate) -> OfColumns:
        operator, operands = step.operator, step.operands
        if operator in ("=", "!=", "<", "<=", ">", ">="):
            return self.comparison(operator, *operands)
        if operator == "between":
            value, low, high = operands
            above, below = self.comparison(">=", value, low), self.comparison("<=", value, high)
            return lambda columns: both(above(columns), below(columns))
        if operator in _ARITHMETIC:
            return self.arithmetic(operator, *operands)
        if operator == "not":
            inner = self.single(operands[0], "bool")
            return lambda columns: np.logical_not(inner(columns))
        if operator == "unary -":
            inner = self.single(operands[0], "int64", "float64")
            return lambda columns: negative(inner(columns))
        if operator == "[]":
            return self.index(*operands)
        raise _NoForm

    def comparison(self, operator: str, one: Step, other: Step) -> OfColumns:
        kinds = {self.cells(one).dtype, self.cells(other).dtype}
        left, right = self.single(one, "int64", "float64", "str"), self.single(other, "int64", "float64", "str")
        compare: Any = _COMPARISONS[operator]
        if "str" in kinds:
            if kinds != {"str"} or operator not in ("=", "!="):
                raise _NoForm
            return lambda columns: np.asarray(compare(left(columns), right(columns)), np.bool_)
        mixed = len(kinds) > 1

        def of_columns(columns: Columns) -> Any:
            first, second = left(columns), right(columns)
            if mixed and not (comparable(first) and comparable(second)):
                raise ByRow
            return compare(first, second)

        return of_columns

    def tensors(self, operator: str, one: Step, other: Step) -> OfColumns:
        """Between tensors of one shape, or a tensor and a constant number."""
        left, right = self.cells(one), self.cells(other)
        plain = left.shape == right.shape and left.dtype == right.dtype and left.tensor and right.tensor
        number = any(type(step) is Constant and type(step.value) in (int, float) for step in (one, other))
        if not (plain or number) or operator == "^" or None in (left.dtype, right.dtype):
            raise _NoForm
        first, second = self.compiled(one), self.compiled(other)
        operation: Any = {"%": np.remainder, "/": np.true_divide}.get(operator, _ARITHMETIC[operator])

        def of_columns(columns: Columns) -> Any:
            try:
                return operation(first(columns), second(columns))
            except (ValueError, OverflowError):
                raise ByRow from None

        return of_columns

    def arithmetic(self, operator: str, one: Step, other: Step) -> OfColumns:
        if self.cells(one).tensor or self.cells(other).tensor:
            return self.tensors(operator, one, other)
        left, right = self.single(one, "int64", "float64"), self.single(other, "int64", "float64")
        whole = self.cells(one).dtype == self.cells(other).dtype == "int64"
        operation: Any = _ARITHMETIC[operator]

        def of_columns(columns: Columns) -> Any:
            first, second = left(columns), right(columns)
            if not isinstance(first, np.ndarray) and not isinstance(second, np.ndarray):
                raise ByRow
            bound = FACTOR_MAX if operator == "*" and whole else EXACT_MAX
            if not (comparable(first, bound) and comparable(second, bound)):
                raise ByRow
            if operator in "/%" and np.any(np.equal(second, 0)):
                raise ByRow
            found = operation(first, second)
            if operator == "^" and not np.isfinite(found).all():
                raise ByRow
            return found

        if operator == "^" and whole:
            raise _NoForm
        return of_columns

    def index(self, value: Step, key: Step) -> OfColumns:
        cells = self.cells(value)
        if type(key) is not Constant or type(key.value) is not int or not cells.tensor or not cells.shape:
            raise _NoForm
        inner, at, rest = self.compiled(value), key.value, cells.shape[1:]

        def of_columns(columns: Columns) -> Any:
            found = inner(columns)
            if not isinstance(found, np.ndarray) or found.ndim < 2 or not 1 <= at <= found.shape[1]:
                raise ByRow
            part = found[:, at - 1]
            return part if rest else widened(part)

        return of_columns

    def logic(self, step: Logic) -> OfColumns:
        left, right = self.single(step.left, "bool"), self.single(step.right, "bool")
        operation: Any = np.logical_or if step.operator == "or" else np.logical_and
        return lambda columns: operation(left(columns), right(columns))

    def member(self, step: Member) -> OfColumns:
        value = self.single(step.value, "int64", "float64", "str")
        kind = self.cells(step.value).dtype
        if type(step.source) is not Constant or not isinstance(step.source.value, list):
            raise _NoForm
        members = step.source.value
        accepted = (str,) if kind == "str" else (int, float)
        if len(members) > MEMBERS_MAX or not all(type(member) in accepted for member in members):
            raise _NoForm
        if not all(within(member, EXACT_MAX) for member in members):
            raise _NoForm

        def of_columns(columns: Columns) -> Any:
            found = value(columns)
            if not comparable(found):
                raise ByRow
            result = np.zeros(np.shape(found), np.bool_)
            for member in members:
                result = result | np.asarray(found == member, np.bool_)
            return result

        return of_columns

    def choose(self, step: Choose) -> OfColumns:
        if step.otherwise is None or self.cells(step).dtype not in ("int64", "float64", "bool"):
            raise _NoForm
        kind = self.cells(step).dtype
        kinds = ("int64", "float64") if kind == "float64" else (str(kind),)
        branches = [(self.single(condition, "bool"), self.single(value, *kinds)) for condition, value in step.branches]
        otherwise = self.single(step.otherwise, *kinds)

        def of_columns(columns: Columns) -> Any:
            values = [(condition(columns), value(columns)) for condition, value in branches]
            found = otherwise(columns)
            if not all(comparable(value) for value in (found, *(value for _, value in values))):
                raise ByRow
            for condition, value in reversed(values):
                found = np.where(condition, value, found)
            return found

        return of_columns

    def convert(self, step: Convert) -> OfColumns:
        cells = self.cells(step.value)
        if step.wanted.name == "Real" and cells.dtype in ("int64", "float64"):
            inner = self.single(step.value, "int64", "float64")
            return lambda columns: real(inner(columns))
        raise _NoForm

    def vector(self, step: MakeVector) -> OfColumns:
        kind = self.cells(step).dtype
        if kind not in ("int64", "float64") or len(self.cells(step).shape or ()) != 1:
            raise _NoForm
        items = [self.single(item, "int64", "float64") for item in step.items]

        def of_columns(columns: Columns) -> Any:
            parts = [item(columns) for item in items]
            if not all(comparable(part) for part in parts):
                raise ByRow
            try:
                return np.stack(np.broadcast_arrays(*parts), axis=1).astype(kind, copy=False)
            except np.exceptions.AxisError:  # of constants alone
                raise ByRow from None

        return of_columns

    def invoke(self, step: Invoke) -> OfColumns:
        form = FUNCTIONS.get(step.overloads[0].name)
        if form is None or len(step.arguments) != 1:
            raise _NoForm
        argument = step.arguments[0]
        if step.overloads[0].name in REDUCING:
            cells = self.cells(argument)
            if not cells.tensor or not cells.shape or kind_of(cells.dtype) not in ("int64", "float64"):
                raise _NoForm
            inner = self.compiled(argument)
        else:
            inner = self.single(argument, "int64", "float64")
        return lambda columns: form(inner(columns))


_ARITHMETIC: Final = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "%": np.remainder,
    "^": np.float_power,
}
_COMPARISONS: Final = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


_FORMS: Final[dict[type, Any]] = {
    Constant: _Compiler.constant,
    Local: _Compiler.local,
    Operate: _Compiler.operate,
    Logic: _Compiler.logic,
    Member: _Compiler.member,
    Choose: _Compiler.choose,
    Convert: _Compiler.convert,
    MakeVector: _Compiler.vector,
    Invoke: _Compiler.invoke,
}
