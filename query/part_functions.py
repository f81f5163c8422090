"""The functions that a split's statements call: ``part of f`` gives a peer's part, ``whole f`` what merged ones mean.

Owns their declarations, made of those of the aggregates and of their :class:`~query.partials.Kind`. Rules: no text can
write their names, and no catalogue shows them but one that is made for such a statement.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

from query.catalogue import Catalogue
from query.declarations import Declaration, Effect, Home, Parameter, Role, declarations
from query.partials import Kind, kinds
from query.types import OBJECT, Type

PART: Final = "part of"
WHOLE: Final = "whole"
LAYER: Final = "partial results"


def with_parts(catalogue: Catalogue) -> Catalogue:
    """A catalogue that also has the functions which partial and final statements call."""
    made = catalogue.derived.get(LAYER)
    if made is None:
        made = catalogue.derived[LAYER] = catalogue.with_functions(LAYER, _functions())
    found: Catalogue = made
    return found


@functools.cache
def _functions() -> tuple[Declaration, ...]:
    """``part of f`` and ``whole f`` of every aggregate, as declared as ``f`` itself is."""
    from query.functions.aggregates import AggregateFunctions

    made = []
    for declared in declarations(AggregateFunctions):
        name = declared.name.casefold()
        kind = kinds()[name]
        rest = declared.parameters[1:]
        made.append(_function(f"{PART} {name}", declared.parameters, OBJECT, _state(kind)))
        made.append(_function(f"{WHOLE} {name}", (Parameter("part", OBJECT), *rest), declared.result, _result(kind)))
    return tuple(made)


def folding_of(declared: Declaration) -> tuple[Kind, bool] | None:
    """How an aggregate is computed little by little, in parts of a bounded size, and whether it gives such a part; None
    for one that needs all values together, or is none of the language.
    """
    from query.functions.aggregates import AggregateFunctions

    before, part, name = declared.name.casefold().rpartition(f"{PART} ")
    if before or not (part or isinstance(getattr(declared.implementation, "__self__", None), AggregateFunctions)):
        return None
    kind = kinds().get(name)
    return None if kind is None or kind.bytes_about is None else (kind, bool(part))


def _function(name: str, parameters: tuple[Parameter, ...], result: Type, implementation: Any) -> Declaration:
    return Declaration(
        name, parameters, result, Home.EVERYWHERE, Role.VIEWER, Effect.READS, "", (), implementation=implementation
    )


def _state(kind: Kind) -> Any:
    return lambda _, *arguments: kind.state(*arguments)


@dataclass(frozen=True, slots=True)
class Held:
    """A merged part in a row of the final statement, where it is no value."""

    part: Any


def _result(kind: Kind) -> Any:
    return lambda _, held, *arguments: kind.result(held.part, *arguments)
