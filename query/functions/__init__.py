"""The generic functions of the language, at home everywhere: no function of these knows of peers, models or files."""

from __future__ import annotations

from typing import Final

from query.declarations import Declaration, bind
from query.functions.aggregates import AggregateFunctions
from query.functions.documentation import DocumentationFunctions
from query.functions.mathematics import MathematicsFunctions
from query.functions.strings import StringFunctions
from query.functions.tensors import TensorFunctions
from query.functions.times import TimeFunctions
from query.functions.vectors import VectorFunctions

FUNCTIONS: Final = (
    AggregateFunctions(),
    DocumentationFunctions(),
    MathematicsFunctions(),
    StringFunctions(),
    TensorFunctions(),
    TimeFunctions(),
    VectorFunctions(),
)


def generic_declarations() -> tuple[Declaration, ...]:
    """The declarations of all generic functions with their implementations."""
    return tuple(declared for owner in FUNCTIONS for declared in bind(owner))


def language_functions(catalogue: object = None) -> tuple[object, ...]:
    """The instances to compose on a peer. They are told the catalogue at each call, so they need to hold none."""
    return FUNCTIONS
