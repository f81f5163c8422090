"""From the tokens around a cursor to what they reach: the argument under way, and the record before a dot or bracket.

Pure and tolerant: what the tokens do not show is nothing, never an error. Only completion, signature help and hover
read it. Types are not inferred here: a record's keys are known by the function or variable that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from query.declarations import Declaration, Parameter
from query.errors import Problem
from query.knowledge import Knowledge
from query.lexing import Token
from query.parsing import parse
from query.syntax import Call, Expression, RecordOf, Select, VectorOf, walk
from query.unfinished import Bracket, Unfinished

_STRINGS: Final = frozenset({"STRING", "RAW_STRING"})
_CALLABLE: Final = frozenset({"NAME", "QUALIFIED"})
_CLOSING: Final = {"RPAR": "LPAR", "RSQB": "LSQB", "RBRACE": "LBRACE"}
STEPS_MAX: Final = 64  # from a record back to where it comes from


@dataclass(frozen=True, slots=True)
class Argument:
    """The argument that the cursor stands in. ``parameters``: what it may be, one an overload that fits.

    In a record: ``in_record``; ``in_key`` where a key is typed; ``key`` whose value is; ``taken``: keys that stand
    there already. ``beside``: the text of the strings that stand for the call's other parameters, by name; ``pairs``:
    that of those for the record's other keys.
    """

    parameters: tuple[tuple[Declaration, Parameter], ...]
    in_record: bool = False
    in_key: bool = False
    key: str | None = None
    taken: tuple[str, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, str] = field(default_factory=dict)


def overloads_at(bracket: Bracket, knowledge: Knowledge, *, closed: bool = False) -> tuple[Declaration, ...]:
    """The overloads of a call that may still take the arguments that stand there; all of them when none may."""
    if bracket.function is None:
        return ()
    overloads = knowledge.catalogue.lookup(bracket.function)
    least = len(bracket.commas) + 1
    fitting = tuple(one for one in overloads if len(one.parameters) >= least)
    return fitting or (() if closed else overloads)


def argument_at(moment: Unfinished, knowledge: Knowledge) -> Argument | None:
    """The argument of the innermost call around the cursor, through vectors and one record; None outside of calls."""
    record: Bracket | None = None
    for bracket in reversed(moment.brackets):
        if bracket.sign == "{":
            if record is not None:
                return None
            record = bracket
        elif bracket.sign == "(":
            return _argument(bracket, record, moment, knowledge)
        elif bracket.index:
            return None
    return None


def _argument(call: Bracket, record: Bracket | None, moment: Unfinished, knowledge: Knowledge) -> Argument | None:
    overloads = overloads_at(call, knowledge)
    position = len(call.commas)
    strings = _strings_of(call, moment.tokens)
    fitting = tuple((one, one.parameters[position]) for one in overloads if position < len(one.parameters))
    if not fitting:
        return None
    longest = max((one for one, _ in fitting), key=lambda one: len(one.parameters))
    beside = {
        parameter.name: strings[at]
        for one in (*(declared for declared, _ in fitting), longest)
        for at, parameter in enumerate(one.parameters)
        if at in strings and at < position
    }
    if record is None:
        return Argument(fitting, beside=beside)
    pairs = dict(_pairs(record, moment.tokens))
    last = moment.tokens[-1].type
    in_key = last in ("LBRACE", "COMMA") and moment.tokens[-1] in (
        moment.tokens[record.at],
        *(moment.tokens[at] for at in record.commas),
    )
    return Argument(
        fitting,
        in_record=True,
        in_key=in_key,
        key=None if in_key else _key_under_way(record, moment.tokens),
        taken=tuple(pairs),
        beside=beside,
        pairs={key: value for key, value in pairs.items() if value is not None},
    )


def _strings_of(call: Bracket, tokens: Sequence[Token]) -> dict[int, str]:
    """The arguments of a call that are one string each, by position."""
    edges = [call.at, *call.commas]
    found = {}
    for position, (left, right) in enumerate(pairwise(edges)):
        if right - left == 2 and tokens[left + 1].type in _STRINGS:
            found[position] = inner_text(tokens[left + 1])
    return found


def _pairs(record: Bracket, tokens: Sequence[Token]) -> Iterator[tuple[str, str | None]]:
    """The keys that stand in an open record, and the values that are strings."""
    edges = [record.at, *record.commas]
    for left in edges:
        pair = tokens[left + 1 : left + 4]
        if len(pair) >= 2 and pair[0].type in _STRINGS and pair[1].type == "COLON":
            value = pair[2] if len(pair) > 2 else None
            yield inner_text(pair[0]), inner_text(value) if value is not None and value.type in _STRINGS else None


def _key_under_way(record: Bracket, tokens: Sequence[Token]) -> str | None:
    left = record.commas[-1] if record.commas else record.at
    pair = tokens[left + 1 : left + 3]
    if len(pair) == 2 and pair[0].type in _STRINGS and pair[1].type == "COLON":
        return inner_text(pair[0])
    return None


def inner_text(token: Token) -> str:
    """What a string's token holds, as far as names need it."""
    inner = token.value[1:-1]
    return inner.replace("''", "'") if token.type == "RAW_STRING" else inner


def keys_accepted(argument: Argument, knowledge: Knowledge) -> list[str]:
    """The keys that a record at this argument may have and does not have yet."""
    found: dict[str, None] = {}
    for declared, parameter in argument.parameters:
        known = knowledge.keys.get(f"{declared.name.casefold()}({parameter.name})")
        keys = known or tuple(_keys_in_examples(declared, parameter))
        if declared.name.casefold() in ("models:infer", "pipeline:infer"):  # a record of the model's own inputs
            keys = knowledge.keys.get(f"inputs {argument.beside.get('name', '').casefold()}", ())
        found.update(dict.fromkeys(keys))
    return [key for key in found if key not in argument.taken]


def _keys_in_examples(declared: Declaration, parameter: Parameter) -> Iterator[str]:
    """The keys that a function's examples give a parameter."""
    position = declared.parameters.index(parameter)
    for example in declared.examples:
        try:
            script = parse(example.text)
        except Problem:
            continue
        for statement in script:
            for node in walk(statement.body):
                if isinstance(node, Call) and node.name.casefold() == declared.name.casefold():
                    yield from _record_keys(node.arguments[position : position + 1])


def _record_keys(values: Sequence[Expression | Select]) -> Iterator[str]:
    for value in values:
        if isinstance(value, RecordOf):
            yield from value.keys
        elif isinstance(value, VectorOf):
            yield from _record_keys(value.items[:1])


def keys_of_value(tokens: Sequence[Token], moment: Unfinished, knowledge: Knowledge) -> list[str]:
    """The keys of the record that ``tokens`` end with, as far as they are known."""
    path = _path(tokens, moment)
    return [] if path is None else list(knowledge.keys.get(path, ()))


def _path(tokens: Sequence[Token], moment: Unfinished) -> str | None:
    """Where a value comes from: ``edge:status``, ``:v.models``; see :mod:`query.knowledge`."""
    at = len(tokens) - 1
    below: list[str] = []
    for _ in range(STEPS_MAX):
        if at < 0:
            return None
        token = tokens[at]
        if token.type == "RSQB":
            opened = _opening(tokens, at)
            if opened is None:
                return None
            if at - opened == 2 and tokens[opened + 1].type in _STRINGS:
                below.append(inner_text(tokens[opened + 1]))
            at = opened - 1
        elif at and tokens[at - 1].type == "DOT":
            below.append(token.value)
            at -= 2
        else:
            root = _root(tokens, at, moment)
            return None if root is None else ".".join([root, *reversed(below)])
    return None


def function_called(tokens: Sequence[Token], at: int) -> str | None:
    """The folded name of the function whose call ends with the bracket ``tokens[at]``."""
    opened = _opening(tokens, at)
    if opened and tokens[opened - 1].type in _CALLABLE:
        return tokens[opened - 1].value.casefold()
    return None


def _root(tokens: Sequence[Token], at: int, moment: Unfinished) -> str | None:
    token = tokens[at]
    if token.type == "VARIABLE":
        return token.value.casefold()
    if token.type == "RPAR":
        return function_called(tokens, at)
    return _source_of(token.value, (*moment.tokens, *moment.after)) if token.type == "NAME" else None


def _source_of(name: str, tokens: Sequence[Token]) -> str | None:
    """The function that a select's variable takes its values from: ``name in f(…)``."""
    for at in range(len(tokens) - 3):
        if (
            tokens[at].value.casefold() == name.casefold()
            and tokens[at + 1].type == "IN"
            and tokens[at + 2].type in _CALLABLE
            and tokens[at + 3].type == "LPAR"
        ):
            return tokens[at + 2].value.casefold()
    return None


def _opening(tokens: Sequence[Token], closing: int) -> int | None:
    """Where the bracket that ends at ``closing`` was opened."""
    deep = 0
    for at in range(closing, -1, -1):
        if tokens[at].type in _CLOSING:
            deep += 1
        elif tokens[at].type in _CLOSING.values():
            deep -= 1
            if not deep:
                return at
    return None


def locals_of(moment: Unfinished) -> list[str]:
    """The names that this statement binds: variables of a select, and parameters of a function that is made."""
    tokens = (*moment.tokens, *moment.after)
    found: dict[str, None] = {}
    for before, token in pairwise(tokens):
        if before.type == "NAME" and token.type == "IN":
            found[before.value] = None
        elif before.type == "NAME" and token.type == "NAME":  # a type and what it types
            found[token.value] = None
    return list(found)


__all__ = [
    "Argument",
    "argument_at",
    "function_called",
    "inner_text",
    "keys_accepted",
    "keys_of_value",
    "locals_of",
    "overloads_at",
]
