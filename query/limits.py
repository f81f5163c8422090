"""The bounds of the language: everything that a text or an evaluation can make grow, each with a name.

Rules: a bound is checked before the work that it bounds; passing one raises :class:`query.errors.LimitExceeded`
with a message that names it, the bound, and what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from query.errors import LimitExceeded

# Text. Checked before the grammar runs.
TEXT_BYTES_WIRE_MAX: Final = 64 * 1024
TEXT_BYTES_LOCAL_MAX: Final = 1024 * 1024
STATEMENTS_MAX: Final = 1_000
TOKENS_WIRE_MAX: Final = 20_000  # words and signs; also bounds how long parsing holds the event loop
TOKENS_LOCAL_MAX: Final = 200_000
NESTING_DEPTH_MAX: Final = 64  # open brackets
LITERAL_ELEMENTS_MAX: Final = 5_000  # elements between one pair of brackets
NUMBER_DIGITS_MAX: Final = 1_000
EXPRESSION_DEPTH_MAX: Final = 128  # levels of the syntax tree: also of chains without brackets
DIRECTIVE_LENGTH_MAX: Final = 4_096
TARGETS_MAX: Final = 10_000
SOURCES_MAX: Final = 16  # variables of one select
PARAMETERS_MAX: Final = 64  # of one function
DURATION_S_MAX: Final = 7 * 24 * 3600.0

# Values.
INTEGER_BITS_MAX: Final = 2_048
PATTERN_LENGTH_MAX: Final = 1_000  # of like
STRING_LENGTH_MAX: Final = 4 * 1024 * 1024
VALUE_ELEMENTS_MAX: Final = 250_000
VALUE_DEPTH_MAX: Final = 64
TENSOR_BYTES_MAX: Final = 64 * 1024 * 1024
TENSOR_RANK_MAX: Final = 32
MATRIX_WORK_MAX: Final = 100_000_000

# What a peer keeps for its users.
USER_FUNCTIONS_MAX: Final = 1_000
VARIABLES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """Bounds of one statement's evaluation. ``levels``: expressions and calls that wait for one another."""

    steps: int = 20_000_000
    rows: int = 1_000_000
    bag_rows: int = 100_000
    recursion: int = 48
    levels: int = 192
    steps_between_yields: int = 500


def over(name: str, bound: float, found: object, unit: str, *, hint: str | None = None) -> LimitExceeded:
    """``the text is over its limit of 65536 bytes: found 70000``."""
    return LimitExceeded(f"{name} is over its limit of {bound} {unit}: found {found}", hint=hint)
