"""The types of PQL and the names they are written with.

A type is a name and, for collections, the type of its elements. Rules: names compare without case; ``Object``
accepts every value; ``Number`` accepts Integer and Real; an Integer is accepted where a Real is expected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from query.errors import WrongArguments, unknown

SCALARS: Final = ("Object", "Number", "Integer", "Real", "String", "Boolean", "Timestamp")
COMPOUNDS: Final = ("Vector", "Record", "Tensor")
COLLECTIONS: Final = ("Bag", "Stream")  # not values: how many rows a function gives or takes
ALIASES: Final = {"charstring": "String", "timeval": "Timestamp", "literal": "Object"}

_BY_FOLDED: Final = {name.casefold(): name for name in (*SCALARS, *COMPOUNDS, *COLLECTIONS)}
_OF = re.compile(r"\s+of\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Type:
    """``Type("Vector", Type("Real"))`` is ``Vector of Real``; ``element`` is None for any element."""

    name: str
    element: Type | None = None

    def __str__(self) -> str:
        return f"{self.name} of {self.element}" if self.element else self.name

    def accepts(self, other: Type) -> bool:
        """Whether a value of type ``other`` may stand where this type is declared, as far as types can tell.

        ``Object`` on either side is accepted: what is not known before running is checked while running.
        """
        if "Object" in (self.name, other.name):
            return True
        if self.name == "Number":
            return other.name in ("Number", "Integer", "Real")
        if other.name == "Number":
            return self.name in ("Integer", "Real")
        if self.name == "Real" and other.name == "Integer":
            return True
        if self.name != other.name:
            return False
        return self.element is None or other.element is None or self.element.accepts(other.element)


OBJECT: Final = Type("Object")
NUMBER: Final = Type("Number")
INTEGER: Final = Type("Integer")
REAL: Final = Type("Real")
STRING: Final = Type("String")
BOOLEAN: Final = Type("Boolean")
TIMESTAMP: Final = Type("Timestamp")
VECTOR: Final = Type("Vector")
RECORD: Final = Type("Record")
TENSOR: Final = Type("Tensor")


def parse_type(text: str) -> Type:
    """``"vector of charstring"`` → ``Vector of String``. Raises :class:`UnknownName` with the nearest type."""
    head, *rest = _OF.split(text.strip(), maxsplit=1)
    folded = head.casefold()
    name = ALIASES[folded] if folded in ALIASES else _BY_FOLDED.get(folded)
    if name is None:
        hint = "a parameter is a type and a name, as in f(Number x) -> Number"
        raise unknown("type", head, (*_BY_FOLDED.values(), "Charstring", "Timeval"), hint=hint)
    if not rest:
        return Type(name)
    if name not in ("Vector", *COLLECTIONS):
        raise WrongArguments(f"{name} has no element type, found {text.strip()!r}")
    return Type(name, parse_type(rest[0]))
