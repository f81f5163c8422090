"""What is fuzzed, and what must hold of each input: an answer or a problem with its place; what was said stays said.

Anything else that is raised is a crash.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeVar

import msgspec

from peers.catalogues import every_declaration
from peers.requests import decode_request
from peers.uplink_messages import DOWNWARD, ENCODER, UPWARD
from query import limits
from query.catalogue import Catalogue
from query.completion import completions
from query.diagnosis import diagnose
from query.errors import InternalProblem, Problem
from query.explanation import explain
from query.formatting import format_script
from query.frames import RowFrame, decode_frame, encode_frame
from query.knowledge import Knowledge
from query.layout import format_text
from query.parsing import parse
from query.placement import route
from query.pointing import hover_at, signature_at
from query.resolution import resolve
from query.script import split_script
from query.session import Session
from query.syntax import Script, Statement
from query.text_form import from_text, to_text
from query.values import NotAValue, decode_value, encode_value
from tests.fuzz.inputs import text_of, wire_of

_T = TypeVar("_T")

VARIABLES = {"v": 1, "in": [1, {"a": 2}], "price": 2.5}


@dataclass(frozen=True)
class Target:
    make: Callable[[Random], Any]
    check: Callable[[Any], None]


@functools.cache
def _knowledge() -> Knowledge:
    return Knowledge(Catalogue(every_declaration()), variables=tuple(VARIABLES))


@functools.cache
def _functions() -> tuple[str, ...]:
    return tuple(sorted({declared.name for declared in _knowledge().catalogue}))


def _parsed(text: str) -> Script | None:
    """The script, or None for what has a problem, whose place is in the text then."""
    found = _attempt(lambda: parse(text, limit=limits.TEXT_BYTES_WIRE_MAX))
    if not isinstance(found, Problem):
        return found
    span = found.span
    lines = text.split("\n")
    if span is not None:
        assert 1 <= span.line <= len(lines), found
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1, found
        assert (span.line, span.column) <= (span.end_line, span.end_column), found
    assert found.message
    assert "\n" not in found.message, found.message
    return None


def _attempt(work: Callable[[], _T]) -> _T | Problem:
    """What the work gives, or what it says is wrong with what it was given. A fault of ours is none of these."""
    try:
        return work()
    except InternalProblem:
        raise
    except Problem as problem:
        return problem


def parser(text: str) -> None:
    script = _parsed(text)
    if script is None:
        return
    for statement in script:
        alone = parse(statement.text).statements[0]
        assert (alone.body, alone.directives) == (statement.body, statement.directives)
    assert [part.text for part in split_script(text)] == [statement.text for statement in script]
    written = parse(format_script(script), limit=limits.TEXT_BYTES_LOCAL_MAX)
    assert [statement.body for statement in written] == [statement.body for statement in script]


def formatter(text: str) -> None:
    script = _parsed(text)
    if script is None:
        return
    written = format_text(text)
    read = parse(written, limit=limits.TEXT_BYTES_LOCAL_MAX)
    assert [(s.body, s.directives) for s in read] == [(s.body, s.directives) for s in script]
    assert format_text(written) == written


def resolver(text: str) -> None:
    script = _parsed(text)
    if script is None:
        return
    catalogue = _knowledge().catalogue
    for statement in script:
        for found in (
            _attempt(partial(resolve, statement, catalogue, VARIABLES)),
            _attempt(partial(route, statement, catalogue)),
            _attempt(partial(_explained, statement, catalogue)),
        ):
            assert not isinstance(found, Problem) or found.message


def _explained(statement: Statement, catalogue: Catalogue) -> list[tuple[str, str]]:
    return list(explain(statement.body, statement, catalogue, session=Session()))


def editor(text: str) -> None:
    """What an editor asks while somebody types: anywhere in any text, and never a problem."""
    knowledge = _knowledge()
    diagnose(text, knowledge)
    for offset in {0, len(text) // 3, len(text) // 2, len(text)}:
        completions(text, offset, knowledge)
        signature_at(text, offset, knowledge)
        hover_at(text, offset, knowledge)


def frames(raw: bytes) -> None:
    try:
        frame = decode_frame(raw)
    except msgspec.DecodeError:
        frame = None
    if frame is not None:
        assert decode_frame(encode_frame(frame)) == frame
        if isinstance(frame, RowFrame):
            for value in frame.values:
                _value(value)
    for decoder in (DOWNWARD, UPWARD):
        try:
            message = decoder.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        ENCODER.encode(message)
    request = _attempt(partial(decode_request, raw))
    if isinstance(request, Problem):
        assert request.message
        return
    for value in request.params.values():
        _value(value)


def _value(encoded: Any) -> None:
    """A value that came over the wire goes back the same, in JSON and as text."""
    try:
        value = decode_value(encoded)
        text = to_text(value)
    except (Problem, NotAValue):
        return
    again = decode_value(msgspec.json.decode(msgspec.json.encode(encode_value(value))))
    assert to_text(again) == text
    read = _attempt(partial(from_text, text))
    assert isinstance(read, Problem) or to_text(read) == text


TARGETS = {
    "parser": Target(text_of, parser),
    "formatter": Target(text_of, formatter),
    "resolver": Target(lambda draw: text_of(draw, _functions()), resolver),
    "editor": Target(lambda draw: text_of(draw, _functions()), editor),
    "frames": Target(wire_of, frames),
}
