"""The variables of a session whose statements reach a peer one request at a time: they last here, not there.

    set :a = edge:list()    →    set :a = edge:list();          the request that is sent, and what is hidden of its
                                 //peer: NAMESERVER             answer: the statement at its end, whose row is the value
                                 :a

Owns which variables a text sets, which it reads, and their values. Pure. Rules: only what a text names travels with it;
at most ``VARIABLES_MAX`` are kept; of a text that cannot be cut into statements nothing is kept, since the peer refuses
it. A value is kept when its statement's answer came to its end, and the peer that was asked says what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from query import limits
from query.errors import Problem
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.limits import over
from query.parsing import tokens
from query.values import decode_value


@dataclass(frozen=True, slots=True)
class Mentioned:
    """What a text says of variables, by folded name: ``set`` in the order of the text; ``statements`` in number."""

    read: frozenset[str] = frozenset()
    set: tuple[str, ...] = ()
    statements: int = 0


def mentioned(text: str) -> Mentioned:
    if ":" not in text:
        return Mentioned()
    try:
        found = tokens(text)
    except Problem:
        return Mentioned()
    read = {token.value[1:].casefold() for one in found for token in one.tokens if token.type == "VARIABLE"}
    changed = [
        one.tokens[1].value[1:].casefold()
        for one in found
        if len(one.tokens) > 1 and (one.tokens[0].type, one.tokens[1].type) == ("SET", "VARIABLE")
    ]
    return Mentioned(frozenset(read), tuple(dict.fromkeys(changed)), len(found))


class LinkVariables:
    """Values by folded name, as they travel."""

    def __init__(self) -> None:
        self._encoded: dict[str, Any] = {}

    def decoded(self) -> dict[str, Any]:
        return {name: decode_value(value) for name, value in self._encoded.items()}

    def for_text(self, said: Mentioned, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a request: what was given, over what is kept and named."""
        folded = {name.casefold() for name in given}
        kept = {name: self._encoded[name] for name in said.read if name in self._encoded and name not in folded}
        return {**kept, **given}

    def keep(self, name: str, value: Any) -> None:
        if name not in self._encoded and len(self._encoded) >= limits.VARIABLES_MAX:
            raise over("the session", limits.VARIABLES_MAX, "more", "variables")
        self._encoded[name] = value


def asking_values(text: str, said: Mentioned, *, here: str | None) -> str:
    """The text, and at its end a statement for each variable that it sets. ``here``: who keeps them meanwhile."""
    directive = f"//peer: {here}\n" if here else ""
    return text + "".join(f"\n;\n{directive}:{name}" for name in said.set)


class ValuesAsked:
    """The answer to :func:`asking_values`: gives on what the text itself answers, and keeps the values."""

    def __init__(self, said: Mentioned, variables: LinkVariables) -> None:
        self._said = said
        self._variables = variables

    def take(self, frame: Frame) -> Iterable[Frame]:
        number = frame.statement - self._said.statements
        if number < 0 or not self._said.set:
            return (frame,)
        match frame:
            case RowFrame(values=(value,)):
                self._variables.keep(self._said.set[number], value)
            case ErrorFrame():
                return (frame,)  # the value is not kept, and that has to be told
            case SchemaFrame() | RowFrame() | ProgressFrame() | EndFrame():
                pass
        return ()
