"""A script as the texts of its statements, so that a client can send them one at a time.

Needs only the tokens: a statement that only a newer peer understands is cut out just the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from query import limits
from query.errors import Span
from query.parsing import tokens
from query.syntax import Place, Source


@dataclass(frozen=True, slots=True)
class Part:
    """One statement with the directives above it, without its ``;``, and where it stands in the script."""

    text: str
    span: Span


def split_script(text: str, *, limit: int = limits.TEXT_BYTES_LOCAL_MAX) -> tuple[Part, ...]:
    """The statements of a script in order. Raises as :func:`query.parsing.parse` does for what tokens can show."""
    source = Source(text)
    return tuple(
        Part(text[lexed.start : lexed.end], source.span(Place((lexed.start, lexed.end))))
        for lexed in tokens(text, limit=limit)
    )
