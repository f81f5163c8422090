"""The plan of a statement: its tree with every name resolved, ready to run.

A step gives one value, or ``many``: the elements of a bag. Mapping a function or operator over a bag is already
spelled out (:class:`Each`), so that where one value is needed a step gives one. ``slot`` numbers the places of a row's
variables; they are the same for the whole of a statement or function body.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from query.declarations import Declaration, Effect, Role
from query.syntax import NOWHERE, Body, CreateFunction, Place, Statement
from query.types import OBJECT, Type


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """``type`` is of one element when ``many``."""

    type: Type = OBJECT
    many: bool = False
    place: Place = NOWHERE


class Constant(Plain, frozen=True):
    value: Any


class Local(Plain, frozen=True):
    slot: int


class Parameter(Plain, frozen=True):
    """A session variable or request parameter, read when it runs."""

    name: str


class MakeVector(Plain, frozen=True):
    items: tuple[Step, ...]


class MakeRecord(Plain, frozen=True):
    keys: tuple[str, ...]
    items: tuple[Step, ...]


class Invoke(Plain, frozen=True):
    """A call. Of several overloads the arguments' values decide. ``moment``: the time that it is asked ``as of``."""

    overloads: tuple[Declaration, ...]
    arguments: tuple[Step, ...]
    moment: Step | None = None


class Aggregate(Plain, frozen=True):
    """A call of a function that takes a bag, over the rows of the group in ``slot``."""

    overloads: tuple[Declaration, ...]
    arguments: tuple[Step, ...]
    slot: int


class Operate(Plain, frozen=True):
    """An operator that needs the values of all its operands."""

    operator: str
    operands: tuple[Step, ...]


class Logic(Plain, frozen=True):
    """``and`` or ``or``, which may not need the right operand."""

    operator: str
    left: Step
    right: Step


class Member(Plain, frozen=True):
    """``value in source``; the source is taken whole."""

    value: Step
    source: Step


class Choose(Plain, frozen=True):
    branches: tuple[tuple[Step, Step], ...]
    otherwise: Step | None


class Convert(Plain, frozen=True):
    value: Step
    wanted: Type


class Each(Plain, frozen=True):
    """``body`` once for every element of ``source``, which is in ``slot`` meanwhile."""

    slot: int
    source: Step
    body: Step


class Generate(msgspec.Struct, frozen=True):
    """A variable of a select that goes through the elements of a source."""

    slot: int
    name: str
    source: Step
    type: Type | None


class Bind(msgspec.Struct, frozen=True):
    slot: int
    name: str
    value: Step
    type: Type | None


class Keep(msgspec.Struct, frozen=True):
    """Only rows for which the condition is true. ``what``: the part of the select that it stands in."""

    condition: Step
    what: str = "where"


Stage: TypeAlias = Generate | Bind | Keep


class Query(Plain, frozen=True):
    """A select. ``group_slot`` is set when rows are grouped; without keys all rows are one group."""

    stages: tuple[Stage, ...]
    items: tuple[Step, ...]
    names: tuple[str, ...]
    group_slot: int | None = None
    keys: tuple[Step, ...] = ()
    row_slots: tuple[int, ...] = ()
    having: Step | None = None
    order: tuple[tuple[Step, bool], ...] = ()
    limit: Step | None = None
    distinct: bool = False
    into: bool = False


Step: TypeAlias = (
    Constant
    | Local
    | Parameter
    | MakeVector
    | MakeRecord
    | Invoke
    | Aggregate
    | Operate
    | Logic
    | Member
    | Choose
    | Convert
    | Each
    | Query
)


class Yield(msgspec.Struct, frozen=True):
    """Each value of a step is a row."""

    value: Step


class Assign(msgspec.Struct, frozen=True):
    name: str
    value: Step


class Define(msgspec.Struct, frozen=True):
    statement: CreateFunction


class Forget(msgspec.Struct, frozen=True):
    name: str
    place: Place


class Show(msgspec.Struct, frozen=True):
    """``explain``: the stages of ``body``, without running it."""

    body: Body


Action: TypeAlias = Yield | Assign | Define | Forget | Show


class Plan(msgspec.Struct, frozen=True):
    """``functions``: every overload that may be called, also by the bodies of user functions; ``role`` and ``effect``
    are the greatest among them; ``columns``: name and type of each."""

    statement: Statement
    action: Action
    columns: tuple[tuple[str, Type], ...]
    functions: tuple[Declaration, ...]
    role: Role
    effect: Effect
    slots: int


class BodyPlan(msgspec.Struct, frozen=True):
    """A user function's body: the parameters are the first slots."""

    value: Step
    slots: int
    functions: tuple[Declaration, ...]
