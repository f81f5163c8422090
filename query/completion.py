"""What may stand at the cursor of an unfinished text: functions, names by kind, keys, variables, directives, keywords.

    completions('edge:add_group("M', 18, knowledge)  →  Completion("MY-EDGE-1", edge, …, start=17, end=18)

Pure and tolerant: no text raises, and at most ``COMPLETIONS_MAX`` come, best first. Rules: each replaces
``text[start:end]`` by ``insert``, which brings the quotes that its place lacks; ``label`` is what a list shows. A name
fits when what is typed begins it, or begins its part behind a colon or ``-_.``, or occurs in it, without case, in this
order; among equals, alphabetically, but versions newest first. Which keywords may stand is asked of the grammar.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from query.declarations import Declaration
from query.knowledge import Kind, Knowledge, kind_of, kind_of_key
from query.lexing import DIRECTIVES, Token
from query.parsing import acceptable, lexicon
from query.reaching import Argument, argument_at, function_called, keys_accepted, keys_of_value, locals_of, overloads_at
from query.types import COLLECTIONS, COMPOUNDS, SCALARS
from query.unfinished import Directing, Unfinished, directive_under_way, read_unfinished

COMPLETIONS_MAX: Final = 1_000
TOKENS_FOR_GRAMMAR_MAX: Final = 5_000
PLOTS: Final = ("line", "bar", "scatter", "histogram")
DURATIONS: Final = ("1s", "5s", "30s", "1m", "10m", "1h")
BUDGETS: Final = ("1000 rows", "1MiB", "5s")
CONDITION_WORDS: Final = ("and", "or", "not", "in", "like", "between", "is")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARTS: Final = re.compile(r"[:\-_.@ ]")
_TYPE_BEFORE: Final = frozenset({"ARROW", "OF", "FROM", "AS", "LPAR", "COMMA"})


class Shape(enum.Enum):
    """What a completion is, for the sign that an editor puts before it."""

    FUNCTION = "function"
    NAME = "name"
    KEY = "key"
    VARIABLE = "variable"
    LOCAL = "local"
    DIRECTIVE = "directive"
    KEYWORD = "keyword"
    TYPE = "type"


@dataclass(frozen=True, slots=True)
class Completion:
    """See the module. ``detail``: a signature, or what kind of name it is; ``documentation``: of a function."""

    label: str
    shape: Shape
    insert: str
    start: int
    end: int
    detail: str = ""
    documentation: str = ""


@dataclass(frozen=True, slots=True)
class _Option:
    """A completion before it has a place."""

    label: str
    shape: Shape
    insert: str
    detail: str = ""
    declared: Declaration | None = None


def completions(text: str, offset: int, knowledge: Knowledge) -> list[Completion]:
    """What may stand at ``offset`` (in characters) of ``text``; see the module."""
    moment = read_unfinished(text, offset)
    if moment.silent:
        return []
    if moment.directive is not None:
        directing = directive_under_way(moment)
        return [] if directing is None else _directive(directing, moment, knowledge)
    if moment.quote:
        return _placed(_in_string(moment, knowledge), moment.word, moment.start, moment.end)
    return _in_code(moment, knowledge)


def _placed(options: Iterable[_Option], typed: str, start: int, end: int) -> list[Completion]:
    ranked = []
    for place, option in enumerate(options):
        fit = _fit(option.label, typed)
        if fit is not None:
            ranked.append((fit, place, option))
    ranked.sort(key=lambda one: one[:2])
    found = dict.fromkeys((option.label, option.shape) for _, _, option in ranked)
    by_label = {(option.label, option.shape): option for _, _, option in reversed(ranked)}
    chosen = [by_label[key] for key in list(found)[:COMPLETIONS_MAX]]
    return [
        Completion(
            one.label,
            one.shape,
            one.insert,
            start,
            end,
            one.detail,
            one.declared.documentation if one.declared is not None else "",
        )
        for one in chosen
    ]


def _fit(label: str, typed: str) -> int | None:
    """How well what is typed fits: 0 begins, 1 begins a part, 2 occurs, None not at all."""
    folded, wanted = label.casefold(), typed.casefold()
    if folded.startswith(wanted):
        return 0
    if any(folded.startswith(wanted, sign.end()) for sign in _PARTS.finditer(folded)):
        return 1
    return 2 if len(wanted) > 1 and wanted in folded else None


# Directives.


def _directive(directing: Directing, moment: Unfinished, knowledge: Knowledge) -> list[Completion]:
    if directing.name is None:
        rest = _rest_of_word(moment.text, moment.offset)
        names = (_Option(name, Shape.DIRECTIVE, f"{name}: ", f"//{name}:") for name in DIRECTIVES)
        return _placed(names, directing.value, directing.start, rest)
    values = {"plot": PLOTS, "timeout": DURATIONS, "wait": DURATIONS, "budget": BUDGETS}
    if directing.name in values:
        options = [_Option(value, Shape.NAME, value, directing.name) for value in values[directing.name]]
        return _placed(options, directing.value, directing.start, moment.end)
    return _target(directing, moment, knowledge) if directing.name == "peer" else []


def _target(directing: Directing, moment: Unfinished, knowledge: Knowledge) -> list[Completion]:
    """Behind ``//peer:``: peers, ``group NAME``, or ``where`` with properties."""
    typed = moment.text[directing.start : moment.offset]
    if re.match(r"where\b\s", typed, re.IGNORECASE):
        word = re.search(r"[A-Za-z_0-9]*$", typed)
        start = moment.offset - len(word[0] if word else "")
        if typed[: len(typed) - (moment.offset - start)].count('"') % 2:
            return []
        names = [_Option(name, Shape.NAME, name, "property") for name in knowledge.of_kind(Kind.PROPERTY)]
        words = [_Option(name, Shape.KEYWORD, name) for name in CONDITION_WORDS]
        return _placed(names + words, moment.text[start : moment.offset], start, _rest_of_word(moment.text, start))
    group = re.match(r"group\s+", typed, re.IGNORECASE)
    if group:
        start = directing.start + group.end()
        groups = [_Option(name, Shape.NAME, name, "group") for name in knowledge.of_kind(Kind.GROUP)]
        return _placed(groups, moment.text[start : moment.offset], start, moment.end)
    comma = typed.rfind(",") + 1
    start = directing.start + comma + len(typed[comma:]) - len(typed[comma:].lstrip())
    until = moment.text.find(",", moment.offset, moment.end)
    peers = [_Option(name, Shape.NAME, name, "peer") for name in knowledge.of_kind(Kind.PEER)]
    options = [one for one in peers if one.label.casefold() != "nameserver"]
    options.append(_Option("nameserver", Shape.KEYWORD, "nameserver", "the federation's nameserver"))
    if not comma:
        options.append(_Option("all", Shape.KEYWORD, "all", "every edge"))
        options.append(_Option("group", Shape.KEYWORD, "group ", "the edges of a group"))
        options.append(_Option("where", Shape.KEYWORD, "where ", "the edges with properties"))
    return _placed(options, moment.text[start : moment.offset], start, until if until >= 0 else moment.end)


def _rest_of_word(text: str, offset: int) -> int:
    found = re.compile(r"[A-Za-z0-9_]*").match(text, offset)
    return found.end() if found else offset


# Strings: names and keys.


def _in_string(moment: Unfinished, knowledge: Knowledge) -> Iterator[_Option]:
    closed = moment.text.startswith(moment.quote, moment.end)
    for label, shape, detail in _string_values(moment, knowledge):
        yield _Option(label, shape, label + ("" if closed else moment.quote), detail)


def _string_values(moment: Unfinished, knowledge: Knowledge) -> Iterator[tuple[str, Shape, str]]:
    """What a string at this place may hold."""
    inner = moment.inner
    if inner is not None and inner.index:
        for key in keys_of_value(moment.tokens[: inner.at], moment, knowledge):
            yield key, Shape.KEY, "key"
        return
    argument = argument_at(moment, knowledge)
    if argument is None:
        return
    if argument.in_key:
        for key in keys_accepted(argument, knowledge):
            yield key, Shape.KEY, "key"
        return
    for kind in dict.fromkeys(_kinds(argument)):
        for name in _names(kind, argument, knowledge):
            yield name, Shape.NAME, kind.value


def _kinds(argument: Argument) -> Iterator[Kind]:
    if argument.key is not None:
        kind = kind_of_key(argument.key)
        if kind is not None:
            yield kind
        return
    if argument.in_record:
        return
    for declared, parameter in argument.parameters:
        kind = kind_of(declared.name, parameter)
        if kind is not None:
            yield kind


def _names(kind: Kind, argument: Argument, knowledge: Knowledge) -> tuple[str, ...]:
    if kind is Kind.VERSION:
        named = argument.pairs if argument.in_record else argument.beside
        model = named.get("model") or named.get("name") or ""
        return knowledge.versions.get(model.casefold(), ())
    if kind is Kind.PEER:
        return (*(name for name in knowledge.of_kind(kind) if name.casefold() != "nameserver"), "nameserver")
    return knowledge.of_kind(kind)


# Code: functions, variables, fields, keywords.


def _in_code(moment: Unfinished, knowledge: Knowledge) -> list[Completion]:
    place = (moment.word, moment.start, moment.end)
    if moment.last == "DOT":
        return _fields(moment, knowledge)
    allowed = acceptable(moment.tokens) if len(moment.tokens) <= TOKENS_FOR_GRAMMAR_MAX else None
    if moment.word.startswith(":"):
        if allowed is not None and "VARIABLE" not in allowed:
            return []
        variables = (_Option(f":{name}", Shape.VARIABLE, f":{name}", "variable") for name in knowledge.variables)
        return _placed(variables, *place)
    if moment.word[:1].isdigit():
        return []
    return _placed(_words(moment, knowledge, allowed), *place)


def _words(moment: Unfinished, knowledge: Knowledge, allowed: frozenset[str] | None) -> Iterator[_Option]:
    if moment.last == "FUNCTION":
        if moment.tokens[0].type == "DELETE":
            yield from _functions(knowledge, lambda declared: knowledge.catalogue.owner(declared.name) == "user")
        return
    value = allowed is None or "NUMBER" in allowed
    if value:
        if not moment.word:
            yield from _quoted(moment, knowledge)
        for name in locals_of(moment):
            yield _Option(name, Shape.LOCAL, name, "variable of the select")
        yield from _functions(knowledge)
        if not moment.word and moment.brackets:
            yield from (_Option(f":{name}", Shape.VARIABLE, f":{name}", "variable") for name in knowledge.variables)
    elif "NAME" in (allowed or ()) and (moment.last in _TYPE_BEFORE or "from" in _folded(moment.tokens)):
        yield from (_Option(name, Shape.TYPE, name, "type") for name in (*SCALARS, *COMPOUNDS, *COLLECTIONS))
    if moment.last == "RPAR" and "AS_OF" in (allowed or ()):
        called = function_called(moment.tokens, len(moment.tokens) - 1)
        if called is not None and any(declared.past for declared in knowledge.catalogue.lookup(called)):
            yield _Option("as of", Shape.KEYWORD, "as of ", "a moment in the past")
    words = sorted(lexicon().keywords.items())
    for word, terminal in words:
        if allowed is None or terminal in allowed:
            yield _Option(word, Shape.KEYWORD, word)


def _folded(tokens: Iterable[Token]) -> set[str]:
    return {token.value.casefold() for token in tokens if token.type.isalpha()}


def _quoted(moment: Unfinished, knowledge: Knowledge) -> Iterator[_Option]:
    """Names and keys where nothing is typed yet: with their quotes."""
    for label, shape, detail in _string_values(moment, knowledge):
        yield _Option(f'"{label}"', shape, f'"{label}"', detail)


def _functions(knowledge: Knowledge, wanted: Callable[[Declaration], bool] = lambda _: True) -> Iterator[_Option]:
    for name in knowledge.catalogue.names():
        declared = knowledge.catalogue.lookup(name)[0]
        if wanted(declared):
            yield _Option(name, Shape.FUNCTION, name, declared.signature, declared)


def _fields(moment: Unfinished, knowledge: Knowledge) -> list[Completion]:
    """Behind a dot: keys of the record before it; a key that is no name takes the dot's place as ``["key"]``."""
    found: list[Completion] = []
    dot = moment.tokens[-1]
    keys = keys_of_value(moment.tokens[:-1], moment, knowledge)
    for one in _placed((_Option(key, Shape.KEY, key, "key") for key in keys), moment.word, moment.start, moment.end):
        if _IDENTIFIER.fullmatch(one.label):
            found.append(one)
        else:
            quoted = '"' + one.label.replace("\\", "\\\\").replace('"', '\\"') + '"'
            found.append(Completion(one.label, one.shape, f"[{quoted}]", dot.start, one.end, one.detail))
    return found


__all__ = ["COMPLETIONS_MAX", "Completion", "Shape", "completions", "overloads_at"]
