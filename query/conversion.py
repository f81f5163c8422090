"""``cast(value as Type)``: what converts into what, and the error for the rest. Null stays null."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from query import limits
from query.errors import Problem, WrongArguments
from query.operators import as_string
from query.types import Type
from query.values import described, is_tensor, matches


def converted(value: Any, wanted: Type) -> Any:
    """A value as another type. Raises WrongArguments when that loses what the value says."""
    if value is None or (matches(value, wanted) and wanted.name not in ("Real", "Vector")):
        return value
    try:
        return _convert(value, wanted)
    except (ValueError, OverflowError):
        raise _impossible(value, wanted) from None


def _impossible(value: Any, wanted: Type) -> Problem:
    return WrongArguments(f"cast: no {wanted} in {described(value)}")


def _convert(value: Any, wanted: Type) -> Any:
    kind = type(value)
    match wanted.name:
        case "String":
            return as_string(value)
        case "Integer":
            return _integer(value, wanted)
        case "Real" if kind in (int, float, bool) or kind is str:
            return float(value)
        case "Number" if kind is str:
            return _integer(value, wanted) if value.strip().lstrip("+-").isdigit() else float(value)
        case "Boolean" if kind in (int, float) and value in (0, 1):
            return bool(value)
        case "Boolean" if kind is str and value.strip().casefold() in ("true", "false"):
            return value.strip().casefold() == "true"
        case "Timestamp" if kind is str:
            found = datetime.fromisoformat(value.strip())
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        case "Timestamp" if kind in (int, float):
            return datetime.fromtimestamp(value, UTC)
        case "Vector" if kind is list or is_tensor(value):
            parts = value if kind is list else value.tolist()
            element = wanted.element
            return parts if element is None else [converted(part, element) for part in parts]
        case "Tensor" if kind is list or kind in (int, float, bool):
            from query.tensors import as_array

            return as_array(value)
    raise _impossible(value, wanted)


def _integer(value: Any, wanted: Type) -> int:
    if type(value) is str:
        digits = value.strip()
        if len(digits) > limits.NUMBER_DIGITS_MAX:
            raise _impossible(value, wanted)
        return int(digits)
    if type(value) is bool:
        return int(value)
    if type(value) is float and math.isfinite(value):
        return int(value)
    raise _impossible(value, wanted)
